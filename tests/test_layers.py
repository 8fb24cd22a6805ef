"""The parts of a GPT: each against its formula, its laws, and what it must refuse."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn.attention import attention, causal_mask
from sparse_attn.layers import (
    GELU,
    GroupedQueryAttention,
    RMSNorm,
    Scores,
    SwiGLU,
    fused_attention,
    rotate,
    window_mask,
)

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("plain", "causal", "mask", "mask and causal")
LENGTHS = ((1, 1), (2, 2), (63, 63), (97, 97), (1, 97), (13, 40), (40, 13), (5, 1))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
EPS64 = torch.finfo(torch.float64).eps

steady = settings(max_examples=40)


def draw(T, S, *, Hkv=4, D=16, seed=0):
    torch.manual_seed(seed)
    q = torch.randn(2, 4, T, D, dtype=torch.float64)
    k, v = (torch.randn(2, Hkv, S, D, dtype=torch.float64) for _ in range(2))
    return q, k, v


def options(kind, T, S):
    mask = torch.rand(T, S) < 0.6
    mask[T // 2] = False  # one query sees nothing at all
    return dict(causal="causal" in kind, mask=mask if "mask" in kind else None)


def worst(out, exact):
    return (out.double() - exact).abs().max().item()


def results(f, qkv, weights, **options):
    """The output and the gradients of a weighted sum of it."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    out = f(*leaves, **options)
    return out.detach(), *torch.autograd.grad(out, leaves, weights.to(out.dtype))


@pytest.mark.parametrize("Hkv", [4, 2, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T, S", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_is_at_most_twice_as_wrong_as_the_formula(dtype, T, S, kind, Hkv):
    qkv = [x.to(dtype) for x in draw(T, S, Hkv=Hkv)]
    given, weights = options(kind, T, S), torch.randn(2, 4, T, 16).to(dtype)
    exact = results(attention, [x.double() for x in qkv], weights, **given)
    plain = results(attention, qkv, weights, **given)
    fused = results(fused_attention, qkv, weights, **given)
    for ours, formula, truth, size in zip(
        fused, plain, exact, sizes(*qkv, weights), strict=True
    ):
        assert ours.dtype == dtype
        # In float64 the formula is itself the truth: each of the terms is rounded.
        terms = T + S + 16 if dtype == torch.float64 else 1
        slack = terms * torch.finfo(dtype).eps * size
        assert worst(ours, truth) <= 2 * worst(formula, truth) + slack


def sizes(q, k, v, weights):
    """The largest number that is rounded on the way to the output and q, k, v grads.

    The gradient of a score is a difference of two numbers of this size, and with one
    key it is exactly 0 in the formula, but not in the kernel.
    """
    q, k, v, weights = (x.double().abs() for x in (q, k, v, weights))
    groups, T = q.shape[1] // k.shape[1], q.shape[-2]
    score = (weights @ v.repeat_interleave(groups, 1).mT).max() / q.shape[-1] ** 0.5
    shared = T * groups  # queries whose gradients a key adds up
    return v.max(), score * k.max(), shared * score * q.max(), shared * weights.max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("Hkv", [4, 1])
def test_fused_gives_zero_and_no_nan_gradient_where_nothing_is_seen(dtype, Hkv):
    q, k, v = (x.to(dtype).requires_grad_() for x in draw(6, 4, Hkv=Hkv))
    mask = torch.rand(6, 4) < 0.7
    mask[3] = False
    for option, blind in ((dict(causal=True), [0, 1]), (dict(mask=mask), [3])):
        out = fused_attention(q, k, v, **option)
        assert (out[:, :, blind] == 0).all()
        grads = torch.autograd.grad(out.sum(), (q, k, v))
        assert all(g.isfinite().all() for g in grads)
        assert (grads[0][:, :, blind] == 0).all()


def test_fused_does_not_hide_a_nan_that_a_query_does_see():
    q, k, v = draw(4, 4)
    q[0, 0, 2] = torch.nan
    out = fused_attention(q, k, v, mask=torch.ones(4, 4, dtype=torch.bool))
    assert out[0, 0, 2].isnan().all()
    assert out[0, 0, [0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("shape", [(9,), (7, 1), (7, 9), (4, 7, 9), (2, 1, 7, 9)])
@pytest.mark.parametrize("Hkv", [4, 2])
def test_fused_broadcasts_every_mask_that_the_formula_does(shape, Hkv):
    q, k, v = draw(7, 9, Hkv=Hkv)
    mask = torch.rand(shape) < 0.6
    for causal in (False, True):
        ours = fused_attention(q, k, v, mask=mask, causal=causal)
        formula = attention(q, k, v, mask=mask, causal=causal)
        assert worst(ours, formula) <= 9 * EPS64 * v.abs().max()


def test_fused_takes_the_scale_of_the_formula():
    q, k, v = draw(7, 7)
    ours, formula = (
        f(q, k, v, causal=True, scale=0.7) for f in (fused_attention, attention)
    )
    assert worst(ours, formula) <= 2 * 16 * EPS64 * v.abs().max()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(mask=torch.zeros(5, 5)), r"mask is torch.float32"),
        (dict(q=torch.zeros(5, 8)), r"q has shape \(5, 8\)"),
        (dict(k=torch.zeros(1, 3, 5, 8)), r"k has shape|k \(1, 3, 5, 8\)"),
    ],
)
def test_fused_refuses_what_the_formula_refuses(change, message):
    given = dict.fromkeys("qkv", torch.zeros(1, 4, 5, 8)) | change
    for f in (fused_attention, attention):
        with pytest.raises(ValueError, match=message):
            f(given["q"], given["k"], given["v"], mask=given.get("mask"))


@steady
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.integers(0, 14))
def test_window_mask_is_its_definition_pair_by_pair(T, S, window, sinks):
    mask = window_mask(T, S, window, sinks).tolist()
    for t in range(T):
        now = t + S - T  # the key that stands where the query does
        for s in range(S):
            near = now - window < s <= now
            assert mask[t][s] == (near or (s < sinks and s <= now)), (t, s)


