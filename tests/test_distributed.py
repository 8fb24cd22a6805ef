"""Attention across ranks is attention, sends what the formulas say, and never hangs."""

import itertools
import math
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from distributed_cases import check_exact, check_selected
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import draw
from safetensors.torch import save_file
from test_bad_input import explains

from sparse_attn import cost, distributed
from sparse_attn.attention import causal_mask
from sparse_attn.distributed import (
    Machine,
    Settings,
    Shape,
    layout,
    scaling,
    torchrun,
)
from sparse_attn.distributed.__main__ import lines
from sparse_attn.distributed.inputs import inputs, sized
from sparse_attn.distributed.layout import pieces
from sparse_attn.kernels import select_blocks

CASES = Path(__file__).with_name("distributed_cases.py")
steady = settings(max_examples=60)


@pytest.mark.parametrize("N", [2, 4])
def test_ranks_together_are_one_process(N):
    said = torchrun(N, [str(CASES)], within=120)
    assert said.count("all right") == N


def test_one_rank_is_one_process_and_sends_nothing():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        check_exact(0, 1)
        check_selected(0, 1)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def report():
    sizes = dict(tokens=333, heads=4, kv_heads=1, head_dim=16, keep=64)
    how = dict(block_q=32, pool=32, rest="pooled", dtype="float64", samples=1)
    return distributed.launch(2, within=90, **sizes, **how)


def test_a_launched_run_reports_errors_and_bytes(report):
    assert (report["ranks"], report["tokens"], report["rest"]) == (2, 333, "pooled")
    assert list(report["methods"]) == list(distributed.METHODS)
    for name, one in report["methods"].items():
        assert one["error"] < 1e-14, name
        assert one["sent"] == one["formula"], name
        assert one["seconds"] > 0
    assert set(report["one process"]) == {"all keys", "selected"}


def test_a_report_is_a_line_for_each_method(report):
    said = lines(report)
    where = f"{report['backend']} on {report['device']}"
    assert said[0] == f"2 ranks, {where}: T=333, H=4, Hkv=1, D=16, float64, causal"
    assert "64 keys in blocks of 16 for 32 queries; rest=pooled" in said[1]
    assert [line[:16].strip() for line in said[4:]] == list(report["methods"])
    most = max(sum(bill.values()) for bill in report["methods"]["selected"]["sent"])
    assert said[-1].count(f" {most} B") == 2
    assert " = " in said[-1]
    longest = report | dict(qkv="clustered", keep=4096, tokens=131_072)
    assert max(map(len, lines(longest))) < 80


def test_a_report_shows_bytes_that_the_formula_misses(report):
    changed = deepcopy(report)
    changed["methods"]["all-gather"]["sent"][0]["blocks"] += 1
    assert [" ≠ " in line for line in lines(changed)[4:]] == [False, False, True, False]


def test_a_launched_run_takes_tensors_of_a_model():
    q, k, v = draw(330, 330, B=2, H=4, Hkv=2, D=8)
    report = distributed.launch(2, qkv=(q, k, v), keep=128, samples=1, within=90)
    names = "batch", "heads", "kv_heads", "tokens", "head_dim", "dtype"
    assert [report[name] for name in names] == [2, 4, 2, 330, 8, "float64"]
    assert "given" in lines(report)[1]
    blocks = select_blocks(q, k, 8, causal=True)
    asked = distributed.asked_of(blocks, [192, 138], Hkv=2)
    shape = dict(D=8, Hkv=2, B=2, bytes_per_value=8)
    formula = cost.selected_bytes([192, 138], asked, **shape)
    one = report["methods"]["selected"]
    assert one["formula"] == formula, "these blocks, not random ones"
    assert one["error"] < 1e-14


