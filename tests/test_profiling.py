"""Profiles: whose time and memory is whose. No test here looks at a real clock."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_attn import profiling, timing
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.operators import GROUPS, by_operator, operators
from sparse_attn.profiling import (
    ORDER,
    profile_forward,
    profile_training_step,
    saved_bytes,
)

L, H, C, V = 2, 4, 32, 50
SMALL = GPTConfig(layers=L, heads=H, width=C, vocab=V, context=64)
VARIANTS = {
    "fused": SMALL,
    "formula": SMALL.but(attend="formula"),
    "llama": SMALL.but(norm="rms", mlp="swiglu", positions="rotary", kv_heads=2),
    "window": SMALL.but(window=4, dropout=0.1),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(autouse=True)
def one_thread():
    """Calls this small are slowed by threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(config=SMALL, B=2, T=16, dtype=torch.float32):
    torch.manual_seed(0)
    model = GPT(config).to(dtype)
    tokens, targets = torch.randint(config.vocab, (2, B, T))
    return model, tokens, targets


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.endswith("_hooks") and hooks
        for hook in hooks
    ]


class Clock:
    """A clock that says what it is told: reads the next of `times` at each call."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = (lambda: self.now, lambda began, ended: ended - began)
        monkeypatch.setitem(timing._CLOCKS, "cpu", clock)


def test_marks_bill_each_stretch_to_the_label_before_it(monkeypatch):
    clock = Clock(monkeypatch)
    marks = timing.Marks(torch.device("cpu"))
    for label, now in (("a", 1), ("b", 3), ("a", 7), ("end", 7.5)):
        clock.now = now
        marks.mark(label)
    assert marks.seconds() == {"a": 2.5, "b": 4.0} == marks.seconds()


def test_a_nested_part_is_taken_out_of_its_parent_and_gaps_are_additions(monkeypatch):
    clock = Clock(monkeypatch)
    marks = timing.Marks(torch.device("cpu"))
    parts = profiling._Open(marks.mark)
    marks.mark("additions")
    script = "1 mlp activation, 2 mlp up, 10 -, 13 mlp down, 30 -, 31 -, 100 end"
    for now, _, part in (step.partition(" ") for step in script.split(", ")):
        clock.now = float(now)
        parts.leave() if part == "-" else parts.enter(part)
    assert marks.seconds() == {
        "additions": 1 + 69,
        "mlp activation": 1 + 3 + 1,
        "mlp up": 8,
        "mlp down": 17,
    }


@variants
def test_a_profile_names_every_part_and_leaves_no_hook(config):
    model, tokens, targets = draw(config)
    step = set(ORDER)
    forward = step - {"loss", "optimizer"}

    assert set(profile_forward(model, tokens, samples=1).seconds) == forward
    profile = profile_training_step(model, tokens, targets, samples=1)
    assert list(profile.seconds) == list(ORDER) == list(profile.saved)
    assert profile.saved == dict.fromkeys(ORDER, 0) | saved_bytes(
        model, tokens, targets
    )
    assert not hooks_of(model)


@variants
def test_every_module_with_weights_belongs_to_a_part(config):
    model, _, _ = draw(config)
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            assert name.rpartition(".")[2] in profiling.PARTS, name


def test_hooks_are_gone_after_an_exception():
    model, tokens, targets = draw()
    with pytest.raises(ValueError, match="context"):
        profile_forward(model, torch.zeros(1, 65, dtype=torch.long))
    with pytest.raises(ValueError):
        profile_training_step(model, tokens, targets[:, 1:])
    with pytest.raises(ValueError):
        saved_bytes(model, tokens, targets[:, 1:])
    with pytest.raises(KeyError), profiling._watch(model, profiling._Open(print)):
        raise KeyError
    assert not hooks_of(model)


def gradients(model):
    return {name: w.grad.clone() for name, w in model.named_parameters()}


def plain_gradients(model, tokens, targets):
    model.zero_grad()
    profiling._WithLoss(model)(tokens, targets).backward()
    return gradients(model)


@pytest.mark.parametrize("attend", ["fused", "formula"])
def test_watching_changes_neither_logits_nor_gradients(attend):
    model, tokens, targets = draw(SMALL.but(attend=attend))
    logits, plain = model(tokens), plain_gradients(model, tokens, targets)

    with profiling._watch(model, profiling._Open(lambda part: None)):
        assert torch.equal(model(tokens), logits)
        with torch.no_grad():
            assert torch.equal(model(tokens), logits)
    profile_training_step(model, tokens, targets, samples=1)
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, plain[name]), name


def test_watched_gradients_are_as_exact_where_a_module_reads_its_input_twice():
    # RMSNorm of several operators: its gradients are added in another order.
    model, tokens, targets = draw(VARIANTS["llama"])
    exact = plain_gradients(copy.deepcopy(model).double(), tokens, targets)
    plain = plain_gradients(model, tokens, targets)
    profile_training_step(model, tokens, targets, samples=1)
    for name, gradient in gradients(model).items():
        budget = 2 * (plain[name] - exact[name]).abs().max()
        assert (gradient - exact[name]).abs().max() <= budget, name


class Descent:
    """Stands for an optimizer; those of torch.optim take seconds to import."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def step(self):
        for weight in self.model.parameters():
            weight -= 0.1 * weight.grad


def test_only_an_optimizer_moves_the_weights():
    model, tokens, targets = draw()
    before = copy.deepcopy(model.state_dict())
    profile_training_step(model, tokens, targets, samples=1)
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())

    profile_training_step(model, tokens, targets, Descent(model), samples=1)
    assert not torch.equal(model.head.weight, before["head.weight"])


