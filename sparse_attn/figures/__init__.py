"""One pure function per figure: numbers in, a `Plot` out."""

from sparse_attn.figures.cost import (
    block_share,
    full_against_topk,
    memory_against_length,
    published_table,
    shares,
    time_against_length,
)
from sparse_attn.figures.grids import pair_grids, weight_grid
from sparse_attn.figures.style import Plot

__all__ = [
    "Plot",
    "block_share",
    "full_against_topk",
    "memory_against_length",
    "pair_grids",
    "published_table",
    "shares",
    "time_against_length",
    "weight_grid",
]
