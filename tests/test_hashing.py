"""Hashed attention against the dense formula over the same pairs, said twice."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, RAGGED, off
from scipy.stats import multivariate_normal
from test_apple_safety import LikeMPS
from test_bad_input import explains
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_attn import hashing
from sparse_attn.attention import attention, attention_weights
from sparse_attn.counting import flops
from sparse_attn.hashing import collision_probability, lsh_attention, lsh_pairs

steady = settings(max_examples=60)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(T, *, B=1, H=2, D=16, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    qk, v = (torch.randn(B, H, T, D, dtype=torch.float64).to(dtype) for _ in range(2))
    return qk, v


def clustered(T, clusters, *, spread=0.8, D=16, seed=0):
    torch.manual_seed(seed)
    centers = 3 * torch.randn(clusters, D)
    tokens = torch.randint(clusters, (1, 2, T))
    return centers[tokens] + spread * torch.randn(1, 2, T, D)


class Formula:
    """Attention over `pairs` in float64, and what rounding may add to each entry.

    The error model of `oracle.by_loops`, with two more things that round: a key is
    divided by its length, the root of D squares; and so many rounds are merged, each
    with a log-sum-exp of at most the largest score and log T.
    """

    def __init__(self, qk, v, pairs, rounds, scale=None):
        own = torch.finfo(torch.float64).eps / 2  # the formula rounds too
        self.u = torch.finfo(qk.dtype).eps / 2 + own
        self.a = a = min(self.u, torch.finfo(torch.float32).eps / 2 + own)
        self.smallest = torch.finfo(qk.dtype).smallest_normal * self.u
        self.q, self.v = q, v = qk.double(), v.double()
        self.k = k = F.normalize(q, dim=-1)
        T, self.D = q.shape[2:]
        self.scale = self.D**-0.5 if scale is None else scale
        self.w = w = attention_weights(q, k, v, mask=pairs, scale=self.scale)
        self.out = w @ v

        self.of_key, self.of_sums = (self.D / 2 + 3) * a, (2 * T + 4 * rounds + 12) * a
        products = abs(self.scale) * (q.abs() @ k.abs().mT)
        top = (products * pairs).amax(dim=-1, keepdim=True)
        shift = math.expm1(self.of_key + (self.D + 3) * a) * products + 2 * a * top
        shift += 4 * a * (top + math.log(T))  # of the log-sum-exps
        grown = shift + (w * torch.expm1(shift)).sum(-1, keepdim=True).log1p()
        self.grown = grown + self.of_sums + 2 * self.u
        self.budget = (w * torch.expm1(self.grown)) @ v.abs() + self.smallest

    def gradients(self, dout):
        """Of qk and v, exact and budgets. The slope of a score is a difference, and
        errs like its two terms; a key sends back through its length."""
        dout, q, k, v, w = dout.double(), self.q, self.k, self.v, self.w
        S, length = w * (dout @ v.mT), q.norm(dim=-1, keepdim=True)
        S = self.scale * (S - w * (dout * self.out).sum(-1, keepdim=True))
        through = S.mT @ q  # to the key, of length 1
        exact = S @ k + (through - k * (k * through).sum(-1, keepdim=True)) / length

        terms = dout.abs() @ v.abs().mT
        terms = terms + (dout.abs() * (w @ v.abs())).sum(-1, keepdim=True)
        rounded = self.of_sums + self.of_key + 2 * (self.D + 8) * self.a
        far = abs(self.scale) * w * terms * torch.expm1(self.grown + rounded)
        off_key = far.mT @ q.abs() + rounded * through.abs()
        off_key += k.abs() * (k.abs() * off_key).sum(-1, keepdim=True)
        of_qk = far @ k.abs() + off_key / length + self.u * exact.abs()
        of_v = (w * torch.expm1(self.grown + self.of_sums)).mT @ dout.abs()
        return (exact, w.mT @ dout), (of_qk + self.smallest, of_v + self.smallest)


def is_attention_over_its_pairs(qk, v, scale=None, **how):
    out = lsh_attention(qk, v, scale=scale, **how)
    formula = Formula(qk, v, lsh_pairs(qk, **how), how["rounds"], scale)
    assert out.dtype == qk.dtype and out.shape == qk.shape
    assert (off(out, formula.out) <= formula.budget).all()


def by_hand(found, chunk, causal):
    """The rule without tensors. found: buckets of one head, found[round][token]."""
    T = len(found[0])
    seen = np.zeros((T, T), dtype=bool)
    for names in found:
        order = sorted(range(T), key=lambda t: (names[t], t))
        piece = {t: place // chunk for place, t in enumerate(order)}
        for t, s in itertools.product(range(T), repeat=2):
            allowed = s < t if causal else s != t
            if allowed and names[t] == names[s] and piece[t] - piece[s] in (0, 1):
                seen[t, s] = True
    for t in range(T):
        seen[t, t] = not seen[t].any()
    return torch.from_numpy(seen)


def are_the_pairs(qk, *, buckets, rounds, chunk, causal, seed=0):
    R = hashing.rotations(qk.shape[-1], buckets, rounds=rounds, seed=seed)
    found = hashing.hash_buckets(qk, R)
    how = dict(buckets=buckets, rounds=rounds, chunk=chunk, causal=causal, seed=seed)
    pairs = lsh_pairs(qk, **how)
    for b, h in np.ndindex(*qk.shape[:2]):
        assert pairs[b, h].equal(by_hand(found[b, h].tolist(), chunk, causal))
    return pairs


# Buckets


def test_the_largest_projection_names_the_bucket_and_its_sign_the_half():
    R = torch.eye(2)[None]
    x = torch.tensor([[0.5, 0.25], [-0.25, -0.5], [0.1, 0.2], [-3.0, 2.0]])
    assert hashing.hash_buckets(x, R).tolist() == [[0, 3, 1, 2]]


@each_dtype
def test_buckets_are_the_argmax_over_both_signs(dtype):
    x = draw(50, dtype=dtype)[0]
    R = hashing.rotations(16, 10, rounds=3)
    found = hashing.hash_buckets(x, R)
    assert found.shape == (1, 2, 3, 50) and found.dtype == torch.int64
    projected = np.einsum("bhtd,rdm->bhrtm", x.double().numpy(), R.double().numpy())
    both = np.sort(np.concatenate([projected, -projected], axis=-1), axis=-1)
    assert (both[..., -1] - both[..., -2] > 1e-5).all()  # no tie for rounding to break
    signed = np.concatenate([projected, -projected], axis=-1)
    assert (found.numpy() == signed.argmax(-1)).all()


def test_equal_projections_go_to_the_first_as_argmax_would_have_it():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    both = torch.cat((x, -x), dim=-1)
    assert hashing.hash_buckets(x, torch.eye(2)[None])[0].equal(both.argmax(-1))


def test_projections_are_compared_in_single_precision():
    close = torch.tensor([[1.0, 1.0001]])  # equal in half precision
    assert hashing.hash_buckets(close, torch.eye(2)[None]).item() == 1
    large = torch.tensor([[40_000.0, 45_000.0]], dtype=torch.float16)
    R = torch.tensor([[[1.0, 1.0], [1.0, 2.0]]])  # both sums overflow a half
    assert hashing.hash_buckets(large, R).item() == 1


def test_length_does_not_move_a_vector():
    x, R = draw(40, dtype=torch.float32)[0], hashing.rotations(16, 8, rounds=2)
    assert hashing.hash_buckets(64 * x, R).equal(hashing.hash_buckets(x, R))


def test_more_rounds_keep_the_first_and_a_seed_is_a_choice():
    few, many = (hashing.rotations(5, 6, rounds=n, seed=3) for n in (2, 4))
    assert many.shape == (4, 5, 3) and many[:2].equal(few)
    assert not many[0].equal(many[1])
    assert not hashing.rotations(5, 6, seed=4)[0].equal(few[0])


def test_drawing_rotations_leaves_the_random_state_of_the_reader_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    hashing.rotations(5, 6)
    assert torch.rand(1).equal(expected)


def test_bucket_sizes_count_every_vector_once():
    x, R = draw(97)[0], hashing.rotations(16, 6, rounds=3)
    sizes, found = hashing.bucket_sizes(x, R), hashing.hash_buckets(x, R)
    assert sizes.shape == (1, 2, 3, 6)
    for index in np.ndindex(1, 2, 3):
        assert sizes[index].tolist() == np.bincount(found[index], minlength=6).tolist()


# Collisions


def is_within_chance(hits, n, p):
    """Hits out of n, five standard deviations of a binomial around n p and no more."""
    assert abs(hits - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize("D, buckets", [(3, 2), (2, 4), (40, 4), (5, 16), (5, 64)])
def test_collisions_come_as_often_as_predicted(D, buckets):
    n, angles = 4000, torch.tensor([0.1, 0.5, 1.0, math.pi / 2, 2.0, 2.5])
    x = torch.zeros(len(angles), D)
    x[:, 0], x[:, 1] = angles.cos(), angles.sin()
    x = torch.cat((torch.eye(D)[:1], x))
    found = hashing.hash_buckets(x, hashing.rotations(D, buckets, rounds=n, seed=1))
    for i, angle in enumerate(angles.tolist(), start=1):
        hits = (found[:, i] == found[:, 0]).sum().item()
        is_within_chance(hits, n, collision_probability(angle, buckets))


@pytest.mark.parametrize("angle, buckets", [(1.0, 8), (2.2, 4), (0.6, 12)])
def test_the_probability_is_the_integral_it_is_said_to_be(angle, buckets):
    x, weight = np.polynomial.legendre.leggauss(40)
    x, weight = 3.5 * (x + 1), 3.5 * weight  # from 0 to 7
    pair = multivariate_normal(cov=[[1, math.cos(angle)], [math.cos(angle), 1]])
    at = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
    inside = pair.cdf(at, lower_limit=-at)
    m = buckets // 2
    expected = 2 * m * weight @ (pair.pdf(at) * inside ** (m - 1)) @ weight
    # scipy's cdf errs by up to 1e-5, and counts m - 1 times
    assert abs(collision_probability(angle, buckets) - expected) <= m * 1e-5


EVERY = (2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("buckets", EVERY)
def test_collisions_get_rarer_with_the_angle_from_always_to_never(buckets):
    angles = np.linspace(0, math.pi, 60)
    found = [collision_probability(angle, buckets) for angle in angles]
    assert found[0] == 1 and found[-1] == 0
    assert (np.diff(found) < 0).all()
    assert 1 - 1e-4 < collision_probability(1e-5, buckets) < 1
    assert 0 < collision_probability(math.pi - 1e-2, buckets) < 1e-2


@pytest.mark.parametrize("buckets", EVERY)
def test_right_angles_collide_by_chance_alone(buckets):
    assert abs(collision_probability(math.pi / 2, buckets) - 1 / buckets) < 1e-12


@pytest.mark.parametrize("angle", [1e-4, 0.3, 1.0, 2.0, 3.0])
def test_two_buckets_are_the_side_of_a_random_plane(angle):
    assert abs(collision_probability(angle, 2) - (1 - angle / math.pi)) < 1e-12


def test_more_buckets_part_vectors_that_fewer_keep_together():
    for angle in (0.05, 0.5, 1.5, 3.0):
        found = [collision_probability(angle, buckets) for buckets in EVERY]
        assert (np.diff(found) < 0).all()


def test_far_vectors_never_share_a_quarter_turn_but_may_share_a_gaussian_bucket():
    angle = math.acos(-0.8)
    assert abs(math.degrees(angle) - 143.13) < 0.005
    assert hashing.rotation_collision_probability(angle) == 0
    assert abs(collision_probability(angle, 4) - 0.042) < 5e-4


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, 1.5, 1.6, math.pi])
def test_a_rotated_plane_collides_as_often_as_predicted(angle):
    turns = np.random.default_rng(0).uniform(0, 2 * math.pi, 20_000)
    quarter = [
        (turns + x + math.pi / 4) % (2 * math.pi) // (math.pi / 2) for x in (0, angle)
    ]
    hits = (quarter[0] == quarter[1]).sum()
    p = hashing.rotation_collision_probability(angle)
    is_within_chance(hits, len(turns), p)


# Chunks


def test_sorting_and_chunking_step_by_step():
    chunks = hashing.sort_and_chunk(torch.tensor([1, 0, 1, 0, 2]), 2)
    assert chunks.order.tolist() == [1, 3, 0, 2, 4]
    assert chunks.undo.tolist() == [2, 0, 3, 1, 4]
    assert chunks.number.tolist() == [1, 0, 1, 0, 2]


@steady
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 20))
def test_sorted_tokens_keep_their_order_within_a_bucket_and_come_back(names, chunk):
    found = torch.tensor([names, names[::-1]])
    order, undo, number = hashing.sort_and_chunk(found, chunk)
    for i, row in enumerate((names, names[::-1])):
        T = len(row)
        assert order[i].tolist() == sorted(range(T), key=lambda t: (row[t], t))
        assert order[i][undo[i]].tolist() == list(range(T))
        assert number[i].tolist() == [place // chunk for place in undo[i].tolist()]


@pytest.mark.parametrize("T, chunk", [(1, 64), (63, 64), (64, 64), (97, 16), (300, 7)])
def test_cost_counts_the_pairs_of_chunks(T, chunk):
    piece = np.arange(T) // chunk
    apart = piece[:, None] - piece
    pairs = ((apart == 0) | (apart == 1)).sum()
    for rounds in (1, 4):
        assert hashing.lsh_cost_pairs(T, chunk, rounds) == rounds * pairs / T


def test_what_is_computed_is_the_cost_rounded_up_and_the_hash():
    (T, D, chunk, buckets, rounds), H = (240, 16, 32, 6, 3), 2
    qk, v = draw(T, H=H, D=D)
    how = dict(buckets=buckets, rounds=rounds, chunk=chunk)
    scores = 4 * D * 2 * chunk * rounds * (T + 16)  # whole chunks: 8 of 32
    hashes = T * D * buckets * rounds
    assert flops(lambda: lsh_attention(qk, v, **how)) == H * (scores + hashes)
    assert 0.85 < hashing.lsh_cost_pairs(T, chunk) / (2 * chunk) < 1


# Pairs


@each_order
@pytest.mark.parametrize("T, chunk", [(1, 4), (2, 1), (63, 8), (97, 16), (97, 200)])
def test_pairs_follow_the_rule(T, chunk, causal):
    qk = draw(T)[0]
    for rounds, buckets in ((1, 6), (3, 14)):
        how = dict(buckets=buckets, rounds=rounds, chunk=chunk, causal=causal)
        are_the_pairs(qk, **how)


shapes = st.fixed_dictionaries(
    dict(B=st.integers(1, 2), H=st.integers(1, 3), D=st.integers(1, 9))
)
settings_of_hash = st.fixed_dictionaries(
    dict(
        buckets=st.integers(1, 8).map(lambda m: 2 * m),
        rounds=st.integers(1, 4),
        chunk=st.integers(1, 40),
        causal=st.booleans(),
        seed=st.integers(0, 5),
    )
)


@steady
@given(st.integers(1, 30), shapes, settings_of_hash)
def test_any_shape_and_setting_follows_the_rule_and_attends_to_it(T, shape, how):
    qk, v = draw(T, **shape, dtype=torch.float32)
    pairs = are_the_pairs(qk, **how)
    assert pairs.any(-1).all()  # nobody sees nothing
    is_attention_over_its_pairs(qk, v, **how)


@steady
@given(st.integers(1, 40), settings_of_hash)
def test_another_round_takes_nothing_but_self_attention_away(T, how):
    qk, myself = draw(T)[0], torch.eye(T, dtype=torch.bool)
    fewer = lsh_pairs(qk, **how)
    more = lsh_pairs(qk, **how | dict(rounds=how["rounds"] + 1))
    assert not (fewer & ~more & ~myself).any()
    left = (fewer & ~more).any(-1)
    assert (more & ~myself).any(-1)[left].all()  # who has found another by now


def test_rounds_do_find_pairs_that_one_missed():
    qk = draw(200)[0]
    kept = [lsh_pairs(qk, buckets=8, rounds=n, chunk=16).sum() for n in (1, 2, 4)]
    assert kept[0] < kept[1] < kept[2]


def test_equal_vectors_all_see_each_other_if_one_chunk_holds_them():
    qk = draw(1)[0].expand(1, 2, 50, 16)
    myself = torch.eye(50, dtype=torch.bool)
    for chunk in (50, 64):
        pairs = lsh_pairs(qk, buckets=16, rounds=2, chunk=chunk)
        assert pairs.equal((~myself).expand_as(pairs))
    earlier = torch.ones_like(myself).tril(-1)
    earlier[0, 0] = True  # the first has only itself
    pairs = lsh_pairs(qk, buckets=16, rounds=2, chunk=50, causal=True)
    assert pairs.equal(earlier.expand_as(pairs))


@each_order
def test_queries_and_keys_of_their_own_meet_where_they_share_a_bucket(causal):
    (q, k), R = draw(30), hashing.rotations(16, 6, rounds=3)
    how = dict(buckets=6, rounds=3, causal=causal)
    pairs = hashing.shared_bucket_pairs(q, k, **how)
    of_q, of_k = (hashing.hash_buckets(x, R) for x in (q, k))
    for h, t, s in np.ndindex(2, 30, 30):
        met = any(of_q[0, h, r, t] == of_k[0, h, r, s] for r in range(3))
        assert pairs[0, h, t, s] == (met and (not causal or s <= t))


@each_order
def test_one_chunk_loses_nothing_of_shared_buckets(causal):
    qk = draw(60)[0]
    how = dict(buckets=8, rounds=2, causal=causal)
    myself = torch.eye(60, dtype=torch.bool)
    shared = hashing.shared_bucket_pairs(qk, qk, **how)
    pairs = lsh_pairs(qk, chunk=60, **how)
    assert (pairs & ~myself).equal(shared & ~myself)


# Attention


@each_order
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
@pytest.mark.parametrize("T", RAGGED)
@each_dtype
def test_it_is_softmax_over_the_union_of_rounds(dtype, T, rounds, causal):
    qk, v = draw(T, dtype=dtype)
    how = dict(buckets=8, rounds=rounds, chunk=32, causal=causal)
    is_attention_over_its_pairs(qk, v, **how)


@each_order
@pytest.mark.parametrize("scale", [1.0, -0.3, 0.0])
def test_any_scale_will_do(scale, causal):
    qk, v = draw(97, B=2, dtype=torch.float32)
    how = dict(buckets=8, rounds=2, chunk=16, causal=causal)
    is_attention_over_its_pairs(qk, v, scale, **how)


def test_a_pair_that_meets_in_every_round_counts_once():
    qk = draw(1)[0].expand(1, 2, 40, 16).clone()
    v = draw(40)[1]
    out = lsh_attention(qk, v, buckets=16, rounds=4, chunk=40)
    others = (v.sum(2, keepdim=True) - v) / 39
    assert (off(out, others) <= 1e-13).all()  # 40 terms of size 3 in float64


def test_a_token_without_another_gets_its_own_value():
    qk, v = draw(64, dtype=torch.float16)
    how = dict(buckets=32, chunk=4, causal=True)
    alone = lsh_pairs(qk, **how).diagonal(dim1=-2, dim2=-1)
    assert 2 < alone.sum() < 128
    assert lsh_attention(qk, v, **how)[alone].equal(v[alone])


def test_large_halves_do_not_overflow_and_zeros_do_not_divide():
    qk, v = draw(60, dtype=torch.float16)
    qk = (30_000 * qk).clamp(-60_000, 60_000)
    qk[:, :, 7:9] = 0
    qk.requires_grad_()
    how = dict(buckets=4, rounds=2, chunk=16)
    is_attention_over_its_pairs(qk.detach(), v, **how)
    out = lsh_attention(qk, v, **how)
    (grad,) = torch.autograd.grad(out.sum(), qk)
    assert out.isfinite().all() and grad.isfinite().all()


def test_later_values_never_reach_earlier_tokens():
    qk, v = draw(40)
    v.requires_grad_()
    out = lsh_attention(qk, v, buckets=4, rounds=3, chunk=8, causal=True)
    for t in range(40):
        (grad,) = torch.autograd.grad(out[:, :, t].sum(), v, retain_graph=True)
        assert (grad[:, :, t + 1 :] == 0).all() and (grad[:, :, : t + 1] != 0).any()


def test_a_later_token_may_move_the_borders_of_chunks_but_not_of_the_only_one():
    """The known price of sorting the whole sequence before attending causally."""
    qk = draw(64)[0]
    other = qk.clone()
    other[:, :, 48:] = draw(64, seed=1)[0][:, :, 48:]

    def before(x, chunk):
        return lsh_pairs(x, buckets=4, chunk=chunk, causal=True)[:, :, :48, :48]

    assert not before(qk, 8).equal(before(other, 8))
    assert before(qk, 64).equal(before(other, 64))


@each_order
@pytest.mark.parametrize("T, chunk", [(1, 2), (7, 2), (12, 5), (9, 20)])
def test_its_gradient_is_the_derivative(T, chunk, causal):
    qk, v = (x.requires_grad_() for x in draw(T, D=3))
    how = dict(buckets=4, rounds=2, chunk=chunk, causal=causal)
    R = hashing.rotations(3, 4, rounds=2).double()
    sizes = torch.einsum("bhtd,rdm->bhrtm", qk.detach(), R).abs()
    top = sizes.topk(2, dim=-1).values
    assert (top[..., 0] - top[..., 1]).min() > 1e-4  # steps of 1e-6 change no bucket
    assert torch.autograd.gradcheck(lambda *x: lsh_attention(*x, **how), (qk, v))


@each_order
@pytest.mark.parametrize("T", RAGGED)
@each_dtype
def test_its_gradients_are_those_of_the_formula_within_their_rounding(dtype, T, causal):
    qk, v = (x.requires_grad_() for x in draw(T, dtype=dtype))
    dout = torch.randn(qk.shape).to(dtype)
    how = dict(buckets=6, rounds=3, chunk=32, causal=causal)
    found = torch.autograd.grad(lsh_attention(qk, v, **how), (qk, v), dout)
    formula = Formula(qk.detach(), v.detach(), lsh_pairs(qk, **how), rounds=3)
    for x, exact, budget in zip(found, *formula.gradients(dout), strict=True):
        assert x.dtype == dtype
        assert (off(x, exact) <= budget).all()


def test_the_formula_s_gradients_are_derivatives():
    qk, v = (x.requires_grad_() for x in draw(20))
    dout, mask = torch.randn(qk.shape).double(), lsh_pairs(qk, buckets=4)
    out = attention(qk, F.normalize(qk, dim=-1), v, mask=mask)
    derived = torch.autograd.grad(out, (qk, v), dout)
    formula = Formula(qk.detach(), v.detach(), mask, rounds=1)
    for x, exact, budget in zip(derived, *formula.gradients(dout), strict=True):
        assert (off(x, exact) <= budget).all()


class Largest(TorchDispatchMode):
    """The most entries that a tensor made by an operation has."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *made])
        return out


