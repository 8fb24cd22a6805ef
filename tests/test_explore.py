"""Sliders without a browser: the static page as text, the widgets without a kernel."""

import base64
import html
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from ipywidgets import HTML, Play, SelectionSlider
from PIL import Image

from sparse_attn import explore as module
from sparse_attn.explore import explore
from sparse_attn.figures.style import Plot


def bar(**values):
    """A small picture that looks different for each value, and says them."""
    plot = Plot(height=1, width=2)
    plot.text(0.02, 0.5, "/".join(map(str, values.values())))
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    return plot.describe(caption=f"caption {said}", alt=f"alt {said}")


CHOICES = dict(T=[128, 256, 512], C=[7, 9])


@pytest.fixture(scope="module")
def explorer():
    labels = {"T": "tokens T"}
    return explore(bar, labels=labels, start={"T": 256, "C": 7}, **CHOICES)


class Page(HTMLParser):
    """Tags with their attributes, and the text inside of scripts and labels."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], {}
        self.open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        self.texts.setdefault(self.open, []).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def frames(self):
        return json.loads(self.texts["script"][0])


@pytest.fixture(scope="module")
def page(explorer):
    return Page(explorer.html())


def picture(frame):
    return Image.open(io.BytesIO(base64.b64decode(frame["png"])))


def test_there_is_a_frame_for_every_combination(page):
    frames = page.frames()
    assert len(frames) == math.prod(map(len, CHOICES.values()))
    assert len({frame["png"] for frame in frames}) == len(frames)


def test_frames_run_through_the_last_choice_first(page):
    said = [frame["caption"] for frame in page.frames()]
    assert said == [f"caption T={T}, C={C}" for T in CHOICES["T"] for C in CHOICES["C"]]


def test_every_frame_is_a_picture_with_a_small_palette(page):
    for frame in page.frames():
        assert picture(frame).format == "PNG"
        assert picture(frame).mode == "P"


def test_the_page_needs_no_network(explorer):
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", explorer.html())


def test_the_picture_shown_is_the_frame_of_the_start(page):
    (shown,) = page.all("img")
    frame = page.frames()[2]  # T = 256, C = 7
    assert shown["src"] == f"data:image/png;base64,{frame['png']}"
    assert shown["alt"] == frame["alt"] == "alt T=256, C=7"
    assert frame["caption"] in page.texts["p"]


def test_every_slider_starts_where_it_was_told(page):
    at = [int(slider["value"]) for slider in page.all("input")]
    assert at == [1, 0]


def test_the_start_is_the_middle_unless_given():
    at = explore(bar, T=[1, 2, 3], C=[1, 2], K=[5]).at
    assert at == dict(T=1, C=1, K=0)


def test_every_slider_has_a_range_and_its_values(page):
    for slider, values in zip(page.all("input"), CHOICES.values(), strict=True):
        assert slider["type"] == "range"
        assert (slider["min"], slider["max"]) == ("0", str(len(values) - 1))
        assert json.loads(slider["data-values"]) == [str(value) for value in values]


def test_every_slider_has_one_label_and_says_its_value(page):
    sliders, outputs = page.all("input"), page.all("output")
    ids = [slider["id"] for slider in sliders]
    assert len(set(ids)) == len(ids) == len(CHOICES)
    assert [label["for"] for label in page.all("label")] == ids
    assert [output["for"] for output in outputs] == ids
    assert [slider["aria-valuetext"] for slider in sliders] == ["256", "7"]


def test_labels_are_those_given_or_the_keywords(page):
    labels = [text.strip() for text in page.texts["label"] if text.strip()]
    assert labels == ["tokens T:", "C:"]


def test_the_sliders_are_a_named_group_and_the_caption_is_announced(page):
    group = page.all("div")[0]
    assert group["role"] == "group"
    assert group["aria-label"] == "Sliders: tokens T from 128 to 512 and C from 7 to 9"
    assert any(p.get("aria-live") == "polite" for p in page.all("p"))


def test_the_page_says_where_it_was_computed(explorer, monkeypatch):
    monkeypatch.setattr(module, "facts", lambda: "a <machine>")
    assert "computed on a &lt;machine&gt;" in explorer.html()


def test_the_same_explorer_gives_the_same_page(explorer):
    assert explorer.html() == explorer.html()


def test_different_explorers_have_different_ids():
    others = (
        explore(bar, T=[1, 2]),
        explore(bar, T=[3, 4]),
        explore(lambda T: bar(K=T), T=[1, 2]),
    )
    assert len({Page(other.html()).all("div")[0]["id"] for other in others}) == 3


def test_words_in_captions_and_labels_are_not_markup():
    def figure(T):
        return bar(T=T).describe(caption="<b>bold", alt='"<u>')

    page = Page(explore(figure, labels={"T": "<i>"}, T=[1]).html())
    assert not {"b", "i", "u"} & {tag for tag, _ in page.tags}
    assert page.all("img")[0]["alt"] == '"<u>'
    assert "<b>bold" in page.texts["p"]


def test_words_in_values_are_not_markup():
    page = Page(explore(bar, kind=['a"<u>']).html())
    assert "u" not in {tag for tag, _ in page.tags}
    (slider,) = page.all("input")
    assert slider["aria-valuetext"] == 'a"<u>'
    assert json.loads(slider["data-values"]) == ['a"<u>']


def test_a_caption_cannot_end_the_script():
    figure = lambda T: bar(T=T).describe(caption="</script>", alt="x")  # noqa: E731
    assert Page(explore(figure, T=[1]).html()).frames()[0]["caption"] == "</script>"


def values_shown(values):
    (slider,) = Page(explore(bar, x=values).html()).all("input")
    return json.loads(slider["data-values"])


@pytest.mark.parametrize(
    "values, shown",
    [
        ([512, 4096, 131_072], ["512", "4,096", "128K"]),
        ([0.1, 0.5], ["0.1", "0.5"]),
        ([False, True], ["False", "True"]),
        (["causal", "full"], ["causal", "full"]),
    ],
)
def test_values_are_shown_as_people_write_them(values, shown):
    assert values_shown(values) == shown


def test_two_widths_never_read_alike():
    assert len(set(values_shown([12_000, 12_288]))) == 2


@pytest.fixture(scope="module")
def played():
    labels = {"T": "tokens <T>"}
    return explore(bar, play="T", labels=labels, start={"C": 9}, **CHOICES)


def test_no_slider_has_buttons_unless_asked(page):
    assert not page.all("button")


def test_a_played_slider_has_three_buttons_that_say_what_they_do(played):
    page = Page(played.html())
    names = [button["aria-label"] for button in page.all("button")]
    assert names == [f"{word}: tokens <T>" for word in ("Back", "Play", "Forward")]
    shown = [text.strip() for text in page.texts["button"] if text.strip()]
    assert shown == ["Back", "Play", "Forward"]
    assert all(button["type"] == "button" for button in page.all("button"))


def test_the_buttons_are_a_named_group_that_knows_its_slider(played):
    page = Page(played.html())
    (player,) = (d for d in page.all("div") if d.get("class") == "explore-play")
    assert (player["role"], player["aria-label"]) == ("group", "tokens <T>")
    assert player["data-of"] == page.all("input")[0]["id"]
    assert player["data-pace"] == str(module.PACE)


@pytest.mark.parametrize("play", ["K", "", "tokens"])
def test_a_play_that_names_no_slider_is_refused(play):
    with pytest.raises(ValueError, match=f"play={play!r} names no slider"):
        explore(bar, play=play, **CHOICES)


def test_48_frames_fit_and_49_do_not():
    explore(bar, T=range(8), C=range(6))
    with pytest.raises(ValueError, match="49 combinations: at most 48"):
        explore(bar, T=range(7), C=range(7))


def test_frames_too_large_together_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"frames take [\d,]+ bytes of 10"):
        explore(bar, T=[1, 2]).html()


def test_a_failing_figure_fails_the_page():
    def figure(T):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        explore(figure, T=[1]).html()


def parts(widget):
    """The sliders and the picture of a live widget."""
    found, left = [], [widget]
    while left:
        found.append(left.pop(0))
        left += getattr(found[-1], "children", ())
    sliders = [w for w in found if isinstance(w, SelectionSlider)]
    (shown,) = (w for w in found if isinstance(w, HTML))
    return sliders, shown


def test_moving_a_slider_calls_the_figure_with_its_value():
    calls = []

    def figure(**values):
        calls.append(values)
        return bar(**values)

    sliders, shown = parts(explore(figure, **CHOICES).widget())
    assert calls == [dict(T=256, C=9)]
    before = shown.value
    sliders[0].value = 512
    sliders[1].value = 7
    assert calls[1:] == [dict(T=512, C=9), dict(T=512, C=7)]
    assert shown.value != before
    assert "caption T=512, C=7" in shown.value


def test_the_live_picture_is_the_static_one(explorer, page):
    _, shown = parts(explorer.widget())
    (static,), (live,) = page.all("img"), Page(shown.value).all("img")
    assert live == static


def test_live_sliders_have_labels_and_start_where_told(explorer):
    sliders, _ = parts(explorer.widget())
    assert [(s.description, s.value) for s in sliders] == [("tokens T", 256), ("C", 7)]


def players(widget):
    found = [w for box in widget.children for w in getattr(box, "children", ())]
    return [w for w in found if isinstance(w, Play)]


def test_a_live_player_runs_its_slider_and_follows_it(played):
    widget = played.widget()
    (tokens, width), shown = parts(widget)
    (player,) = players(widget)
    assert (player.min, player.max, player.value) == (0, 2, 1)
    assert player.interval == module.PACE and not player.show_repeat
    player.value = 2
    assert (tokens.value, width.value) == (512, 9)
    assert "caption T=512, C=9" in shown.value
    tokens.value = 128
    assert player.value == 0


def test_a_live_slider_has_no_player_unless_asked(explorer):
    assert not players(explorer.widget())


def test_an_exception_in_the_figure_is_shown_and_passes():
    def figure(T):
        if T == 2:
            raise RuntimeError("mine <b>")
        return bar(T=T)

    (slider,), shown = parts(explore(figure, start={"T": 1}, T=[1, 2]).widget())
    slider.value = 2
    assert "RuntimeError('mine <b>')" in html.unescape(shown.value)
    assert "<b>" not in shown.value
    slider.value = 1
    assert "caption T=1" in shown.value


def test_jupyter_gets_the_widget_and_a_page_gets_the_frames(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == explorer.html()
    assert bundle["text/plain"] == "tokens T from 128 to 512 and C from 7 to 9"
