"""What the book asks of Sphinx beyond its configuration: offline math, its edition,
and the pages that are written from the package and from what was stored."""

import html
import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the copy being built

from tools import api, status

API_PAGE = "book/api"
BUILDERS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "matplotlib")


def setup(app):
    app.connect("config-inited", name_the_edition)
    app.connect("config-inited", shape_signatures)
    app.connect("source-read", write_the_reference)
    app.connect("missing-reference", leave_types_alone)
    app.connect("doctree-resolved", plain_signatures)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def name_the_edition(app, config):
    """Fill {{ edition }} and the tables of the status page from what was stored."""
    home = Path(app.srcdir)
    try:
        found = status.runs(home / "book")
        benchmarks = status.benchmark_table(home / "benchmarks" / "results")
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in BUILDERS]
    config.myst_substitutions = dict(config.myst_substitutions) | {
        "edition": status.edition(found),
        "chapters": status.chapter_tables(found),
        "benchmarks": benchmarks,
        "versions": ", ".join(versions) + ".",
    }


def shape_signatures(app, config):
    """Names of the reference without their module, which the heading above says."""
    config.add_module_names = False
    config.toc_object_entries = False  # hundreds of names would bury the headings


def write_the_reference(app, docname, source):
    """Add to the page of the package what its docstrings say."""
    if docname == API_PAGE:
        package = Path(app.srcdir, "sparse_attn")
        for path in package.rglob("*.py"):
            app.env.note_dependency(str(path))
        source[0] += "\n" + api.reference(package)


def leave_types_alone(app, env, node, contnode):
    """Types of other libraries in a signature are words, and lead nowhere."""
    ours = isinstance(contnode, nodes.literal)  # a link of ours must lead somewhere
    return contnode if node.get("refdomain") == "py" and not ours else None


def plain_signatures(app, doctree, docname):
    """A signature without links is one piece of text, not a piece for each sign."""
    if docname == API_PAGE and app.builder.format == "html":
        for kind in (addnodes.desc_parameterlist, addnodes.desc_returns):
            for part in list(doctree.findall(kind)):
                if not next(part.findall(nodes.reference), None):
                    text = html.escape(part.astext())
                    text = f'<span class="sig-paren">{text}</span>'
                    part.replace_self(nodes.raw("", text, format="html"))


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
