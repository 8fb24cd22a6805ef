"""FlashAttention taken apart: `online` softmax, the `tiled` forward and backward, and
the `walk` and `backward_walk` that count what each order of the loops moves.

`from sparse_attn import flash`, then flash.flash_attention(q, k, v), and so on.
"""

from sparse_attn.flash.backward_walk import outer_kv_backward
from sparse_attn.flash.online import (
    Running,
    merge,
    merge_states,
    merge_tree,
    online_softmax,
    running,
    running_blocks,
)
from sparse_attn.flash.steps import Step, Walk
from sparse_attn.flash.tiled import flash_attention
from sparse_attn.flash.walk import naive_walk, outer_kv_walk, outer_q_walk

__all__ = [
    "Running",
    "Step",
    "Walk",
    "flash_attention",
    "merge",
    "merge_states",
    "merge_tree",
    "naive_walk",
    "online_softmax",
    "outer_kv_backward",
    "outer_kv_walk",
    "outer_q_walk",
    "running",
    "running_blocks",
]