def test_clustered_inputs_are_standard_and_make_neighbors_ask_alike():
    drawn = {}
    for kind in ("random", "clustered"):
        s = Settings(qkv=kind, tokens=4096, kv_heads=2)
        drawn[kind] = inputs(s, torch.device("cpu"))
    assert torch.equal(drawn["random"][2], drawn["clustered"][2])
    asked = {}
    for kind, (q, k, _) in drawn.items():
        assert [x.shape[1] for x in (q, k)] == [4, 2]
        assert q.std().item() == pytest.approx(1, abs=0.05)
        assert k.std().item() == pytest.approx(1, abs=0.05)
        blocks = select_blocks(q, k, 32, causal=True)
        rows = distributed.asked_of(blocks, [1024] * 4, Hkv=2)
        asked[kind] = sum(map(sum, rows))
    assert asked["clustered"] < 0.8 * asked["random"]


def test_a_killed_rank_ends_the_others_with_a_clear_error(monkeypatch):
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")  # gloo tells who is gone
    with pytest.raises(RuntimeError) as caught:
        distributed.launch(2, within=60, tokens=256, kill_rank=1, samples=1)
    said = str(caught.value)
    assert "2 ranks failed" in said, "not by running out of time"
    assert "rank 1 was killed by signal 9" in said
    assert "rank 0 lost a neighbor" in said


