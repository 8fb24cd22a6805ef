"""What ranks attend to: tensors drawn from a seed, or those of a model from a file.

Knows sizes and values; leaves to `trial` which rank gets which part.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparse_attn.checks import check_choice, check_qkv
from sparse_attn.distributed.settings import DRAWN, Settings

KINDS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
TOPICS, STRETCH = 16, 256  # of "clustered": how many, and tokens that share one


def sized(s: Settings) -> Settings:
    """The settings with sizes and dtype of the file that `qkv` names, if it does.

    The file is in the safetensors format: q (B, H, T, D), k and v (B, Hkv, T, D).
    Raises ValueError for a file that cannot be read or does not hold these.
    """
    if s.qkv in DRAWN:
        return s
    try:
        with safe_open(s.qkv, framework="pt") as file:
            found = {x: file.get_slice(x) for x in file.keys()}  # noqa: SIM118
            kinds = {name: x.get_dtype() for name, x in found.items()}
            shapes = {name: x.get_shape() for name, x in found.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"qkv={s.qkv!r}: one of {DRAWN} or a safetensors file is needed: {error}"
        ) from error
    if not {"q", "k", "v"} <= found.keys():
        raise ValueError(f"qkv={s.qkv!r} holds {sorted(found)}: q, k, v are needed")
    for name in "qkv":
        check_choice(f"dtype of {name}", kinds[name], KINDS)
    kind = getattr(torch, KINDS[kinds["q"]])
    like = {x: getattr(torch, KINDS[kinds[x]]) for x in "qkv"}
    check_qkv(*(torch.empty(shapes[x], dtype=like[x], device="meta") for x in "qkv"))
    (B, H, T, D), (_, heads, S, _) = shapes["q"], shapes["k"]
    if S != T:
        raise ValueError(f"qkv={s.qkv!r} has {S} keys: as many as the {T} queries fit")
    sizes = dict(tokens=T, batch=B, heads=H, kv_heads=heads, head_dim=D)
    return replace(s, dtype=str(kind).removeprefix("torch."), **sizes)


def inputs(s: Settings, device: torch.device) -> list[Tensor]:
    """q (B, H, T, D), k and v (B, Hkv, T, D) of settings that `sized` has returned.

    "random": standard normal numbers. "clustered": the same, but in q and k half of the
    variance is a vector that a stretch of 256 tokens shares with others of its topic,
    one of 16: made up, so that neighbors look for the same places, as in a text.
    """
    if s.qkv in DRAWN:
        source = torch.Generator().manual_seed(s.seed)  # the same on any device
        found = [torch.randn(x, generator=source) for x in shapes_of(s, s.tokens)]
        if s.qkv == "clustered":
            found[:2] = _clustered(*found[:2], source)
    else:
        with safe_open(s.qkv, framework="pt") as file:
            found = [file.get_tensor(name) for name in "qkv"]
    return [x.to(device, getattr(torch, s.dtype)) for x in found]


def shapes_of(s: Settings, tokens: int) -> list[tuple[int, ...]]:
    """Shapes of q, k and v of so many tokens."""
    heads = (s.heads, s.kv_heads, s.kv_heads)
    return [(s.batch, h, tokens, s.head_dim) for h in heads]


def _clustered(q: Tensor, k: Tensor, source: torch.Generator) -> list[Tensor]:
    B, heads, T, D = k.shape
    topics = torch.randn(B, heads, TOPICS, D, generator=source)
    stretches = torch.randint(TOPICS, (B, -(-T // STRETCH)), generator=source)
    of = stretches.repeat_interleave(STRETCH, dim=1)[:, None, :T, None]  # (B, 1, T, 1)
    shared = topics.gather(2, of.expand(B, heads, T, D))  # (B, Hkv, T, D)
    groups = q.shape[1] // heads
    asked = shared.repeat_interleave(groups, dim=1)
    return [(q + asked) / 2**0.5, (k + shared) / 2**0.5]
