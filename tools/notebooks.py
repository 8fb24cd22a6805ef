"""The one tool that runs the chapters and writes their outputs.

    python tools/notebooks.py [CHAPTER ...] [--force]

A chapter is run again only when its code, the package or a pinned library changed,
so that a second call leaves no difference. What it stores is one clean run, top to
bottom, on one device; captions and alt texts are those the figures wrote themselves.
"""

import argparse
import hashlib
import os
import platform
import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy
import torch
from nbclient import NotebookClient
from tqdm import tqdm

from sparse_attn.device import facts, pick_device
from sparse_attn.results import HOME
from sparse_attn.roofline import measure_ceilings
from sparse_attn.timing import stopwatch

ROOT = Path(__file__).resolve().parent.parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def chapters(book: Path = ROOT / "book") -> list[Path]:
    """The chapters in reading order."""
    return sorted(book.glob("[0-9][0-9]_*.ipynb"))


def fingerprint(notebook) -> str:
    """What the outputs depend on: cells, package, stored results, libraries."""
    parts = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    package = sorted((ROOT / "sparse_attn").rglob("*.py"))
    package += sorted((ROOT / "sparse_attn").rglob("*.toml")) + sorted(HOME.iterdir())
    parts += [path.read_text() for path in package]
    parts += [torch.__version__, numpy.__version__, matplotlib.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def execute(path: Path, device: str | None = None):
    """Run the chapter at `path` top to bottom and return it, outputs and all.

    device: what SPARSE_ATTN_DEVICE says to it. Raises CellExecutionError.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tqdm(total=len(code), desc=path.stem, unit="cell", file=sys.stderr) as bar:
        client = NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,  # a cell's printed lines are one output, always
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        environment = os.environ | ({"SPARSE_ATTN_DEVICE": device} if device else {})
        with stopwatch() as seconds:
            client.execute(env=environment)
    normalise(notebook)
    here = pick_device(device)
    notebook.metadata["sparse_attn"] = {
        "device": str(facts(here)),
        "fingerprint": fingerprint(notebook),
        "matmul": float(f"{measure_ceilings(here).matmul:.3g}"),  # FLOP/s, for scale
        "python": platform.python_version(),
        "seconds": round(seconds()),
        "torch": torch.__version__.split("+")[0],
    }
    return notebook


def normalise(notebook) -> None:
    """Keep what a reader needs of a fresh run, in one stable form."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03}"
        cell.metadata.pop("execution", None)
        cell.metadata.pop("trusted", None)
        if cell.cell_type == "code":
            for output in cell.outputs:
                _normalise_output(output, cell)
    nbformat.validate(notebook)


def _normalise_output(output, cell) -> None:
    if "data" not in output:
        return
    output.data.pop(WIDGET_VIEW, None)  # a live widget is dead on paper
    about = output.metadata.get("image/png", {})
    if "caption" in about:
        page = cell.metadata.setdefault("mystnb", {})
        page["image"] = {"alt": about["alt"], "width": f"{about['width']}px"}
        page.setdefault("figure", {})["caption"] = about["caption"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chapter", nargs="*", type=Path)
    parser.add_argument("--force", action="store_true", help="run unchanged ones too")
    asked = parser.parse_args()
    for path in asked.chapter or chapters():
        stored = nbformat.read(path, as_version=4)
        known = stored.metadata.get("sparse_attn", {}).get("fingerprint")
        if known == fingerprint(stored) and not asked.force:
            print(f"{path.name}: up to date")
            continue
        notebook = execute(path, device=os.environ.get("SPARSE_ATTN_DEVICE", "cpu"))
        nbformat.write(notebook, path)
        about = notebook.metadata["sparse_attn"]
        print(f"{path.name}: {about['seconds']} s on {about['device']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
