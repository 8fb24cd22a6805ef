"""The checks of the rendered book bite: each reports what was put in on purpose."""

import base64
import io
import json
import re
import shutil
from itertools import product
from types import SimpleNamespace

import pytest
from book_checks import (
    accessibility_problems,
    assert_none,
    broken_links,
    build_errors,
    code_stops,
    cut_pictures,
    figure_problems,
    fold_problems,
    images_without_alt,
    math_problems,
    network_requests,
    repeated_ids,
    script_errors,
    slider_problems,
    static_slider_problems,
    too_wide,
    visit,
)
from PIL import Image
from playwright.sync_api import expect

from sparse_attn.explore import explore


def swatch(a, b):
    """A plot that is one color, and the color tells its values."""
    file = io.BytesIO()
    Image.new("RGB", (40, 20), (60 * a, 60 * b, 0)).save(file, format="png")
    text = f"A swatch for {a} and {b}."
    return SimpleNamespace(png=lambda **_: file.getvalue(), alt=text, caption=text)


def halves():
    """A picture whose ink reaches two of its edges, in base64."""
    file = io.BytesIO()
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 20, 20))
    picture.save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def swatches():
    labels = {"a": "first", "b": "second"}
    return explore(swatch, a=[1, 2, 3], b=[1, 3], labels=labels).html()


@pytest.fixture(scope="module")
def played():
    labels = {"a": "first", "b": "second"}
    start = {"a": 1, "b": 1}
    choices = dict(a=[1, 2, 3, 4], b=[1, 3])
    return explore(swatch, play="a", labels=labels, start=start, **choices).html()


@pytest.fixture
def altered(book, tmp_path):
    """Writes a copy of a built page with something put in at its end."""
    for folder in ("_static", "_images"):
        (tmp_path / folder).symlink_to(book / folder)
    (tmp_path / "book").mkdir()
    page = shutil.copy(book / "book" / "notation.html", tmp_path / "book" / "page.html")

    def write(snippet):
        text = page.read_text().replace("</article>", f"{snippet}</article>")
        page.write_text(text)
        return page

    return write


@pytest.fixture
def bare(tmp_path):
    """Writes a page with nothing but a snippet in it."""

    def write(snippet):
        page = tmp_path / "bare.html"
        page.write_text(
            f"<!DOCTYPE html><article class='bd-article'>{snippet}</article>"
        )
        return page

    return write


MOVE = """places => document.querySelectorAll(".explore input").forEach((input, i) => {
  input.value = places[i];
  input.dispatchEvent(new Event("input"));
})"""


def test_a_slider_shows_the_picture_drawn_for_its_values(opened, bare, swatches):
    page = opened("light", bare(swatches)).page
    for (i, a), (j, b) in product(enumerate([1, 2, 3]), enumerate([1, 3])):
        page.evaluate(MOVE, [i, j])
        source = page.locator(".explore img").get_attribute("src")
        shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert shown.getpixel((20, 10)) == (60 * a, 60 * b, 0)


def test_a_good_slider_has_no_problem(opened, altered, swatches):
    page = altered(swatches)
    seen = opened("phone", page)
    assert_none(slider_problems(seen.page))
    assert_none(static_slider_problems(seen.page, page))


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_good_buttons_have_no_problem(opened, altered, played, view):
    page = altered(played)
    seen = opened(view, page)
    assert_none(too_wide(seen.page))
    assert_none(accessibility_problems(seen.page))
    assert_none(slider_problems(seen.page))


@pytest.fixture
def stopped(browser, bare, played):
    """A slider with buttons whose clock only moves when it is told to.

    In a window of its own, as all pages of a window share one clock.
    """
    window = browser.new_context(offline=True)
    window.clock.install(time=0)
    seen = visit(window, bare(played))
    window.clock.pause_at(60)
    yield seen
    window.close()


