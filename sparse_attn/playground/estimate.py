"""From work to seconds: what a setting takes on a device, beside full attention.

Knows rooflines and ratios; leaves counts to `methods`, and what to make of the numbers
to `advice`. All are bounds: no program is faster, and a real one is slower.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_attn.cost import Cost, whole_gain
from sparse_attn.playground import evidence
from sparse_attn.playground.choice import FULL, METHODS, Choice, obstacle
from sparse_attn.playground.methods import Work, other_work, work
from sparse_attn.playground.profiles import PROFILES, Profile
from sparse_attn.roofline import Roof


@dataclass(frozen=True)
class Bounds:
    """One layer's attention under a roof, and the whole model's.

    seconds: the least time. intensity: FLOPs per byte, below the ridge of the device it
    waits for memory. The same of full attention; share: of it in the layer's time.
    gain, whole: times as fast as with full attention, alone and with the rest of the
    layer. gathering: seconds of reading every list anew. model: of all layers.
    """

    seconds: float
    full_seconds: float
    intensity: float
    full_intensity: float
    ridge: float
    share: float
    gain: float
    whole: float
    gathering: float
    model_seconds: float
    full_model_seconds: float
    model_cache: int
    full_model_cache: int


@dataclass(frozen=True)
class Estimate:
    """What the playground says of a choice on a device.

    own, full: the counts of the method and of full attention, one layer, all heads.
    lost: bits per byte of the nearest setting that was measured, NaN for none.
    quality, measured: what is stored, in words; measured is empty where nothing is.
    """

    choice: Choice
    profile: Profile
    own: Work
    full: Work
    bounds: Bounds
    lost: float
    quality: str
    measured: str


def estimate(choice: Choice, profile: Profile = PROFILES[0]) -> Estimate:
    """Counts, bounds and evidence for `choice` on the device of `profile`."""
    own, full = work(choice.method, choice), work(FULL, choice)
    roof = profile.roof(choice.bytes)
    known = evidence.quality(choice)
    return Estimate(
        choice,
        profile,
        own,
        full,
        bounds(own, full, other_work(choice), roof, choice.L),
        known.lost,
        known.text,
        evidence.measured(choice),
    )


def bounds(own: Work, full: Work, other: Cost, roof: Roof, L: int) -> Bounds:
    """The two works on a device, in a model of L layers with `other` work in each.

    The rest of a layer follows attention, as in `cost.serving`: nothing overlaps.
    """
    seconds, full_seconds = (roof.seconds(x.flops, x.moved) for x in (own, full))
    share = full_seconds / (full_seconds + roof.seconds(other.flops, other.moved))
    gain = full_seconds / seconds
    return Bounds(
        seconds=seconds,
        full_seconds=full_seconds,
        intensity=own.flops / own.moved,
        full_intensity=full.flops / full.moved,
        ridge=roof.ridge,
        share=share,
        gain=gain,
        whole=whole_gain(share, gain),
        gathering=own.gathered / roof.copy,
        model_seconds=L * seconds,
        full_model_seconds=L * full_seconds,
        model_cache=L * own.cache,
        full_model_cache=L * full.cache,
    )


def rivals(choice: Choice, profile: Profile = PROFILES[0]) -> dict[str, float | None]:
    """Method -> least seconds at the same setting; None where K does not fit it."""
    roof, found = profile.roof(choice.bytes), {}
    for method in METHODS:
        if obstacle(method, choice).template:
            found[method] = None
            continue
        one = work(method, choice)
        found[method] = roof.seconds(one.flops, one.moved)
    return found
