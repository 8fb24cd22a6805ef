"""What the stored chapters and results say of themselves, as tables in Markdown.

Knows the metadata that `notebooks` leaves in a chapter and the device that a benchmark
leaves in its results; runs and measures nothing.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat

LOOSE = "nbval-ignore-output"
STORED = ("device", "seconds", "torch")


@dataclass(frozen=True)
class Run:
    """The last run of a chapter: how long, of how much, and where.

    seconds: of the run; minutes: what the opening promises, None where it is silent.
    cells: of code; shown: those with output; strict: those of them that the tests
    compare to the last printed digit. place: device and versions.
    """

    path: Path
    seconds: int
    minutes: int | None
    cells: int
    shown: int
    strict: int
    place: str


def runs(book: Path) -> list[Run]:
    """The chapters in the folder `book`, in reading order.

    Raises ValueError for a chapter that `make notebooks` has not run.
    """
    return [run_of(path) for path in sorted(book.glob("[0-9][0-9]_*.ipynb"))]


def run_of(path: Path) -> Run:
    """What the chapter at `path` says of its last run.

    Raises ValueError where it says nothing, or too little.
    """
    notebook = nbformat.read(path, as_version=4)
    about = notebook.metadata.get("sparse_attn", {})
    lacking = [key for key in STORED if key not in about]
    if lacking:
        raise ValueError(
            f"{path.name} does not say what it was run with, {', '.join(lacking)} "
            "missing in its metadata: call make notebooks"
        )
    opening = "\n".join(cell.source for cell in notebook.cells[:2])
    promise = re.search(r"runs in (\d+) minutes? or less", opening)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [cell for cell in code if cell.outputs]
    strict = [cell for cell in shown if LOOSE not in cell.metadata.get("tags", [])]
    versions = [f"Python {about['python']}"] if "python" in about else []
    return Run(
        path,
        about["seconds"],
        int(promise[1]) if promise else None,
        len(code),
        len(shown),
        len(strict),
        ", ".join([about["device"], *versions, f"PyTorch {about['torch']}"]),
    )


def edition(found: Iterable[Run]) -> str:
    """The devices and versions that the chapters were run with."""
    return "; ".join(sorted({run.place for run in found})) or "no device yet"


def chapter_tables(found: Iterable[Run]) -> str:
    """A table of chapters for each device and set of versions, and the sum of all."""
    found = list(found)
    parts = []
    for place in sorted({run.place for run in found}):
        here = [run for run in found if run.place == place]
        parts += [f"Run on {place}:", _chapters(here)]
    total, cells = sum(run.seconds for run in found), sum(run.cells for run in found)
    shown, strict = sum(run.shown for run in found), sum(run.strict for run in found)
    parts.append(
        f"Together: {_minutes(total)} for {cells} cells, of whose {shown} outputs "
        f"{strict} ({_share(strict, shown)}) are compared strictly."
    )
    return "\n\n".join(parts)


def _chapters(found: list[Run]) -> str:
    head = ("no.", "chapter", "seconds", "promised", "cells", "compared strictly")
    rows = [
        (
            str(int(run.path.name[:2])),
            f"[]({run.path.name})",
            f"{run.seconds}",
            "nothing" if run.minutes is None else _minutes(60 * run.minutes),
            f"{run.cells}",
            f"{run.strict} of {run.shown}, {_share(run.strict, run.shown)}",
        )
        for run in found
    ]
    return _table(head, rows, right=(0, 2, 4))


def benchmark_table(results: Path) -> str:
    """A line for each file in the folder `results`: its question and its device.

    Raises ValueError for a file that names no device.
    """
    rows = []
    for path in sorted(results.glob("*.json")):
        about = json.loads(path.read_text("utf-8"))
        if "device" not in about:
            raise ValueError(f"{path.name} names no device: run its benchmark again")
        versions = f", PyTorch {about['torch']}" if "torch" in about else ""
        question = path.name.partition("-")[0]
        rows.append((f"`{question}.py`", f"`{path.name}`", about["device"] + versions))
    return _table(("script", "results", "run on"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right=()) -> str:
    rule = tuple("--:" if i in right else "---" for i in range(len(head)))
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    return "\n".join(lines)


def _minutes(seconds: int) -> str:
    minutes = round(seconds / 60, 1)
    return f"{minutes:g} minute{'s' if minutes != 1 else ''}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "no output"