def test_a_rank_that_is_ended_has_time_for_last_words():
    program = (
        "import os, signal, time; from sparse_attn.distributed.trial import linger;"
        "linger(1); os.kill(os.getpid(), signal.SIGTERM);"
        "print('rank 0 lost a neighbor', flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "rank 0 lost a neighbor\n"
    assert ended.returncode == 128 + signal.SIGTERM, "and then it ends, by itself"


def test_time_up_leaves_no_process_behind(tmp_path):
    program = tmp_path / "asleep.py"
    program.write_text(
        "import time; print('rank 0 sleeps', flush=True); time.sleep(99)"
    )
    with pytest.raises(RuntimeError, match="2 ranks were ended after 6 s"):
        torchrun(2, [str(program)], within=6)
    for process in psutil.process_iter(["cmdline"]):
        assert str(program) not in (process.info["cmdline"] or [])


@steady
@given(
    T=st.integers(1, 60), N=st.integers(1, 9), kind=st.sampled_from(distributed.LAYOUTS)
)
def test_a_layout_gives_each_token_to_one_rank(T, N, kind):
    if N > T:
        return explains(lambda: layout(T, N, kind), "T", T)
    spans = layout(T, N, kind)
    assert sorted(t for held in spans for span in held for t in span) == list(range(T))
    assert all(held == tuple(sorted(held, key=min)) for held in spans)
    assert all(held for held in spans), "nobody is idle"
    x = torch.randn(1, 2, T, 3)
    parts = [distributed.take(x, held) for held in spans]
    assert torch.equal(distributed.join(parts, spans), x)
    assert distributed.spans_of([p.shape[2] for p in parts], kind) == spans


@steady
@given(T=st.integers(1, 60), N=st.integers(1, 5), block=st.integers(1, 9))
def test_a_block_layout_cuts_at_multiples(T, N, block):
    if -(-T // block) < N:
        return explains(lambda: distributed.block_layout(T, N, block), "T", T)
    spans = [held for (held,) in distributed.block_layout(T, N, block)]
    assert [t for span in spans for t in span] == list(range(T))
    assert all(span.stop % block == 0 for span in spans[:-1])


@steady
@given(
    T=st.integers(6, 40),
    N=st.integers(1, 6),
    kind=st.sampled_from(distributed.LAYOUTS),
    causal=st.booleans(),
)
def test_pieces_cover_every_visible_pair_once(T, N, kind, causal):
    seen = causal_mask(T, T) if causal else torch.ones(T, T, dtype=torch.bool)
    spans, met = layout(T, N, kind), torch.zeros(T, T, dtype=torch.long)
    for mine, theirs in itertools.product(spans, repeat=2):
        rows, columns = (
            torch.tensor([t for span in held for t in span]) for held in (mine, theirs)
        )
        for piece in pieces(mine, theirs, causal=causal):
            of = torch.ones(len(rows[piece.queries]), len(columns[piece.keys])).long()
            of = of.tril() if piece.causal else of
            assert int(of.sum()) == piece.pairs
            met[rows[piece.queries, None], columns[piece.keys]] += of
    assert torch.equal(met, seen.long())
    counts = distributed.rank_pairs(T, N, kind, causal=causal)
    assert counts == [
        sum(int(seen[t].sum()) for span in held for t in span) for held in spans
    ]


@pytest.mark.parametrize("N", [1, 2, 3, 8])
def test_zigzag_work_is_even_and_contiguous_work_is_not(N):
    T = 2 * N * 5
    n = T // N
    own = n * (n + 1) // 2
    contiguous = [r * n * n + own for r in range(N)]
    assert distributed.rank_pairs(T, N, causal=True) == contiguous
    assert distributed.rank_pairs(T, N, "zigzag", causal=True) == [(T + 1) * n // 2] * N


@steady
@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=7))
def test_a_ring_and_an_all_gather_send_as_many_bytes_in_all(lengths):
    shape = dict(D=8, Hkv=3, B=2, bytes_per_value=2)
    ring, gathered = (
        sum(bill["blocks"] for bill in formula(lengths, **shape))
        for formula in (cost.ring_bytes, cost.gathered_bytes)
    )
    assert ring == gathered == (len(lengths) - 1) * sum(lengths) * 2 * 2 * 3 * 8 * 2


H100 = Machine(rate=4e14, bandwidth=5e10, latency=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_one_device_needs_no_link(causal):
    T, shape = 10_000, Shape(H=8, Hkv=2, D=64)
    found = scaling([1], T, H100, shape, causal=causal, keep=512)
    whole = cost.pairs(T, causal=causal) * 4 * 8 * 64 / H100.rate
    for name in distributed.METHODS[:3]:
        assert found[name][0] == pytest.approx((whole, 0, whole)), name
    kept = cost.topk_pairs(T, 512, causal=causal) * 4 * 8 * 64
    means = 2 * 8 * 64 * (T / 16) * (T / 16)
    assert found["selected"][0].seconds == pytest.approx((kept + means) / H100.rate)
    assert found["selected"][0].wire == 0


def test_an_infinite_link_leaves_the_work_of_the_busiest_rank():
    T, shape = 960, Shape(H=4, Hkv=4, D=32)
    fast = Machine(rate=1e12, bandwidth=math.inf)
    for N in (1, 2, 4, 8, 16):
        found = {k: x[0] for k, x in scaling([N], T, fast, shape).items()}
        for kind in distributed.LAYOUTS:
            most = max(distributed.rank_pairs(T, N, kind, causal=True))
            one = found[f"ring, {kind}"]
            assert one.seconds == pytest.approx(most * shape.flops / fast.rate)
            assert (one.compute, one.wire) == pytest.approx((one.seconds, 0))
        assert found["all-gather"].seconds == pytest.approx(
            found["ring, zigzag"].seconds
        )
        assert found["selected"].seconds == found["selected"].compute


def test_a_slow_link_leaves_the_messages():
    """Then a ring's bytes are those of `cost.ring_bytes`, and overlap is no help."""
    T, N, shape = 4096, 8, Shape(H=4, Hkv=2, D=32, bytes_per_value=4)
    slow = Machine(rate=1e30, bandwidth=1e3)
    found = {k: x[0].seconds for k, x in scaling([N], T, slow, shape).items()}
    bill = cost.ring_bytes([T // N] * N, D=32, Hkv=2)[0]["blocks"]
    for name in distributed.METHODS[:3]:
        assert found[name] == pytest.approx(bill / 1e3)
    waits = Machine(rate=1e30, bandwidth=math.inf, latency=0.5)
    found = {k: x[0].seconds for k, x in scaling([N], T, waits, shape).items()}
    for name in distributed.METHODS[:3]:
        assert found[name] == pytest.approx((N - 1) * 0.5)
    assert found["selected"] == pytest.approx(4 * (N - 1) * 0.5)


def test_overlap_hides_what_is_shorter():
    found = scaling([2, 64, 1000], 1_000_000, H100)
    for one in found["ring, zigzag"]:
        assert max(one.compute, one.wire) <= one.seconds < one.compute + one.wire
    for name in ("all-gather", "selected"):
        for one in found[name]:
            assert one.seconds == pytest.approx(one.compute + one.wire)


def test_selected_never_asks_for_more_than_there_is():
    """Keeping all, it sends what all-gather does, and means, counts and ids besides."""
    T, N, shape = 65_536, 8, Shape()
    machine = Machine(rate=1e30, bandwidth=1e9)
    all_kept = scaling([N], T, machine, shape, keep=T)
    gathered, selected = all_kept["all-gather"][0].wire, all_kept["selected"][0].wire
    ids = 8 * shape.Hkv * T / 16 * (N - 1) / N
    means = (N - 1) / N * T / 16 * shape.token / 2
    assert selected * 1e9 == pytest.approx(gathered * 1e9 + means + ids + 8 * (N - 1))
    fewer = scaling([N], T, machine, shape, keep=T, distinct=0.0)["selected"][0]
    assert fewer.wire * 1e9 == pytest.approx(means + 8 * (N - 1))


def x(T=5):
    return torch.ones(1, 2, T, 8)


WRONG = {
    "layout": (lambda: layout(9, 2, "diagonal"), "kind", "'diagonal'"),
    "no ranks": (lambda: layout(9, 0), "N", 0),
    "zigzag lengths": (
        lambda: distributed.spans_of([1, 5], "zigzag"),
        "lengths",
        [1, 5],
    ),
    "uneven blocks": (lambda: distributed.block_starts([8, 7, 9], 8, 4), "rank 1", 7),
    "asked": (lambda: cost.selected_bytes([3, 4], [[0, 1]], D=2), "asked", 1),
    "no tokens": (lambda: cost.ring_bytes([3, 0], D=2), "lengths", 0),
    "setting": (lambda: distributed.launch(2, token=5), "settings", "token"),
    "heads": (lambda: distributed.launch(2, heads=3, kv_heads=2), "heads", 3),
    "keep": (lambda: distributed.launch(2, keep=100), "keep", 100),
    "few kept": (lambda: distributed.launch(2, keep=48), "keep", 48),
    "rest": (lambda: distributed.launch(2, rest="all"), "rest", "'all'"),
    "pool": (lambda: distributed.launch(2, rest="pooled", pool=24), "pool", 24),
    "pooled bytes": (
        lambda: cost.selected_bytes([3], [[0]], D=2, pool=0),
        "pool",
        0,
    ),
    "no file": (lambda: distributed.launch(2, qkv="none.here"), "qkv", "none.here"),
    "two of three": (lambda: distributed.launch(2, qkv=(x(), x())), "qkv", 2),
    "unlike": (lambda: distributed.launch(2, qkv=(x(), x(), x(4))), "v", "4"),
    "more keys": (lambda: distributed.launch(2, qkv=(x(4), x(), x())), "qkv", 5),
    "too many ranks": (lambda: distributed.launch(9, tokens=512), "T", 512),
    "no such rank": (lambda: distributed.launch(2, kill_rank=2), "kill_rank", 2),
    "devices": (lambda: scaling([1, 0], 99, H100), "devices", 0),
    "more devices than tokens": (lambda: scaling([100], 99, H100), "devices", 100),
    "rate": (lambda: scaling([1], 9, Machine(0, 1)), "machine", "rate=0"),
    "distinct": (lambda: scaling([1], 9, H100, distinct=1.5), "distinct", 1.5),
}


@pytest.mark.parametrize("call, name, got", WRONG.values(), ids=WRONG)
def test_bad_input_is_explained(call, name, got):
    explains(call, name, got)


@pytest.mark.parametrize(
    "content, got",
    [({"q": x()}, "['q']"), ({name: x().int() for name in "qkv"}, "I32"), (b"?", "")],
    ids=["incomplete", "integers", "no tensors"],
)
def test_a_file_that_does_not_fit_is_explained(tmp_path, content, got):
    path = str(tmp_path / "layer.safetensors")
    if isinstance(content, bytes):
        Path(path).write_bytes(content)
    else:
        save_file(content, path)
    explains(lambda: sized(Settings(qkv=path)), "qkv|q", got)


def test_without_ranks_the_call_says_how_to_start_them():
    x = torch.ones(1, 1, 4, 8)
    with pytest.raises(RuntimeError, match="torchrun"):
        distributed.ring_attention(x, x, x)
