"""The loop over listed rows: with Python or without, it computes the same."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from oracle import draw

from sparse_attn.kernels import block_attention, blocked, select_blocks, steps

CPU = torch.device("cpu")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rest", ["none", "pooled"])
@pytest.mark.parametrize(
    "T, heads, dtype",
    [
        (1024, 4, torch.float32),  # whole rows, all alike
        (999, 2, torch.float32),  # a short last row; shared heads
        (500, 4, torch.bfloat16),
        (500, 1, torch.float64),
    ],
)
def test_torchscript_gives_the_very_numbers_of_the_loop(
    monkeypatch, threads, causal, rest, T, heads, dtype
):
    q, k, v = draw(T, T, B=2, H=4, Hkv=heads, dtype=dtype)
    how = dict(causal=causal, block_q=16, block_k=8)
    blocks = select_blocks(q, k, 12, **how)
    blocks[:, 0, 5::3, -1] = -1  # some rows list fewer
    monkeypatch.setattr(blocked, "ROWS", 48)  # steps of three rows
    monkeypatch.setattr(blocked, "LONG", 0)  # each thread apart
    how |= dict(rest=rest, pool=16, return_lse=True)
    found = block_attention(q, k, v, blocks, **how)
    calls = []

    def loop(*given):
        calls.append(given)
        return steps.attend_rows(*given)

    monkeypatch.setattr(blocked, "loop_on", lambda device: loop)
    expected = block_attention(q, k, v, blocks, **how)
    assert calls
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_a_cpu_takes_torchscript_and_says_nothing_of_its_age():
    steps._scripted.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = steps.loop_on(CPU)
    if sys.version_info < (3, 14):
        assert isinstance(loop, torch.jit.ScriptFunction)


def test_where_torchscript_does_not_serve_the_loop_is_python(monkeypatch):
    assert steps.loop_on(torch.device("mps")) is steps.attend_rows
    monkeypatch.setattr(steps, "sys", SimpleNamespace(version_info=(3, 14)))
    assert steps.loop_on(CPU) is steps.attend_rows
