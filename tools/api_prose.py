"""Docstrings and signatures of the package as Markdown.

Knows our style of docstring, plain prose with names in single backticks, and writes
every other character so that Markdown leaves it alone; leaves which names there are
to `api`.
"""

import ast
import inspect
import re
from collections.abc import Callable, Collection

unparse = ast.unparse
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#+\-!|$~^&%=])")
LABELS = r"(?:Returns|Raises|Memory:|Cost:|Sources?:)"
PARAMETERS = re.compile(r"((?:\**\w+(?:, | and )?)+):\s")


def escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is, also at the start of a line."""
    text = SPECIAL.sub(r"\\\1", text)
    return re.sub(r"^(\d*)([:.)])", r"\1\\\2", text)


def code(text: str) -> str:
    """`text` as inline code."""
    return f"`{text}`"


def anchor(module: str) -> str:
    """The place of a module in the page, as docutils writes one."""
    return f"api-{module}".replace("_", "-")


def code_or_link(
    known: dict[str, set[str]], room: str, but: Collection[str] = ()
) -> Callable[[str], str]:
    """How a name in backticks is written: as a link where it names a part of the page.

    known: the public names of each module. A name is sought in `room`, then as
    module.name, then among the modules. but: names that mean something else here,
    such as arguments.
    """

    def write(text: str) -> str:
        head = re.match(r"[\w.]*", text)[0]
        module, _, name = head.partition(".")
        if module in but or re.search("[<>]", text):
            return code(text)
        if head in known.get(room, ()):
            return f"{{py:obj}}`{text} <sparse_attn.{room}.{head}>`"
        if name in known.get(module, ()):
            return f"{{py:obj}}`{text} <sparse_attn.{head}>`"
        if text in known and text != room:
            return f"[`{text}`](#{anchor(text)})"
        return code(text)

    return write


def markdown(doc: str, name: Callable[[str], str], names: Collection[str] = ()) -> str:
    """A docstring as Markdown: paragraphs, lists of arguments, indented code.

    name: how a name in backticks is written. names: the arguments. A line that starts
    with one and a colon, and a sentence that starts with Returns, Raises, Memory, Cost
    or Source, are items of a list.
    """
    blocks = re.split(r"\n[ ]*\n", inspect.cleandoc(doc))
    return "\n\n".join(_block(block, name, names) for block in blocks if block)


def _block(block: str, name: Callable[[str], str], names: Collection[str]) -> str:
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines):
        return f"```text\n{inspect.cleandoc(block)}\n```"
    text = lines[0]
    for line in lines[1:]:
        text += ("\n" if _starts_item(line, names) else " ") + line.strip()
    text = re.sub(rf"(?<=[.)]) (?={LABELS})", "\n", text)
    parts = [_inline(part, name) for part in text.split("\n")]
    first = [] if _starts_item(text, names) and len(parts) > 1 else [parts.pop(0)]
    return "\n\n".join([*first, "\n".join(f"- {part}" for part in parts)]).strip()


def _starts_item(line: str, names: Collection[str]) -> bool:
    label = PARAMETERS.match(line)
    first = re.split(", | and ", label[1])[0].lstrip("*") if label else None
    return first in names or bool(re.match(LABELS, line))


def _inline(text: str, name: Callable[[str], str]) -> str:
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick alone opens nothing
        return escaped(text)
    return escaped(parts[0]) + "".join(
        SPECIAL.sub(r"\\\1", part) if i % 2 else name(part)
        for i, part in enumerate(parts[1:])
    )


# --- signatures ---------------------------------------------------------------------


def arguments(node: ast.FunctionDef | ast.ClassDef) -> str:
    """What stands in parentheses after a name, and what comes back.

    Of a class: what makes one, by its __init__ or by its fields; "" without either.
    """
    if isinstance(node, ast.FunctionDef):
        back = f" -> {_annotation(node.returns)}" if node.returns else ""
        return f"({_listed(node)}){back}"
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return f"({_listed(part)})"
    made_of = [unparse(made) for made in (*node.decorator_list, *node.bases)]
    if any(made.startswith(("dataclass", "NamedTuple")) for made in made_of):
        return f"({', '.join(map(_field, fields(node)))})"
    return ""


def fields(node: ast.stmt) -> list[ast.AnnAssign]:
    """The annotated names of a class, in its order; none of anything else."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [part for part in body if isinstance(part, ast.AnnAssign)]


def _listed(node: ast.FunctionDef) -> str:
    args = ast.parse(unparse(node)).body[0].args  # a copy, to be cut
    positional = args.posonlyargs or args.args
    if positional and positional[0].arg in ("self", "cls", "ctx"):
        positional.pop(0)
    return unparse(args)


def _annotation(node: ast.expr) -> str:
    return (
        node.value if isinstance(node, ast.Constant) and node.value else unparse(node)
    )


def _field(part: ast.AnnAssign) -> str:
    shown = f"{unparse(part.target)}: {_annotation(part.annotation)}"
    if part.value is None:
        return shown
    if not isinstance(part.value, ast.Call) or unparse(part.value.func) != "field":
        return f"{shown} = {unparse(part.value)}"
    defaults = {word.arg for word in part.value.keywords} & {
        "default",
        "default_factory",
    }
    return f"{shown} = ..." if defaults else shown
