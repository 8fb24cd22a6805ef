"""The kernels of block-sparse attention where they can run, and compiled where not."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_kernels import compiled, needs_cuda, needs_triton, run_cases

from sparse_attn import kernels
from sparse_attn.kernels.fitting import has_kernels

CASES = Path(__file__).with_name("triton_sparse.py")


@needs_triton
def test_interpreted_sparse_kernels_are_attention_over_what_is_listed():
    run_cases(CASES, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@needs_triton
@needs_cuda
def test_compiled_sparse_kernels_are_attention_over_what_is_listed():
    run_cases(CASES, TRITON_INTERPRET="0")


FLAT = dict.fromkeys(("blocks", "order", "offsets", "visits", "pages"), "*i32")
FLAT |= dict.fromkeys(("bias", "norms"), "*fp32")
WIDE = ("of_k", "of_v", "partial")
POOL = ["bias", "mean_k", "mean_v"]
BACK = ["dout", "row", "norm"]
KERNELS = {  # how many sizes, and of what
    "forward": (5, ["q", "k", "v", "blocks", *POOL, "out", "lse"]),
    "dq": (5, ["q", "k", "v", "blocks", *POOL, *BACK, "dq"]),
    "dkv": (5, ["q", "k", "v", "order", "offsets", "visits", *BACK, "dk", "dv"]),
    "dmean": (4, ["q", *POOL, *BACK, "of_k", "of_v"]),
    "attend": (8, ["q", "k", "v", "pages", *POOL, "partial", "norms"]),
}


@needs_triton
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted: not compiled"
)
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 16)], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_sparse_kernels_compile_to_hopper_s_matrix_instructions(
    name, size, monkeypatch, tmp_path
):
    """With the first pace that is tried, for lists of 16 blocks and 4 grouped heads."""
    from sparse_attn.kernels import block_backward, block_forward, block_rest, decode

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rooms = dict(forward=block_forward, dmean=block_rest, attend=decode)
    kernel = getattr(rooms.get(name, block_backward), f"_{name}")
    n, tensors = KERNELS[name]
    sizes = (16, 4, 4096, 4096, 16, 8, 64, 2)[:n]
    more = dict(
        POOL=64, N=16, BP=block_forward.ENTRIES, POOLED=True, PAGE=size[1], G=16
    )
    how = dict(first=(*size, *block_forward.PACES[0]), flat=FLAT, wide=WIDE)
    made = compiled(kernel, tensors, D=128, sizes=sizes, **how, **more)
    rows = min(size) if name == "dkv" else 16 if name == "attend" else 64
    assert ("wgmma.mma_async" if rows >= 64 else "mma.sync") in made.asm["ptx"]
    assert "cp.async" in made.asm["ptx"], "the next block is on its way"
    assert "cubin" in made.asm
    assert made.metadata.shared <= 227 * 1024, "what a block may have on Hopper"


HALF, FULL = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("D", "dtype", "sizes", "kilobytes", "fits"),
    [
        (128, HALF, (64, 16), 99, True),  # a small GPU, what it may have
        (128, FULL, (64, 16), 99, False),
        (128, FULL, (64, 16), 227, True),
        (129, FULL, (64, 16), 227, False),  # filled up to 256
        (256, HALF, (64, 64), 227, True),
        (257, HALF, (64, 16), 10_000, False),
        (128, HALF, (128, 128), 227, True),
        (128, HALF, (256, 128), 227, False),
        (64, HALF, (48, 16), 227, False),
        (64, HALF, (64, 8), 227, False),
        (64, torch.float64, (64, 16), 227, False),
    ],
)
def test_blocks_go_to_the_kernels_where_they_fit(
    D, dtype, sizes, kilobytes, fits, monkeypatch
):
    device = SimpleNamespace(shared_memory_per_block_optin=kilobytes * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(kernels, "obstacle", lambda _: None)
    q = SimpleNamespace(
        device=torch.device("cuda"),
        shape=(1, 2, 64, D),
        dtype=dtype,
        element_size=lambda: dtype.itemsize,
    )
    assert has_kernels(q, *sizes) == fits
    monkeypatch.setattr(kernels, "obstacle", lambda _: "no Triton")
    assert not has_kernels(q, *sizes)
