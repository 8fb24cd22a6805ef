"""Patterns as graphs: tokens are nodes, and an edge leads from a query to its key.

Knows edges, paths and spectra, which SciPy solves; leaves the pairs to `blocks`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import coo_array, csr_array, eye_array
from scipy.sparse.csgraph import shortest_path
from scipy.sparse.linalg import eigsh

from sparse_attn.checks import check_count, check_counts, check_finite
from sparse_attn.patterns.blocks import blocks
from sparse_attn.patterns.pattern import Pattern


def adjacency(pattern: Pattern, T: int) -> csr_array:
    """(T, T) sparse: 1.0 at row query, column key, wherever the query sees the key.

    Built from the listed blocks; memory grows with them, never with T x T.
    Raises ValueError for a T that is not a whole number of at least 1.
    """
    queries, keys = blocks(pattern, T).edges()
    return _graph(queries.numpy(), keys.numpy(), T)


def reach(graph: csr_array, layers: int) -> np.ndarray:
    """How many tokens can influence each token, itself included, layer after layer.

    graph: (T, T), as from `adjacency`. Returns (layers + 1, T) int64, row l after l
    layers; row 0 is all ones. The residual stream carries each token on, so a token
    keeps itself and all it had reached even where the pattern leaves its own key out.
    Raises ValueError for a graph that is not square and for layers below 0.
    Source: Child et al. 2019, section 4.2, the paths between positions. O(T²) bytes.
    """
    T = _nodes(graph)
    check_count("layers", layers, least=0)
    step = csr_array(graph, dtype=bool) + eye_array(T, dtype=bool, format="csr")
    seen = np.eye(T, dtype=bool)  # seen[t, s]: s influences t
    counts = [seen.sum(axis=1)]
    for _ in range(layers):
        seen = step @ seen  # of booleans: or over and
        counts.append(seen.sum(axis=1))
    return np.stack(counts)


def hops(graph: csr_array, token: int) -> np.ndarray:
    """(T,) float: layers until each token can influence `token`, infinite for never.

    graph: (T, T); 0 for the token itself. Raises ValueError if it is not among the T.
    """
    check_count("token", token, least=0, most=_nodes(graph) - 1)
    return shortest_path(csr_array(graph), unweighted=True, indices=token)


def path_length(graph: csr_array) -> tuple[float, float]:
    """Mean hops on the shortest path between two tokens; share of pairs with a path.

    graph: (T, T). Both over ordered pairs of different tokens, the mean only over
    those that a path connects, along the edges' direction; NaN where there is none.
    Raises ValueError for a graph that is not square.
    Source: Watts and Strogatz 1998, the characteristic path length. O(T²) memory.
    """
    T = _nodes(graph)
    hops = shortest_path(csr_array(graph), unweighted=True)
    hops = hops[~np.eye(T, dtype=bool)]
    finite = hops[np.isfinite(hops)]
    if not len(finite):
        return math.nan, 0.0
    return float(finite.mean()), len(finite) / len(hops)


def undirected(graph: csr_array) -> csr_array:
    """(T, T) sparse, symmetric: 1.0 between two tokens of which either sees the other.

    What a token sees of itself is left out. Raises ValueError if not square.
    """
    T = _nodes(graph)
    both = coo_array(graph + graph.T)
    row, column = both.coords
    apart = (row != column) & (both.data != 0)
    return _graph(row[apart], column[apart], T)


def eigenvalues(graph: csr_array, count: int = 2) -> np.ndarray:
    """(count,) largest eigenvalues of an undirected graph, the largest one first.

    The wider the gap between the first two, the faster a walk along the edges forgets
    where it began. In large graphs of degree d the second can't lie far below 2√(d-1),
    and random graphs come close to that.
    Raises ValueError for a graph that is not symmetric, or a count not from 1 to T-1.
    Sources: Hoory, Linial and Wigderson 2006; Friedman 2008; Füredi and Komlós 1981.
    """
    T = _nodes(graph)
    check_count("count", count, most=T - 1)
    graph = csr_array(graph, dtype=np.float64)
    differ = (graph != graph.T).nnz
    if differ:
        raise ValueError(
            f"graph is not symmetric: {differ} entries differ from those across the "
            "diagonal; `undirected` makes one that is"
        )
    if not graph.nnz:  # ARPACK finds no direction to start in
        return np.zeros(count)
    start = np.random.default_rng(0).standard_normal(T)  # the same digits each time
    found = eigsh(graph, count, which="LA", v0=start, return_eigenvectors=False)
    return np.sort(found)[::-1]


def random_graph(n: int, degree: float, seed: int = 0) -> csr_array:
    """(n, n) sparse, undirected: each pair of nodes joined with the same probability.

    degree: mean number of neighbors, so that the probability is degree / (n - 1).
    Raises ValueError for a degree that is not from 0 to n - 1.
    Source: Erdős and Rényi's model, as in Füredi and Komlós 1981. O(n²) time.
    """
    check_counts(n=n)
    check_count("seed", seed, least=0)
    check_finite("degree", degree)
    if not 0 <= degree <= n - 1:
        raise ValueError(f"degree={degree!r}: from 0 to the {n - 1} other nodes")
    a, b = np.triu_indices(n, 1)
    joined = np.random.default_rng(seed).random(len(a)) < degree / max(1, n - 1)
    a, b = a[joined], b[joined]
    return _graph(np.concatenate([a, b]), np.concatenate([b, a]), n)


def _graph(row: np.ndarray, column: np.ndarray, n: int) -> csr_array:
    return csr_array((np.ones(len(row)), (row, column)), shape=(n, n))


def _nodes(graph: csr_array) -> int:
    if len(graph.shape) != 2 or graph.shape[0] != graph.shape[1]:
        raise ValueError(
            f"graph has shape {graph.shape}: as many rows as columns are needed"
        )
    return graph.shape[0]
