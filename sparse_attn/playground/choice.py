"""What can be asked of the playground: a setting of attention, and what may be chosen.

Knows values and which of them fit each other; leaves what they cost to `methods`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sparse_attn.checks import check_choice
from sparse_attn.playground.words import Text
from sparse_attn.units import plain, slug

METHODS = (
    "full",
    "full, squares stored",
    "window",
    "top-K of blocks",
    "top-K of blocks + pooled rest",
    "top-K / MLP as published",
)
FULL, SQUARES, WINDOW, BLOCKS, POOLED, PUBLISHED = METHODS
LISTED = (BLOCKS, POOLED)
TASKS = ("prefill", "decode")
HEADS = (1, 2, 4, 8, 12, 16, 32, 64, 128)
OPTIONS: dict[str, tuple] = {  # in the order of the controls
    "method": METHODS,
    "task": TASKS,
    "T": tuple(2**n for n in range(7, 18)),
    "K": tuple(2**n for n in range(4, 12)),
    "C": (256, 512, 768, 1024, 2048, 4096, 8192),
    "H": HEADS,
    "Hkv": HEADS,
    "L": (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 120),
    "block": ((16, 16), (32, 16), (64, 16), (64, 64), (128, 64), (128, 128)),
    "bytes": (4, 2, 1),
}
LABELS = {
    "T": "tokens T",
    "K": "keys kept K",
    "C": "width C",
    "H": "query heads H",
    "Hkv": "key-value heads",
    "L": "layers L",
    "block": "block: queries x keys",
    "bytes": "bytes per value",
    "task": "task",
    "method": "method",
    "device": "device",
}


@dataclass(frozen=True)
class Choice:
    """One setting of the playground; each value is one of OPTIONS.

    T: tokens of the text, or in the cache. K: keys that a query keeps. C: width of the
    model. H, Hkv: heads of queries, and of keys and values. L: layers. block: queries
    that share a list, and keys of a block; a page has as many tokens when decoding.
    bytes: of a value, as it is stored. One sequence, causal.
    Raises ValueError for a value that is no option, and for those that do not fit.
    """

    T: int = 8192
    K: int = 512
    C: int = 512
    H: int = 8
    Hkv: int = 8
    L: int = 12
    block: tuple[int, int] = (64, 16)
    bytes: int = 4
    task: str = "prefill"
    method: str = BLOCKS

    def __post_init__(self):
        if isinstance(self.block, Sequence) and not isinstance(self.block, str):
            object.__setattr__(self, "block", tuple(self.block))
        for name, known in OPTIONS.items():
            value = getattr(self, name)
            check_choice(name, value, known)
            if isinstance(value, bool | float):  # 1.0 and True are equal to 1
                raise ValueError(f"{name}={value!r}: choose from {list(known)}")
        found = obstacle(self.method, self)
        if found.template:
            raise ValueError(str(found))

    @property
    def block_q(self) -> int:
        return self.block[0]

    @property
    def block_k(self) -> int:
        return self.block[1]

    def but(self, **changes) -> Choice:
        """The same with `changes`: choice.but(T=1024)."""
        return dataclasses.replace(self, **changes)


def obstacle(method: str, s) -> Text:
    """Why the values of `s` do not fit each other for `method`; empty where they do.

    s: a Choice, or its values under the same names.
    """
    if s.C % s.H > 0:
        return Text("H={0:count} heads do not divide the width C={1:count}", (s.H, s.C))
    if s.H % s.Hkv > 0:
        return Text(
            "Hkv={1:count} key-value heads do not divide the H={0:count} query heads",
            (s.H, s.Hkv),
        )
    if method not in LISTED or s.K >= s.T:
        return Text("")
    if s.task == "prefill" and s.block_q > s.K:
        return Text(
            "K={0:count} keys: lists for {1:count} queries hold the keys of these "
            "queries, so K={1:count} or more is needed",
            (s.K, s.block_q),
        )
    if s.task == "decode" and 3 * s.block_k > s.K:
        return Text(
            "K={0:count} keys: the first page, the last and the one before it are "
            "always read, so K={1:count} or more is needed with pages of {2:count}",
            (s.K, 3 * s.block_k, s.block_k),
        )
    return Text("")


def shown(name: str, value) -> str:
    """A value as its control shows it."""
    if name == "block":
        return " x ".join(map(str, value))
    return plain(value) if name in ("T", "K", "C") else str(value)


def in_link(name: str, value) -> str:
    """A value as the address of a page writes it."""
    return str(value) if isinstance(value, int) else slug(shown(name, value))
