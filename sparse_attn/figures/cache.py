"""Figures of chapter 3: decoding speed, cache bytes, reach, text past training."""

from itertools import pairwise

import numpy as np

from sparse_attn import cost
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.gpt import GPTConfig
from sparse_attn.units import plain, seconds, size

CARD = 80e9  # bytes of a common accelerator
LENGTHS = [2**n for n in range(10, 18)]  # 1,024 to 131,072
_GATED = dict(mlp="swiglu", norm="rms", positions="rotary", bias=False, tied=False)
LLAMA_13B = GPTConfig(
    layers=40, heads=40, width=5120, vocab=32_000, hidden=13_824, **_GATED
)
MISTRAL_7B = GPTConfig(
    layers=32, heads=32, kv_heads=8, width=4096, vocab=32_000, hidden=14_336, **_GATED
)


@styled
def decoding_speed(lengths, timings, device) -> Plot:
    """Next tokens per second: name -> [Timing per length], with and without a cache."""
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    rates = {name: [1 / t.median for t in taken] for name, taken in timings.items()}
    for (name, rate), color in zip(rates.items(), (ORANGE, BLUE, GREEN), strict=False):
        ax.plot(lengths, rate, "o-", color=color, label=name)
        ax.annotate(
            f"{rate[-1]:.3g}",
            (lengths[-1], rate[-1]),
            (8, -3),
            textcoords="offset points",
            color=color,
        )
    ax.set(xscale="log", yscale="log", ylabel="next tokens per second")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.yaxis.set_minor_formatter(lambda y, _: "")
    ax.margins(x=0.1, y=0.15)
    power_of_two_axis(ax.xaxis, lengths, "tokens before the next one, T")
    ax.legend(loc="lower left")
    said = ", ".join(f"{name} {rate[-1]:.3g}" for name, rate in rates.items())
    ax.set_title(f"Tokens per second after {lengths[-1]:,}: {said}")
    return plot.describe(
        caption=f"Next tokens per second on {device} after {lengths[-1]:,}: {said}.",
        alt="Lines of tokens per second against the length of the text, log axes. "
        f"After {lengths[-1]:,} tokens: {said}.",
    )


