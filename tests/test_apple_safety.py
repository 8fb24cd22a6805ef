"""Apple's MPS without an Apple machine: no float64, no operator that MPS lacks.

Every chapter's code runs here under a mode that watches each operation. The list of
operators is PyTorch's own: those with a CPU and a CUDA kernel but none for MPS. What
only repeats operations is cut short: timed calls, training, evaluation on many texts.
"""

import ast
from contextlib import suppress
from functools import cache, partial
from inspect import getclosurevars
from pathlib import Path

import nbformat
import pytest
import small_gpt
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_attn import corpus, timing, training
from sparse_attn.gpt import GPT
from tools.notebooks import ROOT, chapters

UNSUPPORTED = (torch.float64, torch.complex128)
# Chosen by F.scaled_dot_product_attention on CPU only; MPS has its own kernel. And the
# encoder layer's fast path, which asks for a CPU or CUDA tensor.
CPU_ONLY_BY_DISPATCH = {
    "_transformer_encoder_layer_fwd",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}
STEPS, WINDOWS = 3, 8  # of training, of text to evaluate on: at most these


@cache
def operators_without_mps() -> frozenset[str]:
    """Names from native_functions.yaml, the registry PyTorch ships with torchgen."""
    registry = Path(torchgen.__file__).parent / "packaged/ATen/native"
    text = (registry / "native_functions.yaml").read_text()
    functions = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
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
        if is_lacking(func):
            raise NotOnMPSError(f"{func} has no MPS kernel")
        out = func(*args, **(kwargs or {}))
        for x in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.dtype in UNSUPPORTED:
                raise NotOnMPSError(f"{func} made a {x.dtype} tensor")
        return out


@cache
def is_lacking(func) -> bool:
    name = func._schema.name.split("::")[-1]
    return name in operators_without_mps() - CPU_ONLY_BY_DISPATCH


@pytest.fixture(autouse=True)
def gradients_as_before():
    """A chapter may switch gradients off; the tests after it need them."""
    with torch.enable_grad():
        yield


@pytest.fixture
def cut_short(monkeypatch):
    """Which operations run stays the same, how often does not.

    A timed call runs once, and its time stands for every sample. Losses of steps that
    were left out are the last one's, so that there are as many as were asked for.
    """
    seconds, summarise = timing._seconds, timing._summarise
    train, windows = training.train, corpus.windows
    once = {}

    def seconds_of_one_call(fn, repeats, device):
        if fn not in once:
            once[fn] = seconds(fn, 1, device)
            if getattr(fn, "__name__", "") == "watched":  # `profiling` notes each run
                runs = getclosurevars(fn).nonlocals["runs"]
                runs += 2 * runs  # and leaves out the first two
        return once[fn]

    def summarised(*taken):
        once.clear()  # all are measured: their tensors may go
        return summarise(*taken)

    def train_a_little(model, data, *, steps, **settings):
        losses = train(model, data, steps=min(steps, STEPS), **settings).losses
        return training.Result(losses + losses[-1:] * (steps - len(losses)))

    monkeypatch.setattr(timing, "SAMPLES", 1)
    monkeypatch.setattr(timing, "_seconds", seconds_of_one_call)
    monkeypatch.setattr(timing, "_summarise", summarised)
    monkeypatch.setattr(training, "train", train_a_little)
    monkeypatch.setattr(
        corpus, "windows", lambda data, T, count: windows(data, T, min(count, WINDOWS))
    )


class Unjudged(ast.NodeTransformer):
    """What an assert asks is computed, but not judged: nbval does that, uncut."""

    def visit_Assert(self, node):
        return ast.copy_location(ast.Expr(node.test), node)


def code_of(cell, name):
    return compile(Unjudged().visit(ast.parse(cell.source)), name, "exec")


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_never_leaves_what_mps_can_do(path, monkeypatch, cut_short):
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")
    namespace = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with suppress(AssertionError), LikeMPS():
                exec(code_of(cell, path.stem), namespace)


def test_the_mode_catches_float64_and_missing_operators():
    with LikeMPS(), pytest.raises(NotOnMPSError, match="float64"):
        torch.ones(2, dtype=torch.float64)
    with LikeMPS(), pytest.raises(NotOnMPSError, match="no MPS kernel"):
        torch.linalg.eig(torch.ones(2, 2))
    with LikeMPS():
        torch.ones(2, 2).softmax(-1) @ torch.ones(2, 2)


def test_a_float64_tensor_among_several_results_is_caught():
    x = torch.ones(2, 2, dtype=torch.float64)
    with LikeMPS(), pytest.raises(NotOnMPSError, match="float64"):
        x.max(dim=0)


def test_what_is_cut_short_runs_once_and_looks_as_long_as_it_was(cut_short):
    calls = []
    both = {name: partial(calls.append, name) for name in "ab"}
    for _ in range(2):
        found = timing.measure_together(both, samples=5)
        assert {len(time.samples) for time in found.values()} == {5}
    assert calls == ["a", "b"] * 2

    text = small_gpt.text(1, 1000, vocab=11)[0]
    x, y = corpus.windows(text, 8, 100)
    assert x.shape == y.shape == (WINDOWS, 8)
    model = GPT(small_gpt.SMALL)
    result = training.train(model, text, steps=9, context=8, progress=False)
    assert result.steps == 9 and len(set(result.losses)) == STEPS


def test_an_assert_that_fails_does_not_end_a_cell():
    done = []
    cell = nbformat.v4.new_code_cell("assert done.append(1), 'false'\ndone.append(2)")
    exec(code_of(cell, "cell"), {"done": done})
    assert done == [1, 2]


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
