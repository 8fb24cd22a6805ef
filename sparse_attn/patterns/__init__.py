"""Sparse patterns: a rule of who sees whom, its blocks, its pairs, and an engine."""

from sparse_attn.patterns.blocks import Blocks, blocks
from sparse_attn.patterns.catalog import (
    Blockwise,
    Causal,
    Columns,
    Every,
    First,
    Full,
    Globals,
    SameBlock,
    Window,
    sliding_window,
)
from sparse_attn.patterns.drawn import Random
from sparse_attn.patterns.engine import best_height, sparse_attention
from sparse_attn.patterns.flex import flex_attention
from sparse_attn.patterns.model import imposed
from sparse_attn.patterns.pattern import Named, Pattern
from sparse_attn.patterns.published import (
    bigbird,
    fixed,
    global_local,
    lambda_shaped,
    longformer_heads,
    strided,
)

__all__ = [
    "Blocks",
    "Blockwise",
    "Causal",
    "Columns",
    "Every",
    "First",
    "Full",
    "Globals",
    "Named",
    "Pattern",
    "Random",
    "SameBlock",
    "Window",
    "best_height",
    "bigbird",
    "blocks",
    "fixed",
    "flex_attention",
    "global_local",
    "imposed",
    "lambda_shaped",
    "longformer_heads",
    "sliding_window",
    "sparse_attention",
    "strided",
]
