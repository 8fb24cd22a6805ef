"""Attention that follows a pattern, against the formula over the same pairs."""

import functools

import numpy as np
import pytest
import torch
from oracle import DTYPES, RAGGED, by_loops, draw, exact_gradients, gradients, off
from small_gpt import SMALL, lively, text
from test_apple_safety import LikeMPS
from test_bad_input import explains
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_attn.attention import attention
from sparse_attn.counting import flops
from sparse_attn.decoding import Cache
from sparse_attn.layers import fused_attention
from sparse_attn.patterns import (
    Blockwise,
    Causal,
    Columns,
    First,
    Full,
    Globals,
    Random,
    SameBlock,
    Window,
    best_height,
    bigbird,
    blocks,
    fixed,
    flex_attention,
    global_local,
    imposed,
    lambda_shaped,
    longformer_heads,
    sliding_window,
    sparse_attention,
    strided,
)
from sparse_attn.patterns.flex import block_mask

pytestmark = pytest.mark.usefixtures("one_thread")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_length = pytest.mark.parametrize("T", RAGGED)

BLIND = Columns(70)  # the first 69 queries see nothing
PATTERNS = [
    sliding_window(40),
    strided(16),
    fixed(16, 3),
    lambda_shaped(20, 3),
    global_local((0, -1), 6),
    bigbird(16, 1),
    Blockwise(4, 1),
    ~Window(3, 3),
    Random(3, seed=1, among=Causal() & ~Window(0)),
    BLIND,
]
each_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
PER_HEAD = (strided(16), Window(5, 5), BLIND, strided(16))
BLOCKS = [(None, 64), (64, 64), (128, 64), (256, 64), (64, 16), (32, 16), (5, 7)]


def mask_of(pattern, T):
    """(T, T), or (H, T, T) for a pattern per head."""
    if isinstance(pattern, tuple):
        return torch.stack([one.mask(T) for one in pattern])
    return pattern.mask(T)


