"""Seconds per layer on up to thousands of devices, from a rate and a link: arithmetic.

Nothing here runs in parallel or was measured on such a machine; leaves the programs to
`ring` and `selected`, and the bytes of one call to `cost.wire`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.wire import NUMBER
from sparse_attn.kernels.selection import BLOCK_K, BLOCK_Q, GROUP

METHODS = ("ring, contiguous", "ring, zigzag", "all-gather", "selected")


class Layer(NamedTuple):
    """Seconds of one layer: of arithmetic, of messages, and until all are done.

    `seconds` is the sum of both where one waits for the other, less where they overlap.
    """

    compute: float
    wire: float
    seconds: float


class Machine(NamedTuple):
    """One device and its link.

    rate: FLOP/s that attention reaches, measured; bandwidth: bytes/s that a device
    sends while it receives as many; latency: seconds that each message adds.
    """

    rate: float
    bandwidth: float
    latency: float = 0.0


class Shape(NamedTuple):
    """One layer's attention, forward: B texts, H heads, Hkv of keys, D numbers each."""

    H: int = 32
    Hkv: int = 8
    D: int = 128
    B: int = 1
    bytes_per_value: int = 2

    @property
    def flops(self) -> int:
        """FLOPs of a query-key pair: q kᵀ and p v of every head."""
        return 4 * self.B * self.H * self.D

    @property
    def token(self) -> int:
        """Bytes of a token's keys and values."""
        return 2 * self.B * self.Hkv * self.D * self.bytes_per_value


def scaling(
    devices: Sequence[int],
    T: int,
    machine: Machine,
    shape: Shape | None = None,
    *,
    causal: bool = True,
    keep: int = 4096,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    distinct: float = 1.0,
) -> dict[str, list[Layer]]:
    """Each of METHODS on each number of devices: when the busiest device is done.

    keep: tokens per query of "selected". distinct: which share of the listed blocks
    that lie elsewhere are different ones, 1 for the worst; a run's counter tells.
    Assumes: T/N is not rounded; every device reaches `rate` on tiles of any size, so
    that N of them at no cost of messages take 1/N; every device has a link of its own
    and no message waits for another's. A ring sends the next block while it computes,
    and a step lasts as long as the longer of both. All-gather (in any layout whose
    work is even) and selection wait for what they need, then compute. Selection sends
    four times to each owner: means, counts, ids, blocks, and owners are asked evenly,
    which sinks, wanted by all, are not. Softmax, means and ranking are free.
    Raises ValueError for arguments that do not fit.
    """
    shape = shape or Shape()
    check_counts(T=T, keep=keep, block_q=block_q, block_k=block_k, **shape._asdict())
    if not (machine.rate > 0 and machine.bandwidth > 0 and machine.latency >= 0):
        raise ValueError(f"machine={machine}: a rate, a bandwidth and no less than 0")
    if not 0 <= distinct <= 1:
        raise ValueError(f"distinct={distinct}: a share from 0 to 1 is needed")
    for N in devices:
        check_count("devices", N, most=T)
    given = T, machine, shape, causal
    blocks = keep, block_q, block_k, distinct
    rows = [
        (
            _ring(N, *given, zigzag=False),
            _ring(N, *given, zigzag=True),
            _gathered(N, *given),
            _selected(N, *given, *blocks),
        )
        for N in devices
    ]
    return {name: [row[i] for row in rows] for i, name in enumerate(METHODS)}


def _ring(N: int, T, machine, shape, causal: bool, zigzag: bool) -> Layer:
    """The own block, then N - 1 others, the next of which travels at the same time.

    Causal, contiguous: the last device has a whole block in every step, and who has
    less waits for it. Zigzag: everybody has half a block in every step.
    """
    n, second = T / N, shape.flops / machine.rate
    own = n * (n + 1) / 2 if causal else n * n
    other = n * n / 2 if causal and zigzag else n * n
    own, other = own * second, other * second
    link = _messages(1, n * shape.token, machine)
    compute, wire = own + (N - 1) * other, (N - 1) * link
    if N == 1:
        return Layer(own, 0.0, own)
    return Layer(compute, wire, max(own, link) + (N - 2) * max(other, link) + other)


def _gathered(N: int, T, machine, shape, causal: bool) -> Layer:
    pairs = T * (T + 1) / 2 if causal else T * T
    compute = pairs / N * shape.flops / machine.rate
    wire = _messages(N - 1, (N - 1) * T / N * shape.token, machine)
    return Layer(compute, wire, compute + wire)


def _selected(
    N: int, T, machine, shape, causal, keep, block_q, block_k, distinct
) -> Layer:
    """The last device, whose queries have the most to choose from."""
    n = T / N
    pairs = _kept(T, keep) - _kept(T - n, keep) if causal else n * min(keep, T)
    asks = n / min(GROUP, block_q) * T / block_k  # scores of means
    flops = shape.flops * pairs + 2 * shape.B * shape.H * shape.D * asks
    compute = flops / machine.rate
    if N == 1:
        return Layer(compute, 0.0, compute)
    heads = shape.B * shape.Hkv
    listed = max(1.0, n / block_q) * shape.H / shape.Hkv * keep / block_k
    asked = heads * min((T - n) / block_k, distinct * listed)
    owners = min(N - 1, asked)
    wire = (
        _messages(N - 1, (N - 1) * n / block_k * shape.token / 2, machine)  # means
        + _messages(N - 1, (N - 1) * NUMBER, machine)  # counts
        + _messages(owners, asked * NUMBER, machine)  # ids
        + _messages(owners, asked * block_k * shape.token / heads, machine)
    )
    return Layer(compute, wire, compute + wire)


def _kept(t: float, keep: int) -> float:
    """Pairs of the first t queries, each with its `keep` best keys or all it sees."""
    early = min(t, keep)
    return early * (early + 1) / 2 + (t - early) * keep


def _messages(count: float, sent: float, machine: Machine) -> float:
    return count * machine.latency + sent / machine.bandwidth