@pytest.mark.parametrize("T, S", LENGTHS)
def test_a_window_of_everything_is_the_causal_mask(T, S):
    assert window_mask(T, S, max(T, S)).equal(causal_mask(T, S))


@pytest.mark.parametrize("attend", ["fused", "formula"])
@pytest.mark.parametrize("T, S", [(9, 9), (1, 9), (3, 9), (4, 4), (1, 1)])
def test_scores_see_the_window_and_the_sinks(attend, T, S):
    q, k, v = draw(T, S, Hkv=2)
    out = Scores(4, 2, attend)(q, k, v)
    mask = [
        [s <= t + S - T and (s > t + S - T - 4 or s < 2) for s in range(S)]
        for t in range(T)
    ]
    exact = attention(q, k, v, mask=torch.tensor(mask))
    assert worst(out, exact) <= 2 * 16 * EPS64 * v.abs().max()


def by_complex_numbers(x, positions, base):
    """x_i + j x_{i+D/2}, times e^{j position / base^(2i/D)}."""
    D = x.shape[-1]
    pairs = torch.complex(x[..., : D // 2], x[..., D // 2 :])
    for i in range(D // 2):
        speed = base ** (-2 * i / D)
        turns = [complex(math.cos(p * speed), math.sin(p * speed)) for p in positions]
        pairs[..., i] *= torch.tensor(turns, dtype=torch.complex128)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@steady
@given(
    half=st.integers(1, 9),
    positions=st.lists(st.integers(0, 4096), min_size=1, max_size=9),
    base=st.sampled_from([100.0, 10_000.0, 500_000.0]),
)
def test_rotate_is_multiplication_by_a_complex_number(half, positions, base):
    torch.manual_seed(half)
    x = torch.randn(2, 3, len(positions), 2 * half, dtype=torch.float64)
    out = rotate(x, torch.tensor(positions), base)
    # A wave's speed is off by a few eps, its angle by `position` times that.
    slack = 8 * EPS64 * (1 + max(positions)) * x.abs().max() * math.sqrt(2)
    assert worst(out, by_complex_numbers(x, positions, base)) <= slack


@steady
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=9))
def test_rotate_keeps_the_length_of_every_vector(positions):
    x = torch.randn(len(positions), 16, dtype=torch.float64)
    out = rotate(x, torch.tensor(positions))
    assert worst(out.norm(dim=-1), x.norm(dim=-1)) <= 16 * EPS64 * x.norm(dim=-1).max()


@steady
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 5000))
def test_rotated_products_depend_on_the_distance_alone(m, n, shift):
    torch.manual_seed(m)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64)
    near, far = (
        rotate(q, torch.tensor([m + s])) @ rotate(k, torch.tensor([n + s])).mT
        for s in (0, shift)
    )
    slack = 16 * EPS64 * (1 + max(m, n) + shift) * q.norm() * k.norm()
    assert worst(near, far) <= slack


def test_rotate_leaves_position_zero_alone():
    x = torch.randn(2, 1, 8)
    assert rotate(x, torch.tensor([0])).equal(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rotate_computes_its_angles_no_worse_than_float32(dtype):
    x = torch.randn(8, 16).to(dtype)
    positions = torch.arange(2040, 2048)
    out, exact = rotate(x, positions), rotate(x.double(), positions)
    assert out.dtype == dtype
    u, u32 = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    # cos, sin, two products and a sum are rounded; the angle is off by 2 eps in 2048.
    slack = (3 * u + 2 * 2048 * u32) * math.sqrt(2) * x.double().abs().max()
    assert worst(out, exact) <= slack


def test_rotate_refuses_an_odd_head_width():
    with pytest.raises(ValueError, match=r"D=7.*even"):
        rotate(torch.zeros(1, 7), torch.tensor([0]))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 64)])
def test_rms_norm_is_its_formula_and_its_derivative(shape):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    norm = RMSNorm(shape[-1], eps=1e-5).double()
    with torch.no_grad():
        norm.weight.normal_()
    root = ((x**2).sum(-1, keepdim=True) / shape[-1] + 1e-5) ** 0.5
    exact = norm.weight * x / root
    assert worst(norm(x), exact) <= (shape[-1] + 8) * EPS64 * exact.abs().max()
    if x.numel() < 100:
        assert torch.autograd.gradcheck(norm, x)


