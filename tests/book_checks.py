"""Checks of the rendered book: each takes a file or an open page, returns problems.

Knows HTML and the browser; leaves to test_book which page is looked at how. What needs
a laid-out page is in checks.js beside it.
"""

import base64
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page

HERE = Path(__file__).parent
ROOT = HERE.parent
BASELINE = json.loads((HERE / "axe_baseline.json").read_text())
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HARMLESS = {  # the theme's own noise, word for word
    "Identifier 'THEBE_JS_URL' has already been declared",
    "Got invalid theme mode: . Resetting to auto.",
}
# Ids that sphinx_exercise and sphinx_proof give to every exercise; nothing links there.
SHARED = {"exercise-content", "solution-content", "proof-content"}
FOLDS = ".bd-article .toggle-button, .bd-article summary"
PNG = "data:image/png;base64,"
LOCAL = ("file:", "data:", "blob:")
FRAMES = re.compile(r'<script type="application/json">(.*?)</script>', re.DOTALL)
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)


def pages_of(toc: Path = ROOT / "_toc.yml") -> list[str]:
    """Names of the book's pages, such as book/intro, from its table of contents."""

    def names(node):
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            node = list(node.values())
        if isinstance(node, list):
            for part in node:
                yield from names(part)

    return list(names(yaml.safe_load(toc.read_text())))


def assert_none(problems: list[str], most: int = 20):
    """Fail with the problems, one a line."""
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    assert not problems, "\n".join(["", *problems[:most], *more])


# --- the file as it is --------------------------------------------------------------


class Html(HTMLParser):
    """Ids, links, images and slider frames of one HTML file."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.images = [], [], []
        self.text = path.read_text(encoding="utf-8")
        lists = map(json.loads, FRAMES.findall(self.text))
        self.frames = [frame for frames in lists for frame in frames]
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag == "meta" and attrs.get("http-equiv", "").lower() == "refresh":
            self.links.append(attrs["content"].partition("url=")[2])


parsed = cache(Html)


def broken_links(path: Path) -> list[str]:
    """Links, sources and fragments that lead nowhere; outside ones need a host."""
    problems = (_link_problem(path, link) for link in parsed(path).links)
    return [problem for problem in problems if problem]


def _link_problem(path: Path, link: str | None) -> str | None:
    url = urlsplit(link or "")
    if not link:
        return "empty link"
    if url.scheme == "data":
        return None
    if url.scheme or url.netloc:
        fine = url.scheme in ("http", "https") and url.hostname
        return None if fine else f"neither a page nor http(s): {link}"
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not target.is_file():
        return f"no such file: {link}"
    fragment = unquote(url.fragment)
    if fragment and target.suffix == ".html" and fragment not in parsed(target).ids:
        return f"no such place: {link}"
    return None


def repeated_ids(path: Path) -> list[str]:
    """Ids given twice: a link to them leads to the wrong one."""
    count = Counter(parsed(path).ids)
    twice = sorted(name for name, n in count.items() if n > 1 and name not in SHARED)
    return [f"id given twice: {name}" for name in twice]


def images_without_alt(path: Path) -> list[str]:
    """Images without a text alternative, or with the name of a file as one."""
    return [
        f"alt={image.get('alt')!r}: {image.get('src', '')[:60]}"
        for image in parsed(path).images
        if not (image.get("alt") or "").strip() or FILE_NAME.fullmatch(image["alt"])
    ]


def cut_pictures(path: Path) -> list[str]:
    """Pictures, and frames of sliders, whose ink runs over an edge of the paper."""
    found = [(image.get("alt"), image.get("src", "")) for image in parsed(path).images]
    found += [(frame["alt"], PNG + frame["png"]) for frame in parsed(path).frames]
    return [
        f"cut off at its edge: {alt}"
        for alt, source in dict.fromkeys(found)
        if source.startswith(PNG) or source.endswith(".png")
        if _touches_its_edge(_picture(path, source))
    ]


def _picture(path: Path, source: str) -> Image.Image:
    if source.startswith(PNG):
        return Image.open(io.BytesIO(base64.b64decode(source.removeprefix(PNG))))
    return Image.open(path.parent / unquote(source))


def _touches_its_edge(picture: Image.Image) -> bool:
    w, h = picture.size
    sides = ((0, 0, 1, h), (w - 1, 0, w, h), (0, 0, w, 1), (0, h - 1, w, h))
    rim = [picture.convert("RGB").crop(side).getcolors() for side in sides]
    return any(colors is None or len(colors) > 1 for colors in rim)


def build_errors(path: Path) -> list[str]:
    """Errors that Sphinx or a notebook left in the text."""
    words = ("Traceback", "system-message")
    return [f"the page says {word!r}" for word in words if word in parsed(path).text]


# --- the page in a browser ----------------------------------------------------------


@dataclass
class Visit:
    """An open page, what it asked the network for, and the errors it reported."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def contexts_of(browser: Browser) -> dict[str, BrowserContext]:
    """Three readers without a network; the one on a phone has never chosen a mode."""
    contexts = {
        "light": browser.new_context(offline=True, color_scheme="light", viewport=WIDE),
        "dark": browser.new_context(offline=True, color_scheme="dark", viewport=NARROW),
        "phone": browser.new_context(offline=True, viewport=NARROW),
    }
    for mode in ("light", "dark"):
        contexts[mode].add_init_script(
            "if (location.protocol === 'file:') for (const key of ['mode', 'theme'])"
            f"  localStorage.setItem(key, '{mode}')"
        )
    for context in contexts.values():
        context.add_init_script(path=HERE / "checks.js")
    return contexts


