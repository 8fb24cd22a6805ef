"""What was measured near a setting: bits per byte lost, and seconds, as stored.

Knows the results of benchmarks/quality.py and benchmarks/speed.py, and which of them is
nearest; leaves what is predicted to `estimate`.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import lru_cache

from sparse_attn import results
from sparse_attn.playground.choice import (
    BLOCKS,
    FULL,
    LISTED,
    POOLED,
    PUBLISHED,
    SQUARES,
    WINDOW,
)
from sparse_attn.stats import half_width, mean_interval
from sparse_attn.units import seconds, three

TEXTS = 24  # that every stored quality was judged on
NEAR = 4  # a K further away than this factor says nothing
RESTS = {BLOCKS: "none", POOLED: "pooled"}


@dataclass(frozen=True)
class Quality:
    """What is known of bits per byte: a sentence, and `lost`, NaN for unknown."""

    text: str
    lost: float


@dataclass(frozen=True)
class Point:
    """A measured loss in bits per byte, `half` its 95% interval, and the setting.

    block: queries and keys as in a Choice; 0 for what plays no part in it. reading: the
    same where a text was only read so, and the tokens after it were given all keys.
    """

    task: str
    method: str
    block: tuple[int, int]
    T: int
    K: int
    lost: float
    half: float
    reading: tuple[float, float] | None = None

    @property
    def loss(self) -> float:
        """What the task loses: a prefill is there for the tokens after it."""
        return self.lost if self.reading is None else self.reading[0]

    def __str__(self) -> str:
        queries, keys = self.block
        how = f", {queries} queries to a list" if queries else ""
        how += f", blocks of {keys} keys" if keys else ""
        if self.reading is not None:
            lost, half = self.reading
            how += f"; {lost:+.4f} ± {half:.4f} for tokens after it that see all keys"
        return (
            f"{self.lost:+.4f} ± {self.half:.4f} bits per byte, measured with "
            f"{self.K:,} of {self.T:,} keys{how}"
        )


_stored = lru_cache(results.load)


def quality(choice) -> Quality:
    """What the nearest measured setting of the same method lost, and which that is.

    Nearest by factors: of K, of T, of the sides of a block.
    """
    if choice.method == SQUARES or choice.method == FULL:
        return Quality("exact: nothing is lost", 0.0)
    if choice.method == PUBLISHED:
        return Quality(_published(), math.nan)
    if choice.K >= choice.T:
        return Quality("exact: K covers all tokens", 0.0)
    same = [p for p in points() if (p.task, p.method) == (choice.task, choice.method)]
    if not same:
        return Quality("nothing was measured", math.nan)
    near = [p for p in same if 1 / NEAR <= p.K / choice.K <= NEAR]
    best = min(near or same, key=lambda point: _distance(point, choice))
    if near:
        return Quality(str(best), best.loss)
    text = f"nothing was measured near K = {choice.K:,}; the nearest is {best}"
    return Quality(text, math.nan)


def _distance(point: Point, choice) -> float:
    """Factors between the settings, as octaves; parts that play no role have none."""
    factors = [choice.T / point.T, choice.K / point.K]
    sides = zip(choice.block, point.block, strict=True)
    factors += [mine / theirs for mine, theirs in sides if theirs]
    return sum(abs(math.log2(factor)) for factor in factors)


@lru_cache
def points() -> tuple[Point, ...]:
    """All stored losses of methods that the playground has.

    A list of a prefill is judged with its queries' look ahead, chapter 11 says what
    that flatters; decoding is judged with a choice of each query's own.
    """
    speed, small = _stored("speed")["runs"], _stored("quality")["runs"]
    found = []

    def add(task, method, block, T, K, name):
        if f"quality | {name}" in speed:  # a benchmark under way lacks some
            loss = mean_interval(speed[f"quality | {name}"]["changes"])
            read = speed.get(f"prompt | {name}")
            read = read and mean_interval(read["changes"])
            found.append(Point(task, method, block, T, K, *loss, read))

    for method, rest in RESTS.items():
        for block in ((16, 16), (32, 16), (64, 16), (64, 64), (128, 64)):
            add("prefill", method, block, 4096, 512, f"{block}, {rest}")
    add("prefill", WINDOW, (0, 0), 4096, 512, "window, none")
    add("decode", WINDOW, (0, 0), 4096, 512, "each query, window")
    add("decode", BLOCKS, (0, 16), 4096, 512, "each query, means of 16")
    add("decode", BLOCKS, (0, 128), 4096, 1024, "pages of 128")

    def add_small(task, method, block, key, rest):
        for K, one in small[f"{key} | seed 0 | 200 steps"][rest].items():
            half = half_width(one["error"] * math.sqrt(TEXTS), TEXTS)
            found.append(Point(task, method, block, 512, int(K), one["change"], half))

    for task in ("prefill", "decode"):
        add_small(task, WINDOW, (0, 0), "window", "none")
    for method, rest in RESTS.items():
        add_small("decode", method, (0, 16), "block means", rest)
    return tuple(found)


@lru_cache
def _published() -> str:
    """Chapter 9's table in a sentence: logit errors, means over its seeds."""
    rows = [run["rows"] for run in _stored("topk")["runs"].values()]
    ours, deleted = (
        statistics.fmean(one[name]["logits"] for one in rows)
        for name in ("as published", "head deleted")
    )
    return (
        f"no bits per byte were measured; in chapter 9 it put the logits off by "
        f"{three(ours)} of their size, and deleting the head by {three(deleted)}"
    )


def measured(choice) -> str:
    """Times of this very setting, if it was one of the benchmark's; empty if not."""
    stored = _stored("speed")
    if (choice.C, choice.H, choice.Hkv, choice.bytes) != shape():
        return ""
    found = []
    for key, name in _runs(choice):
        for threads in (1, 2):
            one = stored["runs"].get(f"{key} | {threads} threads", {}).get(name)
            if one:
                said = f"{seconds(one['seconds'])} on {threads} thread"
                said += "s" * (threads > 1)
                if name != "dense":
                    gain, low, high = map(three, one["ratio"])
                    said += f", {gain} times as fast as full [{low}, {high}]"
                found.append(said)
        if found:
            break
    device = stored["device"].partition(" (")[0]
    return f"{'; '.join(found)}; {device}" if found else ""


def shape() -> tuple[int, int, int, int]:
    """(C, H, Hkv, bytes) that benchmarks/speed.py took on the device of its results."""
    cpu = "(cpu" in _stored("speed")["device"]
    return (512, 8, 8, 4) if cpu else (2048, 16, 4, 2)


def _runs(choice) -> list[tuple[str, str]]:
    """(run, name within it) where this setting may be, the first one preferred."""
    T, K, method = choice.T, choice.K, choice.method
    if choice.task == "decode":
        names = {FULL: "dense"}
        if K == 1024 and choice.block_k == 128:
            names |= {BLOCKS: "sparse", POOLED: "sparse, pooled"}
        return [(f"decode | {T}", names[method])] if method in names else []
    names, sizes = {FULL: "dense", SQUARES: "naive"}, {}
    if K == 512:
        sizes = {m: f"{choice.block}, {RESTS[m]}" for m in LISTED}
        sizes[WINDOW] = "window, none"
        if choice.block == (64, 16):
            names |= {BLOCKS: "sparse", POOLED: "sparse, pooled"}
    runs = [(f"prefill | {T}", names), (f"shapes | {T}", sizes)]
    return [(key, of[method]) for key, of in runs if method in of]
