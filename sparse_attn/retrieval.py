"""A memory outside the model: passages of a text, found by the words they share.

Knows n-grams and cosines; what a model makes of a passage is the caller's affair.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sparse_attn.checks import check_counts
from sparse_attn.corpus import check_text

BUCKETS = 2**18  # n-grams are hashed into so many; a collision costs a little noise


class Passages:
    """Windows of `length` bytes of a text, one every `stride`, and their index.

    A window's vector counts its n-grams of bytes, on a log scale, weighted by how rare
    each is: tf-idf, and similarity is the cosine. data: 1-D uint8.
    Source: Salton and Buckley 1988, term weighting.
    """

    def __init__(self, data: Tensor, *, length: int = 64, stride: int = 64, n: int = 6):
        check_counts(length=length, stride=stride, n=n)
        check_text(data, length)
        if n > length:
            raise ValueError(f"n={n} exceeds the length={length} of a window")
        self.length, self.n = length, n
        self.starts = torch.arange(0, len(data) - length, stride)
        grams = _hashes(data.numpy(), n)[self.starts.numpy()[:, None] + self._places()]
        counts = _counts(grams)
        found_in = np.bincount(counts.indices, minlength=BUCKETS)
        self.rarity = np.log(len(grams) / (1 + found_in)).astype(np.float32)
        self.index = self._vectors(counts)

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """For each query (N, length) bytes: the start of the nearest window, a cosine.

        Raises ValueError for queries of another length.
        """
        if queries.ndim != 2 or queries.shape[1] != self.length:
            got = tuple(queries.shape)
            raise ValueError(f"queries has shape {got}: (N, {self.length}) is needed")
        grams = np.stack([_hashes(query.numpy(), self.n) for query in queries])
        cosines = (self._vectors(_counts(grams)) @ self.index.T).toarray()
        best = torch.from_numpy(cosines.argmax(axis=1))
        return self.starts[best], torch.from_numpy(cosines.max(axis=1))

    def _places(self) -> np.ndarray:
        return np.arange(self.length - self.n + 1)

    def _vectors(self, counts) -> sparse.csr_matrix:
        counts.data = np.log1p(counts.data) * self.rarity[counts.indices]
        norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1))).ravel()
        return (sparse.diags(1 / np.maximum(norms, 1e-9)) @ counts).tocsr()


def _hashes(data: np.ndarray, n: int) -> np.ndarray:
    """A bucket for each n-gram of a text: polynomial hash in 64-bit integers."""
    found = np.zeros(len(data) - n + 1, dtype=np.int64)
    for i in range(n):
        found = (found * 257 + data[i : len(data) - n + 1 + i]) % (2**31 - 1)
    return found % BUCKETS


def _counts(grams: np.ndarray) -> sparse.csr_matrix:
    """(N, grams of each) buckets -> (N, BUCKETS) counts."""
    rows = np.repeat(np.arange(len(grams)), grams.shape[1])
    ones = np.ones(grams.size, dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, grams.ravel())), (len(grams), BUCKETS))
