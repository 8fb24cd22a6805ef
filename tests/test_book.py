"""The rendered book as a reader meets it: files, and pages in a real browser."""

import pytest
from book_checks import (
    FOLDS,
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
    pages_of,
    repeated_ids,
    script_errors,
    slider_problems,
    static_slider_problems,
    too_wide,
    visit,
)
from playwright.sync_api import expect

PAGES = pages_of()


@pytest.fixture(scope="module", params=PAGES)
def path(request, book):
    return book / f"{request.param}.html"


@pytest.fixture(scope="module")
def light(contexts, path):
    """The page on a wide screen, opened once, only looked at."""
    seen = visit(contexts["light"], path)
    yield seen
    seen.page.close()


@pytest.fixture(scope="module")
def phone(contexts, path):
    """The page on a narrow screen, opened once, only looked at."""
    seen = visit(contexts["phone"], path)
    yield seen
    seen.page.close()


def test_the_built_pages_are_those_of_the_table_of_contents(book):
    built = {path.relative_to(book).as_posix() for path in book.glob("book/**/*.html")}
    assert built == {f"{name}.html" for name in PAGES}


def test_the_index_leads_to_the_first_page(contexts, book):
    page = contexts["light"].new_page()
    page.goto((book / "index.html").as_uri())
    expect(page).to_have_url((book / f"{PAGES[0]}.html").as_uri(), timeout=20_000)
    page.close()


@pytest.mark.parametrize("name", ["index", "search", "genindex"])
def test_links_of_the_pages_around_the_book_lead_somewhere(book, name):
    assert_none(broken_links(book / f"{name}.html"))


def test_search_finds_a_page_without_a_network(contexts, book):
    seen = visit(contexts["phone"], book / "search.html")
    seen.page.goto((book / "search.html").as_uri() + "?q=attention")
    results = seen.page.locator("#search-results li a")
    expect(results.first).to_be_visible(timeout=20_000)
    assert (book / results.first.get_attribute("href").partition("#")[0]).is_file()
    assert_none(network_requests(seen))  # excerpts fail to load, as file:// is told to
    seen.page.close()


def test_links_lead_somewhere_and_only_to_one_place(path):
    assert_none(broken_links(path) + repeated_ids(path))


def test_every_image_has_a_text_alternative(path):
    assert_none(images_without_alt(path))


def test_no_picture_is_cut_off(path):
    assert_none(cut_pictures(path))


def test_no_error_is_left_in_the_text(path):
    assert_none(build_errors(path))


def test_a_page_asks_the_network_for_nothing(light, phone):
    assert_none(network_requests(light) + network_requests(phone))


def test_no_script_fails(light, phone):
    assert_none(script_errors(light) + script_errors(phone))


def test_nothing_sticks_out_of_a_wide_screen(light):
    assert_none(too_wide(light.page))


def test_nothing_sticks_out_of_a_phone(phone):
    assert_none(too_wide(phone.page))


def test_math_is_set(light):
    assert_none(math_problems(light.page))


def test_every_picture_loads_and_has_a_caption(light):
    assert_none(figure_problems(light.page))


def test_the_book_has_sliders_folds_and_figures(book):
    text = "".join((book / f"{name}.html").read_text() for name in PAGES)
    for part in ('class="explore"', 'class="solution dropdown', "<figcaption"):
        assert part in text


def test_sliders_stand_where_their_picture_was_drawn(light, path):
    assert_none(static_slider_problems(light.page, path))


@pytest.mark.parametrize("view", ["light", "phone"])
def test_every_slider_reaches_every_frame(opened, light, path, view):
    if not light.page.locator(".explore").count():
        pytest.skip("no slider on this page")
    seen = opened(view, path)
    assert_none(slider_problems(seen.page))
    assert_none(network_requests(seen) + script_errors(seen))


def test_folds_open_by_mouse_and_by_keyboard(opened, light, path):
    if not light.page.locator(FOLDS).count():
        pytest.skip("nothing is folded on this page")
    assert_none(fold_problems(opened("light", path).page))


@pytest.mark.parametrize("view", ["light", "dark"])
def test_axe_finds_nothing_that_is_ours(opened, path, view):
    page = opened(view, path).page
    assert page.locator("html").get_attribute("data-theme") == view
    assert_none(accessibility_problems(page))


def test_code_that_scrolls_on_a_phone_is_reached_by_keyboard(opened, path):
    assert_none(code_stops(opened("phone", path).page))
