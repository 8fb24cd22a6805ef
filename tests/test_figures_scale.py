"""Figures of scale and of serving: how they are drawn, for `test_figures`; what they
say, computed here once more."""

import functools
import itertools
import math

import pytest

from sparse_attn import cost, figures
from sparse_attn.explore import FRAME, MAX_BYTES, MAX_FRAMES
from sparse_attn.figures.serving import LLAMA_8B

DEVICES = [1, 2, 4, 8, 16, 64, 256, 1000]
WIRES = {
    "ring": [1e9 * (1 - 1 / n) for n in DEVICES],
    "all-gather": [1e9 * (1 - 1 / n) for n in DEVICES],
    "selected only": [1e9 * (1 - 1 / n) / n for n in DEVICES],
}
TIMES = {
    "ring, contiguous": [2 / n + 1e-3 for n in DEVICES],
    "ring, zigzag": [1 / n + 1e-3 for n in DEVICES],
    "all-gather": [1 / n + 2e-3 for n in DEVICES],
}
DRAWN = {  # figure -> (arguments, what its caption must state)
    "attention_share": (
        dict(T=32_768, K=2048),
        ["T = 32K, 16 at once", "38% of prefill", "82% of decode", "K = 2,048",
         "prefill 1.49x of at most 1.62x", "decode 4.11x of at most 5.58x"],
    ),
    "by_devices": (
        dict(devices=DEVICES, found=WIRES, what="bytes"),
        ["1,000 devices", "ring 999 MB", "all-gather 999 MB", "selected only 999 kB"],
    ),
    "ratio_at_scale": (
        dict(T=8192, K=32),
        ["T = 8,192, K = 32", "496x", "2.61x", "never 4x", "9.65x", "128", "64 hidden"],
    ),
    "serving_price": (
        dict(T=131_072, K=2048, price=2.5),
        ["T = 128K, K = 2,048", "prefill $0.0701 to $0.0226", "decode $4.31 to $0.351",
         "$2.5 per device-hour", "0.411 J", "16 at once", "4 devices"],
    ),
}  # fmt: skip
EXTREMES = [
    ("ratio_at_scale", dict(T=T, K=K, hidden=hidden))
    for T, K, hidden in ((512, 512, 512), (128_000, 16, 64), (2**20, 1, 1))
]
EXTREMES += [
    ("serving_price", dict(T=T, K=K, price=price, batch=batch))
    for T, K, price, batch in ((512, 4096, 1, 1), (2**20, 16, 10, 256))
]
EXTREMES += [
    ("attention_share", dict(T=T, K=K, batch=batch))
    for T, K, batch in ((512, 4096, 1), (2**20, 64, 256))
]
EXTREMES += [
    ("by_devices", dict(devices=DEVICES, found=TIMES, what="seconds")),
    ("by_devices", dict(devices=range(1, 33), found={"ring": range(32)}, what="bytes")),
]


def lines(ax):
    """Label -> (x, y) of the lines that a legend names."""
    return {line.get_label(): line.get_data() for line in ax.lines}


def test_the_documents_ratio_is_drawn_beside_what_the_audit_left_of_it():
    caption = figures.ratio_at_scale(128_000, 32).caption
    assert "printed 7,758x, counted 3.87x, and never 4x" in caption
    assert "counted 1.93x" in figures.ratio_at_scale(128_000, 32, hidden=128).caption


def test_a_counted_ratio_stays_below_its_limit_and_the_printed_one_does_not():
    drawn = lines(figures.ratio_at_scale(8192, 32).axes[0])
    lengths, counted = drawn["as published, selector counted"]
    assert max(counted) == counted[-1] < 4
    assert counted[-1] == cost.topk_mlp_gain(lengths[-1], 128, 64, 32)
    printed = drawn["as printed: 2T/(K + 1)"][1]
    assert printed[-1] / printed[0] == pytest.approx(lengths[-1] / lengths[0])


