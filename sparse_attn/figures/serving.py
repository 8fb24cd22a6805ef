"""Figures of serving: dollars per million tokens, and what attention is of the time.

Knows the closed forms of `cost.serving`; all of it is assumed, nothing measured.
"""

import math

from sparse_attn import cost
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.gpt import GPTConfig
from sparse_attn.units import plain, three

LENGTHS = [2**n for n in range(9, 21)]  # 512 to 1M
TICKS = LENGTHS[1::3]
GRID = [round(2 ** (n / 4)) for n in range(36, 81)]  # lengths between them
LLAMA_8B = GPTConfig(  # the shape of Llama 3 8B
    layers=32,
    heads=32,
    width=4096,
    vocab=128_256,
    context=131_072,
    kv_heads=8,
    mlp="swiglu",
    hidden=14_336,
    norm="rms",
    positions="rotary",
    bias=False,
    tied=False,
)
ASSUMED = cost.Serving()
_PHASES = {"prefill": BLUE, "decode": ORANGE}


@styled
def serving_price(
    T: int,
    K: int,
    price: float,
    batch: int = 16,
    config: GPTConfig = LLAMA_8B,
    assumed: cost.Serving = ASSUMED,
) -> Plot:
    """Dollars per million tokens against context: prefill, and decode of a batch.

    price: per device-hour, in place of that of `assumed`. The axis shows what prices
    from 1 to 10 dollars give, so that lines move and it does not.
    """
    works = {phase: _work(phase, config, batch) for phase in _PHASES}

    def dollars(phase, n, keys, per_hour=price):
        bill = assumed.but(price=per_hour).per_million
        return bill(works[phase](n, keys), _tokens(phase, n, batch)).dollars

    plot = Plot(height=3.5)
    ends = [dollars(phase, n, keys, per_hour)
            for phase in works
            for n, keys, per_hour in (
                (LENGTHS[0], None, 1), (LENGTHS[0], K, 1), (LENGTHS[-1], None, 10)
            )]  # fmt: skip
    low, high = (
        10.0 ** f(math.log10(x))
        for f, x in ((math.floor, min(ends)), (math.ceil, max(ends)))
    )
    said = []
    for ax, phase in zip(plot.subplots(1, 2, sharey=True), works, strict=True):
        for name, keys, color in (("full", None, INK), (f"K = {plain(K)}", K, GREEN)):
            ax.plot(GRID, [dollars(phase, n, keys) for n in GRID], color=color,
                    label=name)  # fmt: skip
            ax.plot(T, dollars(phase, T, keys), "o", color=color, mec="white", zorder=4)
        mark(ax, T, low, dollars(phase, T, None))
        ax.set(xscale="log", yscale="log", ylim=(low, high))
        ax.set_xlim(LENGTHS[0], LENGTHS[-1])
        title = phase if phase == "prefill" else f"decode, {batch} at once"
        ax.set_title(title, weight="normal", fontsize=10)
        power_of_two_axis(ax.xaxis, TICKS, "tokens of context")
        full, kept = (_dollars(dollars(phase, T, keys)) for keys in (None, K))
        said.append(f"{phase} {full} to {kept}")
        if phase == "prefill":
            ax.legend(loc="upper left")
            ax.set_ylabel("dollars per million tokens")
    ax.yaxis.set_major_formatter(lambda y, _: rf"\${plain(y)}")
    finding = f"T = {plain(T)}, K = {plain(K)}: {', '.join(said)}"
    headline(plot, finding.replace("$", r"\$"))
    step = assumed.per_million(works["decode"](T, K), batch)
    devices = assumed.devices(works["decode"](T, K))
    return plot.describe(
        caption=f"{finding} per million tokens, at ${price:g} per device-hour. "
        f"With K keys a decoded token takes {three(step.joules)} J; weights and whole "
        f"caches, {batch} at once, the memory of {plain(devices)} "
        f"device{'s' * (devices > 1)}. Assumed, not measured.",
        alt="Two panels, log axes. Full attention's price turns upwards with the "
        f"context, that with K keys stays nearly flat. {finding}.",
    )


