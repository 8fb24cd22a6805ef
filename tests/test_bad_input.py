"""Arguments that do not fit raise a ValueError that says which, and what was got."""

import re

import numpy as np
import pytest
import torch

from sparse_attn import cost, device, timing
from sparse_attn.attention import attention, attention_weights, causal_mask
from sparse_attn.exercises import check
from sparse_attn.explore import explore
from sparse_attn.figures import block_share
from sparse_attn.flash import flash_attention, merge, merge_tree, online_softmax
from sparse_attn.layers import fused_attention


def explains(call, name, got):
    """The call raises a ValueError with the argument's name, a word, and its value."""
    with pytest.raises(ValueError) as caught:
        call()
    said = str(caught.value)
    assert re.search(rf"\b{name}\b", said), said
    assert str(got) in said, said


def x(*shape, **how):
    return torch.ones(shape or (1, 2, 5, 8), **how)


META = torch.device("meta")
HALF = torch.float16

TENSORS = {
    "q of three axes": ("q", (2, 5, 8), dict(q=x(2, 5, 8))),
    "k of three axes": ("k", (2, 5, 8), dict(k=x(2, 5, 8))),
    "v of five axes": ("v", (1, 1, 2, 5, 8), dict(v=x(1, 1, 2, 5, 8))),
    "q is a list": ("q", "list", dict(q=[[1.0]])),
    "v is an array": ("v", "ndarray", dict(v=np.ones((1, 2, 5, 8)))),
    "no queries": ("q", (1, 2, 0, 8), dict(q=x(1, 2, 0, 8))),
    "no keys": ("k", (1, 2, 0, 8), dict(k=x(1, 2, 0, 8), v=x(1, 2, 0, 8))),
    "no head dimension": ("q", (1, 2, 5, 0), dict(q=x(1, 2, 5, 0))),
    "whole numbers": ("q", "torch.int64", dict(q=x(dtype=torch.int64))),
    "k in another dtype": ("k", "torch.float16", dict(k=x(dtype=HALF))),
    "v in another dtype": ("v", "torch.float64", dict(v=x(dtype=torch.float64))),
    "k elsewhere": ("k", "meta", dict(k=x(device=META))),
    "v elsewhere": ("v", "meta", dict(v=x(device=META))),
    "another batch": ("q", (3, 2, 5, 8), dict(q=x(3, 2, 5, 8))),
    "another head width": ("q", (1, 2, 5, 9), dict(q=x(1, 2, 5, 9))),
    "heads that do not group": ("q", (1, 3, 5, 8), dict(q=x(1, 3, 5, 8))),
    "more key heads": ("k", (1, 4, 5, 8), dict(k=x(1, 4, 5, 8), v=x(1, 4, 5, 8))),
    "fewer values than keys": ("v", (1, 2, 4, 8), dict(v=x(1, 2, 4, 8))),
    "scale is NaN": ("scale", "nan", dict(scale=float("nan"))),
    "scale is infinite": ("scale", "-inf", dict(scale=-float("inf"))),
    "scale is a word": ("scale", "'large'", dict(scale="large")),
    "mask of numbers": ("mask", "torch.float32", dict(mask=x(5, 5))),
    "mask is an array": ("mask", "ndarray", dict(mask=np.ones((5, 5), dtype=bool))),
    "mask elsewhere": ("mask", "meta", dict(mask=x(5, 5).bool().to(META))),
    "mask too small": ("mask", (5, 4), dict(mask=x(5, 4).bool())),
    "mask of five axes": ("mask", (2, 1, 2, 5, 5), dict(mask=x(2, 1, 2, 5, 5).bool())),
}


@pytest.mark.parametrize("function", [attention, attention_weights, fused_attention])
@pytest.mark.parametrize("name, got, changed", TENSORS.values(), ids=TENSORS)
def test_attention_explains(function, name, got, changed):
    explains(lambda: function(**dict(q=x(), k=x(), v=x()) | changed), name, got)


UNMASKED = {name: case for name, case in TENSORS.items() if case[0] != "mask"}


@pytest.mark.parametrize("name, got, changed", UNMASKED.values(), ids=UNMASKED)
def test_tiled_attention_explains(name, got, changed):
    call = dict(q=x(), k=x(), v=x()) | changed
    explains(lambda: flash_attention(**call), name, got)


PARTS = dict(T=8, C=12, B=1, bytes_per_value=4)
TILED = dict(T=8, S=9, block_q=3, block_k=2)
COSTS = {
    cost.pairs: dict(T=8),
    cost.scores: PARTS | dict(H=3),
    cost.fused_scores: PARTS,
    cost.projections: PARTS,
    cost.mlp: PARTS | dict(expansion=4),
    cost.norms_and_additions: PARTS,
    cost.block: PARTS | dict(H=3, expansion=4),
    cost.lm_head: PARTS | dict(V=50),
    cost.model: PARTS | dict(H=3, expansion=4, L=2, V=50),
    cost.score_share: dict(T=8, C=12),
    cost.half_share_length: dict(C=12),
    cost.topk_pairs: dict(T=8, K=2),
    cost.topk_flops: dict(T=8, D=4, K=2),
    cost.topk_mlp_flops: dict(T=8, D=4, hidden=5, K=2),
    cost.topk_mlp_break_even: dict(D=4, hidden=5, K=2),
    cost.naive_elements: dict(T=8, D=4, S=9),
    cost.outer_kv_elements: TILED | dict(D=4),
    cost.outer_q_elements: TILED | dict(D=4),
    cost.tiles: TILED,
    cost.tile_memory: dict(D=4, block_q=3, block_k=2),
    cost.flash_blocks: dict(M=100, D=4),
}
EACH = [(function, name) for function, good in COSTS.items() for name in good]


