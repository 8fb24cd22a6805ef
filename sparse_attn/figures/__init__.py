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
from sparse_attn.figures.remedies import (
    losses,
    model_shares,
    remedies,
    shared_heads,
    training_memory,
)
from sparse_attn.figures.style import Plot

__all__ = [
    "Plot",
    "block_share",
    "full_against_topk",
    "losses",
    "memory_against_length",
    "model_shares",
    "pair_grids",
    "published_table",
    "remedies",
    "shared_heads",
    "shares",
    "time_against_length",
    "training_memory",
    "weight_grid",
]
