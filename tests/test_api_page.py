"""The reference of the package: every public name, as Markdown that changes nothing."""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from markdown_it import MarkdownIt

from tools import api
from tools.api_prose import anchor, arguments, code, code_or_link, escaped, markdown
from tools.notebooks import ROOT

ROOMS = api.rooms(ROOT / "sparse_attn")
NAMES = [(room, name) for room in ROOMS for name in room.names]
PAGE = api.reference(ROOT / "sparse_attn")

each_name = pytest.mark.parametrize(
    "room, name", NAMES, ids=[f"{room.name}.{name.name}" for room, name in NAMES]
)


def entry(room, name):
    """What the page says below the line that opens the entry of a name."""
    section = PAGE.split(f"({anchor(room.name)})=\n")[1].split("\n(api-")[0]
    kinds = r"(?:function|class|data)"
    found = re.split(rf"^:{{3,}}\{{py:{kinds}\}} {name.name}\b", section, flags=re.M)
    assert len(found) == 2, f"{name.name} has {len(found) - 1} entries"
    head, _, body = found[1].partition("\n\n")
    return head, body.split("\n:::")[0]


def text_of(markdown):
    """What a reader sees of Markdown: no marks, no escapes, one space between words."""
    pieces = []
    for token in MarkdownIt().parse(markdown):
        for part in token.children or [token]:
            pieces.append(" " if part.type == "softbreak" else part.content)
        pieces.append(" ")
    return " ".join("".join(pieces).split())


def plain(text):
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_public_module_says_what_it_knows(room):
    assert room.doc.split("\n\n")[0].rstrip().endswith((".", "?")), room.doc
    assert f"({anchor(room.name)})=\n## `{room.name}`" in PAGE
    assert f"| [`{room.name}`](#{anchor(room.name)}) | " in PAGE


@each_name
def test_every_public_name_has_an_entry_with_its_docstring(room, name):
    if isinstance(name.node, ast.Assign | ast.AnnAssign):
        head, body = entry(room, name)
        assert body.strip() or ":value:" in head, f"no comment beside {name.name}"
        return
    doc = ast.get_docstring(name.node)
    assert doc, f"{room.name}.{name.name} has no docstring"
    words = re.sub(r"{py:obj}`(.*?) <[\w.]*>`", r"`\1`", entry(room, name)[1])
    words = re.sub(r"\[(`.*?`)\]\(#api-[\w-]+\)", r"\1", words)
    assert plain(doc) in text_of(words)


def importable(room):
    try:
        return importlib.import_module(f"sparse_attn.{room.name}")
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed here")


@each_name
def test_a_signature_names_the_arguments_that_the_object_takes(room, name):
    found = getattr(importable(room), name.name)
    if isinstance(name.node, ast.Assign | ast.AnnAssign):
        return
    shown = arguments(name.node)
    if not shown:  # a class made of nothing, or as its base is
        assert "__init__" not in vars(found)
        return
    function = ast.parse(f"def f{shown}: pass").body[0]
    told = [part.arg for part in ast.walk(function.args) if isinstance(part, ast.arg)]
    assert sorted(told) == sorted(inspect.signature(found).parameters)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_public_names_are_those_of_the_module_itself(room):
    module = importable(room)
    listed = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and value.__module__ == module.__name__
    ]
    assert {name.name for name in room.names} == set(listed)


@pytest.mark.parametrize(
    "text",
    [
        "a * b * c, _x_ and __init__, 2 ** 3",
        "x[0](y) <b> & <script> {{ edition }} {term} $a_b$ ~c~ ^d^ \\e | f",
        "1. one",
        "- dash",
        "+ plus",
        "# hash",
        "> more",
        ": colon",
        "% comment",
        "(place)=",
        "===",
    ],
)
def test_prose_is_shown_as_it_is_written(text):
    assert text_of(escaped(text)) == text
    assert text_of(markdown(text, code)) == text


def test_items_of_a_docstring_become_a_list_and_sentences_a_paragraph():
    doc = """Attention: softmax(q kᵀ) v.

    q: (B, H, T, D); k: as wide,
    and long. Returns (B, H, T, D). Raises ValueError. A note: not an item.

        k3 v7 | filler

    Source: somebody."""
    assert markdown(doc, code, {"q", "k"}).split("\n") == [
        "Attention: softmax(q kᵀ) v.",
        "",
        "- q: (B, H, T, D); k: as wide, and long.",
        "- Returns (B, H, T, D).",
        "- Raises ValueError. A note: not an item.",
        "",
        "```text",
        "k3 v7 | filler",
        "```",
        "",
        "Source: somebody.",
    ]


