"""Closed forms of what attention and a GPT cost: `flops` for work, `memory` for bytes,
`operations` for single ones, `traffic` for tiles, `selection` for the keys picked as
published, `indexing` for those that an indexer finds, `embeddings` for tables of
tokens, `parts` for a whole GPT, `advice` for what to change first, `scale` for the
published rows of GPT-4 scale, `serving` for dollars and energy per million tokens.

`from sparse_attn import cost`, then cost.scores(...), cost.parameters(...), and so on.
"""

from sparse_attn.cost.advice import Advice, advise, remedies, seconds_by_part
from sparse_attn.cost.embeddings import (
    banded_break_even,
    banded_parameters,
    embedding_parameters,
)
from sparse_attn.cost.flops import (
    Cost,
    block,
    fused_scores,
    half_share_length,
    lm_head,
    mlp,
    model,
    norms_and_additions,
    pairs,
    projections,
    score_share,
    scores,
    topk_flops,
    topk_mlp_break_even,
    topk_mlp_flops,
    topk_pairs,
)
from sparse_attn.cost.indexing import indexed_shares, indexer_flops, pooled_flops
from sparse_attn.cost.memory import (
    kv_cache_bytes,
    parameters,
    saved_activations,
    training_bytes,
)
from sparse_attn.cost.operations import (
    OPERATIONS,
    chain,
    elementwise,
    matmul,
    wave_use,
    waves,
)
from sparse_attn.cost.parts import computed_pairs, flops_by_part
from sparse_attn.cost.scale import (
    PRINTED,
    logit_share,
    published_full,
    published_ratio,
    published_sparse,
    rows_at_scale,
    topk_mlp_gain,
    whole_gain,
)
from sparse_attn.cost.selection import (
    kept_bytes,
    selection_bytes,
    selector_parameters,
    square_bytes,
)
from sparse_attn.cost.serving import (
    Bill,
    Serving,
    cache_break_even,
    decode_work,
    prefill_work,
    weight_bytes,
)
from sparse_attn.cost.traffic import (
    Elements,
    TileCount,
    flash_blocks,
    naive_elements,
    outer_kv_backward_elements,
    outer_kv_elements,
    outer_q_elements,
    tile_memory,
    tiles,
)
from sparse_attn.cost.wire import gathered_bytes, ring_bytes, selected_bytes

__all__ = [
    "OPERATIONS",
    "PRINTED",
    "Advice",
    "Bill",
    "Cost",
    "Elements",
    "Serving",
    "TileCount",
    "advise",
    "banded_break_even",
    "banded_parameters",
    "block",
    "cache_break_even",
    "chain",
    "computed_pairs",
    "decode_work",
    "elementwise",
    "embedding_parameters",
    "flash_blocks",
    "flops_by_part",
    "fused_scores",
    "gathered_bytes",
    "half_share_length",
    "indexed_shares",
    "indexer_flops",
    "kept_bytes",
    "kv_cache_bytes",
    "lm_head",
    "logit_share",
    "matmul",
    "mlp",
    "model",
    "naive_elements",
    "norms_and_additions",
    "outer_kv_backward_elements",
    "outer_kv_elements",
    "outer_q_elements",
    "pairs",
    "parameters",
    "pooled_flops",
    "prefill_work",
    "projections",
    "published_full",
    "published_ratio",
    "published_sparse",
    "remedies",
    "ring_bytes",
    "rows_at_scale",
    "saved_activations",
    "score_share",
    "scores",
    "seconds_by_part",
    "selected_bytes",
    "selection_bytes",
    "selector_parameters",
    "square_bytes",
    "tile_memory",
    "tiles",
    "topk_flops",
    "topk_mlp_break_even",
    "topk_mlp_flops",
    "topk_mlp_gain",
    "topk_pairs",
    "training_bytes",
    "wave_use",
    "waves",
    "weight_bytes",
    "whole_gain",
]
