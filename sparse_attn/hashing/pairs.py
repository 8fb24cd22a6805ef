"""Which pairs hashing keeps, as dense masks: the specification, and small studies.

All of it is O(T²); `attention` is what never forms these masks.
"""

import torch
from torch import Tensor

from sparse_attn.attention import causal_mask
from sparse_attn.checks import check_alike, check_counts, check_vectors
from sparse_attn.hashing.buckets import hash_buckets, rotations
from sparse_attn.hashing.chunks import addresses, another, near, sort_and_chunk


def lsh_pairs(
    qk: Tensor,
    *,
    buckets: int,
    rounds: int = 1,
    chunk: int = 64,
    causal: bool = False,
    seed: int = 0,
) -> Tensor:
    """What `lsh_attention` sees, as a mask: (B, H, T, T) bool, [t, s] for query t.

    qk: (B, H, T, D); the other arguments as there. Every row has a True: a token that
    meets no other in any round sees itself.
    Raises ValueError for arguments that do not fit. Memory: O(T²) per head.
    """
    check_vectors("qk", qk, "B, H, T, D")
    check_counts(chunk=chunk)
    T, D = qk.shape[-2:]
    R = rotations(D, buckets, rounds=rounds, seed=seed, device=qk.device)
    at = torch.arange(T, device=qk.device)
    met = torch.zeros(*qk.shape[:2], T, T, dtype=torch.bool, device=qk.device)
    for found in hash_buckets(qk, R).unbind(dim=-2):  # (B, H, T)
        address = addresses(found, sort_and_chunk(found, chunk).number)
        met |= near(address[..., None], address[..., None, :])
    seen = met & another(at[:, None], at, causal)
    alone = ~seen.any(dim=-1, keepdim=True)
    return seen | (alone & torch.eye(T, dtype=torch.bool, device=qk.device))


def shared_bucket_pairs(
    q: Tensor,
    k: Tensor,
    *,
    buckets: int,
    rounds: int = 1,
    causal: bool = False,
    seed: int = 0,
) -> Tensor:
    """Where a query and a key share a bucket in any round: (B, H, T, T) bool.

    q, k: (B, H, T, D), hashed by the same directions. Without chunks this is the most
    that hashing could keep of attention whose keys are not its queries. causal: no
    later keys. A token may see itself; a row may be empty.
    Raises ValueError for arguments that do not fit. Memory: O(T²) per head.
    """
    check_vectors("q", q, "B, H, T, D")
    check_vectors("k", k, "B, H, T, D")
    check_alike("k", k, "q", q)
    T, D = q.shape[-2:]
    R = rotations(D, buckets, rounds=rounds, seed=seed, device=q.device)
    met = torch.zeros(*q.shape[:2], T, T, dtype=torch.bool, device=q.device)
    both = (hash_buckets(x, R).unbind(dim=-2) for x in (q, k))
    for of_q, of_k in zip(*both, strict=True):
        met |= of_q[..., None] == of_k[..., None, :]
    return met & causal_mask(T, T, q.device) if causal else met
