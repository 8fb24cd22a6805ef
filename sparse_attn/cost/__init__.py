"""Closed forms of what attention and a GPT cost: `flops` for work, `memory` for bytes,
`operations` for single ones, `traffic` for tiles, `selection` for the keys picked as
published, `indexing` for those that an indexer finds,
`parts` for a whole GPT, `advice` for what to change first.

`from sparse_attn import cost`, then cost.scores(...), cost.parameters(...), and so on.
"""

from sparse_attn.cost.advice import Advice, advise, remedies, seconds_by_part
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
from sparse_attn.cost.selection import (
    kept_bytes,
    selection_bytes,
    selector_parameters,
    square_bytes,
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

__all__ = [
    "OPERATIONS",
    "Advice",
    "Cost",
    "Elements",
    "TileCount",
    "advise",
    "block",
    "chain",
    "computed_pairs",
    "elementwise",
    "flash_blocks",
    "flops_by_part",
    "fused_scores",
    "half_share_length",
    "indexed_shares",
    "indexer_flops",
    "kept_bytes",
    "kv_cache_bytes",
    "lm_head",
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
    "projections",
    "remedies",
    "saved_activations",
    "score_share",
    "scores",
    "seconds_by_part",
    "selection_bytes",
    "selector_parameters",
    "square_bytes",
    "tile_memory",
    "tiles",
    "topk_flops",
    "topk_mlp_break_even",
    "topk_mlp_flops",
    "topk_pairs",
    "training_bytes",
    "wave_use",
    "waves",
]
