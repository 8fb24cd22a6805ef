"""Figures of selected keys and of the rest: how they are drawn, for `test_figures`;
what they say, computed here once more."""

import functools
import math

import numpy as np
import pytest
import torch

from sparse_attn import cost, figures
from sparse_attn.explore import MAX_BYTES, explore
from sparse_attn.indexer import selected_attention

KS = (8, 16, 32, 64, 128)
RANKS = (2, 4, 8, 16, "window", "oracle")


def query():
    """The scores of one query, and its 16 best of 96."""
    generator = torch.Generator().manual_seed(0)
    scores = 1.3 * torch.randn(96, generator=generator)
    return scores, scores >= scores.sort().values[-16]


def falling(start, steepness, gain):
    """rest -> K -> a loss that falls as K grows, `gain` times less if pooled."""
    dropped = {K: start * (K / 8) ** -steepness for K in KS}
    return {"none": dropped, "pooled": {K: x / gain for K, x in dropped.items()}}


CURVES = {
    "rank 8": falling(0.2, 1.5, 3),
    "window": falling(0.3, 1.3, 1.6),
    "oracle": falling(0.16, 1.5, 3.5),
    "block means": falling(0.4, 1.2, 2),
    "random": falling(2.0, 0.8, 3),
}
FOUND = {
    (rank, K): {"none": a * (K / 8) ** -1.4, "pooled": a / 5 * (K / 8) ** -2 - 0.0004}
    for rank, a in zip(RANKS, (0.8, 0.6, 0.5, 0.45, 0.7, 0.4), strict=True)
    for K in KS
}
POINTS = [
    (name, share + K / 256, start * (K / 8) ** -1.5)
    for name, share, start in (
        ("rank 2", 0.03, 0.2),
        ("rank 4", 0.06, 0.08),
        ("rank 8", 0.12, 0.06),
        ("rank 16", 0.25, 0.055),
        ("window", 0.005, 0.3),
        ("oracle, found for free", 0.005, 0.05),
    )
    for K in KS
]
COUNTS = {
    p: {
        f"layer {layer}, head {head}": torch.arange(1, 101)
        * (1 + layer * head)
        // grain
        for layer in (1, 2)
        for head in (1, 2)
    }
    for p, grain in ((0.8, 4), (0.95, 1))
}
SEEDS = {
    "full attention": [2.10, 2.12, 2.11],
    "rank 8, K=16": [2.13, 2.15, 2.14],
    "window, K=16": [2.20, 2.19, 2.24],
}
LENGTHS = {
    (fitted, read, rest): [base * read / 128 * (1 + 0.1 * i) for i in range(3)]
    for fitted, base in ((128, 0.01), (512, 0.008))
    for read in (128, 256, 512)
    for rest, base in (("none", 10 * base), ("pooled", base))
}
DRAWN = {  # figure -> (arguments, what its caption must state)
    "by_length": (
        dict(found=LENGTHS),
        ["Read at 512, rest pooled: fitted at 128 +0.044, at 512 +0.035", "each seed"],
    ),
    "frontier": (
        dict(points=POINTS),
        ["window (0.30 for 4%", "30 points", "lie on window, rank 2, rank 4, rank 8"],
    ),
    "indexer_bill": (
        dict(T=4096, K=64, rank=8),
        ["T = 4,096, K = 64, rank 8", "16.0%", "6.64%", "3.1%", "6.27%", "12.5%"],
    ),
    "keys_taken": (
        dict(counts=COUNTS, p=0.95),
        ["p = 0.95: 164 keys", "101 (layer 1, head 1)", "252 (layer 2, head 2)"],
    ),
    "pooling_gap": (
        dict(spreads=[0.5, 1.5, 1.0], measured=[0.9, 0.31, 0.64]),
        ["Spread 1", "64%", "61%", "3 measured, 2 of them above", "by 0.03"],
    ),
    "quality_by_keys": (
        dict(curves=CURVES, of="KL divergence, bits per token"),
        ["K=32", "rank 8 from 0.025 to 0.0083", "window from 0.049 to 0.031"],
    ),
    "rank_and_keys": (
        dict(found=FOUND, rank=8, K=32),
        ["rank 8, K = 32", "+0.072", "+0.006", "window +0.101", "oracle +0.057"],
    ),
    "seed_dots": (
        dict(groups=SEEDS, label="bits per byte", reference="full attention"),
        ["rank 8, K=16 (+0.030)", "window, K=16 (+0.100)", "mean of 2.110"],
    ),
    "stand_ins": (
        dict(scores=query()[0], chosen=query()[1], block=16),
        ["16 of 96 keys hold 72%", "28%", "19%"],
    ),
}
SMALL = {"none": {16: 0.2, 64: 0.1}, "pooled": {16: 0.1, 64: 0.00004}}
HEADS = {f"layer {n // 4}, head {n % 4}": torch.full((9,), n + 1) for n in range(16)}
LONG = {f"tuned: {who}, K=16, pooled": [2.1, 2.2 + n] for n, who in enumerate("abcdef")}
EXTREMES = [
    ("indexer_bill", dict(T=T, K=K, rank=rank))
    for T, K, rank in ((512, 1024, 16), (2**17, 16, 2), (2**17, 512, 64), (512, 8, 1))
]
EXTREMES += [
    ("stand_ins", dict(scores=query()[0][:70], chosen=query()[1][:70] > 1, block=16)),
    ("stand_ins", dict(scores=torch.zeros(64), chosen=torch.ones(64) > 0, block=16)),
    ("stand_ins", dict(scores=torch.arange(128.0), chosen=torch.arange(128) > 99,
                       block=8)),
    ("quality_by_keys", dict(curves={"window": SMALL}, of="bits")),
    ("quality_by_keys", dict(curves={"rank 4, MLP of 64": SMALL, "T logits": SMALL},
                             of="KL divergence from the teacher, bits per token")),
    ("pooling_gap", dict(spreads=[0.2], measured=[1.01])),
    ("rank_and_keys", dict(found=FOUND, rank="oracle", K=8)),
    ("rank_and_keys", dict(found=FOUND, rank=16, K=128)),
    ("frontier", dict(points=[("rank 8", 0.2, 0.01), ("rank 8", 0.11, 0.02)])),
    ("keys_taken", dict(counts={0.6: HEADS}, p=0.6)),
    ("keys_taken", dict(counts=COUNTS, p=0.8)),
    ("seed_dots", dict(groups=LONG, label="bits", reference=next(iter(LONG)))),
    ("by_length", dict(found={(512, 128, "none"): [0.1], (512, 256, "none"): [-0.2]})),
]  # fmt: skip


