"""How often two vectors share a bucket, computed instead of sampled.

Knows angles and numbers of buckets; needs neither vectors nor a device.
"""

import math
from functools import cache

import numpy as np
from scipy.special import owens_t

from sparse_attn.checks import check_finite
from sparse_attn.hashing.inputs import check_buckets


def collision_probability(angle: float, buckets: int) -> float:
    """Probability that vectors at `angle` radians share a bucket in one round.

    Over Gaussian R, as `rotations` draws it; the dimension D does not matter. With
    m = buckets/2 directions, two vectors see m independent pairs (g, h) of normals
    with correlation cos(angle). They collide where one pair is largest for both, with
    one sign: P = 2m ∫∫ φ(a, b) P(|g| < a, |h| < b)^(m-1) da db over a, b > 0.
    Error below 1e-7 for up to 64 buckets.
    Raises ValueError for an angle outside 0 to π or an odd number of buckets.
    Source: the hash of Andoni et al. 2015, section 3, for finite m.
    """
    _check_angle(angle)
    check_buckets(buckets)
    if angle in (0.0, math.pi):
        return float(angle == 0)
    # One pair, seen in the plane of both vectors, is a Gaussian point (r, t) in polar
    # coordinates: a = r cos t, b = r cos(t - angle). Symmetric about t = angle/2.
    turn, turn_weight = _nodes(angle / 2, math.pi / 2)
    r, r_weight = _nodes(0.0, _FARTHEST)
    r, turn = r[:, None], turn[None]
    inside = _parallelogram(r, turn, angle) ** (buckets // 2 - 1)
    density = r * np.exp(-(r**2) / 2) / (2 * math.pi)
    return float(2 * buckets * (r_weight @ (density * inside) @ turn_weight))


def _parallelogram(r, turn, angle: float):
    """P(|g| < a, |h| < b) for a = r cos(turn), b = r cos(turn - angle).

    The points of the plane inside a parallelogram: all but four pairs of wedges cut
    off by its sides, each of them a value of Owen's T. Source: Owen 1956.
    """
    a, b = r * np.cos(turn), r * np.cos(turn - angle)
    one, other, apart = np.tan(turn), np.tan(angle - turn), 2 / np.tan(angle)
    outside = owens_t(a, one) + owens_t(a, one + apart)
    outside += owens_t(b, other) + owens_t(b, other + apart)
    return 1 - 2 * outside


def rotation_collision_probability(angle: float) -> float:
    """The same in the plane, for a uniformly random rotation and 4 buckets.

    Each bucket is a quarter turn, so vectors a quarter turn apart never collide, and
    closer ones with probability 1 - angle / (π/2).
    Raises ValueError for an angle outside 0 to π.
    Source: the picture of Kitaev et al. 2020, figure 1.
    """
    _check_angle(angle)
    return max(0.0, 1 - angle / (math.pi / 2))


_FARTHEST = 10.0  # a Gaussian point is farther away with probability exp(-50)
_ORDER = 64


@cache
def _legendre():
    return np.polynomial.legendre.leggauss(_ORDER)


def _nodes(low: float, high: float):
    """Nodes and weights of Gauss-Legendre quadrature from `low` to `high`."""
    x, weight = _legendre()
    half = (high - low) / 2
    return low + half * (x + 1), half * weight


def _check_angle(angle: float):
    check_finite("angle", angle)
    if not 0 <= angle <= math.pi:
        raise ValueError(f"angle={angle!r}: from 0 to π radians is needed")
