"""One pure function per figure: numbers in, a `Plot` out."""

from sparse_attn.figures.audit import factors_off, verdicts
from sparse_attn.figures.budgets import keys_taken, rank_and_keys
from sparse_attn.figures.cache import (
    cache_size,
    decoding_speed,
    past_training,
    reach,
    shared_reads,
    window_cache,
)
from sparse_attn.figures.chunks import sort_and_chunk_steps
from sparse_attn.figures.cost import (
    block_share,
    full_against_topk,
    memory_against_length,
    published_table,
    shares,
    time_against_length,
)
from sparse_attn.figures.frequency import (
    seeds_needed,
    surprisal,
    table_parameters,
)
from sparse_attn.figures.graphs import composer, reach_by_layers, receptive_field
from sparse_attn.figures.grids import pair_grids, weight_grid
from sparse_attn.figures.hashing import collisions, hash_circle, rounds_and_buckets
from sparse_attn.figures.indexing import frontier, indexer_bill
from sparse_attn.figures.lists import block_lists, time_explorer
from sparse_attn.figures.lsh import bucket_loads, lsh_time, recall_by_cost
from sparse_attn.figures.machine import (
    anatomy,
    chain_gains,
    rate_by_size,
    staircase,
)
from sparse_attn.figures.online import (
    running_maximum,
    softmax_error,
    softmax_passes,
)
from sparse_attn.figures.patterns import block_waste, mask_gallery, neighbors
from sparse_attn.figures.remedies import (
    losses,
    model_shares,
    remedies,
    shared_heads,
    training_memory,
)
from sparse_attn.figures.rest import pooling_gap, quality_by_keys, stand_ins
from sparse_attn.figures.roofline import (
    attention_on_roof,
    bound_and_time,
    matmul_on_roofs,
    roofline,
)
from sparse_attn.figures.scale import by_devices, ratio_at_scale
from sparse_attn.figures.seeds import by_length, seed_dots
from sparse_attn.figures.selection import selection_bill
from sparse_attn.figures.serving import attention_share, serving_price
from sparse_attn.figures.sparsity import (
    quality_by_share,
    time_by_share,
    trained_patterns,
)
from sparse_attn.figures.speed import speeds_of_model, speedups, waterfall
from sparse_attn.figures.style import Plot
from sparse_attn.figures.tiles import tile_occupancy, tile_walk
from sparse_attn.figures.topk import (
    approximation_error,
    picked_keys,
    stand_in_errors,
)
from sparse_attn.figures.tradeoff import time_and_quality
from sparse_attn.figures.traffic import tile_traffic, traffic_scaling
from sparse_attn.figures.trials import (
    by_band,
    leak_curve,
    paired_trials,
    signs_by_seed,
)

__all__ = [
    "Plot",
    "anatomy",
    "approximation_error",
    "attention_on_roof",
    "attention_share",
    "block_lists",
    "block_share",
    "block_waste",
    "bound_and_time",
    "bucket_loads",
    "by_band",
    "by_devices",
    "by_length",
    "cache_size",
    "chain_gains",
    "collisions",
    "composer",
    "decoding_speed",
    "factors_off",
    "frontier",
    "full_against_topk",
    "hash_circle",
    "indexer_bill",
    "keys_taken",
    "leak_curve",
    "losses",
    "lsh_time",
    "mask_gallery",
    "matmul_on_roofs",
    "memory_against_length",
    "model_shares",
    "neighbors",
    "pair_grids",
    "paired_trials",
    "past_training",
    "picked_keys",
    "pooling_gap",
    "published_table",
    "quality_by_keys",
    "quality_by_share",
    "rank_and_keys",
    "rate_by_size",
    "ratio_at_scale",
    "reach",
    "reach_by_layers",
    "recall_by_cost",
    "receptive_field",
    "remedies",
    "roofline",
    "rounds_and_buckets",
    "running_maximum",
    "seed_dots",
    "seeds_needed",
    "selection_bill",
    "serving_price",
    "shared_heads",
    "shared_reads",
    "shares",
    "signs_by_seed",
    "softmax_error",
    "softmax_passes",
    "sort_and_chunk_steps",
    "speeds_of_model",
    "speedups",
    "staircase",
    "stand_in_errors",
    "stand_ins",
    "surprisal",
    "table_parameters",
    "tile_occupancy",
    "tile_traffic",
    "tile_walk",
    "time_against_length",
    "time_and_quality",
    "time_by_share",
    "time_explorer",
    "traffic_scaling",
    "trained_patterns",
    "training_memory",
    "verdicts",
    "waterfall",
    "weight_grid",
    "window_cache",
]
