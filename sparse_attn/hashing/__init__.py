"""Attention among tokens that hash alike: random `buckets`, how often `collisions`
happen, sort-and-chunk (`chunks`), the `attention`, and what it sees as dense `pairs`.

`from sparse_attn import hashing`, then hashing.lsh_attention(qk, v, buckets=8) ...
"""

from sparse_attn.hashing.attention import lsh_attention
from sparse_attn.hashing.buckets import bucket_sizes, hash_buckets, rotations
from sparse_attn.hashing.chunks import Chunks, lsh_cost_pairs, sort_and_chunk
from sparse_attn.hashing.collisions import (
    collision_probability,
    rotation_collision_probability,
)
from sparse_attn.hashing.pairs import lsh_pairs, shared_bucket_pairs
from sparse_attn.metrics import attention_recall

__all__ = [
    "Chunks",
    "attention_recall",
    "bucket_sizes",
    "collision_probability",
    "hash_buckets",
    "lsh_attention",
    "lsh_cost_pairs",
    "lsh_pairs",
    "rotation_collision_probability",
    "rotations",
    "shared_bucket_pairs",
    "sort_and_chunk",
]
