"""Sliders over one figure function: live in Jupyter, and static in a rendered page.

Knows widgets; leaves what is drawn to the figure function, the HTML to `explore_page`.
"""

import base64
import hashlib
import html
import itertools
import json
import math
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from sparse_attn.device import facts
from sparse_attn.explore_page import BUTTONS, PAGE, SCRIPT, SLIDER
from sparse_attn.figures.style import Plot
from sparse_attn.units import plain

MAX_FRAMES = 48
MAX_BYTES = 500_000  # of all frames of one explorer together, before base64
FRAME = dict(dpi=130, colors=24)
PACE = 600  # milliseconds that a frame stays when they are played


def explore(
    figure: Callable[..., Plot],
    *,
    labels: dict[str, str] | None = None,
    start: dict[str, object] | None = None,
    play: str | None = None,
    **choices: list,
) -> "Explorer":
    """A slider for each keyword of `figure`, over the values given: T=[...], K=[...].

    labels: what a slider is called, its keyword unless given. start: first position,
    the middle unless given. play: the slider that gets buttons, which take it back,
    forward, or through all its values. Every combination is drawn once for the static
    page: at most 48 of them, and their pictures at most 500 KB together.
    Raises ValueError for no choices, an empty list, too many combinations, or a name
    or a start that is not among the choices.
    """
    if not choices:
        raise ValueError("no choices: give at least one, such as T=[128, 256]")
    for name, values in choices.items():
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(f"{name}={values!r}: a list of values is needed")
        if not values:
            raise ValueError(f"{name}=[]: a slider needs at least one value")
    frames = math.prod(len(values) for values in choices.values())
    if frames > MAX_FRAMES:
        raise ValueError(f"{frames} combinations: at most {MAX_FRAMES} fit one page")
    for name, given in (("labels", labels or {}), ("start", start or {})):
        for key in given:
            if key not in choices:
                raise ValueError(f"{name} names {key!r}: choose from {list(choices)}")
    for key, value in (start or {}).items():
        if value not in choices[key]:
            raise ValueError(f"start {key}={value!r}: choose from {choices[key]}")
    if play is not None and play not in choices:
        raise ValueError(f"play={play!r} names no slider: choose from {list(choices)}")
    return Explorer(figure, choices, labels or {}, start or {}, play)


class Explorer:
    """What `explore` returns: Jupyter shows its widgets, a book page its frames."""

    def __init__(self, figure, choices, labels, start, play):
        self.figure, self.play = figure, play
        self.choices = {name: list(values) for name, values in choices.items()}
        self.labels = {name: labels.get(name, name) for name in choices}
        self.at = {
            name: values.index(start[name]) if name in start else len(values) // 2
            for name, values in self.choices.items()
        }

    def _repr_mimebundle_(self, include=None, exclude=None):
        bundle = self.widget()._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return data | {"text/html": self.html(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return " and ".join(
            f"{self.labels[name]} from {_show(values[0])} to {_show(values[-1])}"
            for name, values in self.choices.items()
        )

    def widget(self) -> widgets.Widget:
        """Live sliders: each move calls the figure function in this kernel."""
        picture = widgets.HTML()
        sliders = {
            name: widgets.SelectionSlider(
                options=[(_show(value), value) for value in values],
                index=self.at[name],
                description=self.labels[name],
                style={"description_width": "initial"},
                continuous_update=False,
            )
            for name, values in self.choices.items()
        }

        def redraw(_=None):
            values = {name: slider.value for name, slider in sliders.items()}
            try:
                picture.value = _picture(_frame(self.figure(**values)))
            except Exception as error:  # shown: a widget would swallow it
                picture.value = f"<pre>{html.escape(f'{values}: {error!r}')}</pre>"

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        redraw()
        controls = list(sliders.values())
        if self.play:
            controls.append(self._player(sliders[self.play]))
        return widgets.VBox([widgets.HBox(controls), picture])

    def _player(self, slider: widgets.SelectionSlider) -> widgets.Play:
        last = len(slider.options) - 1
        player = widgets.Play(
            value=slider.index, max=last, interval=PACE, show_repeat=False
        )
        widgets.link((player, "value"), (slider, "index"))
        return player

    def html(self) -> str:
        """The same sliders with every frame inside: no kernel, no network."""
        frames = [
            _frame(self.figure(**dict(zip(self.choices, values, strict=True))))
            for values in itertools.product(*self.choices.values())
        ]
        total = sum(len(frame["png"]) for frame in frames)
        if total > MAX_BYTES * 4 / 3:  # base64 writes 4 characters for 3 bytes
            raise ValueError(f"frames take {total * 3 // 4:,} bytes of {MAX_BYTES:,}")
        name = hashlib.sha256(f"{self!r}{frames[0]['caption']}".encode()).hexdigest()
        name = f"explore-{name[:12]}"
        index = 0
        for choice, values in self.choices.items():
            index = index * len(values) + self.at[choice]
        return PAGE.format(
            id=name,
            label=html.escape(f"Sliders: {self!r}"),
            sliders="".join(self._slider(choice, name) for choice in self.choices),
            buttons=self._buttons(name) if self.play else "",
            picture=_picture(frames[index]),
            device=html.escape(str(facts())),
            frames=json.dumps(frames).replace("</", "<\\/"),
            script=SCRIPT,
        )

    def _slider(self, choice: str, page: str) -> str:
        shown = [_show(value) for value in self.choices[choice]]
        at = self.at[choice]
        return SLIDER.format(
            id=f"{page}-{choice}",
            label=html.escape(self.labels[choice]),
            last=len(shown) - 1,
            at=at,
            value=html.escape(shown[at]),
            values=html.escape(json.dumps(shown)),
        )

    def _buttons(self, page: str) -> str:
        label = html.escape(self.labels[self.play])
        return BUTTONS.format(id=f"{page}-{self.play}", label=label, pace=PACE)


def _show(value) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return plain(value) if number else str(value)


def _frame(plot: Plot) -> dict[str, str]:
    png = base64.b64encode(plot.png(**FRAME)).decode()
    return {"png": png, "alt": plot.alt, "caption": plot.caption}


def _picture(frame: dict[str, str]) -> str:
    alt, caption = html.escape(frame["alt"]), html.escape(frame["caption"])
    return (
        f'<img class="explore-picture" src="data:image/png;base64,{frame["png"]}" '
        f'alt="{alt}" style="width:100%;max-width:700px;background:white">'
        f'<p class="explore-caption" aria-live="polite">{caption}</p>'
    )