def visit(context: BrowserContext, path: Path) -> Visit:
    """Open a page and wait until its math is set."""
    seen = Visit(context.new_page())
    page = seen.page
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(error.message))
    page.on(
        "console",
        lambda said: said.type == "error" and seen.errors.append(said.text),
    )
    page.goto(path.as_uri())
    page.evaluate("window.MathJax?.startup?.promise?.then(() => true)")
    return seen


def network_requests(seen: Visit) -> list[str]:
    """Everything asked for that is not on this disk."""
    return [f"asks for {url}" for url in seen.requests if not url.startswith(LOCAL)]


def script_errors(seen: Visit) -> list[str]:
    """Errors of scripts and on the console, except the theme's harmless ones."""
    return [error for error in seen.errors if error not in HARMLESS]


def too_wide(page: Page) -> list[str]:
    """What makes the page scroll sideways, sticks out of it or is cut off."""
    return page.evaluate("checks.tooWide()")


def math_problems(page: Page) -> list[str]:
    """Formulas that MathJax did not set, or set as an error; TeX left in the text."""
    return page.evaluate("checks.math()")


def figure_problems(page: Page) -> list[str]:
    """Pictures that do not load, or without a caption below."""
    return page.evaluate("checks.figures()")


def accessibility_problems(page: Page) -> list[str]:
    """What axe-core finds with all folds open, less the baseline. Alters the page."""
    page.evaluate("checks.thinCode()")
    page.evaluate("checks.openFolds()")
    options = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {target} {node['html'][:80]}"
        for rule in found
        for node in rule["nodes"]
        if not _is_known(page, rule["id"], target := node["target"][-1])
    ]


def _is_known(page: Page, rule: str, target: str) -> bool:
    known = BASELINE.get(rule)
    return known is not None and page.locator(target).first.evaluate(
        "(element, selector) => element.matches(selector)", known["selector"]
    )


def fold_problems(page: Page) -> list[str]:
    """Folds that do not start closed, open by click and key, and show text."""
    handles = page.locator(FOLDS).all()
    return [problem for handle in handles for problem in _fold_problem(page, handle)]


def _fold_problem(page: Page, handle: Locator):
    def shown():
        return bool(handle.evaluate("handle => checks.foldedText(handle)"))

    name = handle.evaluate("handle => checks.titleOf(handle).textContent.trim()")
    if shown():
        yield f"open from the start: {name}"
    handle.click()
    if not shown():
        yield f"a click shows no text: {name}"
    for key, opens in (("Enter", False), ("Space", True), ("Enter", False)):
        handle.press(key)
        if shown() != opens:
            yield f"{key} does not {'open' if opens else 'close'} it: {name}"
    if problem := handle.evaluate("handle => checks.focusProblem(handle)"):
        yield f"its focus {problem}: {name}"


def code_stops(page: Page) -> list[str]:
    """Code that scrolls and that Tab skips, or the other way; opens all folds."""
    page.evaluate("checks.openFolds()")
    return page.evaluate("checks.stops()")


# --- sliders ------------------------------------------------------------------------


def slider_problems(page: Page) -> list[str]:
    """Everything a slider of the page can do wrong. Alters the page."""
    page.evaluate("checks.openFolds()")
    problems = []
    for box in page.locator(".explore").all():
        problems += [*_name_problems(box), *_keyboard_problems(page, box)]
        problems += _play_problems(page, box)
        problems += box.evaluate("box => checks.frames(box)")
    page.goto("about:blank")
    page.go_back()  # the browser puts the sliders where they stood
    problems += [f"back again, {problem}" for problem in _all_disagreements(page)]
    page.reload()
    return problems + [f"reloaded, {problem}" for problem in _all_disagreements(page)]


