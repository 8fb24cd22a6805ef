"""Seconds, dollars and energy per million tokens, from assumptions that are stated.

A roofline of published rates, part by part: each takes its FLOPs or its bytes, whatever
is longer, and parts follow one another. Knows nothing of queues, of messages between
devices or of how a batch fills; a model on many devices costs the device-seconds that
one device of endless memory would need, so every price is a lower bound.
"""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.flops import Cost, pairs, topk_pairs
from sparse_attn.cost.indexing import pooled_flops
from sparse_attn.cost.memory import key_width, kv_cache_bytes
from sparse_attn.cost.parts import flops_by_part

HOUR, KWH = 3600.0, 3.6e6  # seconds, joules
MILLION = 1_000_000


@dataclass(frozen=True)
class Bill:
    """For a million tokens: device `seconds`, `dollars` of which `power`, and `kwh`."""

    seconds: float
    dollars: float
    power: float
    kwh: float

    @property
    def joules(self) -> float:
        """Joules per token."""
        return self.kwh * KWH / MILLION


@dataclass(frozen=True)
class Serving:
    """What one device can do and costs. All defaults are assumptions.

    flops: peak FLOP/s; bandwidth: bytes/s; memory: bytes; watts: of the board. They are
    published for an H100 SXM, BF16 without structured sparsity. utilization: of
    `flops`, what a model reaches (large products alone reach 0.8 there). streaming: of
    `bandwidth`, what a copy reaches. price: dollars per device-hour, without power.
    pue: energy that the building takes for each joule of the board, which draws all its
    watts always. price_per_kwh: dollars; 0 if the price of the hour has the power in
    it, as rents do. Raises ValueError for what can't be.
    Source: NVIDIA H100 datasheet for the published four.
    """

    flops: float = 989e12
    utilization: float = 0.5
    bandwidth: float = 3.35e12
    streaming: float = 0.9
    memory: float = 80e9
    price: float = 2.5
    watts: float = 700.0
    pue: float = 1.2
    price_per_kwh: float = 0.1

    def __post_init__(self):
        for name, value in vars(self).items():
            share, least = name in ("utilization", "streaming"), int(name == "pue")
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{name}={value!r}: a number is needed")
            if share and not 0 < value <= 1:
                raise ValueError(f"{name}={value!r}: above 0 and at most 1 is needed")
            if name in ("flops", "bandwidth", "memory") and not value > 0:
                raise ValueError(f"{name}={value!r}: more than 0 is needed")
            if not value >= least:
                raise ValueError(f"{name}={value!r}: at least {least} is needed")

    def but(self, **changes) -> "Serving":
        """The same with `changes`: Serving().but(price=4)."""
        return dataclasses.replace(self, **changes)

    def seconds(self, work: dict[str, Cost]) -> dict[str, float]:
        """Part -> seconds: its FLOPs or its bytes, whatever takes longer."""
        flops = self.flops * self.utilization
        bandwidth = self.bandwidth * self.streaming
        return {
            part: max(cost.flops / flops, cost.moved / bandwidth)
            for part, cost in work.items()
        }

    def devices(self, work: dict[str, Cost]) -> int:
        """The fewest devices whose memory has room for what the parts hold."""
        return math.ceil(sum(cost.held for cost in work.values()) / self.memory)

    def per_million(self, work: dict[str, Cost], tokens: int) -> Bill:
        """The bill of a million tokens, if `work` is that of so many `tokens`."""
        check_counts(tokens=tokens)
        seconds = MILLION * sum(self.seconds(work).values()) / tokens
        kwh = seconds * self.watts * self.pue / KWH
        power = kwh * self.price_per_kwh
        return Bill(seconds, seconds / HOUR * self.price + power, power, kwh)


def prefill_work(
    config, T: int, *, K: int | None = None, page: int = 64, bytes_per_value: int = 2
) -> dict[str, Cost]:
    """Part -> cost of reading one prompt of T tokens; logits for the last one only.

    K: keys that each query keeps, None for all; T and less are all. Beside them it
    meets two vectors for each page of tokens that has begun, which find its keys and
    stand for the rest. Causal. Weights, queries, keys, values and outputs move once,
    keys and values once more to sum up pages; other activations are left out.
    """
    _check(config, T, K, page, bytes_per_value)
    C, L, H = config.width, config.layers, config.heads
    linear = _linear(config, T)
    linear["head"] //= T
    weights = weight_bytes(config, bytes_per_value=bytes_per_value)
    cache = kv_cache_bytes(config, T, bytes_per_value=bytes_per_value)
    seen = pairs(T, causal=True) if _all(K, T) else topk_pairs(T, K, causal=True)
    vectors = 2 * L * T * C * bytes_per_value  # queries and outputs
    work = {
        "weights": Cost(sum(linear.values()), weights, weights),
        "attention": Cost(4 * C * L * seen, vectors + cache, cache),
    }
    if not _all(K, T):
        summaries = cache // T * -(-T // page)
        flops = H * L * pooled_flops(T, C // H, page, causal=True)
        work["summaries"] = Cost(flops, cache + summaries, summaries)
    return work


def decode_work(
    config,
    T: int,
    *,
    B: int = 1,
    K: int | None = None,
    page: int = 64,
    bytes_per_value: int = 2,
) -> dict[str, Cost]:
    """Part -> cost of one more token for each of B sequences with T tokens cached.

    Every weight is read once for all of them, every cache for its own sequence. K as
    in `prefill_work`: K keys and values are read, and two vectors for each page, but
    all T stay `held`. Query heads that share keys share their selection as well.
    """
    _check(config, T, K, page, bytes_per_value)
    check_counts(B=B)
    C, L = config.width, config.layers
    same = dict(B=B, bytes_per_value=bytes_per_value)
    weights = weight_bytes(config, bytes_per_value=bytes_per_value)
    cache = kv_cache_bytes(config, T, **same)
    kept = T if _all(K, T) else K
    work = {
        "weights": Cost(sum(_linear(config, B).values()), weights, weights),
        "attention": Cost(
            4 * C * L * B * kept, kv_cache_bytes(config, kept, **same), cache
        ),
    }
    if not _all(K, T):
        pages = -(-T // page)
        summaries = kv_cache_bytes(config, pages, **same)
        work["summaries"] = Cost(4 * C * L * B * pages, summaries, summaries)
    return work


def weight_bytes(config, *, bytes_per_value: int = 2) -> int:
    """Weights that every token meets in a product: not the embedding, no biases."""
    check_counts(bytes_per_value=bytes_per_value)
    return sum(_linear(config, 1).values()) // 2 * bytes_per_value


def cache_break_even(config, *, B: int = 1, bytes_per_value: int = 2) -> int:
    """The first T at which B caches take as many bytes as the weights do.

    Below, decoding waits for weights, and a cache that is read in part spares little.
    """
    check_counts(B=B, bytes_per_value=bytes_per_value)
    values = 2 * config.layers * key_width(config) * B
    return -(-weight_bytes(config, bytes_per_value=1) // values)


def _linear(config, tokens: int) -> dict[str, int]:
    """FLOPs by part of all that is no attention; the same for each token."""
    parts = flops_by_part(config, 1, B=tokens)
    return {part: flops for part, flops in parts.items() if part != "scores"}


def _all(K: int | None, T: int) -> bool:
    return K is None or K >= T


def _check(config, T, K, page, bytes_per_value):
    check_counts(T=T, page=page, bytes_per_value=bytes_per_value)
    if K is not None:
        check_count("K", K)
    if config.window is not None:
        raise ValueError(f"window={config.window}: a model without one is needed")
