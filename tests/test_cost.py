"""Closed forms against counters on real calls, and against numbers known beforehand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn import cost, counting
from sparse_attn.gpt import Block, GPTConfig
from sparse_attn.layers import fused_attention

steady = settings(max_examples=20)

SIZES = st.fixed_dictionaries(
    dict(
        B=st.integers(1, 3),
        T=st.integers(1, 33),
        H=st.integers(1, 4),
        D=st.integers(1, 9),
        expansion=st.integers(1, 5),
        L=st.integers(1, 3),
        V=st.integers(1, 40),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    )
)


class Plain:
    """The plain program that cost describes, one bias-free operation at a time.

    Each method runs one part on inputs of its own; self.weights collects bytes.
    """

    def __init__(self, B, T, H, D, expansion, L, V, dtype):
        self.B, self.T, self.H, self.D, self.C = B, T, H, D, H * D
        self.expansion, self.L, self.V = expansion, L, V
        self.dtype, self.weights = dtype, 0

    def made(self, *shape):
        return torch.empty(shape, dtype=self.dtype).fill_(0.5)

    def linear(self, x, width):
        weight = self.made(width, x.shape[-1])
        self.weights += weight.nbytes
        return lambda: F.linear(x, weight)

    def tokens(self):
        return self.made(self.B, self.T, self.C)

    def scores(self):
        q, k, v = (self.made(self.B, self.H, self.T, self.D) for _ in range(3))
        return [lambda: (q @ k.mT).softmax(dim=-1) @ v]

    def projections(self):
        C = self.C
        return [self.linear(self.tokens(), 3 * C), self.linear(self.tokens(), C)]

    def mlp(self):
        x, hidden = self.tokens(), self.made(self.B, self.T, self.expansion * self.C)
        up, down = self.linear(x, hidden.shape[-1]), self.linear(hidden, self.C)
        return [up, lambda: F.gelu(hidden), down]

    def norms_and_additions(self):
        x, y = self.tokens(), self.tokens()
        return 2 * [lambda: F.layer_norm(x, (self.C,)), lambda: x + y]

    def block(self):
        attend = self.projections() + self.scores()
        return attend + self.mlp() + self.norms_and_additions()

    def lm_head(self):
        return [self.linear(self.tokens(), self.V)]

    def model(self):
        return sum((self.block() for _ in range(self.L)), self.lm_head())


NAMES = dict(
    scores="TCH",
    projections="TC",
    mlp="TC",
    norms_and_additions="TC",
    block="TCH",
    lm_head="TCV",
    model="TCHLV",
)


def formula_and_program(part, sizes):
    plain = Plain(**sizes)
    operations = getattr(plain, part)()
    given = {name: getattr(plain, name) for name in NAMES[part]}
    if part in ("mlp", "block", "model"):
        given["expansion"] = plain.expansion
    given |= dict(B=plain.B, bytes_per_value=plain.dtype.itemsize)
    bill = getattr(cost, part)(**given)
    return bill, lambda: [operation() for operation in operations], plain.weights


each_part = pytest.mark.parametrize("part", NAMES)


@each_part
@steady
@given(sizes=SIZES)
def test_flops_are_what_the_counter_counts(part, sizes):
    bill, program, _ = formula_and_program(part, sizes)
    assert bill.flops == counting.flops(program)


@each_part
@steady
@given(sizes=SIZES)
def test_bytes_moved_are_what_the_counter_counts(part, sizes):
    bill, program, _ = formula_and_program(part, sizes)
    with torch.inference_mode():
        assert bill.moved == counting.traffic(program).moved


@each_part
@steady
@given(sizes=SIZES)
def test_bytes_held_are_the_weights_and_all_that_is_written(part, sizes):
    bill, program, weights = formula_and_program(part, sizes)
    with torch.inference_mode():
        assert bill.held == weights + counting.traffic(program).written


@steady
@given(sizes=SIZES)
def test_a_norm_kept_for_training_writes_two_numbers_per_token_more(sizes):
    sizes |= dict(dtype=torch.float32)
    bill, program, _ = formula_and_program("norms_and_additions", sizes)
    statistics = 2 * 2 * sizes["B"] * sizes["T"]  # mean and deviation, of two norms
    assert counting.traffic(program).moved - bill.moved == 4 * statistics


def fused(sizes):
    plain = Plain(**sizes)
    q, k, v = (plain.made(plain.B, plain.H, plain.T, plain.D) for _ in range(3))
    each = dict(B=plain.B, bytes_per_value=plain.dtype.itemsize)
    return plain, each, lambda causal: fused_attention(q, k, v, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@steady
@given(sizes=SIZES)
def test_the_fused_formula_is_what_an_ideal_kernel_needs(causal, sizes):
    plain, each, attend = fused(sizes)
    bill = cost.fused_scores(plain.T, plain.C, causal=causal, **each)
    with torch.inference_mode():
        moves = counting.traffic(lambda: attend(causal))
        assert bill.flops == counting.flops(lambda: attend(causal))
    assert bill.moved == moves.moved
    assert bill.held == moves.written


@steady
@given(sizes=SIZES)
def test_a_real_kernel_adds_at_most_one_number_per_query_for_its_backward(sizes):
    plain, each, attend = fused(sizes)
    ideal = cost.fused_scores(plain.T, plain.C, **each)
    more = counting.traffic(lambda: attend(False)).moved - ideal.moved
    statistics = max(4, plain.dtype.itemsize)  # the log-sum-exp, in float32 at least
    assert 0 <= more <= plain.B * plain.H * plain.T * statistics


@steady
@given(sizes=SIZES)
def test_a_block_with_the_formula_costs_the_full_square(sizes):
    plain = Plain(**sizes)
    block = Block(GPTConfig(width=plain.C, heads=plain.H, attend="formula"))
    x = torch.ones(plain.B, plain.T, plain.C)
    bill = cost.block(plain.T, plain.C, plain.H, B=plain.B)
    assert counting.flops(lambda: block(x)) == bill.flops


@steady
@given(sizes=SIZES)
def test_a_block_with_the_fused_kernel_costs_the_triangle(sizes):
    plain = Plain(**sizes)
    block = Block(GPTConfig(width=plain.C, heads=plain.H, attend="fused"))
    x = torch.ones(plain.B, plain.T, plain.C)
    bill = cost.block(plain.T, plain.C, plain.H, B=plain.B, causal=True)
    assert counting.flops(lambda: block(x)) == bill.flops


@steady
@given(T=st.integers(1, 60), H=st.integers(1, 4), D=st.integers(1, 9))
def test_causal_pairs_halve_the_flops_and_none_of_the_bytes(T, H, D):
    full, half = (cost.scores(T, H * D, H, causal=causal) for causal in (False, True))
    assert half.flops * 2 * T == full.flops * (T + 1)
    assert (half.moved, half.held) == (full.moved, full.held)


def test_costs_add_up_and_multiply():
    one, other = cost.Cost(6, 3, 1), cost.Cost(10, 20, 30)
    assert one + other == cost.Cost(16, 23, 31)
    assert 3 * one == cost.Cost(18, 9, 3)
    assert one.intensity == 2


@pytest.mark.parametrize("T, share", [(512, "10.0%"), (4096, "47.1%")])
def test_scores_take_a_known_share_of_a_gpt2_block(T, share):
    assert f"{cost.score_share(T, 768):.1%}" == share


@steady
@given(T=st.integers(1, 2000), H=st.integers(1, 12), causal=st.booleans())
def test_the_share_is_that_of_the_scores_in_a_block(T, H, causal):
    scores, block = (f(T, 64 * H, H, causal=causal) for f in (cost.scores, cost.block))
    share = cost.score_share(T, 64 * H, causal=causal)
    assert math.isclose(share, scores.flops / block.flops, rel_tol=4 * 2**-52)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("C", [1, 2, 64, 768])
def test_half_share_length_is_the_first_at_which_scores_cost_half(C, causal):
    def reached(T):
        linear = cost.projections(T, C) + cost.mlp(T, C)
        return cost.scores(T, C, 1, causal=causal).flops >= linear.flops

    first = next(T for T in range(1, 20 * C) if reached(T))
    assert cost.half_share_length(C, causal=causal) == first


def test_a_gpt2_block_reaches_half_at_known_lengths():
    assert cost.half_share_length(768) == 4608
    assert cost.half_share_length(768, causal=True) == 9215


@steady
@given(T=st.integers(1, 50), data=st.data())
def test_topk_pairs_are_those_of_a_mask(T, data):
    K = data.draw(st.integers(1, T))
    t = torch.arange(T)
    behind = t[:, None] - t
    causal = (behind >= 0) & (behind < K)  # the K latest keys
    everywhere = (behind % T) < K  # any K keys
    assert cost.topk_pairs(T, K) == everywhere.sum()
    assert cost.topk_pairs(T, K, causal=True) == causal.sum()


@steady
@given(
    T=st.integers(1, 30), D=st.integers(1, 9), hidden=st.integers(1, 9), data=st.data()
)
def test_the_published_head_costs_its_four_products(T, D, hidden, data):
    K = data.draw(st.integers(1, T))

    def head():
        query, kept = torch.ones(T, D), torch.ones(T, K * D)
        for x, out in ((query, T), (kept, D)):
            F.linear(
                F.linear(x, torch.ones(hidden, x.shape[1])), torch.ones(out, hidden)
            )

    assert counting.flops(head) == cost.topk_mlp_flops(T, D, hidden, K)


PUBLISHED = [  # d, T, multiply-adds of all full heads, and of one sparse head
    (128, 64, 1_048_576, 5_767_168),
    (256, 128, 8_388_608, 12_582_912),
    (512, 256, 67_108_864, 29_360_128),
    (768, 512, 402_653_184, 75_497_472),
    (1024, 1024, 2_147_483_648, 218_103_808),
    (1280, 2048, 10_737_418_240, 704_643_072),
]


@pytest.mark.parametrize("d, T, full, sparse", PUBLISHED)
def test_the_published_table_compares_all_heads_with_one(d, T, full, sparse):
    assert cost.scores(T, d, d // 64).flops == 2 * full
    assert cost.topk_mlp_flops(T, 64, 128, 8) == 2 * sparse


@pytest.mark.parametrize("K, T", [(8, 640), (16, 1152), (32, 2176)])
def test_the_published_head_breaks_even_where_the_formula_says(K, T):
    assert cost.topk_mlp_break_even(64, 64, K) == T
    gain = [
        4 * 64 * cost.pairs(n) - cost.topk_mlp_flops(n, 64, 64, K)
        for n in (T - 1, T, T + 1)
    ]
    assert gain[0] < 0 == gain[1] < gain[2]


@pytest.mark.parametrize("hidden", [128, 129])
@pytest.mark.parametrize("K", [8, 16, 32])
def test_a_selector_twice_as_wide_as_the_head_never_breaks_even(K, hidden):
    assert cost.topk_mlp_break_even(64, hidden, K) == math.inf


@pytest.mark.parametrize("T, K", [(1, 1), (7, 3), (9, 9)])
def test_keys_for_free_cost_their_share_of_the_square(T, K):
    full = cost.scores(T, 5, 1).flops
    assert cost.topk_flops(T, 5, K) * cost.pairs(T) == full * cost.topk_pairs(T, K)
