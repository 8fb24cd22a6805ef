"""Which tiles of the T x S score matrix there are, and which of them anyone may see."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """T queries in tiles of block_q, S keys in tiles of block_k; a tile is two slices.

    causal: query t sees keys s <= t + S - T; without it, all of them.
    """

    T: int
    S: int
    block_q: int
    block_k: int
    causal: bool

    def all_queries(self) -> list[slice]:
        """All slices of queries, the last one as short as it must be."""
        return spans(self.T, self.block_q)

    def all_keys(self) -> list[slice]:
        """All slices of keys, the last one as short as it must be."""
        return spans(self.S, self.block_k)

    def seen_by(self, queries: slice) -> Iterator[slice]:
        """The slices of keys of which one of the queries, the last, sees at least one.

        None at all for queries that come before the first key.
        """
        return (keys for keys in self.all_keys() if self._sees(queries, keys))

    def seeing(self, keys: slice) -> Iterator[slice]:
        """The slices of queries that see at least one of the keys."""
        return (queries for queries in self.all_queries() if self._sees(queries, keys))

    def _sees(self, queries: slice, keys: slice) -> bool:
        return not self.causal or keys.start < queries.stop + self.S - self.T

    def hidden(self, queries: slice, keys: slice, device="cpu") -> Tensor | None:
        """(rows, columns) bool: True where a query does not see a key.

        None where every query sees every key: tiles that the diagonal does not cut.
        """
        last = queries.start + self.S - self.T - keys.start  # column seen by row 0
        shape = queries.stop - queries.start, keys.stop - keys.start
        if not self.causal or last >= shape[1] - 1:
            return None
        return torch.ones(shape, dtype=torch.bool, device=device).triu(last + 1)


def spans(n: int, block: int) -> list[slice]:
    """0 to n in slices of `block`, the last one as short as it must be."""
    return [slice(a, min(a + block, n)) for a in range(0, n, block)]
