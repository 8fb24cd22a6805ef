"""Python's formulas as JavaScript: run on symbols, a function writes down what it does.

Knows numbers, comparisons and branches; leaves what is computed to the functions. So a
page without Python computes by the very formulas that the package computes by.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from numbers import Integral
from types import SimpleNamespace


@dataclass(frozen=True)
class Path:
    """One run: comparisons already decided on it, and a name for each expression."""

    names: dict[str, str] = field(default_factory=dict)
    known: dict[str, bool] = field(default_factory=dict)

    def symbol(self, expression: str) -> Symbol:
        return Symbol(self.names.setdefault(expression, f"v{len(self.names)}"), self)


def _both(operator: str):
    """The operator with a symbol on its left, and with one on its right."""
    return (
        lambda mine, other: mine._made(mine, operator, other),
        lambda mine, other: mine._made(other, operator, mine),
    )


class Symbol:
    """A number that is not known yet: a name that stands for it in JavaScript.

    Inputs are positive. Floor division is one of whole numbers. A comparison that is
    not known on this path stops the run by raising `Fork`.
    """

    def __init__(self, text: str, path: Path, positive: bool = False):
        self.text, self.path, self.positive = text, path, positive

    def _made(self, a, operator: str, b) -> Symbol | int:
        a, b = (int(bool(x)) if isinstance(x, Condition) else x for x in (a, b))
        a_is, b_is = (x if isinstance(x, int) else None for x in (a, b))
        if (operator == "*" and 0 in (a_is, b_is)) or (operator, b_is) == ("%", 1):
            return 0
        if b_is == {"+": 0, "-": 0, "*": 1, "/": 1, "//": 1}.get(operator, ""):
            return a
        if a_is == {"+": 0, "*": 1}.get(operator, ""):
            return b
        form = FORMS.get(operator, f"{{}} {operator} {{}}")
        return self.path.symbol(form.format(written(a), written(b)))

    __add__, __radd__ = _both("+")
    __sub__, __rsub__ = _both("-")
    __mul__, __rmul__ = _both("*")
    __truediv__, __rtruediv__ = _both("/")
    __floordiv__, __rfloordiv__ = _both("//")
    __mod__, __rmod__ = _both("%")

    def __divmod__(self, other):
        return self // other, self % other

    def __neg__(self):
        return self.path.symbol(f"-{self.text}")

    def __round__(self):
        return self.path.symbol(f"Math.round({self.text})")

    def __lt__(self, other):
        return Condition(f"{self.text} < {written(other)}", self.path)

    def __gt__(self, other):
        return Condition(f"{written(other)} < {self.text}", self.path)

    def __ge__(self, other):
        return Condition(f"{self.text} < {written(other)}", self.path, yes=False)

    def __le__(self, other):
        return Condition(f"{written(other)} < {self.text}", self.path, yes=False)

    def __ne__(self, other):
        return Condition(f"{self.text} === {written(other)}", self.path, yes=False)

    def __eq__(self, other):
        return Condition(f"{self.text} === {written(other)}", self.path)

    def __bool__(self):
        return self.positive or bool(self != 0)

    __hash__ = object.__hash__


FORMS = {"//": "Math.floor({} / {})"}  # other operators are alike in both languages
Integral.register(Symbol)  # so that arguments that must be whole numbers may be symbols


class Condition:
    """A comparison of symbols, or its opposite where `yes` is False."""

    def __init__(self, text: str, path: Path, yes: bool = True):
        self.text, self.path, self.yes = text, path, yes

    def __bool__(self):
        if self.text not in self.path.known:
            raise Fork(self.text)
        return self.path.known[self.text] is self.yes


class Fork(BaseException):
    """A branch that depends on symbols; no error, so nothing in between catches it."""


def log(x):
    """The natural logarithm, of a number or of a symbol."""
    if isinstance(x, Symbol):
        return x.path.symbol(f"Math.log({x.text})")
    return math.log(x)


def javascript(fn: Callable, **inputs: Iterable[str]) -> str:
    """`fn` as a JavaScript function that returns what it returns.

    inputs: the name of each argument, and the names of the numbers in it: "own.flops"
    for one within another, none for an argument that is a number. What fn returns is
    made of numbers, texts, sequences, dicts and dataclasses. A path that ends in a
    ValueError is taken for one that no input leads to.
    Raises ValueError where all of them do.
    """
    names: dict[str, str] = {}

    def run(known):
        path = Path(names, known)
        return fn(*(_argument(name, tuple(of), path) for name, of in inputs.items()))

    tree = _explored(run, {})
    if tree is None:
        raise ValueError(f"{fn}: every path ends in a ValueError")
    result = _branched(tree)
    lines = [f"const {v} = {x};" for v, x in _used(result, names)]
    return f"({', '.join(inputs)}) => {{ {' '.join(lines)} return {result}; }}"


def _argument(name: str, numbers: tuple[str, ...], path: Path):
    if not numbers:
        return Symbol(name, path, positive=True)
    found = SimpleNamespace()
    for number in numbers:
        *outer, last = number.split(".")
        at = found
        for part in outer:
            at = at.__dict__.setdefault(part, SimpleNamespace())
        setattr(at, last, Symbol(f"{name}.{number}", path, positive=True))
    return found


@dataclass(frozen=True)
class Leaf:
    """What a path returned."""

    value: object


def _explored(run: Callable, known: dict[str, bool]):
    """A Leaf, or (condition, tree where it holds, tree where not); None for none."""
    try:
        return Leaf(run(known))
    except ValueError:
        return None
    except Fork as fork:
        condition = fork.args[0]
    yes, no = (_explored(run, known | {condition: x}) for x in (True, False))
    return (condition, yes, no) if yes and no else yes or no


def _branched(tree) -> str:
    """The tree as an expression; of values with parts, each has its own branches."""
    keys = _keys(tree)
    if keys:
        parts = (f"{json.dumps(key)}:{_branched(_part(tree, key))}" for key in keys)
        return f"{{{','.join(parts)}}}"
    if isinstance(tree, Leaf):
        return written(tree.value)
    condition, yes, no = tree[0], _branched(tree[1]), _branched(tree[2])
    return yes if yes == no else f"({condition} ? {yes} : {no})"


def _keys(tree) -> list[str] | None:
    """Names of the parts that all leaves have; None where they differ or have none."""
    if isinstance(tree, Leaf):
        return list(_parts(tree.value) or ()) or None
    yes, no = map(_keys, tree[1:])
    return yes if yes == no else None


def _part(tree, key: str):
    if isinstance(tree, Leaf):
        return Leaf(_parts(tree.value)[key])
    return tree[0], _part(tree[1], key), _part(tree[2], key)


def _parts(value) -> dict | None:
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return value if isinstance(value, dict) else None


def _used(result: str, names: dict[str, str]) -> list[tuple[str, str]]:
    """(name, expression) of all that `result` needs, in the order they need."""
    found, wanted = [], set(_NAME.findall(result))
    for expression, name in reversed(names.items()):
        if name in wanted:
            found.append((name, expression))
            wanted.update(_NAME.findall(expression))
    return found[::-1]


_NAME = re.compile(r"\bv\d+\b")


def written(value) -> str:
    """A value as JavaScript."""
    if isinstance(value, Symbol):
        return value.text
    parts = _parts(value)
    if parts is not None:
        inner = (f"{json.dumps(key)}:{written(x)}" for key, x in parts.items())
        return f"{{{','.join(inner)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return json.dumps(value)  # NaN and Infinity are JavaScript's as well
