"""The playground without a browser: settings, formulas, evidence, advice, widgets."""

import html
import math
import random
import re
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ipywidgets import VBox

from sparse_attn import cost, kernels, playground, results, roofline, timing, units
from sparse_attn.attention import attention
from sparse_attn.layers import fused_attention, window_mask
from sparse_attn.playground import (
    PROFILES,
    Choice,
    advise,
    dashboard,
    estimate,
    evidence,
    live,
    page,
    profiles,
    race,
    words,
)
from sparse_attn.playground.advice import RULES
from sparse_attn.playground.choice import (
    BLOCKS,
    FULL,
    LISTED,
    METHODS,
    OPTIONS,
    POOLED,
    PUBLISHED,
    SQUARES,
    TASKS,
    WINDOW,
)
from sparse_attn.playground.estimate import bounds, rivals
from sparse_attn.playground.formulas import javascript
from sparse_attn.playground.methods import HIDDEN, other_work, work
from sparse_attn.playground.rows import NAMES, bar, limit, rows
from sparse_attn.roofline import PUBLISHED as ROOFS
from sparse_attn.stats import mean_interval
from tools.notebooks import ROOT

CPU, A100, H100, M1 = PROFILES
DEVICE = torch.device("cpu")
LONG = Choice(T=131_072, C=4096, H=32, Hkv=8, bytes=2)


def settings(n: int, seed: int = 0) -> list[dict]:
    """So many settings drawn at random, whether their values fit each other or not."""
    draw = random.Random(seed)
    return [{name: draw.choice(of) for name, of in OPTIONS.items()} for _ in range(n)]


def choices(n: int, seed: int = 0) -> list[Choice]:
    """So many that fit."""
    found = []
    for setting in settings(20 * n, seed):
        with suppress(ValueError):
            found.append(Choice(**setting))
    return found[:n]


