"""What a run of all methods is asked for, checked before any rank starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sparse_attn.checks import check_choice, check_count, check_counts
from sparse_attn.distributed.layout import block_layout
from sparse_attn.kernels.selection import BLOCK_K, BLOCK_Q, POOL, check_pool
from sparse_attn.kernels.sparse import RESTS

DTYPES = ("float64", "float32", "bfloat16", "float16")
DRAWN = ("random", "clustered")  # what `qkv` may be besides a file


@dataclass(frozen=True)
class Settings:
    """What is attended to and how; `keep` in tokens, `timeout` in seconds.

    qkv: a safetensors file with q (B, H, T, D), k and v (B, Hkv, T, D), whose sizes and
    dtype then hold; or "random"; or "clustered", random ones whose neighbors are alike.
    kill_rank: this rank kills itself halfway, to show what the others then do.
    """

    qkv: str = "random"
    tokens: int = 4096
    batch: int = 1
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    causal: bool = True
    keep: int = 512
    rest: str = "none"
    block_q: int = BLOCK_Q
    block_k: int = BLOCK_K
    pool: int = POOL
    dtype: str = "float32"
    seed: int = 0
    samples: int = 3
    timeout: int = 20
    kill_rank: int | None = None

    def __post_init__(self):
        counts = asdict(self)
        for name in ("qkv", "causal", "rest", "dtype", "seed", "kill_rank"):
            del counts[name]
        check_counts(**counts)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("rest", self.rest, RESTS)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}"
            )
        for name, of in (("keep", "block_k"), ("block_q", "block_k")):
            if getattr(self, name) % getattr(self, of):
                got, fits = getattr(self, name), getattr(self, of)
                raise ValueError(f"{name}={got} is not a multiple of {of}={fits}")
        if self.causal and self.keep < self.block_q:
            raise ValueError(
                f"keep={self.keep}: at least the block_q={self.block_q} keys that "
                "queries are in are needed"
            )
        if self.rest == "pooled":
            check_pool(self.pool, self.block_k)

    def check(self, N: int):
        """N ranks can share this; otherwise raises ValueError."""
        check_counts(N=N)
        block_layout(self.tokens, N, self.block_q)
        if self.kill_rank is not None:
            check_count("kill_rank", self.kill_rank, least=0, most=N - 1)