class Bills(TorchDispatchMode):
    """Every operator that runs, with the part that was open: {(part, name): calls}."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.calls = parts, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[self.parts.parts[-1], func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


def bills(model, tokens, targets) -> Counter:
    """What one training step is billed for, forward and backward together."""
    parts = profiling._Open(lambda part: None)
    whole = profiling._WithLoss(model)
    with profiling._watch(whole, parts), Bills(parts) as seen:
        whole(tokens, targets).backward()
    return seen.calls


LAYERED = ("query", "key", "value", "out", "mlp up", "mlp down")


@pytest.mark.parametrize("attend", ["fused", "formula"])
def test_backward_is_billed_to_the_part_that_went_forward(attend):
    calls = bills(*draw(SMALL.but(attend=attend)))
    owners = {
        "native_layer_norm": {"norm": 2 * L + 1},
        "native_layer_norm_backward": {"norm": 2 * L + 1},
        "gelu": {"mlp activation": L},
        "gelu_backward": {"mlp activation": L},
        "addmm": dict.fromkeys(LAYERED, L),
        "mm": dict.fromkeys(LAYERED, 2 * L) | {"head": 3},
        "embedding": {"embedding": 2},
        "embedding_dense_backward": {"embedding": 2},
        "_log_softmax": {"loss": 1},
        "nll_loss_backward": {"loss": 1},
        "_log_softmax_backward_data": {"loss": 1},
    }
    if attend == "formula":
        owners |= {"bmm": {"scores": 6 * L}, "_softmax_backward_data": {"scores": L}}
    for operator, expected in owners.items():
        found = {part: n for (part, name), n in calls.items() if name == operator}
        assert found == expected, operator
    loose = {name for part, name in calls if part == "additions"}
    assert loose <= {"add", "view", "transpose", "arange", "ones_like", "_unsafe_view",
                     "clone", "_reshape_alias", "sum", "detach"}  # fmt: skip


@variants
def test_the_profiler_of_torch_sees_the_same_calls(config):
    model, tokens, targets = draw(config)
    ours = Counter()
    for (_, name), n in bills(model, tokens, targets).items():
        ours[name] += n

    def step():
        profiling._WithLoss(model)(tokens, targets).backward()

    theirs = {name: calls for name, (calls, _) in operators(step).items()}
    for name in ("addmm", "mm", "bmm", "gelu", "silu", "native_layer_norm", "_softmax",
                 "gelu_backward", "silu_backward", "native_layer_norm_backward",
                 "_scaled_dot_product_flash_attention_for_cpu",
                 "_scaled_dot_product_flash_attention_for_cpu_backward"):  # fmt: skip
        assert theirs.get(f"aten::{name}", 0) == ours[name], name


def test_operators_fall_into_their_groups():
    x, w = torch.randn(2, 8, 8), torch.randn(8, 8)
    found = by_operator(lambda: F.gelu(F.layer_norm(x @ x @ w, (8,))).exp())
    assert list(found) == [*GROUPS, "rest"]
    assert found["attention"] == 0
    assert min(found[k] for k in found if k != "attention") > 0
    found = by_operator(lambda: F.scaled_dot_product_attention(*[x[None]] * 3))
    assert found["attention"] > 0 == found["activation"] == found["norms"]


def closed_forms(B, T, hidden, attend, b) -> dict[str, int]:
    """Bytes saved by GPT-2's parts on a CPU, b bytes per value, no dropout."""
    x = B * T * C * b  # one activation of the model's width
    wide = B * T * hidden * b
    square = B * H * T * T * b
    fused = attend == "fused"
    # The formula widens q, k and the softmax to fp32; two bool masks stay too.
    fp32 = 4 / b
    plain = int((2 * fp32 + 1) * x + (fp32 + 1) * square) + 2 * T * T
    return {
        "embedding": 8 * T,  # the positions, int64
        "norm": (2 * L + 1) * (x + 2 * B * T * b),  # its input, mean and 1/deviation
        "query": L * x,  # the norm's output; key and value save the same one
        # Fused: q, k, v, the output and a float32 log-sum per row.
        # Formula: scaled q, k, v, weights before and after the last mask, both masks.
        "scores": L * (4 * x + 4 * B * H * T if fused else plain),
        "out": 0 if fused else L * x,  # the kernel's own output, or a reordered copy
        "mlp up": L * x,
        "mlp activation": L * wide,
        "mlp down": L * wide,
        "head": x,
        "loss": (B * T * V + 1) * b,  # log-probabilities, and the sum of class weights
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attend", ["fused", "formula"])
@pytest.mark.parametrize("B, T, hidden", [(1, 16, 128), (2, 1, 128), (3, 7, 40)])
def test_saved_bytes_are_the_closed_forms(B, T, hidden, attend, dtype):
    config = SMALL.but(attend=attend, hidden=hidden)
    saved = saved_bytes(*draw(config, B, T, dtype))
    expected = closed_forms(B, T, hidden, attend, dtype.itemsize)
    assert saved == {part: n for part, n in expected.items() if n}


def test_weights_and_what_the_caller_holds_are_not_saved():
    model, tokens, targets = draw(SMALL.but(vocab=100_000, tied=False), B=1, T=1)
    assert saved_bytes(model, tokens, targets)["head"] == C * 4
    held = torch.randint(V, (1, 10_000))
    sliced = saved_bytes(model, held[:, :1], held[:, 1:2])
    assert sliced == saved_bytes(model, tokens, targets)
