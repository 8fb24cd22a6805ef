"""The Triton kernels where they can run, and the rest of the package where not."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sparse_attn import kernels

CASES = Path(__file__).with_name("triton_kernels.py")
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed (it is for Linux only)"
)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: kernels are interpreted"
)


def run_cases(cases=CASES, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases)]
    ran = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True
    )
    if ran.returncode:
        pytest.fail(ran.stdout + ran.stderr, pytrace=False)


@needs_triton
def test_interpreted_kernels_are_attention():
    run_cases(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@needs_triton
@needs_cuda
def test_compiled_kernels_are_attention():
    run_cases(TRITON_INTERPRET="0")


def compiled(kernel, tensors, *, D, sizes, first, flat=(), wide=(), **more):
    """`kernel` compiled for Hopper, which need not be there, for bf16 and causal.

    first: its block sizes; sizes: H, groups, T, S and so on, where a 1 is a constant to
    it. flat: names of tensors without strides and their types; wide: of others in fp32;
    more: further constants.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    flat = dict.fromkeys(("lse", "row", "norm"), "*fp32") | dict(flat)
    kinds = {x: "*fp32" if x in wide else flat.get(x, "*bf16") for x in tensors}
    strided = [x for x in tensors if x not in flat]
    n, block_q, block_k, warps, stages = len(tensors), *first
    constants = dict(D=D, CAUSAL=True, BQ=block_q, BK=block_k) | more
    constants = {x: y for x, y in constants.items() if x in kernel.fn.arg_names}
    source = ASTSource(
        kernel.fn,
        kinds
        | {
            "strides": tuple(("i32", "i32", "i32") for _ in strided),
            "sizes": tuple("constexpr" if x == 1 else "i32" for x in sizes),
            "scale": "fp32",
            "length": "i32",
        }
        | dict.fromkeys(constants, "constexpr"),
        constants | {(n + 1, i): 1 for i, x in enumerate(sizes) if x == 1},
        {  # addresses and steps are multiples of 16, as PyTorch makes them
            place: [["tt.divisibility", 16]]
            for place in (
                *((i,) for i in range(n)),
                *((n, i, axis) for i in range(len(strided)) for axis in range(3)),
            )
        },
    )
    options = dict(num_warps=warps, num_stages=stages)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


KERNELS = {
    "forward": ["q", "k", "v", "out", "lse"],
    "dq": ["q", "k", "v", "dout", "row", "norm", "dq"],
    "dkv": ["q", "k", "v", "dout", "row", "norm", "dk", "dv"],
}


@needs_triton
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted: not compiled"
)
@pytest.mark.parametrize("sizes", [(16, 4, 512, 512), (1, 1, 1, 77)], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_to_hopper_s_matrix_instructions(
    name, sizes, monkeypatch, tmp_path
):
    from sparse_attn.kernels import backward, common, forward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(forward if name == "forward" else backward, f"_{name}")
    first = common.BLOCKS[name][0]
    made = compiled(kernel, KERNELS[name], D=64, sizes=sizes, first=first)
    assert "wgmma.mma_async" in made.asm["ptx"]
    assert "cubin" in made.asm
    assert made.metadata.shared <= 227 * 1024, "what a block may have on Hopper"


def ones(*shape, **how):
    return torch.ones(shape or (1, 2, 5, 16), **how)


def test_without_triton_only_the_call_fails_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for fn in (kernels.flash_attention, kernels.flash_forward):
        with pytest.raises(RuntimeError, match="pip install triton"):
            fn(ones(), ones(), ones())
    assert "not installed" in kernels.obstacle("cuda")


def test_importing_the_kernels_does_not_import_triton():
    code = "import sys; sys.modules['triton'] = None; import sparse_attn.kernels"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_triton
def test_where_nothing_runs_kernels_the_reason_is_said(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for device in ("cpu", "mps", "meta"):
        assert f"device is {device}: CUDA is needed" in kernels.obstacle(device)
    assert kernels.obstacle("cuda") is None
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        kernels.flash_attention(ones(), ones(), ones())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(q=ones(2, 5, 16)), r"q has shape \(2, 5, 16\)"),
        (dict.fromkeys("qkv", ones(dtype=torch.float64)), "q is torch.float64"),
        (dict.fromkeys("qkv", ones(1, 1, 1, 257)), "D=257"),
        (dict(scale=float("nan")), "scale=nan"),
        (dict(scale=-1.0), "scale=-1.0: more than 0"),
    ],
)
def test_kernels_explain_what_does_not_fit(changed, says):
    with pytest.raises(ValueError, match=says):
        kernels.flash_forward(**dict.fromkeys("qkv", ones()) | changed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to measure")
def test_without_cuda_the_benchmark_says_why_it_measured_nothing():
    script = CASES.parent.parent / "benchmarks" / "flash.py"
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Nothing was measured: ")
