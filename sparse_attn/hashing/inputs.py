"""What the functions of this package ask of their arguments, beyond `checks`."""

from sparse_attn.checks import check_count


def check_buckets(buckets: int):
    """`buckets` is an even number of at least 2: each direction gives two buckets."""
    check_count("buckets", buckets, least=2)
    if buckets % 2:
        raise ValueError(f"buckets={buckets}: an even number is needed")