# --- what may be chosen --------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(T=1000), "T=1000: choose from"),
        (dict(T=8192.0), "T=8192.0: choose from"),
        (dict(L=True), "L=True: choose from"),
        (dict(K=8), "K=8: choose from"),
        (dict(C=300), "C=300"),
        (dict(bytes=8), "bytes=8"),
        (dict(block=(64, 32)), r"block=\(64, 32\)"),
        (dict(block="64 x 16"), "block='64 x 16'"),
        (dict(task="train"), "task='train'"),
        (dict(method="sparse"), "method='sparse'"),
        (dict(C=512, H=12, Hkv=1), "H=12 heads do not divide the width C=512"),
        (dict(Hkv=16), "Hkv=16 key-value heads do not divide the H=8 query heads"),
        (dict(K=32), "K=32 keys: lists for 64 queries .* K=64 or more"),
        (
            dict(K=256, task="decode", block=(128, 128)),
            "K=256 keys: .* K=384 or more is needed with pages of 128",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        Choice(**wrong)


def test_blocks_may_be_lists_and_a_choice_can_be_changed():
    choice = Choice(block=[16, 16]).but(T=1024)
    assert (choice.block, choice.block_q, choice.block_k, choice.T) == (
        (16, 16),
        16,
        16,
        1024,
    )


@pytest.mark.parametrize("method", [WINDOW, FULL, SQUARES, PUBLISHED])
def test_a_small_k_is_only_too_small_for_lists(method):
    assert Choice(K=16, method=method).K == 16


@pytest.mark.parametrize("K, T, fits", [(64, 256, True), (32, 256, False)])
def test_a_refused_k_is_one_that_the_kernel_refuses(K, T, fits):
    q, k, v = torch.randn(3, 1, 1, T, 16)
    if fits:
        Choice(K=K, T=T)
        kernels.sparse_attention(q, k, v, K, causal=True, dense_below=0)
        return
    for call in (
        lambda: Choice(K=K, T=T),
        lambda: kernels.sparse_attention(q, k, v, K, causal=True, dense_below=0),
    ):
        with pytest.raises(ValueError, match=f"{K}"):
            call()


def test_all_options_of_every_field_can_be_chosen():
    for name, values in OPTIONS.items():
        for value in values:
            twelve = dict(C=768) if value == 12 else dict(C=8192)
            base = dict(H=value if name == "Hkv" else 1, Hkv=1, method=FULL)
            choice = Choice(**(twelve | base | {name: value}))
            assert getattr(choice, name) == value


# --- formulas: those of the package, put together ------------------------------------


@pytest.fixture(scope="module")
def drawn():
    return choices(300)


def test_full_attention_is_the_ideal_kernel(drawn):
    for c in drawn:
        own = work(FULL, c.but(method=FULL, Hkv=c.H))
        same = dict(bytes_per_value=c.bytes)
        if c.task == "prefill":
            ideal = cost.fused_scores(c.T, c.C, causal=True, **same)
            assert (own.flops, own.moved, own.extra) == (
                ideal.flops,
                ideal.moved,
                ideal.held,
            )
        else:
            assert own.flops == 4 * c.C * c.T
            assert own.moved == own.cache == 2 * c.C * c.T * c.bytes


def test_stored_squares_are_the_formula_as_it_is_written(drawn):
    for c in drawn:
        c = c.but(method=SQUARES, Hkv=c.H, task="prefill")
        own = work(SQUARES, c)
        plain = cost.scores(c.T, c.C, c.H, bytes_per_value=c.bytes)
        assert (own.flops, own.moved, own.extra) == (
            plain.flops,
            plain.moved,
            plain.held,
        )


def test_a_window_costs_its_pairs_and_keeps_no_more_of_the_cache(drawn):
    for c in drawn:
        if c.K < c.T:
            own = work(WINDOW, c.but(method=WINDOW, task="prefill"))
            pairs = cost.topk_flops(c.T, c.C // c.H, c.K, causal=True)
            assert own.flops == own.attending == c.H * pairs
            full = work(FULL, c)
            assert own.cache == full.cache // c.T * (c.K - 1)


def test_the_published_method_is_counted_by_its_formula(drawn):
    for c in drawn:
        own = work(PUBLISHED, c.but(method=PUBLISHED, task="prefill"))
        D, K = c.C // c.H, min(c.K, c.T)
        assert own.flops == c.H * cost.topk_mlp_flops(c.T, D, HIDDEN, K)
        tensors = cost.selection_bytes(c.T, D, K, H=c.H, bytes_per_value=c.bytes)
        assert own.extra > sum(tensors.values())
        token = work(PUBLISHED, c.but(method=PUBLISHED, task="decode"))
        assert token.flops * c.T == own.flops


def test_keys_that_all_fit_make_the_sparse_methods_full_attention(drawn):
    for c in drawn:
        c = c.but(T=256, K=512)
        for method in (WINDOW, *LISTED):
            assert work(method, c) == work(FULL, c)


@pytest.mark.parametrize("block", OPTIONS["block"])
def test_finding_costs_a_score_of_means_for_each_block_begun(block):
    c = Choice(T=2048, K=256, block=block, C=256, H=4, Hkv=2)
    own = work(BLOCKS, c)
    met = sum((16 * group + 15) // c.block_k + 1 for group in range(c.T // 16))
    assert own.flops - own.attending == 2 * c.C * met


@pytest.mark.parametrize("block", OPTIONS["block"])
@pytest.mark.parametrize("K", [128, 512])
def test_lists_take_and_read_what_real_ones_do(block, K):
    c = Choice(T=2048, K=K, block=block, C=256, H=4, Hkv=2)
    q, k = torch.randn(1, 4, c.T, 64), torch.randn(1, 2, c.T, 64)
    ids = kernels.select_blocks(
        q, k, K // c.block_k, causal=True, block_q=c.block_q, block_k=c.block_k
    )
    own, full = work(BLOCKS, c), work(FULL, c)
    listed = int((ids >= 0).sum())
    assert own.gathered == listed * c.block_k * 2 * 64 * c.bytes
    means = sum(
        kernels.block_means(x, size).numel() * c.bytes
        for x, size in ((q, 16), (k, c.block_k))
    )
    assert own.extra - full.extra == ids.numel() * ids.itemsize + means


def test_a_pooled_rest_adds_what_the_package_counts_for_it():
    c = Choice(T=65_536, C=256, H=4, Hkv=4)
    pool = kernels.pool_for(c.T)
    added = work(POOLED, c).flops - work(BLOCKS, c).flops
    assert added == 4 * cost.pooled_flops(c.T, 64, pool, causal=True)
    assert pool == 128, "longer than what one pool of 64 is for"


def test_pages_read_half_of_their_sums_where_the_rest_is_dropped(drawn):
    for c in drawn:
        c = c.but(task="decode", K=2048, T=65_536)
        kept, pooled, full = (work(m, c) for m in (BLOCKS, POOLED, FULL))
        share = full.moved // c.T
        pages = c.T // c.block_k
        assert pooled.moved == share * (c.K + pages)
        assert kept.moved == share * c.K + share * pages // 2


def test_pages_need_the_memory_that_their_cache_has():
    c = Choice(T=4096, K=512, task="decode", block=(128, 128), method=POOLED)
    cache = kernels.PagedCache(1, c.Hkv, c.C // c.H, c.T, page=128)
    sums = cache.key_sums.nbytes + cache.value_sums.nbytes
    assert work(POOLED, c).extra - work(FULL, c).extra == sums


def test_fewer_key_value_heads_shrink_the_cache_and_no_flops():
    many, few = (work(FULL, LONG.but(Hkv=n, task="decode")) for n in (32, 8))
    assert many.flops == few.flops and many.moved == 4 * few.moved


def test_numbers_are_positive_and_nothing_is_free(drawn):
    for c in drawn:
        for method in METHODS:
            if rivals(c)[method] is not None:
                own = work(method, c)
                assert 0 < own.attending <= own.flops
                assert min(own.moved, own.extra, own.cache) > 0 <= own.gathered
                assert all(isinstance(x, int) for x in vars(own).values())


# --- seconds -------------------------------------------------------------------------


def placed(own, roof):
    time = timing.Timing(1.0, 1.0, 1.0, 1.0, (1.0,))
    return roofline.Placed(own.flops, own.moved, time, roof)


def test_times_and_limits_are_those_of_the_roofline(drawn):
    for c in drawn:
        for profile in PROFILES:
            found, roof = estimate(c, profile), profile.roof(c.bytes)
            one, at = placed(found.own, roof), found.bounds
            assert at.seconds == roof.seconds(found.own.flops, found.own.moved)
            assert at.seconds == pytest.approx(one.fraction)  # of one second
            said = {"memory": "memory", "arithmetic": "compute"}
            assert said[limit(at.intensity, at.ridge)] == one.bound
            assert at.gain == at.full_seconds / at.seconds
            assert rivals(c, profile)[c.method] == at.seconds


def test_the_model_gains_what_amdahl_allows(drawn):
    for c in drawn:
        found, roof = estimate(c, H100).bounds, H100.roof(c.bytes)
        other = other_work(c)
        rest = roof.seconds(other.flops, other.moved)
        whole = (found.full_seconds + rest) / (found.seconds + rest)
        assert found.whole == pytest.approx(whole)
        assert found.model_seconds == c.L * found.seconds


def test_the_rest_of_a_layer_has_the_weights_of_one():
    other, C = other_work(Choice(task="decode", C=512, H=8, Hkv=8)), 512
    assert other.moved == pytest.approx(12 * C * C * 4, rel=1e-3)


def test_bars_grow_with_the_time_and_the_longest_is_whole():
    lengths = [bar(s, 1e-3, 2.0) for s in (1e-3, 1e-2, 0.5, 2.0)]
    assert lengths == sorted(lengths) and lengths[-1] == 100 and lengths[0] > 5
    assert bar(1.0, 1.0, 1.0) == 100


# --- devices -------------------------------------------------------------------------


def test_published_rates_are_those_of_chapter_4_and_cited():
    assert A100.roof(4) is ROOFS["A100 80 GB, FP32"]
    assert H100.roof(2) is ROOFS["H100 SXM, BF16"]
    assert M1.roof(2) is M1.roof(4) is ROOFS["M1 Max, FP32"]
    library = (ROOT / "book" / "references.bib").read_text()
    for profile in (A100, H100, M1):
        assert f"{{{profile.source}," in library


def test_one_byte_is_stored_and_calculated_with_as_two():
    assert H100.roof(1) is H100.roof(2)
    fewer, more = (estimate(LONG.but(bytes=n), H100) for n in (1, 2))
    assert fewer.own.moved * 2 == pytest.approx(more.own.moved, rel=0.1)
    assert fewer.own.flops == more.own.flops


@pytest.mark.parametrize("bytes", [0, 3, 8, "4"])
def test_no_device_has_rates_for_other_sizes(bytes):
    with pytest.raises(ValueError, match="bytes="):
        CPU.roof(bytes)


def test_the_stored_device_has_the_rates_that_were_stored():
    stored = results.load("roofline")
    assert CPU.roof(4).copy == stored["ceilings"]["float32"]["copy"]
    assert CPU.roof(2).matmul == stored["ceilings"]["bfloat16"]["matmul"]
    assert CPU.name.removesuffix(", as stored") in stored["device"]
    assert stored["device"] in CPU.source


def test_this_device_is_measured_when_it_is_asked_and_not_before(monkeypatch):
    asked = []

    def measured(device, dtype):
        asked.append((device.type, dtype))
        return ROOFS["M1 Max, FP32"]

    monkeypatch.setattr(profiles, "measure_ceilings", measured)
    here = profiles.Here(DEVICE)
    assert not asked
    assert here.roof(4) is here.roof(1) is ROOFS["M1 Max, FP32"]
    assert asked == [("cpu", torch.float32), ("cpu", torch.bfloat16)]


# --- evidence ------------------------------------------------------------------------

SPEED = results.load("speed")["runs"]


def test_exact_methods_lose_nothing():
    for method in (FULL, SQUARES):
        assert evidence.quality(Choice(method=method)).lost == 0
    known = evidence.quality(Choice(T=256, K=512))
    assert known.lost == 0 and "covers all" in known.text


def test_the_very_setting_is_quoted_where_it_was_measured():
    lost, half = mean_interval(SPEED["quality | (32, 16), none"]["changes"])
    known = evidence.quality(Choice(T=4096, block=(32, 16)))
    assert known.lost == lost
    assert f"{lost:+.4f} ± {half:.4f}" in known.text
    assert "512 of 4,096 keys, 32 queries to a list, blocks of 16 keys" in known.text


def test_a_prompt_is_judged_by_the_tokens_after_it():
    lost, half = mean_interval(SPEED["prompt | (64, 16), none"]["changes"])
    known = evidence.quality(Choice(T=4096))
    assert known.lost == lost
    assert f"{lost:+.4f} ± {half:.4f} for tokens after it" in known.text


def test_the_nearest_setting_is_named_and_a_far_one_says_nothing():
    near = evidence.quality(Choice(T=131_072, K=256))
    assert "512 of 4,096" in near.text and not math.isnan(near.lost)
    far = evidence.quality(Choice(T=131_072, K=64))
    assert math.isnan(far.lost)
    assert far.text.startswith("nothing was measured near K = 64; the nearest is")


def test_a_near_k_is_preferred_to_a_near_length():
    known = evidence.quality(Choice(T=8192, K=64, method=WINDOW))
    assert "64 of 512 keys" in known.text and known.lost > 0.1


def test_the_published_method_has_no_bits_and_is_worse_than_nothing():
    known = evidence.quality(Choice(method=PUBLISHED))
    assert math.isnan(known.lost) and "no bits per byte" in known.text
    ours, deleted = map(float, re.findall(r"0\.\d+", known.text))
    assert ours > deleted, "the advice says so"


def test_every_stored_loss_is_within_its_interval_of_no_gain():
    assert len(evidence.points()) > 30
    for point in evidence.points():
        assert point.lost + point.half > 0 and point.half > 0, str(point)


def test_times_are_quoted_for_the_very_setting_and_no_other():
    run = SPEED["prefill | 8192 | 1 threads"]
    said = evidence.measured(Choice())
    assert f"{units.seconds(run['sparse']['seconds'])} on 1 thread" in said
    assert f"{units.three(run['sparse']['ratio'][0])} times as fast as full" in said
    assert results.load("speed")["device"].split(" (")[0] in said
    full = evidence.measured(Choice(method=FULL))
    assert units.seconds(run["dense"]["seconds"]) in full and "as fast" not in full
    for change in (dict(K=256), dict(C=1024), dict(bytes=2), dict(block=(16, 16))):
        assert evidence.measured(Choice(**change)) == ""
    assert evidence.measured(Choice(Hkv=4)) == ""


def test_times_of_other_blocks_windows_and_pages_are_found():
    timed = SPEED["shapes | 4096 | 1 threads"]
    for choice, one in {
        Choice(T=4096, block=(16, 16), method=POOLED): timed["(16, 16), pooled"],
        Choice(T=4096, method=WINDOW): timed["window, none"],
        Choice(T=65_536, K=1024, task="decode", block=(128, 128)): SPEED[
            "decode | 65536 | 1 threads"
        ]["sparse"],
    }.items():
        assert units.seconds(one["seconds"]) in evidence.measured(choice)


def test_a_benchmark_that_is_under_way_leaves_gaps_and_no_errors(monkeypatch):
    runs = {k: v for k, v in SPEED.items() if k.startswith("quality | full")}
    stored = {"device": "X (cpu, 1)", "runs": runs}
    real = evidence._stored
    fake = lambda name: stored if name == "speed" else real(name)  # noqa: E731
    monkeypatch.setattr(evidence, "_stored", fake)
    evidence.points.cache_clear()
    try:
        assert evidence.measured(Choice()) == ""
        known = evidence.quality(Choice())
        assert known.text == "nothing was measured" and math.isnan(known.lost)
        assert "of 512 keys" in evidence.quality(Choice(method=WINDOW, K=64)).text
    finally:
        evidence.points.cache_clear()


# --- advice --------------------------------------------------------------------------

EXHIBITS = {  # rule -> a setting and device that it speaks of
    "squares_are_never_needed": (Choice(method=SQUARES), CPU),
    "published_costs_more": (Choice(method=PUBLISHED), CPU),
    "published_takes_longer": (LONG.but(method=PUBLISHED, task="decode"), H100),
    "published_is_worse": (
        LONG.but(method=PUBLISHED, task="decode", K=64, Hkv=32),
        H100,
    ),
    "all_keys_are_kept": (Choice(T=512, K=1024), CPU),
    "attention_is_a_small_part": (Choice(T=1024, C=4096, H=32, K=64), CPU),
    "prompt_waits_for_memory": (
        Choice(T=128, K=16, C=256, H=8, bytes=2, method=FULL),
        H100,
    ),
    "token_waits_for_memory": (LONG.but(method=FULL, task="decode"), H100),
    "full_below_the_crossover": (Choice(T=1024, method=FULL), CPU),
    "full_waits_for_arithmetic": (Choice(method=FULL), CPU),
    "below_the_crossover": (Choice(T=1024), CPU),
    "no_faster": (
        Choice(
            T=1024, K=32, C=768, H=64, Hkv=32, bytes=2, block=(16, 16), method=POOLED
        ),
        H100,
    ),
    "too_much_is_lost": (Choice(K=64, task="decode"), CPU),
    "finding_takes_more": (
        LONG.but(K=256, task="decode", block=(16, 16), method=POOLED),
        H100,
    ),
    "lists_live_from_the_cache": (LONG.but(K=512, block=(16, 16)), A100),
    "it_pays": (Choice(), CPU),
}


def test_every_rule_has_an_exhibit():
    assert [rule.__name__ for rule in RULES] == list(EXHIBITS)


@pytest.mark.parametrize("name", EXHIBITS)
def test_a_rule_speaks_of_its_exhibit_and_no_rule_before_it(name):
    found = estimate(*EXHIBITS[name])
    speaking = [rule.__name__ for rule in RULES if rule(found) is not None]
    assert speaking[0] == name
    said = str(advise(found))
    assert said.endswith(".") and said.count(". ") == 0 and "{" not in said
    assert len(said) < 220


@pytest.mark.parametrize("c", choices(200, seed=5), ids=str)
def test_there_is_always_a_sentence(c):
    for profile in PROFILES:
        assert str(advise(estimate(c, profile))).endswith(".")


def test_advice_quotes_the_numbers_it_follows_from():
    found = estimate(Choice(method=PUBLISHED), CPU)
    ratio = cost.topk_mlp_flops(8192, 64, 64, 512) / cost.topk_flops(
        8192, 64, 8192, causal=True
    )
    assert f"{ratio:.3g} times the FLOPs" in str(advise(found))
    below = str(advise(estimate(Choice(T=1024), CPU)))
    assert f"beyond {kernels.crossover(512):,} tokens" in below
    pays = estimate(Choice(), CPU)
    assert str(advise(pays)).startswith(units.three(pays.bounds.gain))


def test_the_published_method_is_never_advised():
    for c in choices(200, seed=6):
        said = str(advise(estimate(c.but(method=PUBLISHED), H100)))
        assert said.startswith(("Not as published", "Cheaper on paper"))


def test_a_window_and_lists_are_told_differently_what_to_do_about_a_loss():
    window = estimate(Choice(K=64, method=WINDOW), CPU)
    assert "blind" in str(advise(window)) and "blind" not in str(
        advise(estimate(*EXHIBITS["too_much_is_lost"]))
    )


def test_an_unknown_loss_warns_of_nothing():
    found = replace(estimate(Choice(), CPU), lost=math.nan)
    assert str(advise(found)) == str(advise(estimate(Choice(), CPU)))
    lossy = replace(found, lost=0.02)
    assert "lost 0.02 bits per byte" in str(advise(lossy))


# --- what is shown -------------------------------------------------------------------


@given(st.floats(min_value=0, max_value=1e19))
def test_numbers_are_written_as_everywhere_in_the_book(x):
    formats = words.FORMATS
    assert formats["size"](x) == units.size(x) == scaled(x, words.BYTES)
    assert formats["seconds"](x) == units.seconds(x) == scaled(x, units.SECONDS)
    assert formats["flops"](x) == scaled(x, words.FLOPS)
    assert formats["three"](x) == units.three(x)


def scaled(x, scales):
    unit, scale = next((u for u in scales if x >= u[1]), scales[-1])
    return f"{units.three(x / scale)} {unit}"


def test_a_text_fills_in_its_numbers():
    text = words.Text("{0:size} in {1:seconds}, {2:percent}", (2e6, 0.5, 0.25))
    assert str(text) == "2 MB in 500 ms, 25%"
    with pytest.raises(KeyError):
        str(words.Text("{0:pounds}", (1,)))


def test_rows_have_names_and_three_texts():
    found = rows(estimate(Choice()))
    assert list(found) == list(NAMES)
    assert all(len(texts) == 3 for texts in found.values())
    assert str(found["flops"][2]) == f"{8.46 / 68.7:.3f}x"
    assert [str(text) for text in found["gathered"]] == ["261 MB", "no lists", ""]
    plain = rows(estimate(Choice(method=FULL)))
    assert str(plain["gathered"][0]) == "no lists"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture(scope="module")
def static():
    return dashboard().html()


def test_the_static_form_needs_no_network(static):
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", static)
    assert len(static) < 150_000


def test_every_control_has_one_label_and_ids_are_given_once(static):
    tags = Tags(static)
    controls = [attrs["id"] for attrs in tags.all("input", "select")]
    assert len(controls) == len(OPTIONS) + 1
    assert [attrs["for"] for attrs in tags.all("label")] == controls
    ids = [attrs["id"] for _, attrs in tags.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)


def test_the_file_shows_the_results_before_any_script_runs(static):
    found = estimate(Choice())
    text = html.unescape(static.split("<script>")[0])
    assert str(advise(found)) in text and found.quality in text
    for texts in rows(found).values():
        assert all(f">{shown}</td>" in text for shown in texts)


def test_the_static_form_is_the_same_every_time_and_others_have_other_ids(static):
    assert dashboard().html() == static
    other = Tags(dashboard(Choice(T=1024), H100).html()).all("div")[0]["id"]
    assert other != Tags(static).all("div")[0]["id"]


def test_the_page_is_announced_and_grouped(static):
    tags = Tags(static)
    assert tags.all("div")[0]["role"] == "group"
    live_parts = [a for a in tags.all("p") if "aria-live" in a or "role" in a]
    assert len(live_parts) == 2
    (drawing,) = tags.all("svg")
    assert drawing["role"] == "img" and "full: " in drawing["aria-label"]


# --- the tracer ----------------------------------------------------------------------


def test_arithmetic_and_branches_are_written_down():
    def fn(s, n):
        return {"a": max(s.x, 2 * n), "b": -(-s.x // n), "c": s.x % n + 0}

    text = javascript(fn, s=("x",), n=())
    assert text.startswith("(s, n) => {")
    assert '"a":(s.x < v0 ? v0 : s.x)' in text
    assert "const v0 = 2 * n;" in text and "Math.floor(v1 / n)" in text


def test_parts_branch_only_where_they_differ():
    def fn(x):
        return {"same": 3 * x, "other": 1 if x > 5 else 2}

    text = javascript(fn, x=())
    assert '"same":v0' in text and '"other":(5 < x ? 1 : 2)' in text


def test_a_path_that_raises_is_one_that_no_input_takes():
    def fn(x):
        if x < 1:
            raise ValueError("no")
        return x + 1

    assert javascript(fn, x=()) == "(x) => { const v0 = x + 1; return v0; }"
    with pytest.raises(ValueError, match="every path"):
        javascript(lambda x: cost.pairs(0), x=())


def test_inputs_are_positive_and_other_numbers_may_be_zero():
    assert "?" not in javascript(lambda x: 1 if x else 2, x=())
    assert "===" in javascript(lambda x, y: 1 if x - y else 2, x=(), y=())


def test_formulas_of_the_package_run_on_symbols():
    text = javascript(lambda s: cost.pairs(s.T, causal=True), s=("T",))
    assert "Math.floor(v1 / 2)" in text


def test_names_within_names_are_parts_of_parts():
    text = javascript(lambda e: e.own.flops / e.lost, e=("own.flops", "lost"))
    assert text == "(e) => { const v0 = e.own.flops / e.lost; return v0; }"


def test_bounds_run_on_plain_numbers_as_on_symbols():
    own, full = work(BLOCKS, Choice()), work(FULL, Choice())
    plain = bounds(own, full, other_work(Choice()), CPU.roof(4), 12)
    assert plain == estimate(Choice(), CPU).bounds


# --- widgets -------------------------------------------------------------------------


@pytest.fixture
def board():
    return dashboard()


def test_a_dashboard_is_a_box_of_widgets_and_a_static_page(board, static):
    assert isinstance(board, VBox)
    bundle = board._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == static
    assert bundle["text/plain"].startswith("Playground: Choice(")


def test_moving_a_control_shows_what_the_page_would(board):
    board.controls["T"].value = 32_768
    board.controls["method"].value = POOLED
    board.device.value = A100
    choice = Choice(T=32_768, method=POOLED)
    assert board.choice == choice
    assert page.results(choice, A100) in board.results.value


def test_values_that_do_not_fit_are_explained_and_pass(board):
    board.controls["H"].value = 12
    assert "do not divide the width" in board.results.value
    board.controls["H"].value = 8
    assert "do not divide" not in board.results.value


def test_an_error_is_shown_and_passes(board, monkeypatch):
    def broken(*_):
        raise RuntimeError("mine <b>")

    monkeypatch.setattr(page, "results", broken)
    board.controls["T"].value = 1024
    assert "RuntimeError: mine &lt;b&gt;" in board.results.value
    monkeypatch.undo()
    board.controls["T"].value = 2048
    assert "RuntimeError" not in board.results.value


def test_the_button_measures_and_says_what_it_found(board, monkeypatch):
    slow, fast = (timing.Timing(s, s, s, s, (s, s, s)) for s in (0.4, 0.1))
    asked = []

    def raced(choice):
        assert board.button.disabled and board.button.description == "measuring ..."
        asked.append(choice)
        return {FULL: slow, BLOCKS: fast}

    monkeypatch.setattr(live, "race", raced)
    board.button.click()
    assert asked == [Choice()]
    said = html.unescape(board.measured.value)
    assert "full: 400 ms" in said and "4x [4, 4]" in said
    assert not board.button.disabled and board.button.description == live.BUTTON
    board.controls["T"].value = 4096
    assert board.measured.value == "", "it was another setting's time"


@pytest.mark.parametrize("error", [ValueError("too long"), MemoryError("none left")])
def test_a_failed_measurement_is_shown_and_the_button_comes_back(
    board, monkeypatch, error
):
    def raced(choice):
        raise error

    monkeypatch.setattr(live, "race", raced)
    board.button.click()
    assert str(error) in board.measured.value and 'role="alert"' in board.measured.value
    assert not board.button.disabled


def test_a_dashboard_stands_on_a_device_of_its_list():
    with pytest.raises(ValueError, match="choose from"):
        dashboard(profile=profiles.Here(DEVICE))
    assert playground.dashboard(Choice(T=1024), H100).device.value is H100


# --- the race ------------------------------------------------------------------------

SMALL = dict(T=512, K=128, C=256, H=4, Hkv=2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_raced(method, task):
    choice = Choice(method=method, task=task, **SMALL)
    found = race.race(choice, DEVICE)
    assert list(found) == list(dict.fromkeys((FULL, method)))
    assert all(taken.median > 0 for taken in found.values())


def raced(method, task="prefill", **changes):
    choice = Choice(method=method, task=task, **(SMALL | changes))
    calls = race.calls(choice, DEVICE, torch.float32)
    with torch.no_grad():
        return calls[FULL], calls[method]


def inputs(call):
    return [x for x in call.args if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("task", TASKS)
def test_the_races_of_exact_methods_have_the_same_result(task):
    full, squares = (call() for call in raced(SQUARES, task))
    assert torch.allclose(full, squares, atol=1e-5)
    full, same = raced(BLOCKS, task, T=128)
    assert torch.equal(full(), same())


def test_a_window_is_raced_as_a_window():
    full, window = raced(WINDOW)
    q, k, v = inputs(full)
    masked = attention(q, k, v, mask=window_mask(512, 512, 128))
    assert torch.allclose(window(), masked, atol=1e-5)
    full, window = raced(WINDOW, "decode")
    q, k, v = inputs(full)
    masked = fused_attention(q, k[:, :, -128:], v[:, :, -128:])
    assert torch.allclose(window(), masked, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", [*LISTED, PUBLISHED])
def test_methods_that_leave_keys_out_are_raced_on_the_same_shapes(method, task):
    full, own = (call() for call in raced(method, task))
    assert full.shape == own.shape == (1, 4, 512 if task == "prefill" else 1, 64)
    assert torch.isfinite(own).all() and not torch.allclose(full, own, atol=1e-3)


def test_one_byte_cannot_be_raced():
    with pytest.raises(ValueError, match=r"bytes=1: .* 4 or in 2"):
        race.race(Choice(bytes=1, **SMALL), DEVICE)


def test_half_precision_is_raced_in_it():
    choice = Choice(bytes=2, **SMALL)
    (call, _) = race.calls(choice, DEVICE, profiles.dtype_of(2, DEVICE)).values()
    assert call().dtype == torch.bfloat16


def test_what_does_not_fit_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(race, "free_memory", lambda device: 1_000_000)
    with pytest.raises(ValueError, match="would be needed, and 1 MB are free"):
        race.race(Choice(**SMALL), DEVICE)


def test_what_takes_too_long_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(race, "BUDGET", 0.0)
    monkeypatch.setattr(timing, "measure_together", None)
    monkeypatch.setattr(race, "expected", lambda *_: 12.5)
    with pytest.raises(ValueError, match=r"about 12\.5 s would be needed"):
        race.race(Choice(**SMALL), DEVICE)


def test_a_forecast_grows_with_the_text():
    few, many = (
        race.expected(Choice(T=T, method=FULL), DEVICE, torch.float32)
        for T in (1024, 16_384)
    )
    assert many > 50 * few


def test_settings_can_be_namespaces():
    choice = Choice()
    s = SimpleNamespace(**vars(choice), block_q=64, block_k=16)
    assert work(BLOCKS, s) == work(BLOCKS, choice)
