"""Counters that watch a real call: FLOPs of its matrix products, bytes it moves.

They count what PyTorch is asked to do, below autograd; `cost` predicts the same.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def flops(fn: Callable[[], object]) -> int:
    """FLOPs of the matrix products in one call of `fn`, 2 per multiply-add.

    PyTorch's own counter, taught two things: the fused attention of CPU and MPS,
    which it counts as zero, and that a causal call needs T(T+1)/2 pairs, not T².
    A causal mask applied to full scores saves nothing, and is counted so.
    """
    return sum(flops_by_operator(fn).values())


def flops_by_operator(fn: Callable[[], object]) -> dict[str, int]:
    """The same FLOPs, for each operator that contributed: {"aten.mm": ..., ...}."""
    counter = FlopCounterMode(display=False, custom_mapping=_fused_attention())
    with counter:
        fn()
    counts = counter.get_flop_counts().get("Global", {})
    return {str(operator): int(n) for operator, n in counts.items() if n}


def _fused_attention() -> dict:
    """Counting functions for the operators behind F.scaled_dot_product_attention.

    q kᵀ and p v are 2 products forward; backward computes the scores again and adds
    four more. Position of is_causal read from each operator's schema.
    """
    forward, backward = {}, {}
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math_for_mps",
    ):
        forward[getattr(aten, name)] = _counts_products(getattr(aten, name), 2)
        if hasattr(aten, name + "_backward"):
            operator = getattr(aten, name + "_backward")
            backward[operator] = _counts_products(operator, 5)
    vectors = {aten.mv: _counts_vector(0), aten.dot: _counts_vector(0)}
    return forward | backward | vectors | {aten.addmv: _counts_vector(1)}


def _counts_products(operator, products: int):
    names = [argument.name for argument in operator.default._schema.arguments]
    q, k, causal = (names.index(name) for name in ("query", "key", "is_causal"))

    def count(*args, out_val=None, **kwargs):
        B, H, T, D = args[q].shape
        S = args[k].shape[-2]
        is_causal = args[causal] if causal < len(args) else kwargs.get("is_causal")
        seen = sum(min(t + 1, S) for t in range(T)) if is_causal else T * S
        return 2 * products * B * H * D * seen

    count._get_raw = True  # hand over tensors, not shapes: flop_counter's convention
    return count


def _counts_vector(matrix: int):
    """Matrix-vector and inner products: one multiply-add per entry of the matrix."""

    def count(*args, out_val=None, **kwargs):
        return 2 * args[matrix].numel()

    count._get_raw = True
    return count


@dataclass(frozen=True)
class Traffic:
    """Bytes that the operations of a call `read` and `written`, each op by itself."""

    read: int
    written: int
    by_operator: dict[str, int]

    @property
    def moved(self) -> int:
        return self.read + self.written


def traffic(fn: Callable[[], object]) -> Traffic:
    """Bytes moved by one call of `fn` if every operation went to slow memory.

    Each operation reads every distinct tensor it is given and writes its results;
    views move nothing. What a cache or a fusing compiler saves is not subtracted.
    """
    counter = _TrafficMode()
    with counter:
        fn()
    return Traffic(counter.read, counter.written, dict(counter.by_operator))


class _TrafficMode(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.read = self.written = 0
        self.by_operator = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        # Reserving memory touches none of it; a new shape for old bytes neither.
        if "empty" in name or torch.Tag.inplace_view in func.tags:
            return out
        given, changed = _given_and_changed(func, name, args, kwargs)
        made = changed
        if not func._schema.is_mutable:
            places = {_place(x)[0] for x in given}
            made = [x for x in _tensors(out) if _place(x)[0] not in places]
            if not made:  # a view
                return out
        read, written = _bytes(given), _bytes(made)
        self.read, self.written = self.read + read, self.written + written
        self.by_operator[name] += read + written
        return out


def _given_and_changed(func, name, args, kwargs):
    """The tensors an operation reads, and those it changes, by its schema."""
    given, changed = [], []
    for i, argument in enumerate(func._schema.arguments):
        tensors = _tensors(args[i] if i < len(args) else kwargs.get(argument.name))
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes:
            changed += tensors
        if not (writes and (argument.is_out or name in ("copy_", "zero_", "fill_"))):
            given += tensors
    return given, changed


def _tensors(tree) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _place(x: torch.Tensor) -> tuple:
    """Where a tensor lies: storage, offset, shape and strides."""
    storage = x.untyped_storage()._cdata
    return storage, x.storage_offset(), tuple(x.shape), tuple(x.stride())


def _bytes(tensors) -> int:
    """Bytes of the distinct tensors; an expanded axis repeats the same bytes."""
    distinct = {_place(x): x for x in tensors}.values()
    return sum(_entries(x) * x.element_size() for x in distinct)


def _entries(x: torch.Tensor) -> int:
    sizes = zip(x.shape, x.stride(), strict=True)
    return math.prod(n for n, step in sizes if step != 0 or n == 0)
