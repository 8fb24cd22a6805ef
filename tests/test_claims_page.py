"""The ledger's table: what stands in it, and in a browser that it sorts and filters."""

import re

import pytest
from book_checks import assert_none, network_requests, script_errors, visit
from test_claims import ROW

from sparse_attn.claims import Claim, table
from sparse_attn.claims.entry import number, spelled

CLAIMS = [
    Claim.read(
        ROW
        | dict(id="X1", says="a <b>bold</b> claim", printed="20e6", unit="FLOPs")
        | dict(call="2 * 100**3", value=2e6)
    ),
    Claim.read(
        ROW
        | dict(id="X2", says="a true one", verdict="correct", sources=["A", "D"])
        | dict(call="cost.pairs(3)", value=9, printed="9")
    ),
    Claim.read(ROW | dict(id="X10", says="nobody knows", verdict="cannot be checked")),
    Claim.read(
        ROW
        | dict(id="X3", says="never by itself", call="math.inf", value=float("inf"))
        | dict(sources=["B"], printed="256")
    ),
]


def test_a_row_holds_what_the_entry_says_and_what_its_call_gives():
    page = table(CLAIMS)._repr_html_()
    assert "a &lt;b&gt;bold&lt;/b&gt; claim" in page and "<b>" not in page
    assert "20 million" in page and "2,000,000" in page and "never" in page
    assert 'href="01_attention_cost.html#takeaways"' in page
    assert repr(table(CLAIMS)).split("\n")[1] == "X2 correct"


def test_a_table_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"claims=\[\]"):
        table([])


@pytest.mark.parametrize(
    "x, shown",
    [
        (9, "9"),
        (2_000_000, "2,000,000"),
        (2.5e15, "2.5e15"),
        (0.76190476, "0.7619"),
        (-200.0, "-200"),
        (1.5e-9, "1.5e-9"),
        (float("inf"), "never"),
    ],
)
def test_numbers_have_four_digits_or_are_whole(x, shown):
    assert number(x) == shown


@pytest.mark.parametrize(
    "printed, shown",
    [("1.0e6", "1.0 million"), ("2.1e12", "2.1e12"), ("16e3", "16 thousand")],
)
def test_printed_numbers_are_spelled_as_documents_do(printed, shown):
    assert spelled(printed) == shown


@pytest.fixture
def seen(contexts, tmp_path):
    """The table in a page of its own, without a network."""
    path = tmp_path / "claims.html"
    path.write_text(f"<!doctype html><html>{table(CLAIMS)._repr_html_()}</html>")
    seen = visit(contexts["light"], path)
    yield seen
    assert_none(network_requests(seen) + script_errors(seen))
    seen.page.close()


def shown(page):
    rows = page.locator("tbody tr:visible th").all_inner_texts()
    count = page.locator(".claims-count").inner_text()
    assert count == f"{len(rows)} of {len(CLAIMS)} claims"
    return [row.strip() for row in rows]


def test_rows_are_filtered_by_verdict_source_and_words(seen):
    page = seen.page
    assert shown(page) == ["X1", "X2", "X10", "X3"]
    page.get_by_label("wrong").uncheck()
    assert shown(page) == ["X2", "X10"]
    page.get_by_label("Source").select_option("D")
    assert shown(page) == ["X2"]
    page.get_by_label("Source").select_option("")
    page.get_by_label("wrong").check()
    page.get_by_label("Words").fill("CLAIM bold")
    assert shown(page) == ["X1"]
    page.get_by_label("Words").fill("no such words")
    assert shown(page) == []


@pytest.mark.parametrize(
    "column, up, down",
    [
        ("No.", ["X1", "X2", "X3", "X10"], ["X10", "X3", "X2", "X1"]),
        ("Printed", ["X2", "X3", "X1", "X10"], ["X1", "X3", "X2", "X10"]),
        ("Ours", ["X2", "X1", "X3", "X10"], ["X3", "X1", "X2", "X10"]),
        ("Verdict", ["X2", "X1", "X3", "X10"], ["X10", "X1", "X3", "X2"]),
    ],
)
def test_rows_are_sorted_by_a_column_from_the_keyboard(seen, column, up, down):
    page = seen.page
    head = page.get_by_role("button", name=re.compile(f"^{re.escape(column)}"))
    for order, said in ((up, "ascending"), (down, "descending"), (up, "ascending")):
        head.press("Enter")
        assert shown(page) == order
        assert page.locator(f'th[aria-sort="{said}"]').count() == 1