@styled
def attention_share(
    T: int,
    K: int,
    batch: int = 16,
    config: GPTConfig = LLAMA_8B,
    assumed: cost.Serving = ASSUMED,
) -> Plot:
    """Share of full attention in the whole model's time, and what sparing it gains.

    Right: how much faster the whole is with K keys; dashed, with attention for free,
    1/(1 - share).
    """
    plot = Plot(height=3.4)
    left, right = plot.subplots(1, 2)
    said, spoken = [], []
    for phase, color in _PHASES.items():
        work = _work(phase, config, batch)
        shares, gains, (share, gain) = _shares_and_gains(work, T, K, assumed)
        limits = [cost.whole_gain(s, math.inf) for s in shares]
        left.plot(GRID, shares, color=color, label=phase)
        left.plot(T, share, "o", color=color, mec="white", zorder=4)
        right.plot(GRID, gains, color=color)
        right.plot(GRID, limits, color=color, lw=1.2, ls="--")
        right.plot(T, gain, "o", color=color, mec="white", zorder=4)
        mark(left, T, 0, share)
        mark(right, T, 0.8, gain)
        limit = three(cost.whole_gain(share, math.inf))
        said.append(f"{'over 99%' if share > 0.99 else f'{share:.0%}'} of {phase}")
        spoken.append(f"{phase} {three(gain)}x of at most {limit}x")
    for ax in (left, right):
        ax.set(xscale="log", xlim=(LENGTHS[0], LENGTHS[-1]))
        power_of_two_axis(ax.xaxis, TICKS, "tokens T")
    left.set(ylim=(0, 1.02), ylabel="share of the time")
    left.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    left.legend(loc="upper left")
    right.set(yscale="log", ylim=(0.8, 300), ylabel="whole model, times faster")
    right.yaxis.set_major_formatter(lambda y, _: f"{y:g}x")
    right.plot([], [], color=INK, label=f"with K = {plain(K)}")
    right.plot([], [], color=INK, lw=1.2, ls="--", label="attention for free")
    right.legend(loc="upper left")
    finding = f"T = {plain(T)}, {batch} at once: attention is {' and '.join(said)}"
    headline(plot, finding)
    return plot.describe(
        caption=f"{finding}. With K = {plain(K)} the whole gets faster: "
        f"{', '.join(spoken)}. Assumed, not measured.",
        alt="Left, shares of attention rise with T in S-curves, decode before prefill. "
        f"Right, how much faster all gets: {', '.join(spoken)} at T = {plain(T)}.",
    )


def _work(phase: str, config, batch: int):
    """(T, K or None) -> work of one prompt, or of a step of the batch."""
    if phase == "prefill":
        return lambda T, K: cost.prefill_work(config, T, K=K)
    return lambda T, K: cost.decode_work(config, T, B=batch, K=K)


def _tokens(phase: str, T: int, batch: int) -> int:
    return T if phase == "prefill" else batch


def _shares_and_gains(work, T: int, K: int, assumed):
    """Shares of full attention and gains with K keys over GRID, and both at T."""
    pairs = []
    for n in (*GRID, T):
        full, kept = (assumed.seconds(work(n, keys)) for keys in (None, K))
        whole = sum(full.values())
        pairs.append((full["attention"] / whole, whole / sum(kept.values())))
    *curve, at = pairs
    return *zip(*curve, strict=True), at


def _dollars(x: float) -> str:
    return f"${x:,.2f}" if x >= 0.995 else f"${three(x)}"


def mark(ax, T: int, low: float, high: float):
    """A line up to what T has, clear of the legend."""
    ax.plot([T, T], [low, high], color=INK, lw=1, zorder=0)
