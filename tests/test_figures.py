"""Every figure: says its finding, is the same each time, and can be read."""

import io
import itertools
import re
import subprocess
import sys
from functools import cache

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from test_figures_audit import DRAWN as AUDIT
from test_figures_audit import EXTREMES as AUDIT_EXTREMES
from test_figures_cache import DRAWN as CACHE
from test_figures_hashing import DRAWN as HASHING
from test_figures_hashing import EXTREMES as HASHING_EXTREMES
from test_figures_patterns import DRAWN as PATTERNS
from test_figures_patterns import EXTREMES as PATTERN_EXTREMES
from test_figures_roofline import DRAWN as ROOFLINE
from test_figures_scale import DRAWN as SCALE
from test_figures_scale import EXTREMES as SCALE_EXTREMES
from test_figures_selection import DRAWN as SELECTION
from test_figures_selection import EXTREMES as SELECTION_EXTREMES
from test_figures_speed import DRAWN as SPEED
from test_figures_speed import EXTREMES as SPEED_EXTREMES
from test_figures_tiles import DRAWN as TILES
from test_figures_tiles import EXTREMES as TILE_EXTREMES
from test_figures_topk import DRAWN as TOPK
from test_figures_topk import EXTREMES as TOPK_EXTREMES
from test_figures_trials import DRAWN as TRIALS
from test_figures_trials import EXTREMES as TRIAL_EXTREMES

from sparse_attn import cost, figures, units
from sparse_attn.timing import Ratio, Timing

WORDS = ["Our", "planet", "is", "a", "lonely", "speck"]
LENGTHS = [128 * 2**n for n in range(7)]
ROWS = [(128, 64), (256, 128), (512, 256), (768, 512), (1024, 1024), (1280, 2048)]


def timings(seconds):
    return [Timing(s, 0.9 * s, 1.2 * s, s, (s,)) for s in seconds]


def weights():
    scores = np.random.default_rng(0).normal(size=(6, 6))
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def patterns():
    t = np.arange(6)
    apart = abs(t[:, None] - t)
    return {
        "full": apart >= 0,
        "causal": t[:, None] >= t,
        "window of 3": apart <= 1,
        "window of 5": apart <= 2,
    }


def speedups(heads):
    """Of full heads over one sparse head, for each row of the published table."""
    return [
        heads(d) * 4 * 64 * cost.pairs(T) / cost.topk_mlp_flops(T, 64, 128, 8)
        for d, T in ROWS
    ]


