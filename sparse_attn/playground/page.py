"""The playground as HTML: results, for the live form and the static one; and the whole
static form with its controls and its script.

Knows markup; leaves numbers to `estimate`, and what moves to `script`.
"""

from __future__ import annotations

import hashlib
import html
import json

from sparse_attn.playground.advice import advise
from sparse_attn.playground.choice import (
    LABELS,
    METHODS,
    OPTIONS,
    Choice,
    in_link,
    shown,
)
from sparse_attn.playground.estimate import estimate, rivals
from sparse_attn.playground.profiles import PROFILES, Profile
from sparse_attn.playground.program import program
from sparse_attn.playground.rows import NAMES, bar, rates, rows
from sparse_attn.playground.script import NUMBERS, SCRIPT
from sparse_attn.units import seconds, slug

NONE = "–"  # in place of a number that there is none of
NOT_TIMED = "this very setting was not timed"
BARS = "Least time at this setting, log scale"
SLIDERS = ("T", "K")

STYLE = """<style>
.playground{max-width:46rem;margin:1rem 0;color:inherit}
.playground-controls{display:flex;flex-wrap:wrap;gap:.5rem 1.2rem;
padding:.3rem .5rem}
.playground-controls>div{flex:1 1 9.5rem;min-width:0}
.playground-controls>.playground-wide{flex:1 1 17rem}
.playground label{display:block;font-size:.9em}
.playground select,.playground input{width:100%;font:inherit;accent-color:#0072b2}
.playground select{color:inherit;background:transparent;border:1px solid;padding:.2rem;
border-radius:.3rem}
.playground option{color:#000;background:#fff}
.playground :is(select,input):focus-visible{outline:3px solid #d55e00;
outline-offset:2px}
.playground table{width:100%;border-collapse:collapse;margin:.6rem 0;font-size:.9em;
color:inherit}
.playground caption{text-align:left;caption-side:top;color:inherit}
.playground :is(th,td){text-align:right;font-weight:400;padding:.15rem .3rem;
border:0;border-bottom:1px solid #8a94a3;background:transparent;color:inherit}
.playground th:first-child{text-align:left}
.playground td{white-space:nowrap}
.playground thead th,.playground-advice{font-weight:700}
.playground p{margin:.5rem 0}
.playground svg{display:block;width:100%;height:15.2rem;overflow:visible}
.playground text{fill:currentColor;font-size:.9em}
.playground rect{fill:#8a94a3}
.playground .playground-own rect{fill:#0072b2}
.playground .playground-own text{font-weight:700}
html[data-theme=dark] .playground .playground-own rect{fill:#56b4e9}
</style>"""


def results(choice: Choice, profile: Profile) -> str:
    """Advice, table, bars and what was measured, for one setting on one device."""
    found = estimate(choice, profile)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(NAMES[name])}</th>'
        + "".join(
            f'<td data-key="{name}-{i}">{html.escape(str(text))}</td>'
            for i, text in enumerate(texts)
        )
        + "</tr>"
        for name, texts in rows(found).items()
    )
    said = {
        "quality": ("Quality, of small models", found.quality),
        "measured": ("Measured", found.measured or NOT_TIMED),
    }
    below = "".join(
        f'<p>{label}: <span data-key="{name}">{html.escape(text)}</span></p>'
        for name, (label, text) in said.items()
    )
    return (
        f'<p class="playground-advice" aria-live="polite" data-key="advice">'
        f"{html.escape(str(advise(found)))}</p>"
        "<table><caption>Attention of one layer, all heads, on "
        f'<span data-key="device">{html.escape(profile.name)}</span>: '
        f'<span data-key="rates">{rates(profile.roof(choice.bytes))}</span></caption>'
        '<thead><tr><td></td><th scope="col">method</th><th scope="col">full</th>'
        f'<th scope="col">of full</th></tr></thead><tbody>{lines}</tbody></table>'
        f"{bars(choice, profile)}{below}"
    )


def bars(choice: Choice, profile: Profile) -> str:
    """A bar for each method at the same setting, the chosen one in another color."""
    times = rivals(choice, profile)
    known = [s for s in times.values() if s is not None]
    least, most = min(known), max(known)
    texts = {
        method: f"{method}: {'does not fit' if s is None else seconds(s)}"
        for method, s in times.items()
    }
    drawn = []
    for i, (method, s) in enumerate(times.items()):
        width = 0 if s is None else bar(s, least, most)
        own = ' class="playground-own"' if method == choice.method else ""
        drawn.append(
            f'<g{own}><text x="0" y="{2.5 * i + 0.9}rem">'
            f"{html.escape(texts[method])}</text>"
            f'<rect x="0" y="{2.5 * i + 1.3}rem" width="{width:.1f}%" height=".7rem"/>'
            "</g>"
        )
    label = html.escape(f"{BARS}. {'; '.join(texts.values())}")
    return f'<p>{BARS}</p><svg role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def page(choice: Choice, profile: Profile) -> str:
    """The static form, standing at `choice` on the device of `profile`.

    profile: one of PROFILES; another one is not in a page's list.
    """
    place = PROFILES.index(profile)
    at = {name: OPTIONS[name].index(getattr(choice, name)) for name in OPTIONS}
    fields = {
        name: {
            "slugs": [in_link(name, value) for value in values],
            "shown": [shown(name, value) for value in values],
            "values": values,
        }
        for name, values in OPTIONS.items()
    }
    names = [one.name for one in PROFILES]
    fields["device"] = {
        "slugs": [slug(name) for name in names],
        "shown": names,
        "values": names,
    }
    at["device"] = place
    body = results(choice, profile)
    name = hashlib.sha256(f"{choice}{profile}".encode()).hexdigest()
    name = f"playground-{name[:12]}"
    controls = "".join(_control(name, f, one, at[f]) for f, one in fields.items())
    words = {"none": NONE, "bars": BARS, "untimed": NOT_TIMED, "methods": METHODS}
    given = json.dumps({"fields": fields, "words": words}).replace("</", "<\\/")
    return (
        f'<div class="playground" id="{name}" role="group" aria-label="Playground">'
        f'{STYLE}<div class="playground-controls">{controls}</div>'
        f'<p class="playground-note" role="status"></p>{body}'
        f"<script>(function () {{\n{program()}\n{NUMBERS}\nconst GIVEN = {given};\n"
        f"{SCRIPT}\n}})()</script></div>".replace("PLACE", name)
    )


def _control(page: str, name: str, field: dict, at: int) -> str:
    key, label = f"{page}-{name}", html.escape(LABELS[name])
    texts = [html.escape(text) for text in field["shown"]]
    if name in SLIDERS:
        return (
            f'<div class="playground-wide"><label for="{key}">{label}: '
            f'<output for="{key}">{texts[at]}</output></label>'
            f'<input type="range" id="{key}" data-field="{name}" min="0" '
            f'max="{len(texts) - 1}" step="1" value="{at}" autocomplete="off" '
            f'aria-valuetext="{texts[at]}"></div>'
        )
    options = "".join(
        f"<option{' selected' if i == at else ''}>{text}</option>"
        for i, text in enumerate(texts)
    )
    wide = ' class="playground-wide"' if name in ("method", "device") else ""
    return (
        f'<div{wide}><label for="{key}">{label}</label><select id="{key}" '
        f'data-field="{name}" autocomplete="off">{options}</select></div>'
    )
