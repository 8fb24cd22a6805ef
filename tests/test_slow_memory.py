"""The simulator: it counts what moves, refuses what does not fit, and computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_attn.counting import SlowMemory


def tiled_product(memory: SlowMemory, a, b, tile: int):
    """a (m, k) times b (k, n), one tile of the result at a time."""
    (m, k), n = a.shape, b.shape[1]
    out = memory.empty(m, n, name="out")
    for i in range(0, m, tile):
        for j in range(0, n, tile):
            with memory.block():
                rows, columns = min(tile, m - i), min(tile, n - j)
                total = memory.hold(torch.zeros(rows, columns), "total")
                for p in range(0, k, tile):
                    with memory.block():
                        left = memory.load(a[i : i + tile, p : p + tile])
                        right = memory.load(b[p : p + tile, j : j + tile])
                        total += left @ right
                memory.store(out[i : i + tile, j : j + tile], total)
    return out


sizes = st.integers(1, 20)


@given(m=sizes, k=sizes, n=sizes, tile=st.integers(1, 8))
def test_a_tiled_product_is_the_product_and_its_traffic_is_the_formula(m, k, n, tile):
    torch.manual_seed(m + 100 * k + 10_000 * n)
    a, b = torch.randn(m, k), torch.randn(k, n)
    memory = SlowMemory(fast=3 * tile * tile)
    out = tiled_product(memory, memory.place(a, "a"), memory.place(b, "b"), tile)

    exact = a.double() @ b.double()
    budget = 2 * k * torch.finfo(torch.float32).eps * (a.abs() @ b.abs()).max()
    assert (memory.result(out) - exact).abs().max() <= budget
    rows, columns = -(-m // tile), -(-n // tile)  # tiles in each direction
    assert memory.read == m * k * columns + k * n * rows
    assert memory.written == m * n
    assert memory.moved == memory.read + memory.written
    assert memory.held == 0 and memory.peak <= 3 * tile * tile


def test_fast_memory_that_is_too_small_says_what_it_holds_and_what_did_not_fit():
    memory = SlowMemory(fast=100)
    x = memory.place(torch.ones(200), "x")
    memory.load(x[0:64])
    with pytest.raises(
        MemoryError, match=r"100 elements and holds 64 \(x\[0:64\] 64\)"
    ):
        memory.load(x[64:128])
    assert memory.read == 64 and memory.held == 64, "a load that failed moved nothing"
    with pytest.raises(MemoryError, match="nothing"):
        SlowMemory(fast=1).load(x)


def test_what_fits_exactly_fits():
    memory = SlowMemory(fast=64)
    memory.load(memory.place(torch.ones(64)))
    assert memory.peak == 64


def test_a_tile_that_was_freed_is_worth_nothing():
    memory = SlowMemory()
    x, y = memory.place(torch.ones(4), "x"), memory.empty(4, name="y")
    with memory.block():
        tile = memory.load(x)
    memory.store(y, tile)
    with pytest.raises(ValueError, match="y: 4 of 4 elements are NaN"):
        memory.result(y)


def test_a_hole_in_the_result_is_found():
    memory = SlowMemory()
    x, y = memory.place(torch.ones(8), "x"), memory.empty(8, name="y")
    memory.store(y[0:4], memory.load(x[0:4]))
    with pytest.raises(ValueError, match="4 of 8"):
        memory.result(y)


def test_a_tile_is_a_copy_and_so_is_what_was_placed():
    memory, given = SlowMemory(), torch.ones(4)
    x = memory.place(given, "x")
    given.zero_()
    memory.load(x).mul_(2)
    assert memory.result(x).tolist() == [1, 1, 1, 1]


def test_blocks_nest_and_each_frees_only_its_own():
    memory = SlowMemory()
    x = memory.place(torch.ones(8), "x")
    with memory.block():
        memory.load(x[0:4])
        with memory.block():
            memory.load(x[4:8])
            assert list(memory.contents) == ["x[0:4]", "x[4:8]"]
        assert list(memory.contents) == ["x[0:4]"]
    assert memory.held == 0 and memory.peak == 8


def test_an_array_gives_its_shape_and_its_address_and_no_numbers():
    memory = SlowMemory()
    x = memory.place(torch.arange(12.0).view(3, 4), "x")
    assert x.shape == (3, 4) and len(x) == 3
    names = {x[1:2, ::2]: "x[1:2, ::2]", x[..., 0]: "x[..., 0]", x[-1:]: "x[-1:]"}
    for part, name in names.items():
        assert part.name == name
    assert repr(x[0:2]) == "x[0:2] (2, 4) in slow memory"
    with pytest.raises(TypeError):
        x + 1
    with pytest.raises(TypeError):
        torch.exp(x)


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda m, x, t: m.load(t), "source is Tensor"),
        (lambda m, x, t: m.store(t, t), "target is Tensor"),
        (lambda m, x, t: m.store(x[0:2], t), r"tile has shape \(4,\) but x\[0:2\]"),
        (lambda m, x, t: m.load(x), "name='x': fast memory already holds one"),
        (lambda m, x, t: m.free(t.clone()), r"no such tile to free: it holds \['x'\]"),
        (lambda m, x, t: SlowMemory(fast=0), "fast=0: a whole number"),
    ],
)
def test_misuse_says_what_is_wrong(misuse, says):
    memory = SlowMemory()
    x = memory.place(torch.ones(4), "x")
    tile = memory.load(x)
    with pytest.raises(ValueError, match=says):
        misuse(memory, x, tile)


def test_precision_is_kept_where_asked():
    memory = SlowMemory()
    x = memory.place(torch.full((2,), 1 / 3, dtype=torch.float64))
    y = memory.empty(2, dtype=torch.float64)
    memory.store(y, memory.load(x))
    assert memory.result(y).equal(memory.result(x))