# figure -> (arguments, numbers that its caption must state)
DRAWN = {
    "losses": (
        dict(runs={"as GPT-2": [2.0, 2.2], "MLP 3x": [2.4, 2.6], "window": [1.9, 2.1]}),
        ["window (-0.10)", "MLP 3x (+0.40)", "2.10"],
    ),
    "model_shares": (
        dict(T=512, C=768),
        ["scores 7%", "projections 21%", "MLP 43%", "LM head 29%", "512", "768"],
    ),
    "remedies": (
        dict(
            measured={
                "fused": Ratio(0.7, 0.65, 0.75),
                "a very long name of a remedy": Ratio(0.93, 0.9, 0.95),
            },
            predicted={"fused": 0.8, "a very long name of a remedy": 0.92},
            device="a machine",
        ),
        ["fused, 0.70", "a machine"],
    ),
    "shared_heads": (
        dict(kv_heads=4, T=512),
        ["4 key-value heads", "512", "93%", "100%"],
    ),
    "training_memory": (
        dict(
            rows={
                name: dict(parameters=1e9, gradients=1e9, AdamW=2e9, activations=n)
                for name, n in (("formula", 3e9), ("fused", 1e9))
            }
        ),
        ["formula 7 GB", "fused 5 GB", "formula 3 GB", "fused 1 GB"],
    ),
    "block_share": (dict(T=512, C=768), ["512", "768", "10.0%", "4,608"]),
    "full_against_topk": (
        dict(T=16_384, K=16),
        ["16,384", "16", "1,024x", "1.87x", "width 64"],
    ),
    "memory_against_length": (
        dict(
            lengths=LENGTHS,
            measured={
                "formula": [16 * T * T for T in LENGTHS],
                "fused": [1024 * T for T in LENGTHS],
            },
            predicted={"formula": [cost.scores(T, 128, 2).held for T in LENGTHS]},
            device="a machine",
        ),
        ["8,192", "formula 1.07 GB", "fused 8.39 MB", "a machine"],
    ),
    "pair_grids": (
        dict(masks=patterns(), words=WORDS),
        ["full 36", "causal 21", "window of 3 16", "window of 5 24"],
    ),
    "published_table": (
        dict(
            lengths=[T for _, T in ROWS],
            claimed=speedups(lambda d: d // 64),
            fair=speedups(lambda d: 1),
        ),
        ["0 of 6", "15.24x", "0.76x"],
    ),
    "shares": (
        dict(
            rows={
                "FLOPs": dict(scores=1, projections=3, MLP=6),
                "time, formula": dict(scores=3, projections=3, MLP=6),
                "time, fused": dict(scores=0.2, projections=3, MLP=6),
            }
        ),
        ["FLOPs 10%", "formula 25%", "fused 2%"],
    ),
    "time_against_length": (
        dict(
            lengths=LENGTHS,
            timings={
                "formula": timings([1e-9 * T * T for T in LENGTHS]),
                "fused": timings([2e-10 * T * T + 1e-5 for T in LENGTHS]),
            },
            flops={
                "formula": [cost.scores(T, 128, 2).flops for T in LENGTHS],
                "fused": [cost.fused_scores(T, 128).flops for T in LENGTHS],
            },
            rate=1e12,
            device="a machine",
        ),
        ["8,192", "formula 2.0x", "fused 0.4x", "a machine"],
    ),
    "weight_grid": (
        dict(weights=weights(), words=WORDS),
        [f"{weights().max():.2f}"],
    ),
}

DRAWN |= AUDIT | CACHE | HASHING | PATTERNS | ROOFLINE | SCALE | SELECTION
DRAWN |= SPEED | TILES | TOPK | TRIALS

each_figure = pytest.mark.parametrize("name", DRAWN)


def draw(name):
    arguments, _ = DRAWN[name]
    return getattr(figures, name)(**arguments)


kept = cache(draw)  # for tests that only look


def test_every_public_figure_is_drawn_here():
    assert {*DRAWN, "Plot"} == set(figures.__all__)


@each_figure
def test_a_figure_has_a_caption_and_an_alternative_text(name):
    plot = kept(name)
    assert isinstance(plot, figures.Plot)
    assert len(plot.caption) > 30 and len(plot.alt) > 30
    assert plot.caption != plot.alt
    assert repr(plot) == plot.caption


@each_figure
def test_a_caption_states_the_numbers_of_its_input(name):
    caption, (_, numbers) = kept(name).caption, DRAWN[name]
    for number in numbers:
        assert re.search(rf"(?<![\w.]){re.escape(number)}(?![\w])", caption), caption


@each_figure
def test_a_figure_is_the_same_bytes_each_time(name):
    plot, again = draw(name), draw(name)
    first = plot.png(dpi=60, colors=24)
    assert first == again.png(dpi=60, colors=24)
    assert first == plot.png(dpi=60, colors=24)


@each_figure
def test_a_picture_does_not_depend_on_those_taken_before(name):
    plot, again = draw(name), draw(name)
    plot.png(dpi=60)
    assert plot.png(dpi=90) == again.png(dpi=90)


@each_figure
def test_a_picture_is_not_blank_and_has_the_size_it_says(name):
    plot = kept(name)
    picture = Image.open(io.BytesIO(plot.png(dpi=50))).convert("RGB")
    assert len(picture.getcolors(2**24)) > 5
    assert picture.width == round(plot.get_figwidth() * 50)


@each_figure
def test_a_small_palette_keeps_the_size_and_saves_bytes(name):
    plot = kept(name)
    large, small = plot.png(dpi=60), plot.png(dpi=60, colors=24)
    assert len(small) < len(large)
    large, small = (Image.open(io.BytesIO(png)) for png in (large, small))
    assert small.size == large.size
    assert small.mode == "P" and len(small.getcolors()) <= 24


@each_figure
def test_a_notebook_gets_the_picture_and_what_it_says(name):
    plot = kept(name)
    data, about = plot._repr_mimebundle_()
    assert data["text/plain"] == plot.caption
    assert about["image/png"]["alt"] == plot.alt
    assert about["image/png"]["width"] == round(100 * plot.get_figwidth())


@each_figure
def test_drawing_leaves_the_settings_of_others_alone(name):
    with mpl.rc_context():
        mpl.rcParams["font.size"] = 7.5
        before = dict(mpl.rcParams)
        draw(name).png(dpi=60)
        assert dict(mpl.rcParams) == before


@each_figure
def test_the_settings_of_others_leave_a_figure_alone(name):
    usual = draw(name).png(dpi=60)
    with mpl.rc_context({"font.size": 20, "axes.grid": False, "axes.titlesize": 30}):
        assert draw(name).png(dpi=60) == usual


def test_no_figure_imports_pyplot():
    names = [name for name in figures.__all__ if name != "Plot"]
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_figures as t\n"
        f"for name in {names}: t.draw(name).png(dpi=60)\n"
        "assert 'sparse_attn.figures' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def texts(plot):
    """Every text that is drawn, with its box in pixels."""
    found = list(plot.texts)
    for ax in plot.axes:
        found += [ax.title, ax._left_title, ax._right_title, *ax.texts]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            found += [axis.label, *drawn_tick_labels(axis)]
    renderer = plot.canvas.get_renderer()
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in found
        if text.get_visible() and text.get_text().strip()
    ]


