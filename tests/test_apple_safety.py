"""Apple's MPS without an Apple machine: no float64, no operator that MPS lacks.

Every chapter's code runs here under a mode that watches each operation. The list of
operators is PyTorch's own: those with a CPU and a CUDA kernel but none for MPS.
"""

from contextlib import suppress
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_attn import timing
from tools.notebooks import ROOT, chapters

UNSUPPORTED = (torch.float64, torch.complex128)
# Chosen by F.scaled_dot_product_attention on CPU only; MPS has its own kernel.
CPU_ONLY_BY_DISPATCH = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}


@cache
def operators_without_mps() -> frozenset[str]:
    """Names from native_functions.yaml, the registry PyTorch ships with torchgen."""
    registry = Path(torchgen.__file__).parent / "packaged/ATen/native"
    functions = yaml.safe_load((registry / "native_functions.yaml").read_text())
    lacking, served = set(), set()
    for function in functions:
        name = function["func"].split("(")[0]
        keys = {
            key.strip()
            for keys in function.get("dispatch", {})
            for key in keys.split(",")
        }
        generic = not keys or any(key.startswith("Composite") for key in keys)
        base = name.split(".")[0]
        if generic or "MPS" in keys or "structured_delegate" in function:
            served.add(base)
        elif {"CPU", "CUDA"} <= keys:
            lacking.add(base)
    return frozenset(lacking - served)


class NotOnMPSError(Exception):
    pass


class LikeMPS(TorchDispatchMode):
    """Raises where MPS would: a float64 tensor, or an operator without a kernel."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[-1]
        if name in operators_without_mps() - CPU_ONLY_BY_DISPATCH:
            raise NotOnMPSError(f"{name} has no MPS kernel")
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.dtype in UNSUPPORTED:
                raise NotOnMPSError(f"{name} made a {x.dtype} tensor")
        return out


@pytest.fixture(autouse=True)
def gradients_as_before():
    """A chapter may switch gradients off; the tests after it need them."""
    with torch.enable_grad():
        yield


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_never_leaves_what_mps_can_do(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")
    monkeypatch.setattr(timing, "SAMPLES", 1)  # what runs matters here, not how fast
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    namespace = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            # A claim about measurements may fail on one sample; nbval checks those.
            with suppress(AssertionError), LikeMPS():
                exec(compile(cell.source, path.stem, "exec"), namespace)


def test_the_mode_catches_float64_and_missing_operators():
    with LikeMPS(), pytest.raises(NotOnMPSError, match="float64"):
        torch.ones(2, dtype=torch.float64)
    with LikeMPS(), pytest.raises(NotOnMPSError, match="no MPS kernel"):
        torch.linalg.eig(torch.ones(2, 2))
    with LikeMPS():
        torch.ones(2, 2).softmax(-1) @ torch.ones(2, 2)


def test_the_list_holds_operators_known_to_be_missing_and_not_the_everyday_ones():
    # Still missing in 2.13 by PyTorch issues 77764 and 141287 and pull request 195278.
    known = {"linalg_eig", "_linalg_eigvals", "_nested_tensor_from_mask_left_aligned"}
    assert known <= operators_without_mps()
    everyday = {
        "mm",
        "bmm",
        "addmm",
        "_softmax",
        "masked_fill",
        "gelu",
        "topk",
        "gather",
    }
    assert not everyday & operators_without_mps()


def test_the_package_never_asks_for_float64():
    for path in (ROOT / "sparse_attn").rglob("*.py"):
        text = path.read_text()
        for word in (".double()", "complex128"):
            assert word not in text, f"{path.name}: {word}"
        if path.name != "__main__.py":  # it only asks whether a device supports it
            assert "torch.float64" not in text, path.name