def test_prices_follow_the_price_of_the_hour_and_the_axis_does_not():
    cheap, dear = (figures.serving_price(8192, 512, price) for price in (1, 8))
    for left, right in zip(cheap.axes, dear.axes, strict=True):
        assert left.get_ylim() == right.get_ylim()
        power = cost.Serving(price=0)
        rent = cost.Serving(price_per_kwh=0)
        assert lines(left)["full"][1][0] < lines(right)["full"][1][0]
        work = cost.prefill_work(LLAMA_8B, 512)
        bills = [a.per_million(work, 512).dollars for a in (power, rent.but(price=8))]
        if right is dear.axes[0]:
            assert lines(right)["full"][1][0] == pytest.approx(sum(bills))


def test_where_all_keys_are_kept_nothing_is_saved():
    caption = figures.serving_price(2048, 4096, 2.5).caption
    assert "prefill $0.021 to $0.021, decode $0.287 to $0.287" in caption
    share = figures.attention_share(2048, 2048).caption
    assert "prefill 1x of at most" in share and "decode 1x of at most" in share


def test_a_gain_is_at_most_what_attention_for_free_would_bring():
    right = figures.attention_share(8192, 64).axes[1]
    prefill, limit = (line.get_ydata() for line in right.lines[:2])
    assert all(1 <= a < b for a, b in zip(prefill, limit, strict=True))
    left = figures.attention_share(8192, 64).axes[0]
    share = lines(left)["prefill"][1]
    assert limit[-1] == pytest.approx(1 / (1 - share[-1]))
    assert all(a < b for a, b in itertools.pairwise(share))


def test_one_device_sends_nothing_and_is_not_drawn():
    plot = figures.by_devices(DEVICES, WIRES, "bytes")
    for x, y in lines(plot.axes[0]).values():
        assert list(x) == DEVICES[1:] and min(y) > 0
    assert "ring from 0 B to 999 MB" in plot.alt


def test_the_least_on_most_devices_is_the_finding():
    plot = figures.by_devices(DEVICES, TIMES, "seconds")
    title = plot.get_suptitle()
    assert title == "1,000 devices: ring, zigzag takes least, 2 ms"


def test_lists_that_do_not_fit_and_units_unknown_are_refused():
    with pytest.raises(ValueError, match=r"found\['ring'\] has 2 values: 8 are needed"):
        figures.by_devices(DEVICES, {"ring": [1, 2]}, "bytes")
    with pytest.raises(ValueError, match="what='hours': choose from"):
        figures.by_devices(DEVICES, WIRES, "hours")
    with pytest.raises(ValueError, match="K=1024: a whole number from 1 to 512"):
        figures.ratio_at_scale(512, 1024)
    with pytest.raises(ValueError, match="price=-1"):
        figures.serving_price(8192, 512, -1)


@pytest.mark.parametrize("figure, choices", [
    (figures.ratio_at_scale,
     dict(T=[1024, 8192, 32_768, 128_000, 2**20], K=[32, 256], hidden=[64, 128, 512])),
    (figures.serving_price,
     dict(T=[2048, 8192, 32_768, 131_072], K=[512, 2048], price=[1, 2.5, 5, 10])),
    (functools.partial(figures.attention_share, K=2048),
     dict(T=[2048, 8192, 32_768, 131_072, 2**20], batch=[1, 4, 16, 64])),
], ids=["ratio_at_scale", "serving_price", "attention_share"])  # fmt: skip
def test_the_sliders_fit_a_page(figure, choices):
    ends = itertools.product(*((values[0], values[-1]) for values in choices.values()))
    frames = [len(figure(**dict(zip(choices, at, strict=True))).png(**FRAME))
              for at in ends]  # fmt: skip
    n = math.prod(map(len, choices.values()))
    assert n <= MAX_FRAMES and n * max(frames) <= MAX_BYTES
