"""A GPT whose attention follows a pattern, for as long as a `with` block lasts.

Knows that a GPT is causal; leaves what is computed to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparse_attn.attending import attending
from sparse_attn.gpt import GPT
from sparse_attn.patterns.catalog import Causal
from sparse_attn.patterns.engine import sparse_attention
from sparse_attn.patterns.pattern import Pattern, check_pattern


def imposed(model: GPT, pattern: Pattern | Sequence[Pattern]):
    """`with imposed(model, pattern):` all its layers follow the pattern, and no longer.

    pattern: one for all heads, or one for each head; its causal part is what is used.
    Works for evaluation and for training; not with a cache.
    """
    if isinstance(pattern, Sequence):
        causal = tuple(check_pattern("pattern", one) & Causal() for one in pattern)
    else:
        causal = check_pattern("pattern", pattern) & Causal()
    return attending(model, lambda _, q, k, v: sparse_attention(q, k, v, causal))
