"""The static playground in a browser: numbers, controls, the address, accessibility."""

import math
import random

import pytest
from book_checks import (
    accessibility_problems,
    assert_none,
    network_requests,
    script_errors,
    too_wide,
)
from playwright.sync_api import expect
from test_playground import choices, settings

from sparse_attn.playground import PROFILES, Choice, advise, dashboard, estimate
from sparse_attn.playground.choice import METHODS, OPTIONS, obstacle
from sparse_attn.playground.estimate import bounds, rivals
from sparse_attn.playground.methods import other_work, work
from sparse_attn.playground.page import NONE, NOT_TIMED
from sparse_attn.playground.program import program
from sparse_attn.playground.rows import NAMES, bar, rates, rows
from sparse_attn.playground.script import NUMBERS
from sparse_attn.playground.words import FORMATS
from sparse_attn.units import seconds, slug

PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A page</title><style>body {{ font-family: sans-serif; margin: 0; {look} }}
main {{ padding: 16px; }}</style></head><body><main class="bd-article">
<h1 id="top">A page</h1>{form}
</main></body></html>"""
LOOKS = {"light": "", "dark": "background: #121212; color: #ced6dd"}
READ = """() => Object.fromEntries(
    [...document.querySelectorAll("[data-key]")].map(
        (part) => [part.dataset.key, part.textContent]))"""
READ_BARS = """() => [...document.querySelectorAll("svg g")].map((g) => [
    g.querySelector("text").textContent,
    parseFloat(g.querySelector("rect").getAttribute("width")),
    g.classList.contains("playground-own")])"""
TURN = """(places) => {
    for (const [name, i] of Object.entries(places)) {
        const control = document.querySelector(`[data-field="${name}"]`);
        if (control.type === "range") control.value = i;
        else control.selectedIndex = i;
        control.dispatchEvent(new Event("input", { bubbles: true }));
    }
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The static form alone on a page, light and dark."""
    home, form = tmp_path_factory.mktemp("playground"), dashboard().html()
    for theme, look in LOOKS.items():
        text = PAGE.format(theme=theme, look=look, form=form)
        (home / f"{theme}.html").write_text(text, encoding="utf-8")
    return home


@pytest.fixture
def light(opened, files):
    return opened("light", files / "light.html")


def places(setting: dict, profile) -> dict[str, int]:
    found = {name: OPTIONS[name].index(value) for name, value in setting.items()}
    return found | {"device": PROFILES.index(profile)}


def wanted(setting: dict, profile) -> dict[str, str]:
    """What has to stand under each key of the page, by Python."""
    roof = profile.roof(setting["bytes"])
    always = {"device": profile.name, "rates": str(rates(roof))}
    try:
        choice = Choice(**setting)
    except ValueError as error:
        keys = [f"{name}-{i}" for name in NAMES for i in range(3)]
        empty = dict.fromkeys((*keys, "quality", "measured"), NONE)
        return empty | always | {"advice": str(error)}
    found = estimate(choice, profile)
    texts = {
        f"{name}-{i}": str(text)
        for name, of in rows(found).items()
        for i, text in enumerate(of)
    }
    told = {
        "advice": str(advise(found)),
        "quality": found.quality,
        "measured": found.measured or NOT_TIMED,
    }
    return texts | told | always


def wanted_bars(choice: Choice, profile) -> list[tuple[str, float, bool]]:
    times = rivals(choice, profile)
    known = [s for s in times.values() if s is not None]
    return [
        (
            f"{method}: {'does not fit' if s is None else seconds(s)}",
            0 if s is None else bar(s, min(known), max(known)),
            method == choice.method,
        )
        for method, s in times.items()
    ]


def test_the_page_opens_where_it_was_told(light):
    setting = {name: getattr(Choice(), name) for name in OPTIONS}
    assert light.page.evaluate(READ) == wanted(setting, PROFILES[0])
    assert "#" not in light.page.url


def test_the_page_shows_what_python_computes(light):
    draw, fits = random.Random(0), [vars(choice) for choice in choices(40)]
    for setting in (*fits, *settings(12, seed=1)):
        profile = draw.choice(PROFILES)
        light.page.evaluate(TURN, places(setting, profile))
        assert light.page.evaluate(READ) == wanted(setting, profile), setting
    assert_none(script_errors(light) + network_requests(light))


def test_the_bars_are_those_that_python_draws(light):
    for choice in choices(20, seed=2):
        light.page.evaluate(TURN, places(vars(choice), PROFILES[1]))
        found = light.page.evaluate(READ_BARS)
        for (text, width, own), (said, length, chosen) in zip(
            found, wanted_bars(choice, PROFILES[1]), strict=True
        ):
            assert (text, own) == (said, chosen)
            assert abs(width - length) < 0.06
        label = light.page.locator("svg").get_attribute("aria-label")
        assert all(text in label for text, *_ in found)


def test_the_formulas_of_the_page_equal_those_of_the_package(light):
    """Exactly, for every number of hundreds of settings and every method."""
    given, python = [], []
    for c in choices(300, seed=3):
        names = ("T", "K", "C", "H", "Hkv", "L", "bytes", "block_q", "block_k", "task")
        s = {name: getattr(c, name) for name in names}
        block, roof = OPTIONS["block"].index(c.block), PROFILES[0].roof(c.bytes)
        for method in METHODS:
            if obstacle(method, c).template:
                continue
            own, full = work(method, c), work(METHODS[0], c)
            at = bounds(own, full, other_work(c), roof, c.L)
            given.append([s, method, block])
            python.append([vars(own), vars(other_work(c)), vars(at)])
    javascript = light.page.evaluate(
        """([program, full, given]) => {
            const all = ["WORK", "OTHER", "BOUNDS", "ROOFS"];
            const [WORK, OTHER, BOUNDS, ROOFS] =
                new Function(`${program}; return [${all}];`)();
            return given.map(([s, method, block]) => {
                const of = (name) => {
                    const found = WORK[`${s.task}|${name}`];
                    return found[found.length > 1 ? block : 0](s);
                };
                const own = of(method), other = OTHER[s.task](s);
                const roof = ROOFS[0][s.bytes];
                return [own, other, BOUNDS(own, of(full), other, roof, s.L)];
            });
        }""",
        [program(), METHODS[0], given],
    )
    assert len(python) > 1000
    for mine, theirs, setting in zip(python, javascript, given, strict=True):
        assert mine == theirs, setting


def test_numbers_are_written_to_the_digit_as_python_writes_them(light):
    draw = random.Random(4)
    ties = [n / 8 for n in range(1, 9000, 7)] + [n * 125 for n in range(1, 400)]
    ties += [n / 2 for n in range(1990, 2010)] + [0.0, 999.4999, 999.5, 1e-5, 1.5e-7]
    given = ties + [10 ** draw.uniform(-8, 18) for _ in range(3000)]
    found = light.page.evaluate(
        """([program, numbers, given]) => {
            const FORMAT = new Function(`${program};${numbers}; return FORMAT;`)();
            return Object.entries(FORMAT).map(
                ([kind, write]) => [kind, given.map(write)]);
        }""",
        [program(), NUMBERS, given],
    )
    assert dict(found).keys() == FORMATS.keys()
    for kind, texts in found:
        for x, text in zip(given, texts, strict=True):
            assert text == FORMATS[kind](x), (kind, x)


# --- the address ---------------------------------------------------------------------


def link(files, fragment: str) -> str:
    return (files / "light.html").as_uri() + "#" + fragment


def test_every_change_is_written_into_the_address(light):
    page = light.page
    before = page.evaluate("history.length")
    page.get_by_label("method", exact=True).select_option("window")
    page.get_by_label("tokens T").press("End")
    fragment = page.url.partition("#")[2]
    assert fragment.startswith("method=window&task=prefill&T=131072&K=512&C=512&")
    device = slug(PROFILES[0].name)
    assert fragment.endswith(f"&block=64-x-16&bytes=4&device={device}")
    assert page.evaluate("history.length") == before, "it is replaced, not piled up"


def test_a_link_opens_the_state_it_was_copied_from(opened, files):
    for choice in choices(12, seed=5):
        profile = PROFILES[choice.T % 3]
        first = opened("light", files / "light.html").page
        first.evaluate(TURN, places(vars(choice), profile))
        second = opened("phone", files / "light.html").page
        second.goto(first.url)
        second.reload()
        assert second.evaluate(READ) == wanted(vars(choice), profile)
        assert second.locator(".playground-note").inner_text() == ""


def test_the_link_of_the_book_opens_its_state(opened, files):
    page = opened("light", files / "light.html").page
    page.goto(link(files, "T=8192&K=512&method=window"))
    setting = {name: getattr(Choice(method="window"), name) for name in OPTIONS}
    assert page.evaluate(READ) == wanted(setting, PROFILES[0])
    assert page.locator(".playground").evaluate(
        "box => box.getBoundingClientRect().top < innerHeight / 2"
    )


@pytest.mark.parametrize(
    "fragment, ignored",
    [
        ("T=8193&K=64", "T=8193"),
        ("K=64&T=", "T="),
        ("K=64&foo=1&constructor=2", "foo=1, constructor=2"),
        ("K=64&method=<b>x</b>", "method=<b>x</b>"),
        ("K=64&T=8e3&H=07", "T=8e3, H=07"),
    ],
)
def test_what_a_link_gets_wrong_is_ignored_and_said(opened, files, fragment, ignored):
    seen = opened("light", files / "light.html")
    page = seen.page
    page.goto(link(files, fragment))
    note = page.locator(".playground-note")
    expect(note).to_have_text(f"Ignored in the link: {ignored}")
    setting = {name: getattr(Choice(K=64), name) for name in OPTIONS}
    assert page.evaluate(READ) == wanted(setting, PROFILES[0])
    page.get_by_label("bytes per value").select_option("2")
    expect(note).to_have_text("")
    assert_none(script_errors(seen))


def test_a_link_to_values_that_do_not_fit_says_why(opened, files):
    page = opened("light", files / "light.html").page
    page.goto(link(files, "C=512&H=12"))
    told = page.locator(".playground-advice")
    expect(told).to_have_text("H=12 heads do not divide the width C=512")
    page.get_by_label("width C").select_option("768")
    expect(told).not_to_contain_text("H=12 heads")


def test_a_link_to_a_place_of_the_page_is_left_alone(opened, files):
    page = opened("light", files / "light.html").page
    page.goto(link(files, "top"))
    assert page.url.endswith("#top")
    assert page.locator(".playground-note").inner_text() == ""


def test_another_link_on_the_page_turns_the_controls(light, files):
    light.page.evaluate("location.hash = '#task=decode&K=1024'")
    expect(light.page.get_by_label("task")).to_have_value("decode")
    expect(light.page.locator("output").nth(1)).to_have_text("1,024")


# --- people --------------------------------------------------------------------------


def test_all_controls_are_reached_and_turned_by_keyboard(light):
    page = light.page
    page.locator("h1").evaluate("h => { h.tabIndex = -1; h.focus(); }")
    for name in (*OPTIONS, "device"):
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        assert page.evaluate(f"{focused}.dataset.field") == name
        assert not page.evaluate(f"checks.focusProblem({focused})")
        before = page.url
        first = page.evaluate(f"{focused}.selectedIndex ?? {focused}.value")
        page.keyboard.press("ArrowRight" if name in ("T", "K") else "ArrowUp")
        moved = page.evaluate(f"{focused}.selectedIndex ?? {focused}.value")
        if first == moved:  # it stood at the first of its options
            page.keyboard.press("ArrowDown")
        assert page.url != before, name
    assert "device=" in page.url


def test_sliders_say_their_value(light):
    slider = light.page.get_by_role("slider", name="tokens T")
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "128"
    expect(light.page.locator("output").first).to_have_text("128")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "128K"


def test_advice_and_notes_are_read_out(light):
    page = light.page
    assert page.locator(".playground-advice").get_attribute("aria-live") == "polite"
    assert page.locator(".playground-note").get_attribute("role") == "status"
    group = page.get_by_role("group", name="Playground")
    assert group.get_by_role("table").count() == 1
    assert group.get_by_role("img").count() == 1


@pytest.mark.parametrize("theme", LOOKS)
def test_axe_finds_nothing(opened, files, theme):
    page = opened("light", files / f"{theme}.html").page
    assert_none(accessibility_problems(page))


def test_nothing_sticks_out_of_a_phone(opened, files):
    page = opened("phone", files / "light.html").page
    for choice in choices(12, seed=6):
        page.evaluate(TURN, places(vars(choice), PROFILES[0]))
        assert_none(too_wide(page))


def test_going_back_shows_what_the_controls_say(light, files):
    page = light.page
    page.get_by_label("task").select_option("decode")
    page.goto("about:blank")
    page.go_back()
    setting = {name: getattr(Choice(task="decode"), name) for name in OPTIONS}
    assert page.evaluate(READ) == wanted(setting, PROFILES[0])


def test_unknown_losses_stay_unknown_in_the_page():
    answers = program().partition("const KNOWN = ")[2]
    assert "NaN" in answers
    assert math.isnan(estimate(Choice(K=64)).lost)
