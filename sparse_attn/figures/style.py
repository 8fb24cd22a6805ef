"""How every figure looks: palette, type, size, and a Figure that can describe itself.

Knows ink and paper; leaves what is drawn to the modules beside it.
"""

import base64
import functools
import io

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sparse_attn.units import plain

# Okabe-Ito colors: told apart by readers with any color vision, and in gray.
INK, PALE = "#39424e", "#d5dae1"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
SKY, PINK, AMBER = "#56b4e9", "#cc79a7", "#e69f00"

DPI = 160
WIDTH = 7.0  # inches; the column of the book shows 700 px

_STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}
# Start from matplotlib's own defaults, whatever the reader has set.
_NOT_STYLE = ("backend", "interactive", "toolbar", "webagg", "timezone", "date.")
_STYLE = {
    k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith(_NOT_STYLE)
} | _STYLE


class Plot(Figure):
    """A matplotlib Figure, free of pyplot, with a caption and a text alternative.

    Notebooks show it as PNG. Its text form is the caption, so that a notebook test
    compares what the figure says even though it can't compare the picture.
    """

    def __init__(self, height: float = 3.6, width: float = WIDTH):
        super().__init__(
            figsize=(width, height), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(self)
        self.caption = self.alt = ""

    def describe(self, *, caption: str, alt: str) -> "Plot":
        """caption: what the figure found. alt: what one would see. Returns itself."""
        self.caption, self.alt = caption, alt
        return self

    def png(self, *, dpi: int = DPI, colors: int | None = None) -> bytes:
        """PNG bytes, equal for equal figures; `colors` limits the palette."""
        file = io.BytesIO()
        with mpl.rc_context(_STYLE):
            self.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
        if colors is None:
            return file.getvalue()
        picture = Image.open(file).convert("RGB")
        # By coverage of the color space: by frequency, small marks lose their color.
        picture = picture.quantize(
            colors, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        file = io.BytesIO()
        picture.save(file, format="png", optimize=True)
        return file.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        width = round(100 * self.get_figwidth())  # in CSS pixels, at 1.6 per point
        data = {
            "image/png": base64.b64encode(self.png()).decode(),
            "text/plain": self.caption,
        }
        about = {"width": width, "alt": self.alt, "caption": self.caption}
        return data, {"image/png": about}

    def __repr__(self) -> str:
        return self.caption


def styled(draw):
    """Decorator: run a figure function under the book's style, and only it."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Plot:
        with mpl.rc_context(_STYLE):
            plot = draw(*args, **kwargs)
            for _ in range(2):  # the first layout has yet to learn the size of labels
                plot.draw_without_rendering()
            plot.set_layout_engine("none")  # a picture taken twice is the same picture
            return plot

    return drawn


def power_of_two_axis(axis, values, label: str):
    """Ticks at the given lengths and nowhere else, on a logarithmic axis."""
    axis.set_major_locator(mpl.ticker.FixedLocator(list(values)))
    axis.set_major_formatter(lambda n, _: plain(round(n)))
    axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_label_text(label)
