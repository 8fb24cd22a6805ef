"""What exact attention is, said twice: random inputs, loops in float64, rounding.

Every attention in the package is tested against these.
"""

import itertools

import numpy as np
import torch

from sparse_attn.attention import attention, attention_weights

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
RAGGED = (1, 2, 63, 97, 300)


def draw(T, S, *, B=1, H=2, Hkv=2, D=16, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    q = torch.randn(B, H, T, D, dtype=torch.float64)
    k, v = (torch.randn(B, Hkv, S, D, dtype=torch.float64) for _ in range(2))
    return tuple(x.to(dtype) for x in (q, k, v))


def options(kind, T, S):
    """Keyword arguments, and the same rule as (t, s) -> bool, said without tensors."""
    seen = torch.rand(T, S) < 0.7
    causal, masked = "causal" in kind, "mask" in kind
    table = seen.tolist()

    def sees(t, s):
        return (not causal or s <= t + S - T) and (not masked or table[t][s])

    return dict(causal=causal, mask=seen if masked else None), sees


def by_loops(q, k, v, sees, scale=None):
    """softmax(q kᵀ · scale) v in float64, query by query, and what rounding may add.

    The standard error model: storing a number multiplies it by at most e^u, each step
    of a sum by e^a (halves are summed in float32). Scores then err by at most `shift`,
    and weight s by at most a factor exp(shift_s) · Σ w exp(shift).
    """
    own = torch.finfo(torch.float64).eps / 2  # these loops round too
    u = torch.finfo(q.dtype).eps / 2 + own
    a = min(u, torch.finfo(torch.float32).eps / 2 + own)
    smallest = torch.finfo(q.dtype).smallest_normal * u
    q, k, v = (x.double().numpy() for x in (q, k, v))
    (B, H, T, D), S = q.shape, k.shape[2]
    group, scale = H // k.shape[1], D**-0.5 if scale is None else scale
    out, budget = np.zeros((2, B, H, T, D))
    for t in range(T):
        keys = [s for s in range(S) if sees(t, s)]
        for b, h in itertools.product(range(B), range(H)) if keys else ():
            x, mine, values = q[b, h, t], k[b, h // group, keys], v[b, h // group, keys]
            scores = scale * (mine @ x)
            w = np.exp(scores - scores.max())
            w /= w.sum()
            out[b, h, t] = w @ values

            products = abs(scale) * (abs(mine) @ abs(x))
            shift = np.expm1(2 * u + (D + 2) * a) * products + 2 * a * products.max()
            grown = shift + np.log1p(w @ np.expm1(shift)) + (2 * S + 4) * a + 2 * u
            budget[b, h, t] = (w * np.expm1(grown) + smallest) @ abs(values)
    return torch.from_numpy(out), torch.from_numpy(budget)


def off(out, expected):
    return (out.double() - expected).abs()


def gradients(attend, q, k, v, dout, **given):
    """The gradients of q, k and v for the gradient `dout` of the output."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    return torch.autograd.grad(attend(q, k, v, **given), (q, k, v), dout)


def exact_gradients(q, k, v, dout, *, causal=False, mask=None):
    """Gradients of the specification in float64, and what rounding may add to each.

    The error model of `by_loops`, for programs that compute the weights P once more
    from a log-sum-exp and subtract rowsum(dO ∘ O), both stored in the dtype of q.
    """
    own = torch.finfo(torch.float64).eps / 2
    u = torch.finfo(q.dtype).eps / 2 + own
    a = min(u, torch.finfo(torch.float32).eps / 2 + own)
    smallest = torch.finfo(q.dtype).smallest_normal * u
    q, k, v, dout = (x.double() for x in (q, k, v, dout))
    exact = gradients(attention, q, k, v, dout, causal=causal, mask=mask)
    P = attention_weights(q, k, v, causal=causal, mask=mask)
    groups, D = q.shape[1] // k.shape[1], q.shape[-1]
    T, S, scale = q.shape[-2], k.shape[-2], D**-0.5
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    out, slope = P @ v, dout @ v.mT  # (B, H, T, D), (B, H, T, S)
    slope = P * (slope - (dout * out).sum(-1, keepdim=True)).abs()

    size = scale * (q.abs() @ k.mT.abs())  # bounds every score and the log-sum-exp
    shift = (D + 5) * a * size
    worst = shift.amax(-1, keepdim=True) + 2 * a * size.amax(-1, keepdim=True)
    off_P = P * torch.expm1(shift + worst + (2 * S + 8) * a + 2 * u)
    off_out = off_P @ v.abs() + u * out.abs() + smallest
    apart = (D + 2) * a * (dout.abs() @ v.mT.abs())  # of dO Vᵀ
    row = dout.abs() * (off_out + (D + 2) * a * out.abs())  # of rowsum(dO ∘ O)
    off_slope = P * (apart + row.sum(-1, keepdim=True)) + u * slope
    off_slope += slope * off_P / P.clamp_min(torch.finfo(torch.float64).tiny)
    off_slope += smallest

    longest = (max(S, T * groups) + 2) * a
    far = scale * (off_slope + longest * slope)
    of_v = (off_P + longest * P).mT @ dout.abs()
    budgets = far @ k.abs(), _to_key_heads(far.mT @ q.abs(), groups)
    budgets = *budgets, _to_key_heads(of_v, groups)
    return exact, [
        budget + u * x.abs() + smallest
        for budget, x in zip(budgets, exact, strict=True)
    ]


def _to_key_heads(x, groups):
    """(B, H, S, D) -> (B, Hkv, S, D): the queries of one key head add up."""
    return x.unflatten(1, (-1, groups)).sum(dim=2)
