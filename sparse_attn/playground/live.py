"""The live playground: widgets over the same results, and a button that measures.

Knows widgets; leaves results to `page`, and the clock to `race`. In a page without
Python the same object is the static form.
"""

from __future__ import annotations

import html

import ipywidgets as widgets

from sparse_attn import timing
from sparse_attn.device import facts
from sparse_attn.playground import page
from sparse_attn.playground.choice import FULL, LABELS, OPTIONS, Choice, shown
from sparse_attn.playground.estimate import estimate
from sparse_attn.playground.profiles import PROFILES, Here, Profile
from sparse_attn.playground.race import race
from sparse_attn.units import seconds, three

BUTTON = "measure on this device"
WIDE = {"description_width": "initial"}


def dashboard(
    choice: Choice | None = None, profile: Profile = PROFILES[0]
) -> Dashboard:
    """The playground: widgets in Jupyter and Voila, a static form in a rendered page.

    choice: where it stands at first. profile: on which of PROFILES.
    """
    if profile not in PROFILES:
        names = [one.name for one in PROFILES]
        raise ValueError(f"profile={profile!r}: choose from {names}")
    return Dashboard(choice or Choice(), profile)


class Dashboard(widgets.VBox):
    """What `dashboard` returns; its static form stands where it stood at first."""

    def __init__(self, choice: Choice, profile: Profile):
        self.start = choice, profile
        self.controls = {
            name: _control(name, values, getattr(choice, name))
            for name, values in OPTIONS.items()
        }
        self.device = widgets.Dropdown(
            options=[(one.name, one) for one in (*PROFILES, Here())],
            value=profile,
            description=LABELS["device"],
            style=WIDE,
        )
        self.results, self.measured = widgets.HTML(), widgets.HTML()
        layout = widgets.Layout(width="auto", align_self="flex-start")
        self.button = widgets.Button(description=BUTTON, layout=layout)
        self.button.on_click(self._measure)
        for control in (*self.controls.values(), self.device):
            control.observe(self._show, names="value")
        controls = widgets.HBox(
            [*self.controls.values(), self.device],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        super().__init__([controls, self.results, self.button, self.measured])
        self._show()

    @property
    def choice(self) -> Choice:
        """Where the controls stand. Raises ValueError for values that do not fit."""
        return Choice(**{name: one.value for name, one in self.controls.items()})

    def _repr_mimebundle_(self, include=None, exclude=None):
        bundle = super()._repr_mimebundle_(include=include, exclude=exclude)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return data | {"text/html": self.html(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        choice, profile = self.start
        return f"Playground: {choice}, {profile.name}"

    def html(self) -> str:
        """The static form, which needs neither a kernel nor a network."""
        return page.page(*self.start)

    def _show(self, _=None):
        self.measured.value = ""
        if isinstance(self.device.value, Here):
            self.results.value = "<p>measuring the rates of this device ...</p>"
        try:
            found = page.results(self.choice, self.device.value)
            self.results.value = f'<div class="playground">{page.STYLE}{found}</div>'
        except Exception as error:  # shown: a widget would swallow it
            self.results.value = _failed(error)

    def _measure(self, _):
        self.button.disabled, self.button.description = True, "measuring ..."
        try:
            choice = self.choice
            self.measured.value = said(choice, self.device.value, race(choice))
        except Exception as error:
            self.measured.value = _failed(error)
        finally:
            self.button.disabled, self.button.description = False, BUTTON


def said(choice: Choice, profile: Profile, found: dict[str, timing.Timing]) -> str:
    """What a race found, beside the least times that the profile's rates allow."""
    least = estimate(choice, profile).bounds
    lines = [f"Measured on {facts()}, and least time on {profile.name}:"]
    for method, taken in found.items():
        bound = least.full_seconds if method == FULL else least.seconds
        lines.append(f"{method}: {taken}, and {seconds(bound)}")
    if choice.method != FULL:
        gain = timing.ratio(found[FULL], found[choice.method])
        lines.append(
            f"as fast as full attention: {gain}, and {three(least.gain)}x at best"
        )
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _control(name: str, values: tuple, at) -> widgets.Widget:
    kind = widgets.SelectionSlider if name in page.SLIDERS else widgets.Dropdown
    return kind(
        options=[(shown(name, value), value) for value in values],
        value=at,
        description=LABELS[name],
        style=WIDE,
        **({"continuous_update": False} if name in page.SLIDERS else {}),
    )


def _failed(error: Exception) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f'<p role="alert">{html.escape(f"{kind}{error}")}</p>'