@pytest.mark.parametrize("T", [1024, 2048])
def test_no_tensor_is_larger_than_all_chunks_and_those_before(T):
    qk, v = (x.requires_grad_() for x in draw(T, H=1, dtype=torch.float32))
    how = dict(buckets=T // 32, rounds=3, chunk=64)
    with Largest() as largest:
        lsh_attention(qk, v, **how).sum().backward()
    assert largest.entries == 2 * 64 * T
    with Largest() as largest:
        lsh_pairs(qk, **how)
    assert largest.entries == T * T


def test_it_runs_with_what_mps_has():
    qk, v = (x.requires_grad_() for x in draw(70, dtype=torch.float32))
    how = dict(buckets=6, rounds=2, causal=True)
    with LikeMPS():
        lsh_attention(qk, v, chunk=16, **how).sum().backward()
        pairs = lsh_pairs(qk, chunk=16, **how) | hashing.shared_bucket_pairs(
            qk, v, **how
        )
        weights = attention_weights(qk, qk, v)
        hashing.attention_recall(weights, pairs)
        hashing.bucket_sizes(qk, hashing.rotations(16, 6))
    assert qk.grad.isfinite().all()


# Recall


def test_recall_is_the_mass_that_is_kept():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])
    pairs = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 1]]).bool()
    recall = hashing.attention_recall(weights[None, None], pairs[None, None])
    assert recall.shape == (1, 1)
    assert abs(recall.item() - (0.75 + 0 + 0.9) / 3) < 1e-6
    everything = torch.ones_like(pairs)[None, None]
    assert abs(hashing.attention_recall(weights[None, None], everything) - 1) < 1e-6
    assert hashing.attention_recall(weights[None, None], ~everything) == 0


