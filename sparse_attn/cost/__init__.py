"""Closed forms of what attention and a GPT cost: `flops` for work, `memory` for bytes,
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
from sparse_attn.cost.memory import (
    kv_cache_bytes,
    parameters,
    saved_activations,
    training_bytes,
)
from sparse_attn.cost.parts import computed_pairs, flops_by_part

__all__ = [
    "Advice",
    "Cost",
    "advise",
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
    "remedies",
    "saved_activations",
    "score_share",
    "scores",
    "seconds_by_part",
    "topk_flops",
    "topk_mlp_break_even",
    "topk_mlp_flops",
    "topk_pairs",
    "training_bytes",
]