def static_slider_problems(page: Page, path: Path) -> list[str]:
    """Where the picture in the file is not the one its sliders stand at."""
    return page.evaluate("html => checks.disagreementsInFile(html)", parsed(path).text)


def _all_disagreements(page: Page) -> list[str]:
    boxes = page.locator(".explore").all()
    return [problem for box in boxes for problem in _disagreements(box)]


def _disagreements(box: Locator) -> list[str]:
    return box.evaluate("box => checks.disagreements(box)")


def _name_problems(box: Locator):
    for slider in box.locator("input[type='range']").all():
        label = slider.evaluate("input => checks.labelOf(input)")
        named = box.get_by_role("slider", name=label).and_(slider)
        if not label or named.count() != 1:
            yield f"{slider.get_attribute('id')} is not called {label!r}"


def _keyboard_problems(page: Page, box: Locator):
    box.evaluate("box => { box.tabIndex = -1; box.focus(); }")
    for slider in box.locator("input[type='range']").all():
        name, last = slider.get_attribute("id"), int(slider.get_attribute("max"))
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") != name:
            yield f"{name} is not reached by Tab"
            slider.focus()
        if problem := slider.evaluate("input => checks.focusProblem(input)"):
            yield f"the focus of {name} {problem}"
        steps = {"Home": 0, "ArrowRight": min(1, last), "ArrowLeft": 0, "End": last}
        for key, place in steps.items():
            page.keyboard.press(key)
            if int(slider.input_value()) != place:
                yield f"{key} does not take {name} to {place}"
            yield from _disagreements(box)
    box.evaluate("box => box.removeAttribute('tabindex')")


def _play_problems(page: Page, box: Locator):
    """Of buttons that play a slider: found and pressed by key, they do as they say."""
    for player in box.locator(".explore-play").all():
        slider = box.locator(f"[id='{player.get_attribute('data-of')}']")
        label = slider.evaluate("input => checks.labelOf(input)")
        if player.get_attribute("aria-label") != label:
            yield f"the buttons are not called {label!r}"
        last = int(slider.get_attribute("max"))
        box.locator("input[type='range']").last.focus()
        for word, key, start, end in (
            ("Back", "Enter", min(1, last), 0),
            ("Play", None, 0, 0),
            ("Forward", "Space", 0, min(1, last)),
        ):
            name = f"{word}: {label}"
            page.keyboard.press("Tab")
            button = player.get_by_role("button", name=name, exact=True)
            if not button.count() or not button.evaluate(IS_FOCUSED):
                yield f"{name} is not reached by Tab"
                continue
            if problem := button.evaluate("button => checks.focusProblem(button)"):
                yield f"the focus of {name} {problem}"
            _move(slider, start)
            for place in (end, end and min(2, last)) if key else ():
                page.keyboard.press(key)
                if int(slider.input_value()) != place:
                    yield f"{key} on {name} does not take the slider to {place}"
                yield from _disagreements(box)
        player.evaluate("player => { player.dataset.pace = 30; }")
        yield from _running_problems(page, box, player, slider, last)


def _running_problems(page, box, player, slider, last):
    """Played from the start it halts at the end; from the end it starts over."""
    middle = player.get_by_role("button").nth(1)
    live = box.locator(".explore-caption")
    _move(slider, 0)
    middle.click()
    if middle.inner_text() != "Pause" or live.get_attribute("aria-live") != "off":
        yield "while it plays, the button offers no pause or the caption is read out"
    for _ in range(4 * (last + 10)):  # four times as long as it takes, if need be
        page.wait_for_timeout(30)
        if middle.inner_text() == "Play":
            break
    if int(slider.input_value()) != last:
        yield f"playing does not reach the end: {slider.input_value()} of {last}"
    if middle.inner_text() != "Play" or live.get_attribute("aria-live") != "polite":
        yield "at the end, the button offers no play or the caption is not read out"
    yield from _disagreements(box)
    player.evaluate("player => { player.dataset.pace = 60000; }")
    middle.click()
    if slider.input_value() != "0":
        yield f"play at the end does not start over, but at {slider.input_value()}"
    _move(slider, last)
    if middle.inner_text() != "Play":
        yield "moving the slider does not stop it"
    yield from _disagreements(box)


IS_FOCUSED = "element => element === document.activeElement"


def _move(slider: Locator, place: int):
    slider.evaluate(
        """(input, place) => {
            input.value = place;
            input.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        place,
    )