def test_pooled_mass_of_a_query_is_that_of_selected_attention():
    """With values that are 1 for the rest and 0 for the selected, it is the output."""
    scores, chosen = query()
    q = torch.zeros(1, 1, 1, 4)
    q[..., 0] = 2.0  # times 1/sqrt(4): scores are the first coordinate of the keys
    k, v = torch.zeros(2, 1, 1, 96, 4).unbind()
    k[..., 0], v[...] = scores, (~chosen).float()[:, None]
    indices = chosen.nonzero().view(1, 1, 1, -1)
    share = float(selected_attention(q, k, v, indices, rest="pooled")[0, 0, 0, 0])
    held = float(scores.softmax(0)[chosen].sum())
    caption = figures.stand_ins(scores, chosen, 16).caption
    assert f"block means say {held * share / (1 - share):.0%}" in caption
    assert f"hold {held:.0%}" in caption


def test_a_block_of_equal_scores_is_seen_as_it_is():
    scores = torch.arange(4.0).repeat_interleave(8)
    chosen = torch.zeros(32, dtype=torch.bool)
    caption = figures.stand_ins(scores, chosen, 8).caption
    assert (
        "0 of 32 keys hold 0%; the rest has 100%, its block means say 100%" in caption
    )


def test_scores_and_marks_must_be_of_one_query():
    with pytest.raises(ValueError, match=r"scores has shape \(2, 3\)"):
        figures.stand_ins(torch.ones(2, 3), torch.ones(2, 3) > 0, 2)
    with pytest.raises(ValueError, match=r"chosen \(4,\)"):
        figures.stand_ins(torch.ones(3), torch.ones(4) > 0, 2)


