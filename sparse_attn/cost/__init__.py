"""Closed forms of what attention and a GPT cost: `flops` for work, `memory` for bytes.

`from sparse_attn import cost`, then cost.scores(...), cost.parameters(...), and so on.
"""

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
from sparse_attn.cost.memory import (
    kv_cache_bytes,
    parameters,
    saved_activations,
    training_bytes,
)
from sparse_attn.cost.parts import computed_pairs, flops_by_part

__all__ = [
    "Cost",
    "block",
    "computed_pairs",
    "flops_by_part",
    "fused_scores",
    "half_share_length",
    "kv_cache_bytes",
    "lm_head",
    "mlp",
    "model",
    "norms_and_additions",
    "pairs",
    "parameters",
    "projections",
    "saved_activations",
    "score_share",
    "scores",
    "topk_flops",
    "topk_mlp_break_even",
    "topk_mlp_flops",
    "topk_pairs",
    "training_bytes",
]
