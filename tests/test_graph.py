"""Patterns as graphs: against dense matrix powers, known spectra, and the papers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, issparse

from sparse_attn.patterns import (
    Causal,
    Columns,
    Full,
    Globals,
    Random,
    SameBlock,
    Window,
    bigbird,
    fixed,
    sliding_window,
    strided,
)
from sparse_attn.patterns.graph import (
    adjacency,
    eigenvalues,
    hops,
    path_length,
    random_graph,
    reach,
    undirected,
)

PATTERNS = [
    Full(),
    Causal(),
    Window(2, 1),
    Window(3, 0, gap=2),
    Globals((0, -1)),
    Random(2),
    Random(1, seed=3, among=Causal()),
    ~Window(4, 4),
    strided(4),
    fixed(4, 2),
    bigbird(4, 1) & Causal(),
]


def edges(n, pairs):
    """An undirected graph of n nodes from pairs (a, b)."""
    a, b = np.array(pairs).reshape(-1, 2).T
    return undirected(csr_array((np.ones(len(a)), (a, b)), shape=(n, n)))


def ring(n):
    return edges(n, [(i, (i + 1) % n) for i in range(n)])


def chain(n):
    return edges(n, [(i, i + 1) for i in range(n - 1)])


def star(n):
    return edges(n, [(0, i) for i in range(1, n)])


@pytest.mark.parametrize("T", [1, 5, 63, 130])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_edges_are_the_pairs_of_the_mask(pattern, T):
    graph = adjacency(pattern, T)
    assert issparse(graph) and graph.shape == (T, T)
    assert np.array_equal(graph.toarray(), pattern.mask(T).double().numpy())
    assert graph.nnz == pattern.pairs(T)


directed = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.booleans(), min_size=n * n, max_size=n * n).map(
        lambda bits: np.array(bits).reshape(n, n)
    )
)


@settings(max_examples=60)
@given(directed, st.integers(0, 5))
def test_reach_counts_the_entries_of_matrix_powers(seen, layers):
    n, step = len(seen), np.eye(len(seen)) + seen
    powers = [np.linalg.matrix_power(step, l) > 0 for l in range(layers + 1)]
    expected = np.array([power.sum(axis=1) for power in powers])
    found = reach(csr_array(seen.astype(float)), layers)
    assert found.shape == (layers + 1, n)
    assert np.array_equal(found, expected)


@settings(max_examples=60)
@given(directed, st.data())
def test_as_many_are_within_some_hops_as_are_reached_in_so_many_layers(seen, data):
    token, graph = data.draw(st.integers(0, len(seen) - 1)), csr_array(seen * 1.0)
    found = hops(graph, token)
    assert found[token] == 0
    for layer, count in enumerate(reach(graph, 4)[:, token]):
        assert (found <= layer).sum() == count


@settings(max_examples=60)
@given(directed)
def test_a_path_is_as_long_as_the_first_power_that_joins_its_ends(seen):
    n, step = len(seen), np.eye(len(seen)) + seen
    joined = [np.linalg.matrix_power(step, l) > 0 for l in range(n + 1)]
    hops = [
        next(l for l in range(n + 1) if joined[l][a, b])
        for a in range(n)
        for b in range(n)
        if a != b and joined[n][a, b]
    ]
    mean, share = path_length(csr_array(seen.astype(float)))
    assert share == len(hops) / max(1, n * (n - 1))
    assert mean == pytest.approx(np.mean(hops)) if hops else math.isnan(mean)


@settings(max_examples=60)
@given(directed)
def test_undirected_is_symmetric_zero_or_one_and_sees_nothing_of_itself(seen):
    graph = undirected(csr_array(3.0 * seen)).toarray()
    expected = (seen | seen.T) & ~np.eye(len(seen), dtype=bool)
    assert np.array_equal(graph, expected.astype(float))


@settings(max_examples=60)
@given(directed)
def test_eigenvalues_are_those_of_the_dense_matrix(seen):
    n, graph = len(seen), undirected(csr_array(seen.astype(float)))
    count = min(2, n - 1)
    if count:
        exact = np.linalg.eigvalsh(graph.toarray())[::-1][:count]
        budget = 1e-12 * n * max(1, abs(exact[0]))  # n rounding errors, and some room
        assert eigenvalues(graph, count) == pytest.approx(exact, abs=budget)


@pytest.mark.parametrize("n", [5, 6, 31, 64])
def test_a_ring_has_the_spectrum_and_the_paths_of_the_formula(n):
    half, odd = divmod(n, 2)
    total = half * (half + 1) if odd else half * half  # hops from one node
    assert path_length(ring(n)) == (pytest.approx(total / (n - 1)), 1.0)
    exact = [2, 2 * math.cos(2 * math.pi / n), 2 * math.cos(2 * math.pi / n)]
    assert eigenvalues(ring(n), 3) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("n", [3, 8, 40])
def test_a_chain_has_the_spectrum_and_the_paths_of_the_formula(n):
    exact = [2 * math.cos(k * math.pi / (n + 1)) for k in (1, 2)]
    assert eigenvalues(chain(n)) == pytest.approx(exact, abs=1e-10)
    assert path_length(chain(n)) == (pytest.approx((n + 1) / 3), 1.0)


def test_a_star_reaches_all_in_two_layers():
    n = 20
    assert reach(star(n), 2)[:, 1:].T.tolist() == [[1, 2, n]] * (n - 1)
    assert eigenvalues(star(n)) == pytest.approx([math.sqrt(n - 1), 0], abs=1e-10)
    assert path_length(star(n))[0] == pytest.approx(2 - 2 / n)


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_each_layer_of_windows_reaches_a_window_further(window):
    T = 64
    last = reach(adjacency(sliding_window(window), T), 6)[:, -1]
    assert last.tolist() == [min(T, l * (window - 1) + 1) for l in range(7)]


@pytest.mark.parametrize("T", [1, 7, 64, 100])
@pytest.mark.parametrize("pattern", [strided(8), fixed(8), fixed(8, 3)], ids=str)
def test_factorized_patterns_reach_all_that_came_before_in_two_layers(pattern, T):
    """Child et al. ask for paths of p + 1 places, so p = 2 hops: query, between, key.

    Once in each layer both heads act, as merged here; one layer is not enough.
    """
    counts = reach(adjacency(pattern, T), 2)
    assert counts[2].tolist() == list(range(1, T + 1))
    assert T <= 8 or counts[1].sum() < counts[2].sum()


@pytest.mark.parametrize("later, all_reached", [("columns", True), ("own", False)])
def test_fixed_heads_in_turn_reach_all_only_in_one_order(later, all_reached):
    """Layer by layer: own block first, then the columns that sum the blocks up."""
    T, size = 32, 8
    own = adjacency(SameBlock(size) & Causal(), T)
    columns = adjacency(Columns(size), T)
    second, first = (columns, own) if later == "columns" else (own, columns)
    eye = csr_array(np.eye(T))
    seen = ((second + eye) @ (first + eye)).toarray() > 0
    assert (seen.sum() == T * (T + 1) // 2) == all_reached


def test_a_token_keeps_itself_where_the_pattern_leaves_it_out():
    unseen = ~Window(8, 8)  # no token sees itself
    assert reach(adjacency(unseen, 4), 2).tolist() == [[1] * 4] * 3


def test_a_random_graph_has_a_gap_and_a_band_has_none():
    """First near n p + 1 = 17 and second near 2 √16 = 8; a band's lie side by side."""
    first, second = eigenvalues(random_graph(1024, 16))
    assert first == pytest.approx(17, abs=0.2) and second == pytest.approx(8, abs=0.1)
    band = undirected(adjacency(Window(8, 8), 256))
    assert eigenvalues(band).round(2).tolist() == [15.97, 15.88]