def recalled(draw_seed, **how):
    """Of the attention among tokens in clusters, each to all but itself."""
    qk = clustered(256, 16, seed=draw_seed)
    myself = torch.eye(256, dtype=torch.bool)
    k = F.normalize(qk, dim=-1)
    weights = attention_weights(qk, k, k, mask=~myself, scale=1.0)
    return hashing.attention_recall(weights, lsh_pairs(qk, chunk=256, **how)).mean()


def test_recall_grows_with_rounds_and_shrinks_with_buckets():
    by_rounds = [recalled(0, buckets=16, rounds=n) for n in (1, 2, 4, 8)]
    assert (np.diff(by_rounds) > 0).all() and by_rounds[-1] > 0.9
    by_buckets = [
        np.mean([recalled(s, buckets=n, seed=s) for s in range(10)]) for n in (2, 4, 16)
    ]
    assert (np.diff(by_buckets) < 0).all()


# Errors


def x(*shape, **how):
    return torch.ones(shape or (1, 2, 5, 8), **how)


def attend(**changed):
    return lsh_attention(**dict(qk=x(), v=x(), buckets=4) | changed)


def pairs(**changed):
    return lsh_pairs(**dict(qk=x(), buckets=4) | changed)


def share(**changed):
    return hashing.shared_bucket_pairs(**dict(q=x(), k=x(), buckets=4) | changed)


