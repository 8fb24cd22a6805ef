"""`python -m sparse_attn`: what this device is, what it can do, how long chapters take;
`python -m sparse_attn demo`: the story of the book in half a minute.

Knows how to say what is missing, so it imports nothing but the standard library first.
"""

from __future__ import annotations  # so that an old Python gets to its message

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

LEAST = (3, 11)
NEEDED = ("torch", "numpy", "scipy", "matplotlib", "PIL", "psutil")


def missing() -> str | None:
    """One line on why the book can't run in this Python, or None."""
    if sys.version_info < LEAST:
        least, here = (".".join(map(str, v[:2])) for v in (LEAST, sys.version_info))
        return f"Python {least} or newer is needed, this is {here}"
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name} is missing ({error}): pip install -r requirements.txt"
    return None


def report() -> None:
    """Device, versions, dtypes, memory, measured rates, minutes of each chapter."""
    import torch

    from sparse_attn import device, roofline
    from sparse_attn.units import size

    here = device.pick_device()
    print(f"Device    {device.facts(here)}")
    print(f"Here are  {', '.join(device.available_devices())}")
    print(f"Versions  Python {sys.version.split()[0]}, PyTorch {torch.__version__}")
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    able = [str(t).split(".")[1] for t in dtypes if device.supports(t, here)]
    print(f"Products  in {', '.join(able)}")

    print("measuring ...", end="\r", file=sys.stderr, flush=True)
    ceilings = roofline.measure_ceilings(here)
    print(f"Copy      {size(ceilings.copy)}/s, bytes read plus written")
    print(f"Matmul    {ceilings.matmul / 1e9:,.0f} GFLOP/s in float32")
    print(f"Ridge     {ceilings.ridge:.1f} FLOPs per byte")
    print("Chapters")
    for line in chapter_lines(Path(__file__).parent.parent / "book", ceilings.matmul):
        print(f"  {line}")


def chapter_lines(book: Path, matmul: float) -> list[str]:
    """A line for each chapter in `book`: minutes when stored, and expected here.

    Expected: scaled up by the ratio of the two devices' matmul rates, never down,
    since much of a chapter's time goes to measurements of fixed length.
    """
    lines = []
    for path in sorted(book.glob("[0-9][0-9]_*.ipynb")):
        about = json.loads(path.read_text())["metadata"].get("sparse_attn")
        if about is None:
            continue
        slower = max(1.0, about["matmul"] / matmul)
        took, here = about["seconds"] / 60, slower * about["seconds"] / 60
        lines.append(
            f"{path.stem}: at most about {here:.1f} min here "
            f"({took:.1f} min on {about['device']})"
        )
    return lines or ["no notebooks beside this package: clone the repository"]


def demo() -> None:
    """The story of the book, computed and timed here."""
    from sparse_attn import demo

    demo.run()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sparse_attn",
        description="What this device is, what it can do, how long chapters take.",
        epilog="SPARSE_ATTN_DEVICE=cpu (or mps, cuda, cuda:1) chooses the device.",
    )
    made.add_argument(
        "what",
        nargs="?",
        choices=("demo",),
        help="the story of the book instead: the published method, the repaired one "
        "and its clock, in about 30 s on two CPU cores",
    )
    return made


def main(arguments: Sequence[str] = ()) -> int:
    asked = parser().parse_args(arguments)
    problem = missing()
    if problem is not None:
        print(f"sparse_attn: {problem}", file=sys.stderr)
        return 1
    try:
        demo() if asked.what == "demo" else report()
    except (ValueError, FileNotFoundError, ImportError) as error:
        # an impossible SPARSE_ATTN_DEVICE; for the demo, no model, text or library
        print(f"sparse_attn: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