@styled
def cache_size(T: int, kv_heads: int, bytes_per_value: float) -> Plot:
    """Bytes of weights and of caches of T tokens on an 80 GB card; Llama 2 13B."""
    config = LLAMA_13B.but(kv_heads=kv_heads)
    weights = 2 * sum(cost.parameters(LLAMA_13B).values())  # fp16, whatever is shared
    one = cost.kv_cache_bytes(config, T, bytes_per_value=bytes_per_value)
    fit = int((CARD - weights) // one)
    heads = f"{kv_heads} key-value head{'s' * (kv_heads > 1)}"
    finding = f"{T:,} tokens, {heads}, {bytes_per_value:g} B: {size(one)}, {fit:,} fit"
    plot = Plot(height=2.2)
    ax = plot.add_subplot(title=finding)
    ax.barh(0, weights, color=PALE, height=0.6)
    step = one if fit <= 40 else (CARD - weights)
    shown = fit if fit <= 40 else 1
    for n in range(max(shown, 1)):
        ax.barh(0, step, left=weights + n * step, color=SKY, ec="white", height=0.6)
    ax.axvline(CARD, color=ORANGE)
    ax.text(CARD + 5e8, 0.42, "80 GB", color=ORANGE, fontweight="bold")
    ax.text(weights / 2, 0, "weights, fp16", ha="center", va="center")
    label = f"{fit:,} caches" if fit else "not one cache"
    ax.text(weights + 1e9, 0.38, label, color=BLUE, fontweight="bold")
    ax.set(xlim=(0, 1.15 * CARD), ylim=(-0.4, 0.65), yticks=[])
    ax.xaxis.set_major_formatter(size)
    ax.spines["left"].set_visible(False)
    return plot.describe(
        caption=f"{finding} into 80 GB beside the weights of a model of Llama 2 13B's "
        f"shape ({size(weights)} in fp16).",
        alt="A bar of 80 GB: weights, then caches side by side, one for each "
        f"sequence. {finding}.",
    )


@styled
def shared_reads(timings: dict[str, dict[int, object]], device: str) -> Plot:
    """Time of one query's attention: program -> {key-value heads: Timing}."""
    plot = Plot(height=2.6)
    ax = plot.add_subplot()
    heads = list(next(iter(timings.values())))
    longest = max(t.median for by in timings.values() for t in by.values())
    for i, ((name, by), color) in enumerate(
        zip(timings.items(), (ORANGE, BLUE), strict=False)
    ):
        for row, n in enumerate(heads):
            y, taken = row + 0.36 * i - 0.18, by[n].median
            ax.barh(y, taken, 0.34, color=color, label=None if row else name)
            ax.text(taken + 0.01 * longest, y, seconds(taken), va="center")
    ax.set(xlim=(0, 1.15 * longest), xlabel="time of one step")
    ax.set_yticks(range(len(heads)), [f"{n} key-value heads" for n in heads])
    ax.xaxis.set_major_formatter(seconds)
    ax.invert_yaxis()
    ax.legend(loc="lower right")
    few, many = heads[-1], heads[0]
    said = ", ".join(
        f"{name} {by[many].median / by[few].median:.1f}x faster"
        for name, by in timings.items()
    )
    ax.set_title(f"{few} for {many} key-value heads: {said}", fontsize=10)
    return plot.describe(
        caption=f"Attention of one query on {device}; {few} instead of {many} "
        f"key-value heads: {said}.",
        alt=f"Bars of time for {', '.join(map(str, heads))} key-value heads and "
        f"programs {' and '.join(timings)}. {few} instead of {many}: {said}.",
    )


@styled
def reach(strength, window: int, layers: int) -> Plot:
    """How strongly the last output depends on each input position (T,); 0 is none."""
    strength = np.asarray(strength)
    T, back = len(strength), int((strength > 0).sum())
    finding = f"{layers} layers, window {window}: the last of {T} sees {back} positions"
    plot = Plot(height=2.8)
    ax = plot.add_subplot(title=finding)
    seen = np.arange(T)[strength > 0]
    colors = [ORANGE if T - 1 - t < window else BLUE for t in seen]
    ax.bar(seen, strength[seen], color=colors, width=0.8)
    unseen = np.arange(T)[strength == 0]
    floor = strength[seen].min() / 4
    ax.plot(unseen, [1.3 * floor] * len(unseen), "x", color=INK, ms=5)
    for color, label in (
        (ORANGE, "within one layer's window"),
        (BLUE, "through several layers"),
    ):
        ax.bar([0], [0], color=color, label=label)
    ax.plot([], [], "x", color=INK, ms=5, label="gradient exactly zero")
    ax.set(yscale="log", ylim=(floor, None), xlabel="input position")
    ax.set_ylabel("size of the gradient")
    ax.legend(loc="upper left")
    return plot.describe(
        caption=f"{finding}, itself included.",
        alt="Bars of gradient size by input position, log scale, falling from the last "
        f"position backward and zero before. {finding}.",
    )


@styled
def window_cache(window: int, T: int) -> Plot:
    """Cache bytes with and without a window, and the reach; Mistral 7B's shape."""
    L = MISTRAL_7B.layers
    sizes = {
        "all kept": [cost.kv_cache_bytes(MISTRAL_7B, n) for n in LENGTHS],
        "window": [
            cost.kv_cache_bytes(MISTRAL_7B.but(window=window), n) for n in LENGTHS
        ],
    }
    at = {name: values[LENGTHS.index(T)] for name, values in sizes.items()}
    far = min(T, L * (window - 1) + 1)
    finding = (
        f"{T:,} tokens, window {window:,}: {size(at['window'])} instead of "
        f"{size(at['all kept'])}"
    )
    plot = Plot(height=3.2)
    ax = plot.add_subplot(title=finding)
    for (name, values), color in zip(sizes.items(), (ORANGE, BLUE), strict=True):
        ax.plot(LENGTHS, values, color=color, label=name)
        ax.plot(T, at[name], "o", color=color, mec="white")
    ax.axvline(T, color=INK, lw=1, zorder=0)
    ax.set(xscale="log", yscale="log", ylim=(1e7, 5e10), ylabel="bytes of one cache")
    ax.yaxis.set_major_formatter(size)
    power_of_two_axis(ax.xaxis, LENGTHS[::2], "tokens T")
    ax.legend(loc="upper left")
    return plot.describe(
        caption=f"{finding}. The last token's reach is at most {far:,} tokens. "
        f"{L} layers, 8 key-value heads of 128, 2 bytes per value.",
        alt="Cache bytes against length on log axes: a straight line, and one that "
        f"turns flat at the window. {finding}.",
    )


@styled
def past_training(edges, bits: dict[str, list[float]], trained: int) -> Plot:
    """Bits per byte by position: name -> one value for each bin between the edges."""
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    middles = np.arange(len(edges) - 1)
    looks = zip(
        (INK, ORANGE, BLUE, PINK, GREEN), ("o", "s", "^", "D", "v"), strict=True
    )
    for (name, values), (color, marker) in zip(bits.items(), looks, strict=False):
        ax.plot(middles, values, marker + "-", color=color, lw=1.5, label=name)
    ax.axvline(edges.index(trained) - 0.5, color=INK, lw=1, ls=":")
    ax.text(edges.index(trained) - 0.45, 0.93, "never trained on", fontsize=9,
            transform=ax.get_xaxis_transform())  # fmt: skip
    names = [f"{a:,}-{b:,}" for a, b in pairwise(edges)]
    ax.set_xticks(middles, names)
    ax.set(xlabel="position in the text", ylabel="bits per byte")
    ax.legend(loc="upper left")
    first = edges.index(trained)  # mean over all positions past the training length
    past = {
        name: np.average(values[first:], weights=np.diff(edges)[first:])
        for name, values in bits.items()
    }
    said = ", ".join(f"{name} {value:.2f}" for name, value in past.items())
    ax.set_title(f"Trained on {plain(trained)} tokens, read to {edges[-1]:,}")
    return plot.describe(
        caption=f"Mean bits per byte past position {trained}: {said}.",
        alt=f"Lines of bits per byte over positions {', '.join(names)}; the model was "
        f"trained on {trained} tokens. Mean past them: {said}.",
    )