def recall(**changed):
    given = dict(weights=x(1, 2, 5, 5) / 5, pairs=x(1, 2, 5, 5).bool())
    return hashing.attention_recall(**given | changed)


BAD = {
    "D": ("D", 0, lambda: hashing.rotations(0, 4)),
    "odd buckets": ("buckets", 5, lambda: hashing.rotations(3, 5)),
    "no buckets": ("buckets", 0, lambda: attend(buckets=0)),
    "half a bucket": ("buckets", 2.0, lambda: pairs(buckets=2.0)),
    "odd collisions": ("buckets", 3, lambda: collision_probability(1.0, 3)),
    "no rounds": ("rounds", 0, lambda: attend(rounds=0)),
    "seed": ("seed", -1, lambda: share(seed=-1)),
    "chunk": ("chunk", 0, lambda: attend(chunk=0)),
    "chunk of pairs": ("chunk", 0, lambda: pairs(chunk=0)),
    "chunk of sorting": ("chunk", 0, lambda: hashing.sort_and_chunk(x(3).long(), 0)),
    "scale": ("scale", "nan", lambda: attend(scale=math.nan)),
    "qk of three axes": ("qk", (2, 5, 8), lambda: attend(qk=x(2, 5, 8))),
    "qk without tokens": ("qk", (1, 2, 0, 8), lambda: pairs(qk=x(1, 2, 0, 8))),
    "qk of whole numbers": ("qk", "int64", lambda: pairs(qk=x().long())),
    "qk is a list": ("qk", "list", lambda: attend(qk=[1.0])),
    "v of another shape": ("v", (1, 2, 4, 8), lambda: attend(v=x(1, 2, 4, 8))),
    "v of another dtype": ("v", "float16", lambda: attend(v=x().half())),
    "v elsewhere": ("v", "meta", lambda: attend(v=x(device="meta"))),
    "k of another shape": ("k", (1, 2, 6, 8), lambda: share(k=x(1, 2, 6, 8))),
    "x without tokens": ("x", (8,), lambda: hashing.hash_buckets(x(8), x(1, 8, 2))),
    "R of two axes": ("R", (8, 2), lambda: hashing.hash_buckets(x(), x(8, 2))),
    "R of another D": ("R", (1, 7, 2), lambda: hashing.bucket_sizes(x(), x(1, 7, 2))),
    "angle too large": ("angle", 3.2, lambda: collision_probability(3.2, 4)),
    "angle below zero": (
        "angle",
        -0.1,
        lambda: hashing.rotation_collision_probability(-0.1),
    ),
    "angle is NaN": ("angle", "nan", lambda: collision_probability(math.nan, 4)),
    "fractions for buckets": (
        "buckets",
        "float32",
        lambda: hashing.sort_and_chunk(x(3), 2),
    ),
    "buckets below zero": (
        "buckets",
        -1,
        lambda: hashing.sort_and_chunk(-x(3).long(), 2),
    ),
    "no tokens to sort": (
        "buckets",
        (0,),
        lambda: hashing.sort_and_chunk(x(0).long(), 2),
    ),
    "T of the cost": ("T", 0, lambda: hashing.lsh_cost_pairs(0, 4)),
    "weights of three axes": ("weights", (2, 5, 5), lambda: recall(weights=x(2, 5, 5))),
    "weights that sum to 5": ("weights", 5, lambda: recall(weights=x(1, 2, 5, 5))),
    "pairs of numbers": ("pairs", "float32", lambda: recall(pairs=x(1, 2, 5, 5))),
    "pairs too small": ("pairs", (5, 5), lambda: recall(pairs=x(5, 5).bool())),
}


@pytest.mark.parametrize("name, got, call", BAD.values(), ids=BAD)
def test_bad_input_is_explained(name, got, call):
    explains(call, name, got)