def test_rms_norm_of_zeros_is_zero():
    assert (RMSNorm(8)(torch.zeros(3, 8)) == 0).all()


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_is_its_formula_and_its_derivative(bias):
    torch.manual_seed(2)
    mlp = SwiGLU(5, 7, bias=bias).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    gate, up, down = (part.weight for part in (mlp.gate, mlp.up, mlp.down))
    b = [part.bias if bias else 0.0 for part in (mlp.gate, mlp.up, mlp.down)]
    z = x @ gate.T + b[0]
    exact = (z / (1 + (-z).exp()) * (x @ up.T + b[1])) @ down.T + b[2]
    assert worst(mlp(x), exact) <= 32 * EPS64 * max(1, exact.abs().max())
    assert torch.autograd.gradcheck(mlp, x)


def test_the_mlp_of_gpt2_is_its_formula_and_its_derivative():
    torch.manual_seed(3)
    mlp = GELU(5, 7).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    z = x @ mlp.up.weight.T + mlp.up.bias
    bent = z / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    exact = bent @ mlp.down.weight.T + mlp.down.bias
    assert worst(mlp(x), exact) <= 32 * EPS64 * max(1, exact.abs().max())
    assert torch.autograd.gradcheck(mlp, x)


def by_hand(layer, x):
    """Multi-head attention, head by head, from the weight matrices of `layer`."""
    D, T = layer.head_width, x.shape[1]
    out = []
    for h in range(layer.query.weight.shape[0] // D):
        rows = slice(h * D, (h + 1) * D)
        q, k, v = (
            x @ part.weight[rows].T + part.bias[rows]
            for part in (layer.query, layer.key, layer.value)
        )
        scores = q @ k.mT / D**0.5
        future = torch.ones(T, T).triu(1).bool()
        out.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v)
    return torch.cat(out, -1) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize("T", [1, 2, 17])
@pytest.mark.parametrize("attend", ["fused", "formula"])
def test_with_as_many_kv_heads_it_is_multi_head_attention_by_hand(T, attend):
    torch.manual_seed(4)
    layer = GroupedQueryAttention(24, 4, 4, attend=attend).double()
    x = torch.randn(2, T, 24, dtype=torch.float64)
    exact = by_hand(layer, x)
    assert worst(layer(x), exact) <= 64 * EPS64 * max(1, exact.abs().max())
    assert GroupedQueryAttention(24, 4).key.weight.shape == layer.key.weight.shape


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("attend", ["fused", "formula"])
def test_shared_heads_are_multi_head_attention_with_repeated_weights(attend, kv_heads):
    torch.manual_seed(5)
    shared = GroupedQueryAttention(24, 4, kv_heads, attend=attend).double()
    full = GroupedQueryAttention(24, 4).double()
    state = shared.state_dict()
    for name in ("key.weight", "key.bias", "value.weight", "value.bias"):
        heads = state[name].unflatten(0, (kv_heads, 6))
        state[name] = heads.repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(2, 17, 24, dtype=torch.float64)
    exact = by_hand(full, x)
    assert worst(shared(x), exact) <= 64 * EPS64 * max(1, exact.abs().max())


def test_rotary_attention_turns_queries_and_keys_but_not_values():
    torch.manual_seed(6)
    layer = GroupedQueryAttention(24, 4, 2, rotary=True).double()
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    q, k, v = layer.project(x)
    q, k = (by_complex_numbers(y, range(9), 10_000.0) for y in (q, k))
    heads = attention(q, k, v, causal=True)
    exact = F.linear(torch.cat(heads.unbind(1), -1), layer.out.weight, layer.out.bias)
    assert worst(layer(x), exact) <= 128 * EPS64 * max(1, exact.abs().max())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(width=10, heads=4), "width=10.*heads=4"),
        (dict(width=12, heads=4, kv_heads=3), "heads=4.*kv_heads=3"),
        (dict(width=12, heads=4, kv_heads=8), "heads=4.*kv_heads=8"),
        (dict(width=12, heads=4, kv_heads=0), "kv_heads=0"),
        (dict(width=12, heads=0), "heads=0"),
        (dict(width=0, heads=4), "width=0"),
        (dict(width=12, heads=4, window=0), "window=0"),
        (dict(width=12, heads=4, window=2.5), "window=2.5"),
        (dict(width=12, heads=4, window=4, sinks=-1), "sinks=-1"),
        (dict(width=12, heads=4, attend="flash"), "attend='flash'.*fused"),
    ],
)
def test_attention_refuses_what_does_not_fit_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupedQueryAttention(**arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: window_mask(0, 4, 2), "T=0"),
        (lambda: window_mask(4, 4, 0), "window=0"),
        (lambda: window_mask(4, 4, 2, -1), "sinks=-1"),
        (lambda: RMSNorm(0), "width=0"),
        (lambda: SwiGLU(4, 0), "hidden=0"),
        (lambda: GELU(4, 1.5), "hidden=1.5"),
    ],
)
def test_the_other_parts_refuse_sizes_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