@pytest.mark.parametrize("got", [0, -1, 2.5, True, float("nan"), "8"], ids=repr)
@pytest.mark.parametrize(
    "function, name",
    EACH,
    ids=[f"{function.__name__}-{name}" for function, name in EACH],
)
def test_a_cost_explains_each_of_its_sizes(function, name, got):
    explains(lambda: function(**COSTS[function] | {name: got}), name, repr(got))


@pytest.mark.parametrize(
    "function", [cost.topk_pairs, cost.topk_flops, cost.topk_mlp_flops]
)
def test_more_keys_than_tokens_are_explained(function):
    explains(lambda: function(**COSTS[function] | dict(K=9)), "K", "K=9")


@pytest.mark.parametrize("function", [cost.scores, cost.block, cost.model])
def test_heads_that_do_not_divide_the_width_are_explained(function):
    explains(lambda: function(**COSTS[function] | dict(H=5)), "H", "H=5")


@pytest.mark.parametrize("name, got", [("T", 0), ("T", -1), ("S", 0), ("S", 2.5)])
def test_an_impossible_causal_mask_is_explained(name, got):
    explains(lambda: causal_mask(**dict(T=3, S=3) | {name: got}), name, repr(got))


def fused_on_two_lengths():
    return fused_attention(x(1, 2, 3, 8), x(), x(1, 2, 4, 8), causal=True)


def peak_on(where):
    with device.peak_memory(where):
        pass


LSE = torch.zeros(1, 2, 5)
OTHERS = {
    "block of queries": (lambda: flash_attention(*[x()] * 3, block_q=0), "block_q", 0),
    "block of keys": (lambda: flash_attention(*[x()] * 3, block_k=2.5), "block_k", 2.5),
    "block of scores": (lambda: online_softmax(x(), 0), "block", 0),
    "scores of no number": (lambda: online_softmax(x(2, 0), 1), "x", (2, 0)),
    "whole scores": (lambda: online_softmax(x().long(), 1), "x", "torch.int64"),
    "nothing to merge": (lambda: merge([], []), "outs", 0),
    "fewer sums": (lambda: merge([x(), x()], [LSE]), "lses", 1),
    "sums of another shape": (lambda: merge([x()], [x()]), "lses", (1, 2, 5, 8)),
    "parts of two shapes": (lambda: merge([x(), x(5)], [LSE, LSE]), "outs", (5,)),
    "no states": (lambda: merge_tree([]), "states", "empty"),
    "fused lengths": (fused_on_two_lengths, "v", (1, 2, 4, 8)),
    "device wanted": (lambda: device.pick_device("tpu"), "device", "'tpu'"),
    "device index": (lambda: device.pick_device("cpu:x"), "device", "'cpu:x'"),
    "facts": (lambda: device.facts("tpu"), "device", "'tpu'"),
    "facts of meta": (lambda: device.facts(META), "device", "meta"),
    "synchronize": (lambda: device.synchronize("tpu"), "device", "'tpu'"),
    "peak": (lambda: peak_on("tpu"), "device", "'tpu'"),
    "peak of meta": (lambda: peak_on(META), "device", "meta"),
    "timing device": (lambda: timing.measure(int, device="tpu"), "device", "'tpu'"),
    "no samples": (lambda: timing.measure(int, samples=0), "samples", 0),
    "half a sample": (lambda: timing.measure(int, samples=2.5), "samples", 2.5),
    "nothing to time": (lambda: timing.measure_together({}), "fns", "empty"),
    "no choices": (lambda: explore(block_share), "choices", "no choices"),
    "empty choices": (lambda: explore(block_share, T=[], C=[1]), "T", "[]"),
    "one choice, bare": (lambda: explore(block_share, T=5, C=[1]), "T", "5"),
    "frames": (lambda: explore(int, T=range(7), C=range(7)), "combinations", 49),
    "a label too many": (
        lambda: explore(int, T=[1], labels={"K": "k"}),
        "labels",
        "'K'",
    ),
    "a start too many": (lambda: explore(int, T=[1], start={"K": 1}), "start", "'K'"),
    "a start elsewhere": (lambda: explore(int, T=[1, 2], start={"T": 3}), "start", 3),
    "exercise": (lambda: check("1.99", 1), "exercise", "'1.99'"),
    "chapter": (lambda: check("99.1", 1), "chapter", "'99'"),
    "no chapter": (lambda: check("one", 1), "chapter", "'one'"),
    "exercise as a number": (lambda: check(1.2, 1), "exercise", "1.2"),
}


@pytest.mark.parametrize("call, name, got", OTHERS.values(), ids=OTHERS)
def test_the_other_rooms_explain(call, name, got):
    explains(call, name, got)


def test_an_impossible_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "tpu")
    explains(device.pick_device, "SPARSE_ATTN_DEVICE", "'tpu'")
