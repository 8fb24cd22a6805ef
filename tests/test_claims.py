"""The ledger of claims: complete, recomputed, and pointing at what exists."""

import json
import re

import pytest

from sparse_attn import claims
from sparse_attn.claims import Claim, agrees, drifted, evaluate, ledger, recompute
from tools.notebooks import ROOT

EACH = pytest.mark.parametrize("claim", ledger(), ids=lambda claim: claim.id)
ROW = dict(
    id="X1",
    sources=["A"],
    says="two and two are five",
    verdict="wrong",
    how="computed",
    why="they are four",
    chapter="01_attention_cost",
    anchor="takeaways",
)


def audited():
    """The ids of the audit that the book started from."""
    for n, parts in ((1, "abc"), (2, "abc"), (3, "abc"), (4, "abc"), (5, "abc")):
        yield from (f"S{n:02}{part}" for part in parts)
    yield from (f"S06{part}" for part in "abc")
    yield from ("S07", "S08", "S09")
    yield from (f"S{n}{part}" for n in (10, 11, 12) for part in "ab")
    yield from (f"S{n}" for n in range(13, 37))
    for letter, last in (("I", 8), ("G", 32), ("B", 12), ("L", 33), ("W", 7)):
        yield from (f"{letter}{n:02}" for n in range(1, last + 1))


def test_every_audited_claim_has_an_entry():
    assert set(audited()) <= {claim.id for claim in ledger()}


@EACH
def test_a_computed_claim_gives_its_value_again(claim):
    if not claim.value:
        assert claim.how != "computed", "computed, but by what call?"
        return
    assert not drifted(claim), recompute(claim)


@EACH
def test_what_is_printed_follows_from_the_reading_that_the_entry_gives(claim):
    if claim.theirs:
        found = evaluate(claim.theirs)
        assert len(found) == len(claim.printed)
        for printed, x in zip(claim.printed, found, strict=True):
            assert agrees(printed, x), (printed, x)


@EACH
def test_a_verdict_on_a_number_says_what_the_numbers_say(claim):
    if not claim.printed or len(claim.printed) != len(claim.value):
        return
    alike = [agrees(*pair) for pair in zip(claim.printed, claim.value, strict=True)]
    if claim.verdict == "correct":
        assert all(alike)
    if claim.verdict == "wrong":
        assert not all(alike)


@EACH
def test_the_way_that_is_named_was_gone(claim):
    if claim.how == "cited":
        assert claim.cites
    if claim.how == "stored":
        assert "results." in claim.call and claim.value
    if claim.how == "measured":
        assert not claim.value, "a number of one device is no value for all"
    if claim.verdict == "depends on device":
        assert claim.how in ("measured", "stored")
    bibliography = (ROOT / "book" / "references.bib").read_text()
    for key in claim.cites:
        assert re.search(rf"@\w+\{{{key},", bibliography), key


def anchors(chapter: str) -> set[str]:
    """Headings of a chapter, as Sphinx spells them in a link."""
    notebook = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text())
    text = [c["source"] for c in notebook["cells"] if c["cell_type"] == "markdown"]
    text = "\n".join("".join(source) for source in text)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9]+", "-", head.lower()).strip("-") for head in heads}


@EACH
def test_an_entry_points_at_a_heading_that_exists(claim):
    assert claim.anchor in anchors(claim.chapter)


@pytest.mark.parametrize(
    "printed, x, fits",
    [
        ("62", 62.5, True),  # cut off
        ("1.0e6", 1_048_576, True),
        ("1.00e6", 1_048_576, False),
        ("6,250", 6250, True),
        ("9.2", 9.35, False),
        ("0.18", 0.1818, True),
    ],
)
def test_a_printed_number_agrees_within_a_unit_of_its_last_digit(printed, x, fits):
    assert agrees(printed, x) == fits


def test_a_drifted_value_is_noticed():
    claim = Claim.read(ROW | dict(call="cost.pairs(6)", value=35))
    with pytest.raises(AssertionError):
        test_a_computed_claim_gives_its_value_again(claim)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(verdict="false"), "verdict='false'"),
        (dict(how="felt"), "how='felt'"),
        (dict(sources=["Z"]), "source='Z'"),
        (dict(why=" "), "why is empty"),
        (dict(value=4), "without the call"),
        (dict(verdit="wrong"), "no such fields: ['verdit']"),
    ],
)
def test_an_entry_that_is_none_is_refused(change, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Claim.read(ROW | change)


def test_an_entry_without_a_field_is_refused():
    with pytest.raises(ValueError, match="chapter"):
        Claim.read({name: x for name, x in ROW.items() if name != "chapter"})


def test_claims_are_found_by_id_and_counted_by_verdict():
    assert claims.find("S07").id == "S07"
    with pytest.raises(ValueError, match="no such claim"):
        claims.find("S99")
    assert sum(claims.tally().values()) == len(ledger())
    assert claims.tally([Claim.read(ROW)])["wrong"] == 1


def test_a_claim_that_was_read_has_nothing_to_recompute():
    with pytest.raises(ValueError, match="has no call"):
        recompute(Claim.read(ROW))
