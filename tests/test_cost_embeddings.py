"""What tables hold, against the modules that hold it and numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import explains
from torch import nn

from sparse_attn import cost

steady = settings(max_examples=40)
SPLIT, WIDTHS, C = (0.2, 0.6, 0.2), (179, 128, 76), 128  # of the published sketch
bands = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 40)), min_size=1)


def held(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@steady
@given(vocab=st.integers(1, 999), width=st.integers(1, 99))
def test_one_table_holds_what_an_embedding_holds(vocab, width):
    with torch.device("meta"):
        table = nn.Embedding(vocab, width)
    assert cost.embedding_parameters(vocab, width) == held(table)


@steady
@given(bands=bands, width=st.integers(1, 40), project=st.booleans())
def test_bands_hold_a_table_each_and_a_projection_where_one_is_needed(
    bands, width, project
):
    with torch.device("meta"):
        tables = [nn.Embedding(n, own) for n, own in bands]
        projections = [
            nn.Linear(own, width, bias=False)
            for _, own in bands
            if project or own != width
        ]
    sizes, widths = zip(*bands, strict=True)
    found = cost.banded_parameters(sizes, widths, width, project=project)
    assert found == (held(*tables), held(*projections))


def test_the_published_multipliers_save_nothing_before_they_are_rounded():
    """0.2 · 1.4 + 0.6 · 1 + 0.2 · 0.6 is 1: only int() makes the mean smaller."""
    assert math.fsum(a * b for a, b in zip(SPLIT, (1.4, 1.0, 0.6), strict=True)) == 1
    assert cost.banded_break_even(SPLIT, (140, 100, 60), 100) == math.inf
    assert cost.banded_parameters((200, 600, 200), (140, 100, 60), 100) == (
        cost.embedding_parameters(1000, 100),
        (140 + 60) * 100,
    )


def test_the_published_widths_need_163_200_tokens_to_save_one_weight():
    assert cost.banded_parameters((1, 1, 1), WIDTHS, C)[1] == 32_640
    least = cost.banded_break_even(SPLIT, WIDTHS, C)
    assert least == pytest.approx(163_200, rel=1e-9)


def test_at_the_published_vocabulary_bands_hold_more_than_twice_as_much():
    assert sum(cost.banded_parameters((40, 120, 40), WIDTHS, C)) == 58_200
    assert cost.embedding_parameters(200, C) == 25_600


def test_at_the_break_even_both_hold_the_same():
    V = round(cost.banded_break_even(SPLIT, WIDTHS, C))
    sizes = (V // 5, 3 * V // 5, V // 5)
    assert sum(sizes) == V
    assert sum(cost.banded_parameters(sizes, WIDTHS, C)) == V * C


@steady
@given(
    shares=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    widths=st.tuples(*[st.integers(1, 30)] * 3),
    width=st.integers(1, 30),
    tens=st.integers(1, 400),
    project=st.booleans(),
)
def test_bands_hold_less_than_one_table_only_past_the_break_even(
    shares, widths, width, tens, project
):
    shares = (*shares, max(1, 10 - sum(shares)))
    sizes = [share * tens for share in shares]
    total = sum(shares)
    split = [share / total for share in shares]
    least = cost.banded_break_even(split, widths, width, project=project)
    held = sum(cost.banded_parameters(sizes, widths, width, project=project))
    one = cost.embedding_parameters(total * tens, width)
    if not math.isclose(total * tens, least, rel_tol=1e-9):
        assert (held < one) == (total * tens > least)


@pytest.mark.parametrize("project", [False, True])
def test_equal_or_wider_bands_never_pay(project):
    for widths in ((8, 8, 8), (8, 9, 8), (12, 8, 8)):
        least = cost.banded_break_even(SPLIT, widths, 8, project=project)
        assert least == math.inf


@pytest.mark.parametrize(
    "call, name, got",
    [
        (lambda: cost.embedding_parameters(0, 8), "vocab", 0),
        (lambda: cost.embedding_parameters(8, 1.5), "width", 1.5),
        (lambda: cost.banded_parameters((4, 0), (8, 8), 8), "sizes", 0),
        (lambda: cost.banded_parameters((4, 4), (8, -1), 8), "widths", -1),
        (lambda: cost.banded_parameters((4, 4), (8, 8), 0), "width", 0),
    ],
)
def test_numbers_that_are_no_counts_are_named(call, name, got):
    explains(call, name, got)


def test_every_band_needs_its_size_its_width_and_its_share():
    with pytest.raises(ValueError):
        cost.banded_parameters((4, 4), (8, 8, 8), 8)
    with pytest.raises(ValueError):
        cost.banded_break_even((0.5, 0.5), (8, 8, 4), 8)
