"""Windows in blocks, advice from rates, stored formats, passages: chapters 2 and 3."""

import pytest
import torch

from sparse_attn import cost, counting
from sparse_attn.attention import attention
from sparse_attn.decoding import Cache
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.layers import window_mask, windowed_attention
from sparse_attn.profiling import grouped, saved_bytes
from sparse_attn.retrieval import Passages
from sparse_attn.roofline import Ceilings

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = GPTConfig(layers=2, heads=4, width=32, vocab=50, context=128)
SLOW_MEMORY = Ceilings(torch.float32, copy=1e9, matmul=1e11, fresh=5e8)
NO_MEMORY = Ceilings(torch.float32, copy=float("inf"), matmul=1e11, fresh=float("inf"))


def three(T, dtype=torch.float32, kv_heads=2):
    torch.manual_seed(T)
    shapes = ((2, 4, T, 16), (2, kv_heads, T, 16), (2, kv_heads, T, 16))
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [1, 7, 64, 400])
@pytest.mark.parametrize("T", [1, 2, 63, 97, 300])
def test_a_window_in_blocks_is_no_worse_than_its_mask(T, window, dtype):
    q, k, v = three(T, dtype)
    mask = window_mask(T, T, window)
    exact = attention(q.double(), k.double(), v.double(), mask=mask)
    budget = 2 * (attention(q, k, v, mask=mask) - exact).abs().max()
    floor = torch.finfo(dtype).eps  # a window of 1 copies values, which is exact
    assert (windowed_attention(q, k, v, window) - exact).abs().max() <= budget + floor


@pytest.mark.parametrize("T, window", [(5, 3), (63, 16), (64, 16)])
def test_a_window_in_blocks_has_the_gradients_of_its_mask(T, window):
    mask, weights = window_mask(T, T, window), torch.randn(2, 4, T, 16)
    found = []
    for attend in (
        lambda *x: attention(*x, mask=mask),
        lambda *x: windowed_attention(*x, window),
    ):
        inputs = [x.double().requires_grad_() for x in three(T)]
        (attend(*inputs) * weights).sum().backward()
        found.append([x.grad for x in inputs])
    for expected, got in zip(*found, strict=True):
        # float64 rounding of sums over at most T terms of unit size
        assert (expected - got).abs().max() <= 100 * T * torch.finfo(torch.float64).eps


def test_a_window_needs_as_many_keys_as_queries():
    q, k, v = three(8)
    with pytest.raises(ValueError, match="k has 7 keys"):
        windowed_attention(q, k[:, :, :7], v[:, :, :7], 4)
    with pytest.raises(ValueError, match="window=0"):
        windowed_attention(q, k, v, 0)


@pytest.mark.parametrize("attend", ["fused", "formula"])
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("T, window", [(64, 16), (60, 16), (32, 16), (9, 16), (31, 7)])
def test_flops_of_windowed_models_are_those_counted(T, window, sinks, attend):
    config = SMALL.but(window=window, sinks=sinks, attend=attend)
    model, tokens = GPT(config), torch.randint(50, (2, T))
    with torch.no_grad():
        counted = counting.flops(lambda: model(tokens))
    assert counted == sum(cost.flops_by_part(config, T, B=2).values())


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("B", [1, 2, 3])
@pytest.mark.parametrize("T, window", [(64, 16), (60, 16), (32, 16), (30, 16), (9, 16)])
def test_bytes_kept_by_windowed_models_are_those_counted(T, window, B, kv_heads):
    config = SMALL.but(window=window, kv_heads=kv_heads)
    x = torch.randint(50, (B, T))
    kept = saved_bytes(GPT(config), x, x)
    said = cost.saved_activations(config, T, B=B)
    assert kept == {part: n for part, n in said.items() if n}


GPT2 = GPTConfig.gpt2(attend="formula", context=8192)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("T", [128, 512, 8192])
def test_advice_is_ranked_and_only_fused_attention_is_exact(T, training):
    ranked = cost.advise(GPT2, T, 2, SLOW_MEMORY, training=training)
    saved = [advice.saved for advice in ranked]
    assert saved == sorted(saved, reverse=True)
    assert [a.remedy for a in ranked if a.exact] == ["fused attention"]
    assert all(a.config != GPT2 for a in ranked)
    assert ("window of 256" in {a.remedy for a in ranked}) == (T > 256)


