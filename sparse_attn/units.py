"""Numbers as people write them: lengths, bytes, seconds; names as files want them."""

import re


def three(x: float) -> str:
    """Three significant digits, and never a power of ten: 0.5, 12.3, 2,500."""
    return f"{x:.3g}" if abs(x) < 999.5 else f"{x:,.0f}"


def plain(n: float) -> str:
    """A length: 512, 12,288, 1M; powers of two from 16K on in K = 1024.

    Two lengths never read alike.
    """
    if n >= 2**14 and n % 1024 == 0 and int(n).bit_count() == 1:
        return f"{int(n) // 1024:,}K"
    if n >= 1e6 and n % 1e5 == 0:
        return f"{n / 1e6:,g}M"
    return f"{n:,g}" if n < 1000 else f"{n:,.0f}"


def size(n: float, _=None) -> str:
    """Bytes, in powers of 1000: 50.3 MB."""
    return _in_units(n, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)))


def slug(name: str) -> str:
    """A name fit for a file: lower case, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def seconds(s: float, _=None) -> str:
    """A duration: 1.2 ms."""
    return _in_units(s, SECONDS)


SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def _in_units(x: float, units) -> str:
    unit, scale = next((u for u in units if x >= u[1]), units[-1])
    return f"{three(x / scale)} {unit}"
