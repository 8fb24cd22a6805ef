"""The book on paper: sheets, bookmarks, links within, and nothing from a network."""

import http.server
import threading

import pytest
from pypdf import PdfReader

from tools import pdf

TOC = """
root: book/intro
parts:
  - caption: A part
    chapters:
      - file: book/01_one
"""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<link rel="stylesheet" href="{css}"></head><body>
<aside class="bd-sidebar-primary">A sidebar to leave out</aside>
<article class="bd-article"><h1>{title}<a class="headerlink" href="#top">#</a></h1>
{body}</article></body></html>"""
INTRO = """<p>Words of the first page.</p>
<p><a href="01_one.html#far">to the place</a> <a href="01_one.html">to the page</a>
<a href="https://arxiv.org/abs/1706.03762">outside</a>
<a href="../_images/one.png">a file of this machine</a></p>
<img src="http://127.0.0.1:{port}/picture.png" alt="a picture from a server">"""
ONE = """<p>Words of the second page.</p>
<details><summary>Show</summary><p>A folded solution.</p></details>
<div class="explore"><div class="explore-slider"><label for="x-T">tokens T:</label>
<output for="x-T">512</output><input type="range" id="x-T"></div>
<div class="explore-play"><button>Play</button></div>
<p class="explore-caption">The default frame.</p></div>
<p style="break-before: page">A second sheet. <a href="#far">here</a></p>
<h2 id="far">A place far down</h2><p><a href="intro.html">back</a></p>"""


class Server(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Server.asked += 1
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def book(browser, tmp_path_factory):
    """Two pages of a book, of one and of two sheets, printed and read again."""
    home = tmp_path_factory.mktemp("paper")
    (home / "html" / "book").mkdir(parents=True)
    (home / "_toc.yml").write_text(TOC)
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    css = (pdf.ROOT / "book" / "vendor" / "book.css").as_uri()
    for name, title, body in (
        ("intro", "The book", INTRO.replace("{port}", str(server.server_port))),
        ("01_one", "1. One", ONE),
    ):
        page = PAGE.format(css=css, title=title, body=body)
        (home / "html" / "book" / f"{name}.html").write_text(page)
    made = pdf.make(browser, home / "_toc.yml", home / "html", "The book")
    server.shutdown()
    server.server_close()
    made.write(home / "book.pdf")
    return PdfReader(home / "book.pdf")


def links(book, sheet):
    """(sheet, height) for each link within the book, the address for any other."""
    for note in book.pages[sheet].get("/Annots", []):
        note = note.get_object()
        if "/Dest" in note:
            goal, _, _, top, _ = note["/Dest"]
            numbers = [page.indirect_reference.idnum for page in book.pages]
            yield numbers.index(goal.idnum), top
        else:
            yield note["/A"]["/URI"]


def test_every_sheet_of_every_page_is_there(book):
    assert len(book.pages) == 3
    first, second, third = (page.extract_text() for page in book.pages)
    assert "Words of the first page." in first
    assert "Words of the second page." in second
    assert "A second sheet." in third


def test_the_foot_says_book_page_and_number(book):
    feet = ["The book", "The book: 1. One", "The book: 1. One"]
    for number, (page, foot) in enumerate(zip(book.pages, feet, strict=True), 1):
        *_, last = page.extract_text().strip().split("\n")
        assert " ".join(last.split()) in (f"{foot} {number}", str(number))
        assert foot in page.extract_text()


def test_parts_and_pages_are_bookmarks(book):
    intro, part, (one,) = book.outline
    assert [intro.title, part.title, one.title] == ["The book", "A part", "1. One"]
    sheets = [book.get_destination_page_number(x) for x in (intro, part, one)]
    assert sheets == [0, 1, 1]


def test_links_between_pages_lead_within_the_book(book):
    to_place, to_page, outside = links(book, 0)
    assert to_place[0] == 2 and 0 < float(to_place[1]) < 842
    assert to_page[0] == 1
    assert outside == "https://arxiv.org/abs/1706.03762"
    here, back = links(book, 2)
    assert here == to_place
    assert back[0] == 0


def test_folds_are_open_and_sliders_stand_still(book):
    text = book.pages[1].extract_text()
    assert "A folded solution." in text
    assert "tokens T: 512" in " ".join(text.split()) and "The default frame." in text
    for gone in ("Play", "sidebar"):
        assert gone not in text


def test_printing_asks_no_network_for_anything(book):
    assert Server.asked == 0


def test_the_book_knows_its_title(book):
    assert book.metadata.title == "The book"


def test_a_page_that_is_not_built_is_named(browser, tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    with pytest.raises(FileNotFoundError, match=r"intro\.html.*make book"):
        pdf.make(browser, tmp_path / "_toc.yml", tmp_path, "The book")
