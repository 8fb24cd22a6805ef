"""One pure function per figure: numbers in, a `Plot` out."""

from sparse_attn.figures.cache import (
    cache_size,
    decoding_speed,
    past_training,
    reach,
    shared_reads,
    window_cache,
)
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
    "cache_size",
    "decoding_speed",
    "full_against_topk",
    "losses",
    "memory_against_length",
    "model_shares",
    "pair_grids",
    "past_training",
    "published_table",
    "reach",
    "remedies",
    "shared_heads",
    "shared_reads",
    "shares",
    "time_against_length",
    "training_memory",
    "weight_grid",
    "window_cache",
]