def test_without_memory_to_wait_for_advice_is_a_ratio_of_flops():
    before = sum(cost.flops_by_part(GPT2, 512).values())
    for advice in cost.advise(GPT2, 512, 1, NO_MEMORY, training=False):
        after = sum(cost.flops_by_part(advice.config, 512).values())
        assert advice.saved == pytest.approx(1 - after / before, abs=1e-12)


def test_slow_memory_is_what_fused_attention_saves():
    def saved(rates):
        ranked = cost.advise(GPT2, 1024, 1, rates)
        return next(a.saved for a in ranked if a.exact)

    assert saved(SLOW_MEMORY) > saved(NO_MEMORY) > 0


def test_a_window_alone_saves_nothing_and_after_fused_attention_much():
    def saved(config):
        ranked = cost.advise(config, 8192, 1, NO_MEMORY)
        return next(a.saved for a in ranked if a.remedy == "window of 256")

    assert saved(GPT2) == 0
    assert saved(GPT2.but(attend="fused")) > 0.2


def test_advice_needs_measured_rates():
    with pytest.raises(ValueError, match=r"device='cpu'.*measure_ceilings"):
        cost.advise(GPT2, 512, 1, "cpu")


def test_groups_add_up_to_the_parts():
    parts = cost.flops_by_part(GPT2, 512) | {"norm": 7}
    groups = grouped(parts)
    assert groups["rest"] == 7
    assert sum(groups.values()) == sum(parts.values())


@torch.no_grad()
@pytest.mark.parametrize("store, per_value", [("fp16", 2), ("int8", 1 + 4 / 8)])
def test_a_stored_format_takes_its_bytes_and_keeps_the_logits_near(store, per_value):
    torch.manual_seed(0)
    model, tokens = GPT(SMALL).eval(), torch.randint(50, (2, 40))
    cache = Cache(model, store=store)
    logits = torch.cat([model(x, cache) for x in tokens.split(8, dim=1)], dim=1)
    assert cache.bytes == cost.kv_cache_bytes(SMALL, 40, B=2, bytes_per_value=per_value)
    exact = model(tokens)
    assert 0 < (logits - exact).abs().max() < 0.01 * exact.abs().max()


@torch.no_grad()
def test_int8_is_off_by_half_a_scale_at_most_and_keeps_zeros():
    pack, unpack = Cache(GPT(SMALL), store="int8").layers[0].pack, None
    unpack = Cache(GPT(SMALL), store="int8").layers[0].unpack
    x = torch.randn(2, 4, 30, 8) * torch.logspace(-6, 6, 30)[:, None]
    x[:, :, 3] = 0.0
    n, scale = pack(x)
    error = (unpack((n, scale)) - x).abs()
    rounding = 4 * torch.finfo(torch.float32).eps * x.abs()
    assert n.dtype == torch.int8 and scale.shape == (2, 4, 30, 1)
    assert (error <= scale / 2 + rounding).all()
    assert (unpack((n, scale))[:, :, 3] == 0).all()


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="store='int5'"):
        Cache(GPT(SMALL), store="int5")


def test_a_passage_of_the_text_is_found_at_its_own_place():
    torch.manual_seed(0)
    text = torch.randint(97, 123, (4000,), dtype=torch.uint8)
    passages = Passages(text, length=64, stride=32, n=5)
    places = passages.starts[[0, 17, 60]]
    starts, cosines = passages.nearest(torch.stack([text[s : s + 64] for s in places]))
    assert starts.tolist() == places.tolist()
    assert cosines.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    shifted = torch.stack([text[s + 8 : s + 72] for s in places])
    starts, near = passages.nearest(shifted)
    assert starts.tolist() == places.tolist()
    assert (near < cosines - 0.05).all()


def test_passages_say_what_does_not_fit():
    text = torch.zeros(100, dtype=torch.uint8)
    with pytest.raises(ValueError, match="n=9 exceeds the length=8"):
        Passages(text, length=8, n=9)
    with pytest.raises(ValueError, match="T=200"):
        Passages(text, length=200)
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        Passages(text, length=8).nearest(torch.zeros(1, 5, dtype=torch.uint8))