def drawn_tick_labels(axis):
    """matplotlib keeps labels of ticks beyond the ends of an axis; it draws none."""
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks() + axis.get_minor_ticks():
        if low <= tick.get_loc() <= high:
            yield tick.label1


EXTREMES = [(name, arguments) for name, (arguments, _) in DRAWN.items()]
EXTREMES += [
    ("block_share", dict(T=T, C=C)) for T in (256, 65_536) for C in (256, 12_288)
]
EXTREMES += [
    ("full_against_topk", dict(T=T, K=K)) for T in (256, 131_072) for K in (4, 256)
]
EXTREMES += [
    ("matmul_on_roofs", dict(n=n, dtype=dtype))
    for n in (16, 4096)
    for dtype in ("FP32", "TF32", "BF16")
]
EXTREMES += [
    ("attention_on_roof", ROOFLINE["attention_on_roof"][0] | dict(T=T, D=D))
    for T in (64, 65_536)
    for D in (16, 256)
]
EXTREMES += (
    AUDIT_EXTREMES + TILE_EXTREMES + PATTERN_EXTREMES + HASHING_EXTREMES + TOPK_EXTREMES
)
EXTREMES += SELECTION_EXTREMES + SCALE_EXTREMES + SPEED_EXTREMES + TRIAL_EXTREMES
EXTREMES += [  # as another device might measure them
    (
        "shares",
        {
            "rows": {
                "FLOPs": dict(scores=10, projections=30, MLP=60),
                "time, formula": dict(scores=50, projections=20, MLP=30),
                "time, fused": dict(scores=25, projections=30, MLP=45),
            }
        },
    ),
    (
        "time_against_length",
        DRAWN["time_against_length"][0]
        | dict(rate=1e14, device="Some Long Accelerator Name 80GB HBM3"),
    ),
]


@pytest.fixture(scope="module", params=EXTREMES, ids=lambda case: case[0])
def rendered(request):
    name, arguments = request.param
    plot = getattr(figures, name)(**arguments)
    plot.canvas.draw()
    return plot


def test_no_text_is_cut_off(rendered):
    for text, box in texts(rendered):
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= rendered.bbox.width and box.y1 <= rendered.bbox.height, text


def test_no_text_lies_on_another(rendered):
    for (text, box), (other, its) in itertools.combinations(texts(rendered), 2):
        across = min(box.x1, its.x1) - max(box.x0, its.x0)
        down = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert min(across, down) < 1, (
            f"{text!r} on {other!r}"
        )  # touching: below a pixel


def test_a_published_table_that_breaks_even_does_not_say_it_never_does():
    plot = figures.published_table([64, 128], claimed=[1.0, 8.0], fair=[0.5, 2.0])
    assert "1 of 2 rows" in plot.caption
    assert "can't pass 1" not in plot.caption
    assert "below break-even throughout" not in plot.alt


@pytest.mark.parametrize(
    "format, n, shown",
    [
        (units.plain, 512, "512"),
        (units.plain, 4096, "4,096"),
        (units.plain, 131_072, "128K"),
        (units.plain, 131_072.0, "128K"),
        (units.plain, 1_000_000, "1M"),
        (units.size, 999, "999 B"),
        (units.size, 50_300_000, "50.3 MB"),
        (units.size, 2e12, "2 TB"),
        (units.seconds, 1.2e-3, "1.2 ms"),
        (units.seconds, 5e-8, "50 ns"),
    ],
)
def test_numbers_read_as_people_write_them(format, n, shown):
    assert format(n) == shown


@pytest.mark.parametrize(
    "format, n",
    [(units.plain, 999_999), (units.size, 999_999), (units.seconds, 0.9996)],
)
def test_numbers_just_below_the_next_unit_do_not_read_in_powers_of_ten(format, n):
    assert "e+" not in format(n)
