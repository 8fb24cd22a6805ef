"""The API reference as Markdown, read from the source of the package.

Knows modules, names and docstrings as they stand in the files, and imports none of
them, so that the page is the same where Triton or a GPU is missing; leaves prose and
signatures to `api_prose`, and the page that holds them to `sphinx_book`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.api_prose import (
    anchor,
    arguments,
    code,
    code_or_link,
    fields,
    markdown,
    unparse,
)

PACKAGE = "sparse_attn"
Function, Class = ast.FunctionDef, ast.ClassDef


@dataclass(frozen=True)
class Name:
    """A public name: what defines it, and the comment beside it in the source."""

    name: str
    node: Function | Class | ast.Assign | ast.AnnAssign
    comment: str


@dataclass(frozen=True)
class Room:
    """A public module: its docstring and its public names, in the order of the file."""

    name: str
    doc: str
    names: tuple[Name, ...]


def rooms(package: Path) -> list[Room]:
    """The public modules directly under the folder `package`, by name.

    A module's public names are those in its __all__; without one, the functions and
    classes it defines that do not start with an underscore.
    Raises ValueError for a name in __all__ that nothing in the package defines.
    """
    files = [*package.glob("[!_]*.py"), *package.glob("[!_]*/__init__.py")]
    return sorted(map(_room, files), key=lambda room: room.name)


def _room(file: Path) -> Room:
    tree = ast.parse(file.read_text("utf-8"))
    names = [
        node.name
        for node in tree.body
        if isinstance(node, Function | Class) and not node.name.startswith("_")
    ]
    for node in tree.body:
        if "__all__" in _defined(node):
            names = ast.literal_eval(node.value)
    name = file.parent.name if file.stem == "__init__" else file.stem
    doc = ast.get_docstring(tree) or ""
    return Room(name, doc, tuple(_find(file, name) for name in names))


def _find(file: Path, name: str) -> Name:
    """Where `name` is defined: in `file`, or in the module it is imported from."""
    text = file.read_text("utf-8")
    body = ast.parse(text).body
    for node in body:
        if name in _defined(node):
            _inherit(node, body)
            return Name(name, node, _comment(text.split("\n"), node.lineno - 1))
        if isinstance(node, ast.ImportFrom):
            found = [a.name for a in node.names if (a.asname or a.name) == name]
            if found and (node.module or "").startswith(PACKAGE):
                return _find(_module(file, node.module), found[0])
    raise ValueError(f"{file.name} makes {name!r} public, and nothing defines it")


def _module(file: Path, dotted: str) -> Path:
    """The file of sparse_attn.x.y, seen from a file of the same package."""
    home = next(folder for folder in file.parents if folder.name == PACKAGE)
    path = home.parent.joinpath(*dotted.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, Function | Class):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [unparse(target) for target in node.targets]
    return [unparse(node.target)] if isinstance(node, ast.AnnAssign) else []


def _inherit(node: ast.stmt, body: list[ast.stmt]) -> None:
    """Put the fields of bases that the same file defines before the class's own."""
    for base in getattr(node, "bases", []):
        above = [one for one in body if unparse(base) in _defined(one)]
        at = 1 if ast.get_docstring(node) else 0
        node.body[at:at] = [field for one in above for field in fields(one)]


def _comment(lines: list[str], at: int) -> str:
    """The comment at the end of a definition's first line, or the lines above it."""
    beside = re.search(r"\s# (?!fmt:)(.*)", lines[at])
    if beside:
        return beside[1]
    first = at
    while first and lines[first - 1].startswith("# "):
        first -= 1
    return " ".join(line[2:] for line in lines[first:at])


# --- the page -----------------------------------------------------------------------


def reference(package: Path) -> str:
    """Markdown for the page: a table of the modules, then each with all its names.

    Its headings are of the second level, and the place of a name in the built page is
    #sparse_attn.<module>.<name>, that of a module #api-<module>, with hyphens.
    """
    found = rooms(package)
    known = {room.name: {name.name for name in room.names} for room in found}
    table = ["| module | what it knows |", "|---|---|"]
    for room in found:
        opening = markdown(room.doc.split("\n\n")[0], code)
        table.append(f"| [`{room.name}`](#{anchor(room.name)}) | {opening} |")
    parts = ["\n".join(table)]
    for room in found:
        parts += _section(room, partial(code_or_link, known, room.name))
    return "\n\n".join(parts) + "\n"


def _section(room: Room, links) -> Iterator[str]:
    """A module: its docstring, and each of its names. links(but): see code_or_link."""
    yield f"({anchor(room.name)})=\n## `{room.name}`"
    yield f":::{{py:currentmodule}} {PACKAGE}.{room.name}\n:::"
    yield markdown(room.doc, links())
    for name in room.names:
        node = name.node
        if isinstance(node, Function):
            yield _function("function", node, links)
        elif isinstance(node, Class):
            yield _class(node, links)
        else:
            yield _constant(name)


def _constant(name: Name) -> str:
    value, text = unparse(name.node.value), markdown(name.comment, code)
    if len(value) <= LONGEST:
        return _block("data", name.name, [f":value: {value}"], text)
    if isinstance(name.node.value, ast.Dict):
        keys = ", ".join(code(unparse(key)) for key in name.node.value.keys)
        text = f"{text}\n\nKeys: {keys}.".strip()
    return _block("data", name.name, [], text)


LONGEST = 120  # characters of a constant that is shown as it is


def _class(node: Class, links) -> str:
    link = links(but={node.name})
    bases = [unparse(base) for base in node.bases]
    bases = [link(base) for base in bases if not base.startswith(("_", *UNTOLD))]
    parts = [f"A kind of {' and '.join(bases)}."] if bases else []
    parts.insert(0, _doc(node, links))
    for part in node.body:
        public = isinstance(part, Function) and not part.name.startswith("_")
        if public and ast.get_docstring(part):
            parts.append(_method(part, links))
    head = f"{node.name}{arguments(node)}"
    return _block("class", head, [], "\n\n".join(parts), fence=":::::")


UNTOLD = ("ABC", "NamedTuple")  # bases that say nothing to a caller


def _method(node: Function, links) -> str:
    marks = {unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    if marks & {"property", "cached_property"}:
        kind = [f":type: {unparse(node.returns)}"] if node.returns else []
        return _block("property", node.name, kind, _doc(node, links))
    ways = [f":{mark}:" for mark in sorted(marks & {"classmethod", "staticmethod"})]
    return _function("method", node, links, ways)


def _function(kind: str, node: Function, links, options=()) -> str:
    return _block(kind, f"{node.name}{arguments(node)}", options, _doc(node, links))


def _doc(node: Function | Class, links) -> str:
    """The docstring as Markdown; its arguments or fields are no links, but items."""
    names = {arg.arg for arg in ast.walk(node) if isinstance(arg, ast.arg)}
    names |= {field.target.id for field in fields(node)}
    doc = ast.get_docstring(node) or ""
    return markdown(doc, links(but=names | {node.name}), names)


def _block(kind: str, head: str, options, body: str, fence: str = ":::") -> str:
    lines = [f"{fence}{{py:{kind}}} {head}", *options]
    return "\n".join(lines) + f"\n\n{body}\n{fence}"
