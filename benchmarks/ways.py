"""Ways to attend that benchmarks time or judge, each as one call."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.nn.attention import flex_attention

from sparse_attn import kernels
from sparse_attn.attending import attending
from sparse_attn.patterns.flex import BLOCK, listed_mask

KEEP, DECODE_KEEP = 512, 1024
SHAPES = ((16, 16), (32, 16), (64, 16), (64, 64), (128, 64))  # queries, keys of a block


def settings(device):
    """(H, Hkv, D, dtype): what a model of such a device would have."""
    if device.type == "cuda":
        return 16, 4, 128, torch.bfloat16
    return 8, 8, 64, torch.float32


def drawn(device, T: int):
    H, Hkv, D, dtype = settings(device)
    like = dict(device=device, dtype=dtype)
    return torch.randn(1, H, T, D, **like), *torch.randn(2, 1, Hkv, T, D, **like)


def sparse(block_q=64, block_k=16, **how):
    """`kernels.sparse_attention` as it is timed and judged, never dense."""
    sizes = dict(block_q=block_q, block_k=block_k, local=64 // block_k, dense_below=0)
    return partial(kernels.sparse_attention, keep=KEEP, causal=True, **sizes | how)


def window(block_q=64, block_k=16, **how):
    """The same engine with a list that is all window and sink."""
    return sparse(block_q, block_k, local=(KEEP - block_q) // block_k - 1, **how)


def by(attend):
    return lambda net: attending(net, lambda layer, q, k, v: attend(q, k, v))


def tokenwise(q, k, v):
    """The obvious top-K: all scores, the best keys of each query, each row gathered."""
    out = torch.empty_like(q)
    groups = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        near, far = k[:, h // groups], v[:, h // groups]
        scores = q[:, h] @ near.mT / math.sqrt(q.shape[-1])  # (B, T, T)
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        best = scores.masked_fill_(hidden, -torch.inf).topk(KEEP, dim=-1)
        near, far = (x[0, best.indices[0]] for x in (near, far))  # (T, K, D)
        weights = (near @ q[0, h, :, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])
        weights = weights.masked_fill(best.values[0] == -torch.inf, -torch.inf)
        out[0, h] = (weights.softmax(-1)[:, None] @ far).squeeze(1)
    return out


def flexed(q, k, v):
    """FlexAttention on blocks of 128 keys chosen alike, compiled."""
    blocks = kernels.select_blocks(
        q, k, KEEP // BLOCK, causal=True, block_q=BLOCK, block_k=BLOCK, local=1
    )
    mask = listed_mask(blocks, q.shape[2])
    attend = torch.compile(flex_attention.flex_attention, dynamic=False)
    how = dict(block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return partial(attend, q, k, v, **how)


@torch.no_grad()
def read(net, tokens):
    """A text read by a GPT, and logits of the next token alone."""
    x = net.embed(tokens)
    for block in net.blocks:
        x = block(x)
    return net.head(net.norm(x[:, -1]))
