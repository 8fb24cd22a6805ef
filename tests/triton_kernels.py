"""The Triton kernels against the specification; run by test_kernels.py, in a process of
its own: whether Triton interprets or compiles is decided before it is imported.

By hand: TRITON_INTERPRET=1 pytest tests/triton_kernels.py, or without it on CUDA.
"""

import os

import pytest
import torch
from oracle import draw
from test_flash import (
    each_order,
    has_its_gradients,
    is_attention,
    is_the_log_sum_exp,
)

from benchmarks import flash as benchmark
from sparse_attn import flash, kernels, timing

WHERE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread_is_enough(one_thread):
    pass


def attend(q, k, v, **how):
    """The kernels on the device that they run on, tensors where they were."""
    found = kernels.flash_attention(*(x.to(WHERE) for x in (q, k, v)), **how)
    if isinstance(found, tuple):
        return tuple(x.to(q.device) for x in found)
    return found.to(q.device)


def is_right(q, k, v, causal):
    is_attention(q, k, v, causal, attend)
    has_its_gradients(q, k, v, causal, attend)


@each_order
@pytest.mark.parametrize("T, D", [(70, 64), (40, 128)])
@each_dtype
def test_kernels_give_attention_and_its_gradients_within_their_rounding(
    dtype, T, D, causal
):
    is_right(*draw(T, T, H=1, Hkv=1, D=D, dtype=dtype), causal)


@each_order
@pytest.mark.parametrize("T", [1, 16, 31, 32, 33])
def test_lengths_around_a_tile_leave_no_seam(T, causal):
    is_right(*draw(T, T, dtype=torch.float32), causal)


@each_order
@pytest.mark.parametrize("T, S", [(1, 97), (48, 49), (63, 97), (97, 63), (70, 5)])
def test_queries_and_keys_may_differ_in_number(T, S, causal):
    is_right(*draw(T, S, B=2, H=1, Hkv=1, dtype=torch.float32), causal)


@each_order
@pytest.mark.parametrize("Hkv", [1, 2, 4])
def test_consecutive_query_heads_share_a_key_value_head(Hkv, causal):
    is_right(*draw(37, 41, H=4, Hkv=Hkv, dtype=torch.float16), causal)


@pytest.mark.parametrize("D", [1, 7, 16, 80, 256])
def test_any_head_width_up_to_256_will_do(D):
    is_right(*draw(40, 40, H=1, Hkv=1, D=D, dtype=torch.float32), True)


@each_dtype
def test_a_query_that_sees_no_key_gets_zeros_and_sends_back_zeros(dtype):
    q, k, v = (x.requires_grad_() for x in draw(70, 4, dtype=dtype))
    out, lse = attend(q, k, v, causal=True, return_lse=True)
    assert (out[:, :, :66] == 0).all() and (out[:, :, 66:] != 0).all()
    assert lse[:, :, :66].isneginf().all() and lse[:, :, 66:].isfinite().all()
    out.sum().backward()
    assert (q.grad[:, :, :66] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@each_order
def test_the_log_sum_exp_is_that_of_the_scores(causal):
    q, k, v = draw(70, 50, dtype=torch.float32)
    _, found = attend(q, k, v, causal=causal, return_lse=True)
    is_the_log_sum_exp(found, q, k, causal)


def test_tensors_may_lie_in_memory_as_a_model_leaves_them():
    """(B, T, H, D) transposed, and a gradient of one number expanded."""
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(40, 40))
    q, k, v = (x.float().requires_grad_() for x in (q, k, v))
    assert not q.is_contiguous()
    attend(q, k, v, causal=True).sum().backward()
    dense = [x.detach().clone(memory_format=torch.contiguous_format) for x in (q, k, v)]
    dense = [x.requires_grad_() for x in dense]
    out = attend(*dense, causal=True)
    out.backward(torch.ones_like(out))
    for x, y in zip((q, k, v), dense, strict=True):
        assert x.grad.equal(y.grad), "the same numbers, the same kernels"


@each_order
def test_gradients_pass_through_the_log_sum_exp_and_a_merge(causal):
    def merged(q, k, v, causal):
        S = k.shape[2] // 2
        early = attend(q, k[:, :, :S], v[:, :, :S], return_lse=True)
        late = attend(q, k[:, :, S:], v[:, :, S:], causal=causal, return_lse=True)
        return flash.merge(*zip(early, late, strict=True))[0]

    q, k, v = draw(20, 40, dtype=torch.float32)
    is_attention(q, k, v, causal, merged)
    has_its_gradients(q, k, v, causal, merged)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_logits_below_the_overflow_select_the_best_key(dtype):
    q = torch.full((1, 1, 1, 16), 100.0, dtype=dtype)
    k = torch.stack([q[0, 0, 0], -q[0, 0, 0]])[None, None]  # logits ± 40,000
    v = torch.tensor([3.0, -5.0], dtype=dtype)[:, None].expand(2, 16)[None, None]
    assert (attend(q, k, v) == 3).all()
    assert (attend(q, k, v, scale=-0.25) == -5).all()
    assert (attend(q, k, v, scale=0.0) == -1).all()


def test_a_negative_scale_has_its_gradients_too():
    q, k, v = draw(20, 20, dtype=torch.float32)
    is_there = [x.clone().requires_grad_() for x in (q, k, v)]
    mirrored = [x.clone().requires_grad_() for x in (-q, k, v)]
    attend(*is_there, scale=-0.25).sum().backward()
    attend(*mirrored, scale=0.25).sum().backward()
    for x, y, sign in zip(is_there, mirrored, (-1, 1, 1), strict=True):
        assert x.grad.equal(sign * y.grad)


def test_the_benchmark_measures_both_kernels_both_ways(monkeypatch):
    """At a size at which even the interpreter is quick; its numbers mean nothing."""
    monkeypatch.setattr(benchmark, "TOKENS", 32)
    monkeypatch.setattr(benchmark, "WIDTH", 32)
    monkeypatch.setattr(timing, "SAMPLES", 2)
    found = benchmark.compare(T=16, D=16, causal=True, device=torch.device(WHERE))
    assert list(found) == ["forward", "backward"]
    for way in found.values():
        share, low, high = way["rate of SDPA"]
        assert 0 < low <= share <= high
        assert way["triton"]["TFLOP/s"] > 0 and way["sdpa"]["seconds"][0] > 0