def test_buttons_play_at_the_pace_of_a_reader_and_never_unasked(stopped):
    page = stopped.page
    slider = page.get_by_label("first").and_(page.get_by_role("slider"))
    places = []

    def wait(milliseconds):
        page.clock.run_for(milliseconds)
        places.append(int(slider.input_value()))

    wait(5000)
    page.get_by_role("button", name="Play: first").click()
    for milliseconds in (590, 20, 600, 600, 5000):
        wait(milliseconds)
    page.get_by_role("button", name="Play: first").click()
    for _ in range(2):
        wait(610)
    page.get_by_role("button", name="Pause: first").click()
    wait(5000)
    assert places == [0, 0, 1, 2, 3, 3, 1, 2, 2]
    assert page.get_by_text("A swatch for 3 and 1.").count() == 1
    assert_none(script_errors(stopped))


@pytest.mark.parametrize("press", ["Back", "Forward"])
def test_a_step_by_hand_ends_the_playing(stopped, press):
    page = stopped.page
    page.get_by_role("button", name="Play: first").click()
    page.clock.run_for(610)
    page.get_by_role("button", name=f"{press}: first").click()
    page.clock.run_for(5000)
    place = {"Back": "0", "Forward": "2"}[press]
    assert page.get_by_role("slider").first.input_value() == place


def with_frames(page, change):
    """The slider's HTML with its list of frames changed."""

    def changed(found):
        frames = json.loads(found[2])
        change(frames)
        return found[1] + json.dumps(frames) + found[3]

    return re.sub(r"(application/json\">)(.*?)(</script>)", changed, page, flags=re.S)


def swap(frames):
    frames[0], frames[1] = frames[1], frames[0]


def swap_the_start(frames):
    frames[0], frames[3] = frames[3], frames[0]


def lose_one(frames):
    frames.pop()


def all_alike(frames):
    for frame in frames:
        frame["png"] = frames[0]["png"]


def spoil_one(frames):
    frames[0]["png"] = "AAAA"


SLIDERS = {
    "swapped frames": (lambda page: with_frames(page, swap), "do not name"),
    "a lost frame": (lambda page: with_frames(page, lose_one), "5 frames for 6"),
    "pictures alike": (lambda page: with_frames(page, all_alike), "changes no picture"),
    "a spoiled picture": (lambda page: with_frames(page, spoil_one), "not decode"),
    "a dead script": (
        lambda page: page.replace('addEventListener("input"', 'addEventListener("x"'),
        "another picture",
    ),
    "no label": (lambda page: page.replace("<label for=", "<label id="), "not called"),
    "no way to tab": (
        lambda page: page.replace('type="range"', 'type="range" tabindex="-1"'),
        "not reached by Tab",
    ),
    "no value spoken": (
        lambda page: page.replace('setAttribute("aria-valuetext"', 'setAttribute("x"'),
        "says",
    ),
}


BUTTONS = {
    "buttons of another name": (
        lambda page: page.replace('aria-label="first"', 'aria-label="second"'),
        "not called 'first'",
    ),
    "a button without a name": (
        lambda page: page.replace('aria-label="Forward: first"', 'aria-label="F"'),
        "Forward: first is not reached",
    ),
    "a button out of reach": (
        lambda page: page.replace('<button type="button"', '<button tabindex="-1"'),
        "Back: first is not reached by Tab",
    ),
    "a step of two": (
        lambda page: page.replace("turn(false); move(1); }", "move(2); }"),
        "does not take the slider to 1",
    ),
    "a dead button": (
        lambda page: page.replace('play.addEventListener("click"', "play.x = (0, 1"),
        "playing does not reach the end: 0 of 3",
    ),
    "no end": (
        lambda page: page.replace(">= input.max) turn(false)", "> 99) turn(false)"),
        "at the end, the button offers no play",
    ),
    "no new start": (
        lambda page: page.replace("move(-input.max)", "0"),
        "does not start over, but at 3",
    ),
    "captions that interrupt": (
        lambda page: page.replace('on ? "off" : "polite"', '"polite"'),
        "the caption is read out",
    ),
    "a slider that does not stop it": (
        lambda page: page.replace('addEventListener("input", () => turn(', "x = (0, ("),
        "moving the slider does not stop it",
    ),
}


