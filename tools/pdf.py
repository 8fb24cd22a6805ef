"""The whole book as one PDF: every page of the built HTML, printed and joined.

    python tools/pdf.py

Knows Chromium's printing, bookmarks and links; how a page looks on paper is in
book/vendor/book.css, and the order of pages in _toc.yml. Needs `make book` first.
"""

import html
import io
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from playwright.sync_api import Browser, Error, Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    Destination,
    FloatObject,
    NameObject,
    NullObject,
)

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PDF = ROOT / "_build" / "sparse-attention-measured.pdf"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PAPER = {"format": "A4", "print_background": True, "prefer_css_page_size": True}

# Folds open, pictures loaded, math set; no link to a file that is not a page of the
# book; and one to every place on this page that another page leads to, since Chromium
# keeps only places that have one.
PREPARE = """async ([pages, places]) => {
  document.querySelectorAll(".toggle-button-hidden").forEach((one) => one.click());
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  document.getAnimations().forEach((one) => one.finish());
  for (const img of document.images) img.loading = "eager";
  await Promise.all([...document.images].map((img) => img.decode().catch(() => {})));
  await window.MathJax?.startup?.promise;
  for (const link of [...document.links]) {
    const lost = link.protocol === "file:" && !pages.includes(link.href.split("#")[0]);
    if (lost) link.removeAttribute("href");
  }
  for (const place of places) {
    const link = document.body.appendChild(document.createElement("a"));
    link.href = "#" + place;
  }
  return document.querySelector(".bd-article h1").innerText.replace(/#$/, "").trim();
}"""

FOOT = """<!doctype html><meta charset="utf-8"><style>
@page {{ size: A4; margin: 0 }}
body {{ margin: 0; font: 8pt sans-serif; color: #444 }}
section {{ height: 296mm; position: relative; break-after: page }}
section:last-child {{ break-after: auto }}
p {{ position: absolute; bottom: 7mm; left: 16mm; right: 16mm; margin: 0;
  display: flex; justify-content: space-between }}</style>{sections}"""
SECTION = "<section><p><span>{title}</span><span>{number}</span></p></section>"


@dataclass
class Leaf:
    """A page of the book on paper: its file, its part or None, its title, its PDF."""

    path: Path
    part: str | None
    title: str = ""
    pdf: PdfReader | None = None
    first: int = 0  # its first sheet in the whole book, from 0

    @cached_property
    def places(self) -> dict[str, Destination]:
        """The ids on it that links lead to, and where they ended up."""
        found = self.pdf.named_destinations.items()
        return {_place(name): goal for name, goal in found}


def leaves_of(toc: Path, built: Path) -> list[Leaf]:
    """The pages of the table of contents in its order, each with its part."""
    tree = yaml.safe_load(toc.read_text("utf-8"))
    parts = tree.get("parts", [{"chapters": tree.get("chapters", [])}])
    pages = [(tree["root"], None)]
    pages += [
        (chapter["file"], part.get("caption"))
        for part in parts
        for chapter in part["chapters"]
    ]
    return [Leaf((built / f"{name}.html").resolve(), part) for name, part in pages]


def make(browser: Browser, toc: Path, built: Path, title: str) -> PdfWriter:
    """The book whose HTML is in the folder `built`, as a PDF to be written.

    Pages are printed without a network. Links between them lead within the PDF; parts
    and pages are bookmarks; the foot of each sheet has title, page and number.
    Raises FileNotFoundError for a page that is not built.
    """
    leaves = leaves_of(toc, built)
    for leaf in leaves:
        if not leaf.path.is_file():
            raise FileNotFoundError(f"{leaf.path} is not there: call make book first")
    context = browser.new_context(
        offline=True, color_scheme="light", viewport={"width": 1000, "height": 1400}
    )
    page = context.new_page()
    page.emulate_media(media="print", color_scheme="light")
    writer = PdfWriter()
    pages = [leaf.path.as_uri() for leaf in leaves]
    for leaf, places in zip(leaves, _places(page, leaves), strict=True):
        page.goto(leaf.path.as_uri())
        leaf.title = page.evaluate(PREPARE, [pages, places])
        leaf.pdf = PdfReader(io.BytesIO(page.pdf(**PAPER)))
        leaf.first = len(writer.pages)
        writer.append(leaf.pdf, import_outline=False)
    _link(writer, leaves)
    _number(page, writer, leaves, title)
    _bookmark(writer, leaves)
    writer.add_metadata({"/Title": title})
    context.close()
    return writer


