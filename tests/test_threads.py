"""Work dealt out to threads: each item once, as the caller would have done it."""

import threading
from functools import partial

import pytest
import torch

from sparse_attn import counting, kernels
from sparse_attn.kernels import blocked
from sparse_attn.kernels.threads import side_by_side


def test_every_item_is_worked_on_once(threads):
    done, seen = [], set()
    gate = threading.Barrier(threads)

    def work(items):
        gate.wait(timeout=20)  # passed only if that many threads are at work
        seen.add((threading.get_ident(), torch.get_num_threads()))
        done.extend(items)

    side_by_side(work, range(50))
    assert sorted(done) == list(range(50))
    assert len({ident for ident, _ in seen}) == threads
    assert {within for _, within in seen} == {1}


def test_the_number_of_threads_is_as_before(threads):
    side_by_side(list, range(5))
    found = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads, threads]


def test_nothing_to_do(threads):
    side_by_side(lambda items: list(items), [])


def test_errors_reach_the_caller(threads):
    def work(items):
        for item in items:
            if item == 3:
                raise ValueError("item 3")

    with pytest.raises(ValueError, match="item 3"):
        side_by_side(work, range(5))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_of_the_caller_hold(threads, mode):
    found = []

    def work(items):
        for _ in items:
            found.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    with mode():
        side_by_side(work, range(4))
    assert set(found) == {(mode is torch.inference_mode, False)}


@pytest.mark.parametrize("rest", ["none", "pooled"])
def test_attention_of_long_texts_is_that_of_short_ones(threads, rest, monkeypatch):
    q, k, v = torch.randn(3, 1, 2, 700, 16)
    blocks = kernels.select_blocks(q, k, 6, causal=True)
    how = dict(causal=True, rest=rest, return_lse=True)
    together = kernels.block_attention(q, k, v, blocks, **how)
    monkeypatch.setattr(blocked, "LONG", 64)
    monkeypatch.setattr(blocked, "ROWS", 64)
    apart = kernels.block_attention(q, k, v, blocks, **how)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b)


def test_counters_see_the_work_of_all_threads(threads, monkeypatch):
    q, k, v = torch.randn(3, 1, 2, 700, 16)
    blocks = kernels.select_blocks(q, k, 6, causal=True)

    attend = partial(kernels.block_attention, q, k, v, blocks, causal=True)
    together = counting.flops(attend)
    monkeypatch.setattr(blocked, "LONG", 64)
    assert counting.flops(attend) == together > 0