@pytest.mark.parametrize("fault", BUTTONS)
def test_the_check_of_buttons_reports(opened, bare, played, fault):
    break_it, words = BUTTONS[fault]
    broken = break_it(played)
    assert broken != played
    page = opened("light", bare(broken)).page
    assert words in "\n".join(slider_problems(page))


@pytest.mark.parametrize("fault", SLIDERS)
def test_the_slider_check_reports(opened, bare, swatches, fault):
    break_it, words = SLIDERS[fault]
    page = opened("light", bare(break_it(swatches))).page
    assert words in "\n".join(slider_problems(page))


def test_the_check_of_pictures_reports_a_cut_frame(bare, swatches):
    def cut_one(frames):
        frames[2] |= {"png": halves(), "alt": "the third"}

    found = cut_pictures(bare(with_frames(swatches, cut_one)))
    assert found == ["cut off at its edge: the third"]


def test_the_slider_check_reports_a_start_that_is_another_frame(opened, bare, swatches):
    page = bare(with_frames(swatches, swap_the_start))
    found = static_slider_problems(opened("light", page).page, page)
    assert "another picture" in "\n".join(found)


PNG = base64.b64encode(swatch(1, 2).png()).decode()
CUT = f"<img alt='x' src='data:image/png;base64,{halves()}'>"
FILES = {
    "a broken link": ("<a href='nowhere.html'>x</a>", broken_links, "no such file"),
    "a broken source": ("<img src='no.png' alt='x'>", broken_links, "no such file"),
    "a broken fragment": ("<a href='#nowhere'>x</a>", broken_links, "no such place"),
    "a link without host": ("<a href='https:///x'>x</a>", broken_links, "neither"),
    "a link to a script": ("<a href='javascript:x'>x</a>", broken_links, "neither"),
    "no alt": ("<img src='data:,'>", images_without_alt, "alt=None"),
    "an empty alt": ("<img alt=' '>", images_without_alt, "alt=' '"),
    "a path as alt": ("<img alt='../a/b.png'>", images_without_alt, "b.png"),
    "an id twice": ("<p id='x'></p><p id='x'></p>", repeated_ids, "given twice: x"),
    "a cut picture": (CUT, cut_pictures, "cut off at its edge: x"),
    "a traceback": ("<pre>Traceback (most</pre>", build_errors, "Traceback"),
    "an error of Sphinx": ("<p class='system-message'>", build_errors, "system-mess"),
}


@pytest.mark.parametrize("fault", FILES)
def test_the_check_of_files_reports(altered, fault):
    snippet, check, words = FILES[fault]
    assert words in "\n".join(check(altered(snippet)))


FIGURE = "<figure><img alt='x' src='data:image/png;base64,{}'>{}</figure>"
FOLD = "<div class='dropdown admonition'><p class='admonition-title'>x</p>{}</div>"
OPEN = FOLD.format("<p>y</p>").replace("dropdown", "dropdown toggle-shown")
CUT_TEXT = "<div style='overflow: hidden'><pre style='width: 900px'>x</pre></div>"
CUT_CAPTION = "<figcaption style='overflow: hidden; height: 9px'>x</figcaption>"
UNTITLED = FIGURE.format(PNG, "<figcaption> </figcaption>")
LOST = FIGURE.format("AAAA", "<figcaption>x</figcaption>")