def _places(page: Page, leaves: list[Leaf]) -> list[list[str]]:
    """For each leaf the ids that links of any leaf lead to."""
    found = {leaf.path: set() for leaf in leaves}
    for leaf in leaves:
        page.goto(leaf.path.as_uri())
        links = "links => links.map(link => link.href)"
        for link in page.eval_on_selector_all("a[href]", links):
            target, place = _target(link)
            if target in found and place:
                found[target].add(place)
    return [sorted(found[leaf.path]) for leaf in leaves]


def _target(link: str) -> tuple[Path | None, str]:
    """The file that a link leads to, None for other addresses, and the place in it."""
    url = urlsplit(link)
    path = Path(unquote(url.path)).resolve() if url.scheme == "file" else None
    return path, unquote(url.fragment)


def _link(writer: PdfWriter, leaves: list[Leaf]) -> None:
    """Turn links to files and to places into links to sheets of the whole."""
    by_path = {leaf.path: leaf for leaf in leaves}
    for leaf in leaves:
        for sheet in writer.pages[leaf.first : leaf.first + len(leaf.pdf.pages)]:
            for note in sheet.get("/Annots", []):
                _relink(writer, note.get_object(), leaf, by_path)


def _relink(writer: PdfWriter, note, leaf: Leaf, by_path: dict[Path, Leaf]) -> None:
    action = note.get("/A", {})
    name = note.get("/Dest", action.get("/D"))
    if "/URI" in action:
        path, place = _target(str(action["/URI"]))
        if path not in by_path:
            return
        leaf = by_path[path]
    elif isinstance(name, str):
        place = _place(name)
    else:
        return
    goal = leaf.places.get(place)
    sheet = leaf.first + (leaf.pdf.get_destination_page_number(goal) if goal else 0)
    top = FloatObject(goal.top) if goal else NullObject()
    reference = writer.pages[sheet].indirect_reference
    note.pop("/A", None)
    note[NameObject("/Dest")] = ArrayObject(
        [reference, NameObject("/XYZ"), NullObject(), top, NullObject()]
    )


def _place(name: str) -> str:
    return unquote(name.removeprefix("/"))


def _number(page: Page, writer: PdfWriter, leaves: list[Leaf], title: str) -> None:
    """Lay a foot over every sheet: what book, what page of it, and its number."""
    page.set_content(FOOT.format(sections="".join(_feet(leaves, title))))
    feet = PdfReader(io.BytesIO(page.pdf(**PAPER))).pages
    for sheet, foot in zip(writer.pages, feet, strict=True):
        sheet.merge_page(foot)
        sheet.compress_content_streams()


def _feet(leaves: Iterable[Leaf], title: str) -> Iterator[str]:
    for leaf in leaves:
        name = title if leaf.title == title else f"{title}: {leaf.title}"
        for i in range(len(leaf.pdf.pages)):
            number = leaf.first + i + 1
            yield SECTION.format(title=html.escape(name), number=number)


def _bookmark(writer: PdfWriter, leaves: Iterable[Leaf]) -> None:
    part, above = None, None
    for leaf in leaves:
        if leaf.part != part:
            part = leaf.part
            above = _mark(writer, part, leaf.first, None) if part else None
        _mark(writer, leaf.title, leaf.first, above)


def _mark(writer: PdfWriter, title: str, sheet: int, parent):
    return writer.add_outline_item(title=title, page_number=sheet, parent=parent)


def main() -> int:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=found, args=["--no-sandbox", "--disable-gpu"]
            )
        except Error as error:
            print(f"no browser to print with, install chromium: {error.message}")
            return 1
        try:
            book = make(browser, ROOT / "_toc.yml", HTML, config["title"])
        except FileNotFoundError as error:
            print(error)
            return 1
    book.write(PDF)
    print(f"The book: {PDF.relative_to(ROOT)}, {len(book.pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
