"""Validation of arguments: one short call each, errors that say what was got.

Knows what a well-formed argument is; leaves what it means to the caller.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real

import torch
from torch import Tensor


def check_count(name: str, value: int, *, least: int = 1, most: int | None = None):
    """`value` is a whole number from `least` to `most`; anything else raises."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        fits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: a whole number {fits} is needed")


def check_counts(**counts: int):
    """Every keyword is a whole number of at least 1."""
    for name, value in counts.items():
        check_count(name, value)


def check_finite(name: str, value: float):
    """`value` is a real number, neither NaN nor infinite; anything else raises."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: a finite number is needed")


def check_choice(name: str, value: object, known: Collection):
    """`value` is one of `known`; anything else raises."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: choose from {list(known)}")


def check_qkv(q: Tensor, k: Tensor, v: Tensor):
    """q (B, H, T, D) and k, v (B, Hkv, S, D) fit each other; otherwise raises."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.ndim != 4:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
            raise ValueError(f"{name} has {got}: 4 axes (B, H, T, D) are needed")
        if 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: no axis may be empty")
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}: a floating-point dtype is needed")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} is {x.dtype} on {x.device} but q is {q.dtype} on {q.device}: "
                "one dtype and one device are needed"
            )
    if k.shape != v.shape:
        raise ValueError(
            f"k has shape {tuple(k.shape)} but v {tuple(v.shape)}: they must be equal"
        )
    (B, H, _, D), (Bk, Hk, _, Dk) = q.shape, k.shape
    if (Bk, Dk) != (B, D) or H % Hk:
        raise ValueError(
            f"q has shape {tuple(q.shape)} but k {tuple(k.shape)}: batch and head "
            f"dimension must agree, and the {H} query heads be a multiple of {Hk}"
        )


def check_mask(mask: Tensor, q: Tensor, S: int):
    """`mask` is bool, beside q (B, H, T, D), and broadcasts to (B, H, T, S)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask)
        raise ValueError(f"mask is {got}: torch.bool is needed, True for 'may see'")
    if mask.device != q.device:
        raise ValueError(f"mask is on {mask.device} but q on {q.device}")
    full = (*q.shape[:3], S)
    try:
        mask.broadcast_to(full)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: it must broadcast to {full}"
        ) from None


def check_vectors(name: str, x: Tensor, axes: str):
    """`x` is a floating-point tensor with the named axes, none of them empty.

    Axes that begin with "..." are the last ones, whatever comes before.
    """
    least = len(axes.replace("...", "").strip(", ").split(","))
    fits = isinstance(x, Tensor) and (
        x.ndim >= least if axes.startswith("...") else x.ndim == least
    )
    if not fits:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
        raise ValueError(f"{name} has {got}: axes ({axes}) are needed")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: no axis may be empty")
    if not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype}: a floating-point dtype is needed")


def check_alike(name: str, x: Tensor, other: str, y: Tensor, but: int | None = None):
    """`x` has the shape, dtype and device of `y`; otherwise raises.

    but: an axis along which the lengths may differ.
    """
    for what in ("shape", "dtype", "device"):
        got, wanted = getattr(x, what), getattr(y, what)
        if what == "shape" and but is not None and len(got) == len(wanted):
            wanted = (*wanted[:but], got[but], *wanted[but + 1 :])
        if got != wanted:
            got, wanted = (tuple(s) if what == "shape" else s for s in (got, wanted))
            raise ValueError(
                f"{name} has {what} {got} but {other} {wanted}: they must be equal"
            )


def check_weights(weights: Tensor, pairs: Tensor):
    """`weights` (B, H, T, S) have rows of sum 1, and bool `pairs` the same shape."""
    check_vectors("weights", weights, "B, H, T, S")
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.bool:
        got = pairs.dtype if isinstance(pairs, Tensor) else type(pairs)
        raise ValueError(f"pairs is {got}: torch.bool is needed, True for 'kept'")
    if pairs.shape != weights.shape or pairs.device != weights.device:
        raise ValueError(
            f"pairs has shape {tuple(pairs.shape)} on {pairs.device} but weights "
            f"{tuple(weights.shape)} on {weights.device}: they must be equal"
        )
    total = weights.float().sum(dim=-1)
    worst = total.flatten()[(total - 1).abs().argmax()]
    if not abs(worst - 1) < _ROUNDED:
        raise ValueError(f"weights has a row of sum {worst:.3g}: each must sum to 1")


_ROUNDED = 0.05  # what bf16 may have rounded off a row
