"""The top-K / MLP method as published, each of its faults a switch, and the rows that
belong beside it: `networks`, `picks`, `heads`, `hybrid`, the five steps
(`baseline`, `signals`, `steps`), the `rows` of one table, and `floors`.

`from sparse_attn import topk`, then topk.train_selector(signals), and so on.
"""

from sparse_attn.topk.baseline import (
    PUBLISHED,
    make_baseline,
    random_tokens,
    train_baseline,
)
from sparse_attn.topk.floors import (
    chance_top1,
    exact_topk_error,
    future_share,
    prefix_loss,
    values_only_error,
)
from sparse_attn.topk.heads import (
    Chosen,
    Constant,
    RunningMean,
    TopKHead,
    exact_weights,
    last_keys,
    oracle,
    random_keys,
)
from sparse_attn.topk.hybrid import (
    HybridCausalSelfAttention,
    ReplacedHeads,
    replaced,
)
from sparse_attn.topk.networks import HeadApproximator, KeySelector
from sparse_attn.topk.picks import Picks, gather_values, lay_out, pick_keys
from sparse_attn.topk.rows import DELETED, Parts, stand_ins, train_parts
from sparse_attn.topk.signals import Signals, collect_signals
from sparse_attn.topk.steps import (
    evaluate,
    top1_accuracy,
    train_approximator,
    train_selector,
)

__all__ = [
    "DELETED",
    "PUBLISHED",
    "Chosen",
    "Constant",
    "HeadApproximator",
    "HybridCausalSelfAttention",
    "KeySelector",
    "Parts",
    "Picks",
    "ReplacedHeads",
    "RunningMean",
    "Signals",
    "TopKHead",
    "chance_top1",
    "collect_signals",
    "evaluate",
    "exact_topk_error",
    "exact_weights",
    "future_share",
    "gather_values",
    "last_keys",
    "lay_out",
    "make_baseline",
    "oracle",
    "pick_keys",
    "prefix_loss",
    "random_keys",
    "random_tokens",
    "replaced",
    "stand_ins",
    "top1_accuracy",
    "train_approximator",
    "train_baseline",
    "train_parts",
    "train_selector",
    "values_only_error",
]
