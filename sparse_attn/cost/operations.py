"""What single operations cost: products, element-wise work, and waves of both.

A roofline needs a number of operations for everything. So here, and only here, an
elementary operation (an addition, a comparison, one exp, erf or random draw) counts as
a FLOP; elsewhere in `cost` only matrix products count.
"""

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.flops import Cost

# Operations per element, by the formula, each step once.
OPERATIONS = {
    "scale": 1,  # multiply
    "dropout": 3,  # draw, compare, multiply
    "softmax": 5,  # maximum, subtract, exp, sum, divide
    "GELU": 5,  # divide by √2, erf, add 1, multiply by x, halve
    "layer norm": 7,  # sum, subtract, square, sum, divide, scale, shift
}


def matmul(m: int, k: int, n: int, *, batch: int = 1, bytes_per_value=4) -> Cost:
    """`batch` products of (m, k) with (k, n): each matrix read once, each result
    written once. A square one has n/6 FLOPs per byte in fp32."""
    check_counts(m=m, k=k, n=n, batch=batch, bytes_per_value=bytes_per_value)
    return Cost(
        flops=2 * batch * m * k * n,
        moved=batch * (m * k + k * n + m * n) * bytes_per_value,
        held=batch * m * n * bytes_per_value,
    )


def elementwise(
    n: int, *, operations: int = 1, inputs: int = 1, bytes_per_value=4
) -> Cost:
    """n results, each from one element of every input, in `operations` operations."""
    check_counts(n=n, operations=operations, inputs=inputs)
    check_count("bytes_per_value", bytes_per_value)
    return Cost(
        flops=n * operations,
        moved=(inputs + 1) * n * bytes_per_value,
        held=n * bytes_per_value,
    )


def chain(operations: int) -> tuple[int, int]:
    """Elements moved per result by a chain, (unfused, fused): 2n + 1 and 3.

    The first operation has two inputs, each later one takes the result before it. On
    its own each reads and writes; fused, only the two inputs and the result move.
    """
    check_counts(operations=operations)
    return 2 * operations + 1, 3


def waves(blocks: int, units: int) -> int:
    """Rounds in which `units` work through `blocks` equal pieces, one piece each."""
    check_counts(blocks=blocks, units=units)
    return -(-blocks // units)


def wave_use(blocks: int, units: int) -> float:
    """Share of the units' time that has work: 1 where the blocks fill every wave."""
    return blocks / (waves(blocks, units) * units)
