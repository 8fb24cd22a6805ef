"""The reader's own edition: run every chapter on this device and build the book.

python tools/mybook.py

Works on a copy under _build/mybook; the stored notebooks stay as they are.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from notebooks import ROOT, chapters, execute

from sparse_attn.device import facts, pick_device

HOME = ROOT / "_build" / "mybook"


def main() -> int:
    device = pick_device()
    print(f"Running {len(chapters())} chapters on {facts(device)}", flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    # Pages show stored results and pieces of the package.
    parts = ("book", "tools", "benchmarks", "sparse_attn")
    for name in ("_config.yml", "_toc.yml", *parts):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        HOME.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, HOME / name)
    for path in chapters(HOME / "book"):
        notebook = execute(path, device=str(device))
        nbformat.write(notebook, path)
        print(
            f"{path.name}: {notebook.metadata['sparse_attn']['seconds']} s", flush=True
        )
    builder = Path(sys.executable).with_name("jupyter-book")
    build = [builder, "build", HOME, "-W", "-n", "--keep-going", "-q"]
    subprocess.run(build, check=True)
    print(f"Your edition: open {HOME / '_build' / 'html' / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