def test_a_random_graph_is_shorter_than_a_band_of_as_many_edges():
    band = path_length(undirected(adjacency(Window(8, 8), 512)))
    drawn = path_length(random_graph(512, 16))
    assert band[1] == drawn[1] == 1
    assert drawn[0] < 3 and band[0] > 7 * drawn[0]


def test_degrees_of_a_random_graph_have_the_mean_asked_for():
    n, degree = 400, 12
    graph = random_graph(n, degree, seed=5)
    deviation = math.sqrt(2 * degree / n)  # of the mean of a binomial, each edge twice
    assert abs(graph.sum() / n - degree) < 4 * deviation
    assert (graph != undirected(graph)).nnz == 0
    assert (graph != random_graph(n, degree, seed=5)).nnz == 0
    assert (graph != random_graph(n, degree, seed=6)).nnz > 0


def test_extremes_of_a_random_graph():
    assert random_graph(6, 0).nnz == 0
    assert random_graph(6, 5).nnz == 30
    assert random_graph(1, 0).shape == (1, 1)
    assert eigenvalues(random_graph(6, 0)).tolist() == [0, 0]


def test_nothing_connected_has_no_mean():
    mean, share = path_length(adjacency(Window(0), 5))
    assert math.isnan(mean) and share == 0
    assert path_length(adjacency(Window(0), 1))[1] == 0


def test_causal_patterns_connect_half_of_the_ordered_pairs():
    assert path_length(adjacency(Causal(), 9)) == (1.0, 0.5)
    mean, share = path_length(adjacency(sliding_window(2), 4))  # 3 + 2·2 + 1·3 hops
    assert (mean, share) == (pytest.approx(10 / 6), 0.5)


@pytest.mark.parametrize("call, words", [
    (lambda: adjacency(Full(), 0), "T=0"),
    (lambda: reach(csr_array((3, 4)), 1), r"shape \(3, 4\): as many rows as columns"),
    (lambda: reach(ring(4), -1), "layers=-1"),
    (lambda: hops(ring(4), 4), "token=4: a whole number from 0 to 3"),
    (lambda: hops(csr_array((3, 4)), 0), r"shape \(3, 4\)"),
    (lambda: path_length(csr_array((3, 4))), r"shape \(3, 4\)"),
    (lambda: undirected(csr_array((3, 4))), r"shape \(3, 4\)"),
    (lambda: eigenvalues(csr_array((3, 4))), r"shape \(3, 4\)"),
    (lambda: eigenvalues(adjacency(Causal(), 4)), "not symmetric: 12 entries"),
    (lambda: eigenvalues(ring(4), 4), "count=4: a whole number from 1 to 3"),
    (lambda: random_graph(0, 1), "n=0"),
    (lambda: random_graph(4, 4), "degree=4: from 0 to the 3 other nodes"),
    (lambda: random_graph(4, -1), "degree=-1"),
    (lambda: random_graph(4, math.nan), "degree=nan"),
    (lambda: random_graph(4, 1, seed=-1), "seed=-1"),
])  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
