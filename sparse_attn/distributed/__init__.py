"""Attention across ranks on torch.distributed: `ring` and gathered, exact; `selected`,
which ships chosen blocks alone; `wire`, which counts bytes; `scaling`, arithmetic.

`from sparse_attn import distributed`, then distributed.ring_attention(q, k, v) in each
rank, or distributed.launch(N) from a notebook. Forward only.
"""

from sparse_attn.distributed.fetch import asked_of
from sparse_attn.distributed.launching import launch, torchrun
from sparse_attn.distributed.layout import (
    LAYOUTS,
    block_layout,
    block_starts,
    join,
    layout,
    rank_pairs,
    spans_of,
    take,
)
from sparse_attn.distributed.ring import gathered_attention, ring_attention
from sparse_attn.distributed.scaling import METHODS, Layer, Machine, Shape, scaling
from sparse_attn.distributed.selected import selected_attention
from sparse_attn.distributed.settings import Settings
from sparse_attn.distributed.wire import counted, exchange

__all__ = [
    "LAYOUTS",
    "METHODS",
    "Layer",
    "Machine",
    "Settings",
    "Shape",
    "asked_of",
    "block_layout",
    "block_starts",
    "counted",
    "exchange",
    "gathered_attention",
    "join",
    "launch",
    "layout",
    "rank_pairs",
    "ring_attention",
    "scaling",
    "selected_attention",
    "spans_of",
    "take",
    "torchrun",
]
