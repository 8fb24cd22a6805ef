"""Figures of sparse patterns: how they are drawn, for `test_figures`; what they say,
counted here once more."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sparse_attn import figures
from sparse_attn.explore import FRAME, MAX_BYTES, MAX_FRAMES, explore
from sparse_attn.figures.patterns import KINDS
from sparse_attn.figures.style import BLUE, INK, ORANGE, PALE
from sparse_attn.patterns import (
    Blockwise,
    Causal,
    Full,
    Globals,
    Random,
    Window,
    bigbird,
    fixed,
    global_local,
    lambda_shaped,
    longformer_heads,
    sliding_window,
    strided,
)
from sparse_attn.timing import Ratio

WORDS = ["The", "planet", "we", "call", "home", "is", "a", "lonely", "speck"]
GALLERY = {
    "causal": Causal(),
    "window": sliding_window(8),
    "dilated heads": longformer_heads(4, 3, dilated=2, gap=4),
    "strided": strided(7),
    "fixed": fixed(8, 2),
    "Λ": lambda_shaped(6, 3),
    "window and globals": global_local(3, 3),
    "BigBird": bigbird(4, 1),
    "blockwise heads": tuple(Blockwise(4, shift) for shift in range(4)),
}
SENTENCE = {
    "full": Full(),
    "causal": Causal(),
    "window": Window(1, 1),
    "first word global": Window(1, 1) | Globals((0,)),
}
CAUSAL = {
    "window 17": sliding_window(17),
    "strided 16": strided(16),
    "fixed 16": fixed(16),
    "BigBird 16": bigbird(16, 1) & Causal(),
    "random 4": Random(4, among=Causal()),
}
CURVES = {
    "window": [(0.02, 1.74), (0.05, 1.61), (0.1, 1.55), (0.2, 1.52)],
    "strided": [(0.2, 1.51), (0.022, 1.92), (0.048, 1.78), (0.11, 1.60)],
    "BigBird": [(0.05, 1.70), (0.1, 1.58), (0.2, 1.53)],
}
TRAINED = {
    "full": [1.50, 1.52, 1.51],
    "window 64": [1.51, 1.53, 1.52],
    "strided 32": [1.53, 1.55, 1.54],
    "random": [1.70, 1.68, 1.72],
}


def ratio(value):
    return Ratio(value, 0.95 * value, 1.1 * value)


TIMES = {
    "window": [(0.03, ratio(0.11)), (0.2, ratio(0.5)), (0.06, ratio(0.19))],
    "BigBird": [(0.08, ratio(0.27)), (0.15, ratio(0.45)), (0.3, ratio(0.9))],
    "random": [(0.3, ratio(1.0)), (0.502, ratio(1.6))],
}
DRAWN = {  # figure -> (arguments, what its caption must state)
    "block_waste": (
        dict(kind="strided 32", block=32),
        ["blocks of 32", "86%", "7.5%", "53.1%", "136 of 256", "0 of them full"],
    ),
    "composer": (
        dict(window=1, random=0, globals_=1),
        ["Window 1", "0 random", "1 global", "314 of 4,096", "2 layers to 99%"],
    ),
    "mask_gallery": (
        dict(named=GALLERY),
        ["48 tokens", "causal 51.0%", "window 15.5%", "blockwise heads 25.0%"],
    ),
    "neighbors": (
        dict(named=SENTENCE, words=WORDS, token=4),
        ["“home” sees 3 to 9 of 9", "causal 5", "full 81", "window 25", "global 39"],
    ),
    "quality_by_share": (
        dict(curves=CURVES, base=1.49, title_prefix="Imposed"),
        ["Imposed", "window at 2% (1.74)", "strided at 20% (1.51)", "1.49"],
    ),
    "reach_by_layers": (
        dict(named=CAUSAL, T=128, layers=6),
        ["strided 16, fixed 16", "2 layers", "128 tokens", "window 17 94%"],
    ),
    "receptive_field": (
        dict(named=CAUSAL, T=64, layers=3),
        ["3 layers", "64 of 64", "window 17 17, 33, 49", "strided 16 19, 64, 64"],
    ),
    "time_by_share": (
        dict(points=TIMES, device="a machine", causal=0.508),
        ["window, 3% of the blocks in 0.11", "a machine", "say 0.06", "1 of 8"],
    ),
    "trained_patterns": (
        dict(rows=TRAINED, shares={"window 64": 0.22, "random": 0.031}),
        ["window 64 (+0.010)", "random (+0.190)", "mean of 1.510 for full"],
    ),
}
EXTREMES = [("block_waste", dict(kind=kind, block=16)) for kind in KINDS]
EXTREMES += [("block_waste", dict(kind=kind, block=128)) for kind in KINDS]
EXTREMES += [
    ("composer", dict(window=w, random=r, globals_=g))
    for w, r, g in ((0, 0, 0), (4, 4, 2), (0, 4, 0), (1, 0, 0), (4, 0, 1), (0, 0, 1))
]
EXTREMES += [
    ("mask_gallery", dict(named={"causal": Causal(), "window": Window(4)})),
    ("mask_gallery", dict(named={"one": (Full(), Causal())}, T=8)),
    ("neighbors", dict(named={"full": Full()}, words=["Once", "more"], token=1)),
    ("neighbors", dict(named=SENTENCE, words=WORDS, token=0)),
    ("reach_by_layers", dict(named={"all": Full()} | CAUSAL, T=64, layers=3)),
    ("reach_by_layers", dict(named={"itself": Window(0)}, T=64, layers=2)),
    ("receptive_field", dict(named={"window": Window(3)}, T=100, layers=6)),
    ("quality_by_share", dict(curves={"w": [(0.3, 2.0)]}, base=1.5, title_prefix="A")),
    ("time_by_share", dict(points={"w": [(0.3, ratio(2.0))]}, device="a machine")),
]


def filled(ax):
    """How many cells of a mask are not white."""
    return int((np.asarray(ax.images[0].get_array()) < 1).any(axis=2).sum())


def connected(mask, layers):
    """(T, T) bool: pairs joined by at most so many steps; each token joins itself."""
    step = np.eye(len(mask)) + mask
    return np.linalg.matrix_power(step, layers) > 0


@pytest.mark.parametrize("T", [16, 48])
def test_a_gallery_fills_the_pairs_of_each_mask(T):
    plot = figures.mask_gallery(GALLERY, T)
    axes = [ax for ax in plot.axes if ax.get_visible()]
    assert len(axes) == len(GALLERY)
    for ax, (name, pattern) in zip(axes, GALLERY.items(), strict=True):
        heads = pattern if isinstance(pattern, tuple) else (pattern,)
        masks = np.stack([head.mask(T).numpy() for head in heads])
        assert filled(ax) == masks.any(0).sum()
        assert f"{name} {masks.mean():.1%}" in plot.caption


def test_heads_of_a_gallery_have_colors_and_a_dark_one_where_they_agree():
    heads = (Window(1), Window(1), Window(1, gap=2))  # equal ones share a color
    picture = figures.mask_gallery({"heads": heads}, T=4).axes[0].images[0].get_array()
    colors = [[to_hex(cell) for cell in row] for row in picture]
    assert colors[3] == ["#ffffff", ORANGE, BLUE, INK]
    assert "dark for several" in figures.mask_gallery({"a": heads}).caption
    assert "dark" not in figures.mask_gallery({"a": Window(1)}).caption


@pytest.mark.parametrize("token", [0, 4, 8])
def test_the_words_that_a_word_sees_are_filled_and_it_is_framed(token):
    boxes = figures.neighbors(SENTENCE, WORDS, token).axes[0].patches
    fills = np.array([to_hex(box.get_facecolor()) for box in boxes]).reshape(4, 9)
    frames = np.array([to_hex(box.get_edgecolor()) for box in boxes]).reshape(4, 9)
    seen = [pattern.mask(9)[token].tolist() for pattern in SENTENCE.values()]
    assert np.array_equal(fills, np.where(seen, BLUE, PALE))
    assert [row.tolist().index(ORANGE) for row in frames] == [token] * 4


def test_a_sentence_has_as_many_pairs_as_the_mask():
    caption = figures.neighbors(SENTENCE, WORDS, 2).caption
    for name, pattern in SENTENCE.items():
        assert f"{name} {int(pattern.mask(9).sum())}" in caption


@pytest.mark.parametrize("window, random, globals_", [(0, 0, 0), (1, 2, 0), (4, 4, 2)])
def test_a_composed_pattern_says_its_pairs_and_its_reach(window, random, globals_):
    t = np.arange(64)
    mask = abs(t[:, None] - t) <= window
    if random:
        mask |= Random(random).mask(64).numpy()
    mask[:globals_] = mask[:, :globals_] = True
    shares = [connected(mask, l).mean() for l in range(7)]
    plot = figures.composer(window, random, globals_)
    assert f"{mask.sum():,} of 4,096 pairs" in plot.caption
    assert filled(plot.axes[0]) == mask.sum()
    drawn = plot.axes[1].lines[0].get_ydata()
    assert np.allclose(drawn, shares, atol=0, rtol=1e-12)
    layers = next((l for l, share in enumerate(shares) if share >= 0.99), None)
    until = f"{layers} layers to 99%" if layers else "not 99% within 6 layers"
    assert until in plot.caption


@pytest.mark.parametrize("block", [16, 64, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_waste_is_what_a_count_of_the_mask_says(kind, block):
    mask, T = KINDS[kind].mask(512).numpy(), 512
    tiles = [
        mask[q : q + block, k : k + block]
        for q in range(0, T, block)
        for k in range(0, T, block)
    ]
    listed = [tile for tile in tiles if tile.any()]
    computed, full = sum(tile.size for tile in listed), sum(t.all() for t in listed)
    plot = figures.block_waste(kind, block)
    assert f"{1 - mask.sum() / computed:.0%} of the work is waste" in plot.caption
    assert f"Pairs {mask.mean():.1%} of the square" in plot.caption
    said = f"{len(listed):,} of {len(tiles):,}, {full:,} of them full"
    assert f"listed blocks {len(listed) / len(tiles):.1%}: {said}" in plot.caption
    assert filled(plot.axes[0]) == computed


@pytest.mark.parametrize("call, words", [
    (lambda: figures.block_waste("rings", 16), "kind='rings': choose from"),
    (lambda: figures.block_waste("window 65", 0), "block_q=0"),
    (lambda: figures.neighbors(SENTENCE, WORDS, 9), "token=9: .* from 0 to 8"),
    (lambda: figures.reach_by_layers(CAUSAL, T=8, layers=0), "layers=0"),
    (lambda: figures.receptive_field(CAUSAL, T=8, layers=0), "layers=0"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_all_frames_of_wasted_blocks_fit_a_page():
    explore(figures.block_waste, kind=list(KINDS), block=[16, 32, 64, 128]).html()


@pytest.mark.parametrize("window", [0, 1, 4])
def test_as_many_frames_as_a_page_takes_fit_it_even_if_all_are_as_rich(window):
    frame = figures.composer(window, random=4, globals_=2).png(**FRAME)
    assert MAX_FRAMES * len(frame) <= MAX_BYTES


def test_reach_is_relative_to_what_causal_or_full_attention_connects():
    T, layers = 32, 3
    named = {"causal": sliding_window(4), "both sides": Window(3, 3)}
    lines = figures.reach_by_layers(named, T, layers).axes[0].lines
    lines = [line for line in lines if line.get_marker() != "None"]
    for line, (name, pattern) in zip(lines, named.items(), strict=True):
        mask = pattern.mask(T).numpy()
        possible = T * (T + 1) / 2 if name == "causal" else T * T
        shares = [connected(mask, l).sum() / possible for l in range(layers + 1)]
        assert np.allclose(line.get_ydata(), shares, atol=0, rtol=1e-12)


def test_none_is_first_where_none_arrives():
    caption = figures.reach_by_layers({"window": Window(1)}, T=64, layers=4).caption
    assert caption.startswith("None reaches 99% within 4 layers")
    one = figures.reach_by_layers({"full": Full(), "window": Window(1)}, 64, 4)
    assert one.caption.startswith("First to 99%: full, after 1 layer (")


@pytest.mark.parametrize("name", CAUSAL)
def test_a_strip_fills_the_tokens_that_matrix_powers_reach(name):
    T, layers = 48, 4
    plot = figures.receptive_field({name: CAUSAL[name]}, T, layers)
    picture = np.asarray(plot.axes[0].images[0].get_array())
    mask = CAUSAL[name].mask(T).numpy()
    seen = np.stack([connected(mask, l)[-1] for l in range(1, layers + 1)])
    assert np.array_equal((picture < 1).any(axis=2), seen)
    assert f"{name} {', '.join(map(str, seen.sum(1)))}" in plot.caption


def test_families_are_compared_only_where_their_shares_are_alike():
    curves = {"a": [(0.01, 3.0), (0.10, 2.0)], "b": [(0.11, 1.9), (0.5, 1.6)]}
    caption = figures.quality_by_share(curves, 1.5, "Both").caption
    assert "Best: b at 10% (1.90); full" in caption
    apart = {"a": [(0.01, 3.0)], "b": [(0.5, 1.6)]}
    caption = figures.quality_by_share(apart, 1.5, "Apart").caption
    assert "Best: a at 1% (3.00), b at 50% (1.60); full" in caption


def test_the_band_of_trained_patterns_spans_the_seeds_of_the_first_row():
    plot = figures.trained_patterns(TRAINED, {"random": 0.05})
    band = plot.axes[0].patches[0].get_extents().transformed(
        plot.axes[0].transData.inverted()
    )  # fmt: skip
    assert (band.x0, band.x1) == (pytest.approx(1.50), pytest.approx(1.52))
    labels = [label.get_text() for label in plot.axes[0].get_yticklabels()]
    assert labels == ["full", "window 64", "strided 32", "random (5% of pairs)"]


def test_time_in_proportion_passes_through_causal_at_one():
    plot = figures.time_by_share(TIMES, "a machine", causal=0.508)
    dashed = next(line for line in plot.axes[0].lines if line.get_linestyle() == "--")
    x, y = dashed.get_data()
    assert np.allclose(y, x / 0.508, rtol=1e-12)
    assert min(x) == 0.03 and max(x) == 0.508
