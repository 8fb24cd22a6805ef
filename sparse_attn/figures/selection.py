"""The bill of the published head beside full attention: FLOPs, memory and time."""

from collections.abc import Mapping

from sparse_attn import cost
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.style import BLUE, GREEN, INK, ORANGE, Plot, styled
from sparse_attn.units import plain, seconds, size, three

WIDTH = HIDDEN = 64  # of a head and of the two networks, as published
_COLORS = {"exact": BLUE, "fused": GREEN, "method": ORANGE, "as claimed": INK}


@styled
def selection_bill(
    T: int, K: int, measured: Mapping[tuple[str, int, int], float], device: str
) -> Plot:
    """One head, one sequence of T tokens, K keys kept: what each way asks for.

    measured: (way, T, K) -> seconds, ways "exact", "fused" and "method"; the first
    two do not depend on K and are stored under K = 0.
    """
    full, fused = cost.scores(T, WIDTH, 1), cost.fused_scores(T, WIDTH, causal=True)
    parts = cost.selection_bytes(T, WIDTH, K)
    bills = {
        "FLOPs": {
            "exact": full.flops,
            "fused": fused.flops,
            "method": cost.topk_mlp_flops(T, WIDTH, HIDDEN, K),
            "as claimed": cost.topk_flops(T, WIDTH, K),
        },
        "largest tensors, bytes": {
            "exact": 2 * cost.square_bytes(T),
            "fused": fused.held,
            "method": max(parts["logits"], parts["values"]),
            "as claimed": cost.kept_bytes(T, K),
        },
        "seconds": {
            "exact": measured["exact", T, 0],
            "fused": measured["fused", T, 0],
            "method": measured["method", T, K],
        },
    }
    shown = (_count, size, seconds)
    times = {
        name: bill["method"] / bill["fused" if name == "seconds" else "exact"]
        for name, bill in bills.items()
    }
    flops, memory, time = map(three, times.values())
    finding = (
        f"Method: FLOPs {flops}x and memory {memory}x of exact, time {time}x of fused"
    )
    plot = Plot(height=2.7)
    for ax, (name, bill), say in zip(
        plot.subplots(1, 3), bills.items(), shown, strict=True
    ):
        for y, (way, x) in enumerate(bill.items()):
            ax.barh(y, x, color=_COLORS[way], height=0.6)
            ax.text(x * 1.25, y, say(x), va="center", fontsize=8.5)
        low, high = min(bill.values()), max(bill.values())
        ax.set(
            xscale="log",
            ylim=(3.5, -0.5),
            xlim=(low / 6, high * (high / low) ** 0.6 * 8),
        )
        ax.set_yticks(range(len(bill)), list(bill), fontsize=9)
        ax.set_title(name, fontsize=9.5, weight="normal")
        ax.set_xticks([])
        ax.minorticks_off()
        ax.grid(False)
        ax.spines["bottom"].set_visible(False)
    headline(plot, finding, size=10)
    said = "; ".join(
        f"{name}: " + ", ".join(f"{way} {say(x)}" for way, x in bill.items())
        for (name, bill), say in zip(bills.items(), shown, strict=True)
    )
    return plot.describe(
        caption=f"T = {plain(T)}, K = {K}: {finding}. {said}. Measured on {device}.",
        alt=f"Three groups of bars on log axes. {said}.",
    )


def _count(n: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{three(n / scale)} {unit}"
    return three(n)