SEEN = {
    "a request": ("<img src='https://example.com/x.png' alt='x'>", network_requests),
    "a script's error": ("<script>throw Error('example')</script>", script_errors),
    "a console error": ("<script>console.error('example')</script>", script_errors),
}
WIDE = "<div style='width: 900px'>x</div>"
PALE = "<p style='color: #bbb; background: #fff'>hardly seen</p>"
WRONG = r"<i class='math tex2jax_process'>\(\left x\)</i>"
UNKNOWN = r"<i class='math tex2jax_process'>\(\unknown x\)</i>"
IN_THE_THEME = {
    "a wide element": (WIDE, too_wide, "sticks out"),
    "a wide page": (WIDE, too_wide, "page is 9"),
    "math not set": ("<i class='math'>x</i>", math_problems, "not rendered"),
    "math with an error": (WRONG, math_problems, "math error"),
    "math with an unknown command": (UNKNOWN, math_problems, "math error"),
    "a fold without text": (FOLD.format(""), fold_problems, "shows no text"),
    "an open fold": (OPEN, fold_problems, "open from the start"),
    "pale text in a fold": (FOLD.format(PALE), accessibility_problems, "contrast"),
}
WITHOUT = {
    "text cut off": (CUT_TEXT, too_wide, "sticks out"),
    "a caption cut off": (CUT_CAPTION, too_wide, "is cut off"),
    "TeX in the text": ("<p>needs $O(n^2)$ memory</p>", math_problems, "TeX in"),
    "no caption": (FIGURE.format(PNG, ""), figure_problems, "no caption"),
    "an empty caption": (UNTITLED, figure_problems, "empty caption"),
    "a picture that does not load": (LOST, figure_problems, "does not load"),
    "a bare picture": ("<img alt='x' src=''>", figure_problems, "without a figure"),
    "an unnamed button": ("<button></button>", accessibility_problems, "button-name"),
    "pale text": (PALE, accessibility_problems, "color-contrast"),
}


@pytest.mark.parametrize("fault", SEEN)
def test_the_check_of_visits_reports(opened, altered, fault):
    snippet, check = SEEN[fault]
    assert "example" in "\n".join(check(opened("phone", altered(snippet))))


@pytest.mark.parametrize("fault", IN_THE_THEME)
def test_the_check_of_pages_reports(opened, altered, fault):
    snippet, check, words = IN_THE_THEME[fault]
    assert words in "\n".join(check(opened("phone", altered(snippet)).page))


@pytest.mark.parametrize("fault", WITHOUT)
def test_the_check_of_a_bare_page_reports(opened, bare, fault):
    snippet, check, words = WITHOUT[fault]
    assert words in "\n".join(check(opened("phone", bare(snippet)).page))


def test_the_baseline_excuses_only_the_element_it_names(opened, altered):
    page = opened("light", altered("<div role='list'><a href='#'>x</a></div>")).page
    found = accessibility_problems(page)
    assert any("aria-required-children" in problem for problem in found)


# On a phone, code of this width scrolls in an open fold, and not while it is closed.
CODE = (
    "<div class='highlight'><pre style='overflow: auto'>"
    "<span style='display: inline-block; width: {}px'>x = 1</span></pre></div>"
)
FOLDED = (
    "<div class='admonition dropdown'><p class='admonition-title'>Solution</p>"
    f"{CODE.format(280)}{CODE.format(40)}</div>"
    f"<details><summary>More</summary>{CODE.format(500)}</details>"
)


def test_code_in_a_fold_is_reached_by_keyboard_while_it_scrolls(opened, altered):
    page = opened("phone", altered(FOLDED)).page
    assert_none(code_stops(page))
    assert_none(accessibility_problems(page))
    stops = page.locator(".bd-article pre[tabindex='0']")
    assert stops.count() == 2
    page.set_viewport_size({"width": 1280, "height": 844})
    expect(stops).to_have_count(0)


def test_without_the_book_s_script_code_in_a_fold_is_out_of_reach(
    contexts, opened, altered
):
    contexts["phone"].route("**/book.js*", lambda route: route.abort())
    page = opened("phone", altered(FOLDED)).page
    contexts["phone"].unroute("**/book.js*")
    (problem,) = code_stops(page)
    assert "scrolls, but is no stop" in problem
