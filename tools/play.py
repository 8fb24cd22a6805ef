"""The playground alone, served by Voila on this device.

    python tools/play.py [options of voila]

Writes the notebook that Voila wants; leaves what is in it to `playground`.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "_build" / "play.ipynb"
TEXT = """# The playground

One setting of attention: what it costs on a device, what was measured near it, and a \
word of advice. Chapter 15 explains every line."""
CODE = """from sparse_attn import playground

playground.dashboard()"""


def notebook():
    """A title, and one cell that shows the dashboard."""
    return v4.new_notebook(cells=[v4.new_markdown_cell(TEXT), v4.new_code_cell(CODE)])


def main() -> None:
    from voila.app import main as voila

    PLACE.parent.mkdir(exist_ok=True)
    nbformat.write(notebook(), PLACE)
    voila([str(PLACE), *sys.argv[1:]])


if __name__ == "__main__":
    main()
