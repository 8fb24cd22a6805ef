"""What the playground shows of an estimate: rows of a table, and lengths of bars.

Knows which numbers are shown and as what; leaves HTML to `page`. Takes an Estimate, or
symbols under the same names.
"""

from __future__ import annotations

from sparse_attn.playground.formulas import log
from sparse_attn.playground.words import Text

NAMES = {  # of the rows, as they are shown
    "flops": "FLOPs",
    "moved": "bytes moved",
    "seconds": "least time",
    "intensity": "FLOPs per byte",
    "limit": "waits for",
    "extra": "memory beside q, k, v",
    "gathered": "bytes, lists read anew",
    "cache": "KV cache, one layer",
    "caches": "KV cache, all layers",
    "model": "attention, all layers",
    "whole": "whole model, times as fast",
}


def rows(e) -> dict[str, tuple[Text, Text, Text]]:
    """Row -> what is shown of the method, of full attention, and their ratio.

    One layer and all heads, unless the row says otherwise.
    """
    own, full, at = e.own, e.full, e.bounds
    return {
        "flops": _compared("flops", own.flops, full.flops),
        "moved": _compared("size", own.moved, full.moved),
        "seconds": _compared("seconds", at.seconds, at.full_seconds),
        "intensity": _compared("three", at.intensity, at.full_intensity),
        "limit": (
            Text(limit(at.intensity, at.ridge)),
            Text(limit(at.full_intensity, at.ridge)),
            Text(""),
        ),
        "extra": _compared("size", own.extra, full.extra),
        "gathered": _gathered(own.gathered),
        "cache": _compared("size", own.cache, full.cache),
        "caches": _compared("size", at.model_cache, at.full_model_cache),
        "model": _compared("seconds", at.model_seconds, at.full_model_seconds),
        "whole": (Text("{0:three}", (at.whole,)), Text("1"), Text("")),
    }


def _compared(kind: str, own, full) -> tuple[Text, Text, Text]:
    shown = f"{{0:{kind}}}"
    return (
        Text(shown, (own,)),
        Text(shown, (full,)),
        Text("{0:three}x", (own / full,)),
    )


def rates(roof) -> Text:
    """The two rates of a device, for the size of value that was asked for."""
    return Text("{0:flops}/s, {1:size}/s", (roof.matmul, roof.copy))


def limit(intensity, ridge) -> str:
    """What a program of so many FLOPs per byte waits for; ridge: the device's."""
    return "memory" if intensity < ridge else "arithmetic"


def _gathered(bytes) -> tuple[Text, Text, Text]:
    """Only lists of a prefill are read anew."""
    shown = Text("{0:size}", (bytes,)) if bytes > 0 else Text("no lists")
    return shown, Text("no lists"), Text("")


def bar(seconds, least, most):
    """Length of a bar in percent of the longest, on a log axis that starts at half of
    the `least` seconds that are shown."""
    return 100 * log(2 * seconds / least) / log(2 * most / least)
