"""What the book asks of Sphinx beyond its configuration: offline math, its edition."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import nbformat


def setup(app):
    app.connect("config-inited", name_the_edition)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def name_the_edition(app, config):
    """Fill {{ edition }} with the devices that the stored outputs name."""
    stored = [
        nbformat.read(path, as_version=4).metadata.get("sparse_attn", {})
        for path in sorted(Path(app.srcdir, "book").glob("[0-9][0-9]_*.ipynb"))
    ]
    devices = sorted(
        {f"{about['device']}, PyTorch {about['torch']}" for about in stored}
    )
    config.myst_substitutions = dict(config.myst_substitutions) | {
        "edition": "; ".join(devices) or "no device yet"
    }


def copy_mathjax(app, error):
    """One file, glyphs included: no fonts to fetch, so math works from file:// too."""
    if error is None and app.builder.format == "html":
        package = Path(
            find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
        )
        source = package / "static" / "mathjax" / "tex-svg.js"
        target = Path(app.outdir, "_static", "mathjax")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
