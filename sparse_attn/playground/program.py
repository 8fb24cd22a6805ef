"""What a page without Python computes by, as JavaScript: formulas, rules and tables.

Knows which functions of the package a page needs, and writes them down by `formulas`;
leaves where results are shown to `script`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace

from sparse_attn.cost import Cost
from sparse_attn.playground import evidence, words
from sparse_attn.playground.advice import advise
from sparse_attn.playground.choice import (
    METHODS,
    OPTIONS,
    POOLED,
    TASKS,
    obstacle,
)
from sparse_attn.playground.estimate import Bounds, bounds
from sparse_attn.playground.formulas import javascript, written
from sparse_attn.playground.methods import Work, other_work, work
from sparse_attn.playground.profiles import PROFILES
from sparse_attn.playground.rows import bar, rates, rows
from sparse_attn.roofline import Roof

SETTING = ("T", "K", "C", "H", "Hkv", "L", "bytes", "block_q", "block_k")
ROOF = ("copy", "matmul")
SHAPE = ("C", "H", "Hkv", "bytes")


@lru_cache
def program() -> str:
    """`const` after `const`: functions of a setting `s`, and what was measured."""
    parts = {
        "OBSTACLE": _each(lambda s: obstacle(s.method, s)),
        "WORK": _each(lambda s: work(s.method, s)),
        "OTHER": _tasks(other_work),
        "ADVICE": _each(lambda e: advise(e), _estimate()),
        "BOUNDS": javascript(
            lambda own, full, other, roof, L: bounds(own, full, other, _roof(roof), L),
            own=_names(Work),
            full=_names(Work),
            other=_names(Cost),
            roof=ROOF,
            L=(),
        ),
        "SECONDS": javascript(
            lambda one, roof: _roof(roof).seconds(one.flops, one.moved),
            one=_names(Work),
            roof=ROOF,
        ),
        "ROWS": javascript(rows, e=_estimate()),
        "RATES": javascript(rates, roof=ROOF),
        "BAR": javascript(bar, seconds=(), least=(), most=()),
        "ROOFS": written([_rates(profile) for profile in PROFILES]),
        "KNOWN": written(_known()),
        "SCALES": written(words.SCALES),
    }
    lines = (f"const {name} = {text};" for name, text in parts.items())
    return "\n".join(lines).replace("</", "<\\/")


def _each(fn: Callable, numbers: tuple[str, ...] = ()) -> str:
    """`fn` of a setting, or of an estimate if its `numbers` are given, for each task
    and method: {"prefill|full": [function], ...}.

    The pool of a prefill depends on the block by a loop, so there it is one function
    for each block; elsewhere the block is a number like the others.
    """
    found = {}
    for task, method in itertools.product(TASKS, METHODS):
        loops = (task, method) == ("prefill", POOLED) and not numbers
        texts = [
            _one(fn, numbers, task, method, block)
            for block in (OPTIONS["block"] if loops else (None,))
        ]
        found[f"{task}|{method}"] = f"[{', '.join(texts)}]"
    inner = (f"{json.dumps(key)}: {text}" for key, text in found.items())
    return f"{{{', '.join(inner)}}}"


def _tasks(fn: Callable) -> str:
    """`fn` of a setting, for each task: {"prefill": function, ...}."""
    texts = (_one(fn, (), task, METHODS[0], None) for task in TASKS)
    pairs = zip(map(json.dumps, TASKS), texts, strict=True)
    return f"{{{', '.join(f'{task}: {text}' for task, text in pairs)}}}"


def _one(fn, numbers, task: str, method: str, block) -> str:
    def run(given):
        s = given.choice if numbers else given
        s.task, s.method = task, method
        if block is not None:
            s.block_q, s.block_k = block
        return fn(given)

    if numbers:
        return javascript(run, e=numbers)
    return javascript(run, s=SETTING)


def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _estimate() -> tuple[str, ...]:
    """Names of the numbers in an Estimate."""
    parts = {"choice": SETTING, "own": _names(Work), "full": _names(Work)}
    parts["bounds"] = _names(Bounds)
    inner = (f"{part}.{name}" for part, names in parts.items() for name in names)
    return (*inner, "lost")


def _roof(roof) -> Roof:
    return Roof(None, roof.copy, roof.matmul)


def _rates(profile) -> dict[str, dict[str, float]]:
    """Bytes per value -> the profile's rates."""
    roofs = {n: profile.roof(n) for n in OPTIONS["bytes"]}
    return {str(n): {"copy": r.copy, "matmul": r.matmul} for n, r in roofs.items()}


def _known() -> dict:
    """All that `evidence` says of any setting: each answer once, and where it belongs.

    place: by task, method, block, T and K, each in the order of OPTIONS, the last one
    fastest. What was measured belongs to the one `shape` of heads that was timed.
    """
    order = ("task", "method", "block", "T", "K")
    answers, place = {}, []
    shape = dict(zip(SHAPE, evidence.shape(), strict=True))
    for values in itertools.product(*(OPTIONS[name] for name in order)):
        s = SimpleNamespace(**dict(zip(order, values, strict=True)), **shape)
        s.block_q, s.block_k = s.block
        quality = evidence.quality(s)
        answer = {
            "quality": quality.text,
            "lost": quality.lost,
            "measured": evidence.measured(s),
        }
        place.append(answers.setdefault(repr(answer), (len(answers), answer))[0])
    said = [answer for _, answer in answers.values()]
    return {"answers": said, "place": place, "shape": shape}
