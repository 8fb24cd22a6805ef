"""Figures of what a machine is made of, and what that does to a program's time."""

import numpy as np

from sparse_attn import cost
from sparse_attn.figures.style import BLUE, GREEN, INK, ORANGE, PALE, SKY, Plot, styled
from sparse_attn.units import seconds, size


@styled
def anatomy(machines: dict[str, dict[str, float]]) -> Plot:
    """Bytes at each level between arithmetic and memory: machine -> level -> bytes."""
    plot = Plot(height=0.55 + 0.52 * sum(map(len, machines.values())))
    axes = plot.subplots(len(machines), 1, sharex=True, squeeze=False, height_ratios=[
        len(levels) for levels in machines.values()])[:, 0]  # fmt: skip
    smallest = min(min(levels.values()) for levels in machines.values())
    largest = max(max(levels.values()) for levels in machines.values())
    for ax, (machine, levels) in zip(axes, machines.items(), strict=True):
        for row, held in enumerate(levels.values()):
            last = row == len(levels) - 1
            color = ORANGE if last else BLUE if row == len(levels) - 2 else SKY
            ax.barh(row, held, 0.62, color=color)
            ax.text(held * 1.15, row, f"{size(held)}", va="center", fontsize=9)
        ax.set(xscale="log", xlim=(smallest / 4, largest * 30))
        ax.set_yticks(range(len(levels)), list(levels))
        ax.set_title(machine, fontsize=10, pad=4)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_formatter(size)
    axes[-1].set_xlabel("bytes")
    said = []
    for machine, levels in machines.items():
        *near, far = levels.values()
        said.append(f"{machine}: memory holds {far / max(near):,.0f} times what its "
                    "largest cache holds")  # fmt: skip
    return plot.describe(
        caption=f"Where numbers can be, nearest to the arithmetic first. "
        f"{'; '.join(said)}.",
        alt="Horizontal bars on a logarithmic axis of bytes, one for each level from "
        f"the nearest cache to memory, for {', '.join(machines)}. {'; '.join(said)}.",
    )


@styled
def rate_by_size(rates: dict[int, float], caches: dict[str, int], device: str) -> Plot:
    """Bytes per second of a copy against the bytes of the array; caches marked."""
    sizes = np.array(list(rates))
    speed = np.array(list(rates.values())) / 1e9
    best = int(speed.argmax())
    plot = Plot(height=3.4)
    ax = plot.add_subplot()
    ax.plot(sizes, speed, "o-", color=BLUE)
    for name, held in caches.items():
        if sizes[0] < held / 2 < sizes[-1]:
            ax.axvline(held / 2, color=INK, lw=1, ls=":")
            ax.text(held / 2, 0.03, f"two arrays fill {name}", fontsize=9, rotation=90,
                    ha="right", transform=ax.get_xaxis_transform())  # fmt: skip
    for i in (best, len(sizes) - 1):
        ax.annotate(f"{speed[i]:.0f}", (sizes[i], speed[i]), (0, 7), ha="center",
                    textcoords="offset points", color=BLUE)  # fmt: skip
    ax.set(xscale="log", ylim=(0, 1.18 * speed.max()), xlabel="size of the array")
    ax.set_ylabel("copied, GB/s read plus written")
    ax.xaxis.set_major_formatter(size)
    said = (
        f"{speed[best]:.0f} GB/s at {size(sizes[best])}, {speed[-1]:.0f} GB/s at "
        f"{size(sizes[-1])}"
    )
    ax.set_title(f"Copying: {said}")
    return plot.describe(
        caption=f"Rate of a copy on {device}, by the size of what is copied: {said}.",
        alt="A line of copy rate against array size, log axis: it rises while calls "
        f"are short, then falls in steps as the arrays outgrow each cache. {said}.",
    )


@styled
def chain_gains(lengths: list[int], gains: dict[str, list], device: str) -> Plot:
    """How much faster than one by one: program -> [Ratio for each chain length].

    The prediction is `cost.chain`: bytes unfused over bytes fused.
    """
    predicted = [np.divide(*cost.chain(n)) for n in lengths]
    plot = Plot(height=3.4)
    ax = plot.add_subplot()
    x = np.arange(len(lengths))
    width = 0.8 / (len(gains) + 1)
    rows = {"predicted from bytes": (predicted, None)}
    for name, ratios in gains.items():
        ends = np.array([(r.value - r.low, r.high - r.value) for r in ratios]).T
        rows[name] = ([r.value for r in ratios], ends.clip(0))
    looks = zip(rows.items(), (PALE, ORANGE, BLUE, GREEN), strict=False)
    for i, ((name, (values, ends)), color) in enumerate(looks):
        at = x + (i - len(gains) / 2) * width
        ax.bar(at, values, 0.94 * width, color=color, yerr=ends, ecolor=INK, label=name)
        for left, value in zip(at, values, strict=True):
            ax.text(left, 0.08, f"{value:.2f}", ha="center", fontsize=9,
                    color=INK if color == PALE else "white")  # fmt: skip
    ax.axhline(1, color=INK, lw=1)
    ax.set_xticks(x, [f"{n} operations" for n in lengths])
    ax.set(ylabel="times faster than one by one")
    ax.legend(loc="upper left")
    last = lengths[-1]
    said = "; ".join(
        f"{n} operations: predicted {p:.2f}, "
        + ", ".join(f"{name} {ratios[i].value:.2f}" for name, ratios in gains.items())
        for i, (n, p) in enumerate(zip(lengths, predicted, strict=True))
    )
    ax.set_title(f"Fusing {lengths[0]} to {last} operations: gains by the clock")
    return plot.describe(
        caption=f"Gain of fusing a chain on {device}. {said}.",
        alt=f"Groups of bars by the length of the chain. {said}.",
    )


@styled
def staircase(pieces: list[int], timings: list, units: int, device: str) -> Plot:
    """Time against equal pieces of work that `units` share, and waves times one."""
    taken = np.array([t.median for t in timings])
    ends = np.array([(t.median - t.low, t.high - t.median) for t in timings]).T
    first = taken[: min(units, len(taken))].max()  # one full wave
    predicted = np.array([cost.waves(n, units) for n in pieces]) * first
    plot = Plot(height=3.2)
    ax = plot.add_subplot()
    ax.step(pieces, predicted, where="mid", color=INK, lw=1.2, ls="--",
            label="waves, times the longest of the first")  # fmt: skip
    ax.errorbar(pieces, taken, ends, fmt="o", color=BLUE, label="measured")
    ax.set(xlabel="equal pieces of work", ylabel="time", ylim=(0, None))
    ax.set_xticks(pieces[:: max(1, len(pieces) // 12)])
    ax.yaxis.set_major_formatter(seconds)
    ax.legend(loc="upper left")
    finding = f"{units} units: piece {units + 1} begins a second wave"
    ax.set_title(finding)
    rises = taken[units] / taken[units - 1] if len(taken) > units else float("nan")
    return plot.describe(
        caption=f"{finding}. On {device}, {units + 1} pieces take {rises:.1f} times as "
        f"long as {units}.",
        alt="Points of time against pieces of work, and a dashed staircase. "
        f"{finding}; {units + 1} pieces take {rises:.1f} times as long as {units}.",
    )
