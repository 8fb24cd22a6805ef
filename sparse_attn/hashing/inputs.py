"""What the functions of this package ask of their arguments, beyond `checks`."""

from torch import Tensor

from sparse_attn.checks import check_count


def check_buckets(buckets: int):
    """`buckets` is an even number of at least 2: each direction gives two buckets."""
    check_count("buckets", buckets, least=2)
    if buckets % 2:
        raise ValueError(f"buckets={buckets}: an even number is needed")


def check_vectors(name: str, x: Tensor, axes: str):
    """`x` is a floating-point tensor with the named axes, none of them empty.

    Axes that begin with "..." are the last ones, whatever comes before.
    """
    least = len(axes.replace("...", "").strip(", ").split(","))
    fits = isinstance(x, Tensor) and (
        x.ndim >= least if axes.startswith("...") else x.ndim == least
    )
    if not fits:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
        raise ValueError(f"{name} has {got}: axes ({axes}) are needed")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: no axis may be empty")
    if not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype}: a floating-point dtype is needed")


def check_alike(name: str, x: Tensor, other: str, y: Tensor):
    """`x` has the shape, dtype and device of `y`; otherwise raises."""
    for what in ("shape", "dtype", "device"):
        got, wanted = getattr(x, what), getattr(y, what)
        if got != wanted:
            got, wanted = (tuple(s) if what == "shape" else s for s in (got, wanted))
            raise ValueError(
                f"{name} has {what} {got} but {other} {wanted}: they must be equal"
            )