def test_a_name_in_backticks_is_a_link_where_it_is_one_name_of_the_page():
    known = {"cost": {"scores"}, "flash": {"walk"}}
    link = code_or_link(known, "flash", but={"block"})
    assert link("walk(x)") == "{py:obj}`walk(x) <sparse_attn.flash.walk>`"
    assert link("cost.scores") == "{py:obj}`cost.scores <sparse_attn.cost.scores>`"
    assert link("cost") == "[`cost`](#api-cost)"
    for other in ("scores", "block", "cost.block", "flash", "x < y", "-1"):
        assert link(other) == f"`{other}`"


def test_a_lone_backtick_opens_nothing():
    assert text_of(markdown("a ` b *c*", code)) == "a ` b *c*"


def test_signatures_of_methods_classes_and_fields():
    source = """
class Plain:
    def __init__(self, a: int, *, b: str = "x_y"): ...
    def method(self, c, *d, **e) -> "Plain": ...
    @staticmethod
    def static(f=1): ...

@dataclass(frozen=True)
class Fields:
    g: Tensor = field(repr=False)
    h: dict = field(default_factory=dict)

class Bare(Plain): ...
"""
    plain, fields, bare = ast.parse(source).body
    assert arguments(plain) == "(a: int, *, b: str='x_y')"
    assert arguments(plain.body[1]) == "(c, *d, **e) -> Plain"
    assert arguments(plain.body[2]) == "(f=1)"
    assert arguments(fields) == "(g: Tensor, h: dict = ...)"
    assert arguments(bare) == ""


def test_a_name_that_nothing_defines_is_an_error(tmp_path):
    package = tmp_path / "sparse_attn"
    package.mkdir()
    (package / "room.py").write_text('__all__ = ["lost"]\n')
    with pytest.raises(ValueError, match="makes 'lost' public"):
        api.rooms(package)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A small book in a folder of its own, as `make mybook` lays one out."""
    home = tmp_path_factory.mktemp("copy")
    for name in ("tools", "sparse_attn"):
        shutil.copytree(ROOT / name, home / name)
    (home / "book").mkdir()
    (home / "benchmarks" / "results").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", home)
    shutil.copytree(ROOT / "book" / "vendor", home / "book" / "vendor")
    for name in ("api.md", "status.md", "references.bib"):
        shutil.copy(ROOT / "book" / name, home / "book")
    (home / "book" / "intro.md").write_text("# A book\n\nOn {{ edition }}.\n")
    (home / "book" / "notation.md").write_text("# Notation\n")
    pages = "".join(f"- file: book/{name}\n" for name in ("notation", "api", "status"))
    toc = f"format: jb-book\nroot: book/intro\nchapters:\n{pages}"
    (home / "_toc.yml").write_text(toc)
    return home


def build(home):
    builder = Path(sys.executable).with_name("jupyter-book")
    options = ["--all", "-W", "-n", "--keep-going", "-q"]
    command = [builder, "build", home, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_sphinx_builds_the_page_from_the_copy_with_a_place_for_each_name(copy):
    (copy / "sparse_attn" / "only_here.py").write_text('"""Only in this copy."""\n')
    built = build(copy)
    assert built.returncode == 0, built.stderr
    page = (copy / "_build" / "html" / "book" / "api.html").read_text()
    ids = set(re.findall(r'id="([^"]*)"', page))
    places = {f"sparse_attn.{room.name}.{name.name}" for room, name in NAMES}
    assert places | {anchor(room.name) for room in ROOMS} <= ids
    assert "Only in this copy." in page


def test_a_chapter_that_was_never_run_stops_the_build_with_what_to_do(copy):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One")])
    nbformat.write(notebook, copy / "book" / "01_one.ipynb")
    built = build(copy)
    (copy / "book" / "01_one.ipynb").unlink()
    told = " ".join((built.stdout + built.stderr).split())
    assert built.returncode != 0
    assert "01_one.ipynb does not say what it was run with" in told
    assert "call make notebooks" in told