def formula(q, k, v, pattern):
    """The output of the formula in float64, and what rounding may add to each entry."""
    H, T = q.shape[1:3]
    tables = mask_of(pattern, T).expand(H, T, T).tolist()
    if not isinstance(pattern, tuple):
        return by_loops(q, k, v, lambda t, s: tables[0][t][s])
    groups, parts = H // k.shape[1], []
    for h, table in enumerate(tables):
        one = [x[:, [at]] for x, at in ((q, h), (k, h // groups), (v, h // groups))]
        parts.append(by_loops(*one, lambda t, s, table=table: table[t][s]))
    return tuple(torch.cat(both, dim=1) for both in zip(*parts, strict=True))


def is_attention(q, k, v, pattern, *attends):
    """Each errs at most twice as much as the formula may, entry by entry."""
    exact, budget = formula(q, k, v, pattern)
    for attend in attends:
        out = attend(q, k, v, pattern)
        assert out.dtype == q.dtype and out.shape == q.shape
        assert (off(out, exact) <= 2 * budget).all()


def has_its_gradients(q, k, v, pattern, *attends):
    dout = torch.randn(q.shape, dtype=torch.float64).to(q.dtype)
    mask = mask_of(pattern, q.shape[2])
    exact, budgets = exact_gradients(q, k, v, dout, mask=mask)
    for attend in attends:
        found = gradients(attend, q, k, v, dout, pattern=pattern)
        for x, expected, budget in zip(found, exact, budgets, strict=True):
            assert x.dtype == q.dtype
            assert (off(x, expected) <= budget).all()


def in_blocks(block_q, block_k):
    return functools.partial(sparse_attention, block_q=block_q, block_k=block_k)


each_block = [in_blocks(*sizes) for sizes in BLOCKS]


@each_length
@each_dtype
@each_pattern
def test_listed_blocks_give_attention_within_twice_its_rounding(pattern, dtype, T):
    is_attention(*draw(T, T, H=4, Hkv=2, dtype=dtype), pattern, *each_block)


@each_length
@each_dtype
@each_pattern
def test_listed_blocks_give_its_gradients_within_their_rounding(pattern, dtype, T):
    has_its_gradients(*draw(T, T, H=4, Hkv=2, dtype=dtype), pattern, *each_block[::3])


@pytest.mark.parametrize("H, Hkv", [(1, 1), (4, 4), (4, 2), (6, 1)])
@each_pattern
def test_texts_of_a_batch_and_heads_keep_to_themselves(pattern, H, Hkv):
    q, k, v = draw(97, 97, B=3, H=H, Hkv=Hkv)
    is_attention(q, k, v, pattern, *each_block[::3])
    has_its_gradients(q, k, v, pattern, *each_block[::3])


@each_length
@each_dtype
def test_each_head_may_have_a_pattern_of_its_own(dtype, T):
    q, k, v = draw(T, T, B=2, H=4, Hkv=2, dtype=dtype)
    is_attention(q, k, v, PER_HEAD, *each_block[::3])
    has_its_gradients(q, k, v, PER_HEAD, *each_block[::3])


def test_a_list_of_patterns_is_as_good_as_a_tuple_and_one_for_all_as_good_as_each():
    q, k, v = draw(97, 97, H=4, Hkv=4)
    out = sparse_attention(q, k, v, PER_HEAD)
    assert sparse_attention(q, k, v, list(PER_HEAD)).equal(out)
    alone = [
        sparse_attention(*(x[:, [h]] for x in (q, k, v)), one)
        for h, one in enumerate(PER_HEAD)
    ]
    is_attention(q, k, v, PER_HEAD, lambda *_: torch.cat(alone, dim=1))


@pytest.mark.parametrize("D", [1, 3, 64, 128])
def test_any_head_width_will_do(D):
    q, k, v = draw(70, 70, D=D, dtype=torch.float32)
    is_attention(q, k, v, strided(16), *each_block)
    has_its_gradients(q, k, v, strided(16), *each_block)


# Queries that see nothing, and numbers at the edge.


@pytest.mark.parametrize("block_q, block_k", BLOCKS)
@each_dtype
def test_a_query_that_sees_no_key_gets_zeros_and_sends_back_zeros(
    dtype, block_q, block_k
):
    some_of_each_seven = Window(2) & Columns(7, 2)
    for pattern in (BLIND, some_of_each_seven, ~Full(), BLIND & ~SameBlock(70)):
        q, k, v = (x.requires_grad_() for x in draw(200, 200, dtype=dtype))
        out = sparse_attention(q, k, v, pattern, block_q=block_q, block_k=block_k)
        blind = ~pattern.mask(200).any(1)
        assert blind.any()
        assert (out[:, :, blind] == 0).all() and (out[:, :, ~blind] != 0).all()
        out.sum().backward()
        assert (q.grad[:, :, blind] == 0).all()
        assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_what_a_blind_query_holds_does_not_matter():
    q, k, v = draw(200, 200)
    out = sparse_attention(q, k, v, BLIND)
    q[:, :, :69] = torch.nan
    assert sparse_attention(q, k, v, BLIND).equal(out)


def test_blocks_that_are_not_listed_are_never_computed():
    q, k, v = draw(256, 256)
    own = SameBlock(64)
    k[:, :, 128:192], v[:, :, 128:192] = torch.nan, torch.nan
    out = sparse_attention(q, k, v, own, block_q=64)
    assert out[:, :, :128].isfinite().all() and out[:, :, 192:].isfinite().all()
    assert out[:, :, 128:192].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_logits_below_the_overflow_select_the_best_key(dtype):
    q = torch.full((1, 1, 90, 16), 100.0, dtype=dtype)
    sign = torch.where(torch.arange(90) % 2 == 0, 1, -1).to(dtype)[:, None]
    k = q * sign  # logits ± 40,000
    v = torch.where(sign > 0, 3.0, -5.0).to(dtype).expand_as(k)
    for attend in each_block:
        for pattern in (Window(1, 1), sliding_window(2), strided(3)):
            out = attend(q, k, v, pattern)
            assert (out == 3).all()
            assert (attend(-q, k, v, pattern)[:, :, 1:-1] == -5).all()


def test_scores_past_the_range_of_fp16_do_not_overflow():
    q = torch.full((1, 1, 70, 64), 200.0, dtype=torch.float16)
    for pattern in (sliding_window(9), lambda_shaped(9, 2), Window(4, 4), strided(8)):
        assert sparse_attention(q, q, q, pattern).equal(q)
        found = gradients(sparse_attention, q, q, q, q, pattern=pattern)
        assert all(x.isfinite().all() for x in found)


def test_inputs_need_not_be_contiguous():
    for pattern in (strided(16), PER_HEAD, Causal()):
        q, k, v = (x.mT.contiguous().mT for x in draw(97, 97, B=2, H=4, Hkv=2))
        k = k.transpose(0, 2).contiguous().transpose(0, 2)
        v = torch.stack((v, v), dim=-1)[..., 1]
        assert not any(x.is_contiguous() for x in (q, k, v))
        is_attention(q, k, v, pattern, *each_block[::3])
        has_its_gradients(q, k, v, pattern, *each_block[::3])


def test_the_gradient_is_the_derivative():
    q, k, v = (x.requires_grad_() for x in draw(9, 9, B=2, H=4, Hkv=2, D=2))
    for pattern in (strided(3), BLIND | Globals((4,)), ~Window(2, 2), PER_HEAD):
        attend = functools.partial(
            sparse_attention, pattern=pattern, block_q=4, block_k=2
        )
        assert torch.autograd.gradcheck(attend, (q, k, v))


def test_nothing_in_it_needs_what_mps_lacks():
    q, k, v = (x.requires_grad_() for x in draw(97, 97, dtype=torch.float32))
    fresh = [strided(13), bigbird(13, 1), Random(2, 9), longformer(5), Blockwise(13)]
    with LikeMPS():
        for pattern in fresh:
            sparse_attention(q, k, v, pattern).sum().backward()


def longformer(radius):
    return longformer_heads(2, radius, dilated=1, gap=3)


# Work and memory.


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that an operation makes room for."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                entries = x.untyped_storage().nbytes() // x.element_size()
                self.entries = max(self.entries, entries)
        return out


def largest(T, pattern):
    """Entries of the largest tensor: at the first call, and at the second."""
    found = []
    for _ in range(2):
        q, k, v = (
            x.requires_grad_() for x in draw(T, T, H=1, Hkv=1, dtype=torch.float32)
        )
        with Largest() as seen:
            sparse_attention(q, k, v, pattern).sum().backward()
        found.append(seen.entries)
    return found


def test_a_window_never_makes_a_tensor_near_t_by_t_not_even_while_blocks_are_listed():
    """While listing: the keys of all blocks that a row of 256 queries may touch."""
    T, reach, D = 4096, 63, 16
    first, later = largest(T, Window(reach, reach))
    assert first <= T * (256 + 2 * 64) < T * T / 10
    assert later <= T * D


@pytest.mark.parametrize(
    "pattern",
    [bigbird(64, 1), Random(2).of_blocks(64), Blockwise(16, 3), Window(9, 9, 2)],
    ids=str,
)
def test_memory_grows_with_the_blocks_that_are_listed(pattern):
    """Their pairs, at the height with the most, and then vectors: of the keys that
    two rows of queries see all of, and that 16 rows of few keys see."""
    T, D = 4096, 16
    first, later = largest(T, pattern)
    most = max(blocks(pattern, T, h).listed * h * 64 for h in (64, 128, 256))
    assert first <= most < T * T / 2.5
    assert later <= 2 * T * D


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize(
    "pattern",
    [
        Window(1, 1).of_blocks(64),
        Random(3).of_blocks(64),
        Globals((0, -1)).of_blocks(64),
        SameBlock(128),
        Blockwise(4, 1),
    ],
    ids=str,
)
def test_work_is_that_of_the_listed_blocks(pattern, B):
    T, H, D = 512, 4, 8
    q, k, v = (x.requires_grad_() for x in draw(T, T, B=B, H=H, D=D, Hkv=2))
    listed = blocks(pattern, T, 64, 64)
    assert listed.full.all() and listed.waste == 0 and listed.share < 0.6
    products = 2 * D * B * H * listed.listed * 64 * 64
    attend = in_blocks(64, 64)
    assert flops(lambda: attend(q, k, v, pattern)) == 2 * products
    assert products == 2 * D * B * H * pattern.pairs(T)
    both = flops(lambda: attend(q, k, v, pattern).sum().backward())
    assert both == (2 + 5) * products  # backward forms the scores once more


@each_pattern
def test_blocks_that_are_not_full_cost_a_full_one_and_no_more(pattern):
    q, k, v = draw(300, 300)
    for block_q, block_k in ((64, 64), (128, 64), (32, 16)):
        listed = blocks(pattern, 300, block_q, block_k)
        expected = 4 * 16 * 2 * listed.listed * block_q * block_k
        attend = in_blocks(block_q, block_k)
        assert flops(lambda attend=attend: attend(q, k, v, pattern)) == expected


def test_the_height_is_the_one_with_the_least_work_and_is_used():
    for pattern in (*PATTERNS, Window(0), Causal(), bigbird(256, 1)):
        work = {
            height: cost * height * blocks(pattern, 1024, height).listed
            for height, cost in ((64, 1.45), (128, 1.2), (256, 1.0))
        }
        height = best_height(pattern, 1024)
        assert work[height] == min(work.values())
        given = *draw(1024, 1024, H=1, Hkv=1), pattern
        used = flops(functools.partial(sparse_attention, *given))
        assert used == flops(functools.partial(in_blocks(height, 64), *given))
    assert best_height(Window(0), 1024) == 64
    assert best_height(SameBlock(256), 1024) == 256


AS_CAUSAL = [Causal(), Window(300), SameBlock(300) & Causal(), Full() & Causal()]
AS_CAUSAL += [lambda_shaped(200, 100), fixed(300), ~Window(0, 300) | Window(0)]
AS_FULL = [Full(), Window(300, 300), First(300), Causal() | ~Causal(), Blockwise(1)]


@pytest.mark.parametrize("pattern", [*AS_CAUSAL, *AS_FULL], ids=str)
def test_full_and_causal_take_the_fused_kernel_under_whatever_name(pattern):
    q, k, v = draw(300, 300, H=4, Hkv=2)
    causal = pattern in AS_CAUSAL
    out = sparse_attention(q, k, v, pattern)
    assert out.equal(fused_attention(q, k, v, causal=causal))
    is_attention(q, k, v, pattern, sparse_attention)
    pairs = 300 * 301 // 2 if causal else 300 * 300
    assert flops(lambda: sparse_attention(q, k, v, pattern)) == 4 * 16 * 4 * pairs


def test_almost_causal_is_not_causal():
    q, k, v = draw(300, 300)
    for pattern in (Window(298), Causal() & ~Window(0), Causal() | Window(0, 1)):
        is_attention(q, k, v, pattern, sparse_attention)
        out = sparse_attention(q, k, v, pattern)
        assert not out.allclose(fused_attention(q, k, v, causal=True), atol=1e-4)


# FlexAttention.

uncompiled = pytest.mark.filterwarnings("ignore:.*without torch.compile")


@uncompiled
@pytest.mark.parametrize("pattern", [*PATTERNS, Causal(), Full(), PER_HEAD], ids=str)
def test_flex_attention_computes_the_same(pattern):
    q, k, v = draw(150, 150, H=4, Hkv=2)
    is_attention(q, k, v, pattern, flex_attention, sparse_attention)


@uncompiled
@each_length
def test_flex_attention_computes_the_same_at_any_length(T):
    q, k, v = draw(T, T, H=4, Hkv=2, dtype=torch.float32)
    is_attention(q, k, v, strided(16), flex_attention, sparse_attention)


@uncompiled
def test_flex_attention_takes_batches_and_calls_the_kernel_it_is_given():
    called = []

    def kernel(q, k, v, **how):
        called.append(how["enable_gqa"])
        return torch.nn.attention.flex_attention.flex_attention(q, k, v, **how)

    attend = functools.partial(flex_attention, kernel=kernel)
    for Hkv in (2, 4):
        q, k, v = draw(9, 9, B=3, H=4, Hkv=Hkv)
        is_attention(q, k, v, strided(3), attend)
    assert called == [True, False]


@each_length
@each_pattern
def test_the_block_mask_lists_the_same_blocks(pattern, T):
    listed, made = blocks(pattern, T, 128, 128), block_mask(pattern, T, "cpu")
    rows = -(-T // 128)
    seen, full = torch.zeros(2, rows, rows, dtype=torch.bool)
    seen[listed.row, listed.column] = True
    full[listed.row, listed.column] = listed.full
    assert made.to_dense()[0, 0].bool().equal(seen)
    assert made.full_kv_num_blocks[0, 0].tolist() == full.sum(1).tolist()
    assert made.kv_num_blocks[0, 0].tolist() == (seen & ~full).sum(1).tolist()
    at = torch.arange(rows * 128)  # and queries past the text as the last, keys never
    allowed = made.mask_mod(0, 0, at[:, None], at)
    assert allowed[:T, :T].equal(pattern.mask(T))
    assert not allowed[:, T:].any()
    assert (allowed[T:] == allowed[T - 1]).all()


# A model whose attention follows a pattern.


class Masked(nn.Module):
    """The formula with the whole mask, in place of a model's scores."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, q, k, v, mask=None):
        return attention(q, k, v, mask=self.mask)


def masked(config, pattern):
    """The model `lively` makes, float64, with pattern & causal as a whole mask."""
    model = lively(config, torch.float64)
    mask = mask_of(pattern, config.context) & Causal().mask(config.context)
    for block in model.blocks:
        block.attention.scores = Masked(mask)
    return model


FOR_MODELS = [
    sliding_window(4),
    Window(3, 3),
    strided(5),
    bigbird(3, 1),
    Columns(6),
    (strided(5), Window(2, 2), Columns(6), Causal()),
]
CONFIGS = [SMALL, SMALL.but(kv_heads=2, positions="rotary"), SMALL.but(window=2)]
TIE = 1e-11  # float64 rounds at 1e-16; a key more or less moves logits by over 1e-3


@pytest.mark.parametrize("config", CONFIGS, ids=["gpt2", "rotary", "window"])
@pytest.mark.parametrize("pattern", FOR_MODELS, ids=str)
def test_a_model_under_a_pattern_is_the_model_with_its_mask(pattern, config):
    model, tokens = lively(config, torch.float64), text(2, 24, 11)
    alone, expected = model(tokens), masked(config, pattern)(tokens)
    with imposed(model, pattern) as same:
        assert same is model
        out = model(tokens)
    assert (out - expected).abs().max() < TIE
    assert (out - alone).abs().max() > 1e-3
    assert model(tokens).equal(alone)


def test_the_causal_pattern_changes_nothing():
    model, tokens = lively(SMALL, torch.float64), text(2, 24, 11)
    alone = model(tokens)
    for pattern in (Causal(), Full(), (Full(),) * 4):
        with imposed(model, pattern):
            assert (model(tokens) - alone).abs().max() < TIE


def test_a_model_gets_its_own_scores_back_also_after_an_error():
    model = lively(SMALL)
    before = [block.attention.scores for block in model.blocks]

    def now():
        return [block.attention.scores for block in model.blocks]

    with pytest.raises(KeyError), imposed(model, Window(1)):
        assert not set(now()) & set(before)
        raise KeyError
    assert now() == before
    with imposed(model, Window(1)):
        outer = now()
        with imposed(model, Window(2)):
            assert now() != outer
        assert now() == outer
    assert now() == before
    with pytest.raises(ValueError, match="pattern"), imposed(model, [Window(1)]):
        model(text(1, 9, 11))
    assert now() == before


@pytest.mark.parametrize(
    "pattern", [Window(3, 3), Full(), ~Causal() | Window(0), bigbird(3, 1)], ids=str
)
def test_a_pattern_that_sees_the_future_does_not_show_it_to_a_model(pattern):
    model, tokens = lively(SMALL, torch.float64), text(1, 24, 11)
    other = tokens.clone()
    other[0, 13] = (other[0, 13] + 1) % 11
    with imposed(model, pattern):
        apart = (model(tokens) - model(other)).abs().amax((0, 2))
    assert apart[:13].max() < TIE and apart[13] > 1e-3


@pytest.mark.parametrize("pattern", FOR_MODELS, ids=str)
def test_training_under_a_pattern_gives_the_gradients_of_its_mask(pattern):
    model, tokens = lively(SMALL, torch.float64).train(), text(2, 24, 11)
    reference = masked(SMALL, pattern)
    with imposed(model, pattern):
        model(tokens).pow(2).mean().backward()
    reference(tokens).pow(2).mean().backward()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.grad.any()
        assert (mine.grad - its.grad).abs().max() < TIE


@pytest.mark.parametrize("config", CONFIGS, ids=["gpt2", "rotary", "window"])
def test_a_cache_under_a_pattern_is_refused(config):
    model = lively(config)
    cache = Cache(model)
    with imposed(model, Window(1)):
        with pytest.raises(ValueError, match="cache"):
            for token in text(1, 2, 11).split(1, dim=1):
                model(token, cache)
        explains(lambda: model(text(1, 3, 11), cache), "cache", "keys")


# The same attention elsewhere.


@pytest.fixture(scope="module")
def transformers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("transformers")


def projected(module, x, heads):
    """q, k, v (B, H, T, D) of a module of theirs for its input (B, T, C)."""
    return tuple(
        layer(x).detach().unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer in (module.query, module.key, module.value)
    )


def as_ours(context, heads):
    """(B, T, C) -> (B, H, T, D)"""
    return context.detach().unflatten(-1, (heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("w", [4, 8, 16])
def test_longformer_s_sliding_chunks_are_a_window_of_half_a_window_each_way(
    transformers, w
):
    from transformers.models.longformer import modeling_longformer as longformer

    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        attention_window=[w], hidden_size=32, num_attention_heads=2,
        num_hidden_layers=1, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module, T = longformer.LongformerSelfAttention(config, 0).eval(), 48
    x, no = 3 * torch.randn(1, T, 32), torch.zeros(1, T, dtype=torch.bool)
    with torch.no_grad():
        context, weights = module(x, torch.zeros(1, T), no, no, False, True)

    keys = torch.arange(T)[:, None] + torch.arange(w + 1) - w // 2  # of each column
    seen, (t, column) = (
        torch.zeros(T, T, dtype=torch.bool),
        weights[0, :, 0].nonzero().T,
    )
    seen[t, keys[t, column]] = True
    assert seen.equal(Window(w // 2, w // 2).mask(T))
    q, k, v = projected(module, x, heads=2)
    exact, budget = formula(q, k, v, Window(w // 2, w // 2))
    assert (off(as_ours(context, 2), exact) <= 2 * budget).all()


@pytest.fixture(scope="module")
def big_bird(transformers):
    """Their BigBird for 16 blocks of 8 tokens, 2 of them random: (module, x, masks)."""
    from transformers.models.big_bird import modeling_big_bird as big_bird

    torch.manual_seed(0)
    config = transformers.BigBirdConfig(
        hidden_size=32, num_attention_heads=2, max_position_embeddings=128,
        attention_type="block_sparse", block_size=8, num_random_blocks=2,
        attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    module = big_bird.BigBirdBlockSparseAttention(config, seed=3).double()
    blocked, band, of_queries, of_keys = (
        big_bird.BigBirdModel.create_masks_for_block_sparse_attn(
            torch.ones(1, 128, dtype=torch.float64), 8
        )
    )
    x = 3 * torch.randn(1, 128, 32, dtype=torch.float64)
    return module, x, (band, of_queries, of_keys, blocked, blocked)


CORE = (Window(1, 1) | Globals((0, -1))).of_blocks(8)


def drawn_by(module):
    """(2, 14, 2): the blocks that their heads draw for blocks 1 to 14 in training."""
    before = np.random.get_state()
    np.random.seed(module.seed)
    plan = module._get_rand_attn_plan(128, 8, 2)
    drawn = module._bigbird_block_rand_mask_with_head(128, 128, 8, 8, 2, *plan)
    np.random.set_state(before)
    return np.stack(drawn)


def with_blocks(drawn):
    """(H, 128, 128): the core and these blocks."""
    seen = torch.zeros(len(drawn), 16, 16, dtype=torch.bool)
    seen[:, 1:-1].scatter_(2, torch.from_numpy(drawn).long(), True)
    return CORE.mask(128) | seen.repeat_interleave(8, 1).repeat_interleave(8, 2)


def test_bigbird_in_training_attends_to_our_core_and_to_the_blocks_it_drew(big_bird):
    module, x, masks = big_bird
    drawn = drawn_by(module.train())
    before = np.random.get_state()
    out = as_ours(module(x, *masks)[0], 2)
    np.random.set_state(before)

    q, k, v = projected(module, x, heads=2)
    mask = with_blocks(drawn)
    per_row = mask[:, ::8, ::8].sum(2)
    assert (per_row[:, 2:-2] == 5 + 2).all() and (per_row[:, [1, -2]] == 4 + 2).all()
    assert (out - attention(q, k, v, mask=mask)).abs().max() < TIE
    assert (out - attention(q, k, v, mask=CORE.mask(128))).abs().max() > 1e-3
    assert out[:, :, :8].allclose(attention(q, k, v)[:, :, :8], atol=TIE)


def test_bigbird_draws_from_the_first_blocks_only_where_ours_draws_from_all(big_bird):
    """Their plan for texts other than 1024, 3072 and 4096: the first 2r + 5 blocks."""
    module = big_bird[0].train()
    assert drawn_by(module).max() < 2 * 2 + 5
    ours = bigbird(8, 2).mask(128)[::8, ::8] & ~CORE.mask(128)[::8, ::8]
    assert ours.nonzero()[:, 1].max() > 2 * 2 + 5


def test_bigbird_in_evaluation_draws_nothing_and_counts_its_first_block_three_times(
    big_bird,
):
    """Its list of random blocks is all zeros then: block 0, once more for each."""
    module, x, masks = big_bird
    assert (drawn_by(module.eval()) == 0).all()
    out = as_ours(module(x, *masks)[0], 2)
    q, k, v = projected(module, x, heads=2)
    times = torch.where(CORE.mask(128), 1.0, 0.0).double()
    times[8:-8, :8] = 3
    weights = ((q @ k.mT) / 4 + times.log()).softmax(-1)
    assert (out - weights @ v).abs().max() < TIE
    as_a_set = attention(q, k, v, mask=CORE.mask(128))
    assert (out - as_a_set)[:, :, 8:-8].abs().max() > 1e-3
    assert (out - as_a_set)[:, :, :8].abs().max() < TIE
