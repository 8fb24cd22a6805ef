"""What the Triton kernels share: block sizes, pointers, a product, who sees what.

Importing this needs Triton; `sparse_attn.kernels` itself does not.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = 2^(x · log2 e): GPUs have only 2^x
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# (block_q, block_k, warps, stages). The first are for half types on large GPUs, whose
# tensor cores take 64 rows from 4 warps; the next for wide heads and small GPUs. The
# last is for fp32, which goes by plain arithmetic: larger tiles spill registers.
BLOCKS = {
    "forward": (
        (128, 128, 8, 2),
        (128, 64, 8, 3),
        (128, 64, 4, 3),
        (64, 64, 4, 3),
        (64, 32, 4, 2),
        (32, 32, 8, 1),
    ),
    "dq": (
        (128, 64, 8, 2),
        (128, 64, 8, 3),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
        (32, 32, 8, 1),
    ),
    "dkv": (
        (64, 128, 8, 2),
        (64, 128, 8, 3),
        (32, 128, 8, 2),
        (64, 64, 4, 2),
        (32, 64, 4, 2),
        (32, 32, 8, 1),
    ),
}
SMALL = ((32, 16, 4, 1),)  # interpreted: nothing to time, many tiles to test


def tuned(kernel: str):
    """Decorator: times each of BLOCKS[kernel] once for a head width and a length.

    A list of one is taken untimed, so that the interpreter needs no clock.
    """
    return triton.autotune(
        configs=[
            triton.Config(dict(BQ=q, BK=k), num_warps=warps, num_stages=stages)
            for q, k, warps, stages in (SMALL if INTERPRETED else BLOCKS[kernel])
        ],
        key=["D", "CAUSAL", "length"],  # and the dtype
        prune_configs_by=dict(early_config_prune=_fitting),
    )


def _fitting(configs, given, **_):
    """The configurations worth timing for the dtype of q."""
    return configs[-1:] if given["q"].element_size() == 4 else configs


def length_class(T: int, S: int) -> int:
    """Lengths are tuned by power of two, and all long ones together."""
    return min(triton.next_power_of_2(max(T, S)), 8192)


def strides_of(*tensors) -> tuple[tuple[int, int, int], ...]:
    """Steps from batch to batch, head to head, row to row; from number to number, 1."""
    return tuple(x.stride()[:3] for x in tensors)


@triton.jit
def product(a, b, total):
    """total + a b, in fp32. The interpreter gets bf16 products wrong: widened there."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def load_rows(head, index, stride, n, D: tl.constexpr, MASKED: tl.constexpr):
    """Whole rows of one head, (len(index), D); if masked, zeros from row n on."""
    at = _rows(head, index, stride, D)
    return tl.load(at, mask=index[:, None] < n, other=0.0) if MASKED else tl.load(at)


@triton.jit
def store_rows(head, index, stride, n, rows, D: tl.constexpr):
    """Writes rows, (len(index), D), in the dtype of the head; none from n on."""
    rows = rows.to(head.dtype.element_ty)
    tl.store(_rows(head, index, stride, D), rows, mask=index[:, None] < n)


@triton.jit
def _rows(head, index, stride, D: tl.constexpr):
    return head + index[:, None] * stride + tl.arange(0, D)[None, :]


@triton.jit
def head_of(base, strides, b, h):
    """Pointer to the first number of head h in batch b: 64 bits, as it may be far."""
    return base + b.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[1]


@triton.jit
def program_of(n, heads, BLOCK: tl.constexpr):
    """(tile, b, h) of this program: tiles of n rows fastest, so that neighbors share
    a head, and with it what the cache holds."""
    tiles = tl.cdiv(n, BLOCK)
    head = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, head // heads, head % heads


@triton.jit
def horizon(
    rows, first, T, S, CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr
):
    """What the queries from `first` on see of S keys: last, clear, end.

    last: (BQ,), the last key that each row sees. All rows see the keys before `clear`,
    a multiple of BK, so that these need no mask; some row sees those before `end`.
    """
    ahead = S - T if CAUSAL else S  # without an order, a row sees S keys and more
    last = tl.minimum(rows + ahead, S - 1)
    clear = tl.minimum(tl.maximum(first + 1 + ahead, 0), S) // BK * BK
    end = tl.minimum(tl.maximum(first + BQ + ahead, 0), S)
    return last, clear, end