def test_dropped_lines_are_dashed_and_share_the_color_of_pooled_ones():
    lines = figures.quality_by_keys(CURVES, "bits").axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["--", "-"] * len(CURVES)
    colors = [line.get_color() for line in lines]
    assert colors[::2] == colors[1::2] and len(set(colors)) == len(CURVES)


def test_the_frontier_leaves_out_what_is_dearer_and_worse_and_every_oracle():
    points = [("a", 0.1, 1.0), ("b", 0.2, 2.0), ("b", 0.3, 0.5), ("a", 0.3, 0.7),
              ("oracle, free", 0.01, 0.01)]  # fmt: skip
    caption = figures.frontier(points).caption
    assert "2 of 5 points" in caption
    assert "from a (1.0 for 10% of the FLOPs) to b (0.50 for 30%" in caption


@pytest.mark.parametrize("T, K", [(512, 64), (4096, 64), (100, 400)])
def test_a_bill_is_the_sum_of_its_parts(T, K):
    parts = cost.indexed_shares(T, 64, K, 8)
    full = cost.scores(T, 64, 1, causal=True).flops
    assert parts["selected"] <= 1 and (parts["selected"] == 1) == (K >= T)
    assert parts["finding"] * full == cost.indexer_flops(T, 64, 8, causal=True)
    assert parts["pooled"] * full == cost.pooled_flops(T, 64, 16, causal=True)
    caption = figures.indexer_bill(T, K, 8).caption
    assert f"blocks of 16: {sum(parts.values()):.1%} of full" in caption


def test_a_bill_falls_to_what_its_caption_says():
    limit = 8 / (2 * 64) + 1 / 16
    far = sum(cost.indexed_shares(2**24, 64, 64, 8).values())
    assert limit < far < 1.001 * limit
    assert "= 12.5%" in figures.indexer_bill(2**17, 64, 8).caption


def test_strips_of_keys_are_quantiles_and_their_axis_is_that_of_all_p():
    strict, loose = (figures.keys_taken(COUNTS, p) for p in (0.95, 0.8))
    assert strict.axes[0].get_xlim() == loose.axes[0].get_xlim()
    kept = COUNTS[0.95]["layer 2, head 2"].numpy()
    low, high = np.quantile(kept, (0.05, 0.95))
    said = f"layer 2, head 2: {low:.0f} to {high:.0f}, median {np.median(kept):.0f}"
    assert said in strict.alt


@pytest.mark.parametrize("call, message", [
    (lambda: figures.keys_taken(COUNTS, 0.5), "p=0.5: choose from"),
    (lambda: figures.rank_and_keys(FOUND, 3, 8), "rank=3, K=8: choose from"),
    (lambda: figures.seed_dots(SEEDS, "bits", "none"), "reference='none': choose"),
])  # fmt: skip
def test_what_was_not_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_seeds_carry_their_mean_at_the_right():
    written = [text.get_text() for text in figures.seed_dots(
        SEEDS, "bits per byte", "full attention").axes[0].texts]  # fmt: skip
    assert written == ["2.110", "2.140", "2.210"]


def test_theory_of_the_gap_is_the_mean_of_a_normal_exponential():
    """exp(mean) / mean(exp) of normal scores of deviation s."""
    scores = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    ratio = float(scores.mean().exp() / scores.exp().mean())
    assert ratio == pytest.approx(math.exp(-0.5), rel=0.02)
    caption = figures.pooling_gap([1.0], [0.6]).caption
    assert f"theory {math.exp(-0.5):.0%}" in caption


@pytest.mark.parametrize("figure, choices", [
    (functools.partial(figures.rank_and_keys, FOUND),
     dict(rank=[2, 4, 8, 16], K=list(KS))),
    (functools.partial(figures.indexer_bill, rank=8),
     dict(T=[2**n for n in range(9, 18)], K=[16, 64, 256])),
    (functools.partial(figures.keys_taken, dict.fromkeys((0.6, 0.8, 0.95), HEADS)),
     dict(p=[0.6, 0.8, 0.95])),
], ids=["rank_and_keys", "indexer_bill", "keys_taken"])  # fmt: skip
def test_the_sliders_fit_a_page(figure, choices):
    assert len(explore(figure, **choices).html()) < MAX_BYTES * 4 / 3
