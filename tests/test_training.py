"""The loop: it learns, its schedule and optimizers are right, and it survives kills."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_attn import training
from sparse_attn.optimizers import Muon, block_matrices, make_optimizers, orthogonalize
from sparse_attn.training import Result, evaluate, schedule, train

pytestmark = pytest.mark.usefixtures("one_thread")

V = 16
TEXT = (torch.arange(4000) ** 2 // 7 % V).to(torch.uint8)
SETTINGS = dict(
    steps=24, batch=2, context=8, learning_rate=1e-2, muon=0.02, every=5, progress=False
)


class Tiny(nn.Module):
    """A causal model of tokens with every kind of weight, and with dropout."""

    def __init__(self, seed=0, C=8):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(V, C)
        self.blocks = nn.ModuleList(nn.Linear(C, C) for _ in range(2))
        self.norm, self.drop = nn.LayerNorm(C), nn.Dropout(0.1)
        self.at = {}  # what to do at which forward pass, counted from 0
        self.passes = 0

    def forward(self, x):
        self.at.get(self.passes, lambda: None)()
        self.passes += 1
        x = self.drop(self.embed(x))  # (B, T, C)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.norm(x) @ self.embed.weight.T  # (B, T, V)


def run(model=None, **changes):
    return train(model or Tiny(), TEXT, **(SETTINGS | changes))


def state_of(model):
    return {name: p.clone() for name, p in model.state_dict().items()}


def same(a, b):
    return all(a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def alone(one_thread):
    """A run that nothing interrupts: its result and its weights."""
    model = Tiny()
    return run(model), state_of(model)


def test_a_result_has_one_loss_for_each_step_in_bits(alone):
    result, _ = alone
    assert result.steps == len(result.losses) == 24
    model = Tiny()
    x, y = training.corpus.batch(TEXT, 2, 8, torch.manual_seed(training._mix(0, 0)))
    p = model(x).softmax(-1).gather(-1, y[..., None])
    assert result.losses[0] == pytest.approx(-p.log2().mean().item(), rel=1e-5)


@pytest.mark.parametrize("muon", [None, 0.02])
def test_it_learns_a_text_that_can_be_predicted(muon):
    text = torch.arange(500) % V  # what follows a byte is certain
    model = Tiny()
    train(model, text, **(SETTINGS | dict(steps=250, muon=muon, weight_decay=0.0)))
    x, y = training.corpus.windows(text, 8, 20)
    assert evaluate(model, x, y) < 0.5 < math.log2(V)


def test_a_run_killed_twice_has_the_losses_and_weights_of_one_left_alone(
    alone, tmp_path
):
    """Killed in a forward pass, then in the middle of writing a checkpoint."""
    file = tmp_path / "run.pt"
    for where, left in (("forward", 15), ("save", 15)):
        code = f"import test_training; test_training.{where}_kills({str(file)!r})"
        path = os.pathsep.join(sys.path)
        env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS="1")
        child = subprocess.run([sys.executable, "-c", code], env=env)
        assert child.returncode == -signal.SIGKILL
        assert len(torch.load(file)["losses"]) == left
    assert file.with_name("run.pt.partial").exists()  # the second kill's remains

    result, weights = alone
    model = Tiny(seed=1)  # another start, to see that it is replaced
    assert run(model, checkpoint=file) == result
    assert same(state_of(model), weights)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def forward_kills(file):
    model = Tiny()
    model.at = {17: kill}
    run(model, checkpoint=file)


def save_kills(file):
    os.replace = lambda *_: kill()
    run(checkpoint=file)


def test_an_interrupt_waits_for_the_step_and_saves_it(alone, tmp_path):
    file = tmp_path / "new" / "run.pt"
    model = Tiny()
    model.at = {7: lambda: signal.raise_signal(signal.SIGINT)}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(model, checkpoint=file)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(torch.load(file)["losses"]) == 8
    assert run(checkpoint=file) == alone[0]


def test_a_second_interrupt_is_not_held_back(tmp_path):
    model = Tiny()

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model.at = {7: twice}
    with pytest.raises(KeyboardInterrupt):
        run(model, checkpoint=tmp_path / "run.pt")
    assert len(torch.load(tmp_path / "run.pt")["losses"]) == 5


def test_a_finished_run_is_only_read_back(alone, tmp_path):
    file = tmp_path / "run.pt"
    assert run(checkpoint=file) == alone[0]
    model = Tiny()
    model.at = {0: lambda: pytest.fail("the model was called")}
    assert run(model, checkpoint=file) == alone[0]
    assert same(state_of(model), alone[1])


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(steps=25), "steps=24 there, 25 here"),
        (dict(seed=1, batch=3), "batch=2 there, 3 here; seed=0 there, 1 here"),
        (dict(muon=None), "muon=0.02 there, None here"),
        (dict(model=Tiny(C=4)), "model='288 weights.*' there, '112 weights.*' here"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path, changes, said):
    file = tmp_path / "run.pt"
    run(checkpoint=file)
    kept = file.read_bytes()
    with pytest.raises(ValueError, match=said):
        run(**changes, checkpoint=file)
    assert file.read_bytes() == kept


def test_a_checkpoint_of_another_text_is_refused(tmp_path):
    run(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"data='.*' there, '.*' here"):
        train(Tiny(), TEXT.flip(0), **SETTINGS, checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("damage", ["empty", "text", "half", "bit", "foreign"])
def test_a_damaged_checkpoint_is_a_clear_error_and_kept(tmp_path, damage):
    file = tmp_path / "run.pt"
    run(checkpoint=file)
    whole = file.read_bytes()
    weights = torch.load(file)["model"]["embed.weight"].numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(weights) + 9] ^= 1
    if damage == "foreign":
        torch.save(Tiny().state_dict(), file)
    else:
        half = whole[: len(whole) // 2]
        file.write_bytes(dict(empty=b"", text=b"no", half=half, bit=flipped)[damage])
    kept = file.read_bytes()
    with pytest.raises(ValueError, match=r"run\.pt' is damaged or not one of ours"):
        run(checkpoint=file)
    assert file.read_bytes() == kept


def test_the_batch_and_the_dropout_of_a_step_depend_on_seed_and_step_only(alone):
    torch.manual_seed(99)
    assert run() == alone[0]
    assert run(seed=1) != alone[0]
    seeds = {training._mix(s, i) for s in range(20) for i in range(500)}
    assert len(seeds) == 20 * 500 and max(seeds) < 2**32


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
    model = Tiny()
    model.at = {7: lambda: model.norm.weight.data.fill_(torch.nan)}
    with pytest.raises(FloatingPointError, match="loss is nan"):
        run(model, checkpoint=tmp_path / "run.pt")
    assert len(torch.load(tmp_path / "run.pt")["losses"]) == 5


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    shares = [schedule(i, 100, 10) for i in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert shares[10:41] == [1.0] * 31
    assert shares[41:] == pytest.approx([(100 - i) / 60 for i in range(41, 100)])
    assert schedule(0, 5, 0) == 1.0


def test_only_matrices_decay_and_muon_takes_those_of_the_blocks():
    model = Tiny()
    (adamw, _), (muon, _) = make_optimizers(model, 1e-2, 0.02, 0.1)
    decayed, others = adamw.param_groups
    assert [*map(id, decayed["params"])] == [id(model.embed.weight)]
    assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert len(others["params"]) == 4 and all(p.ndim == 1 for p in others["params"])
    matrices = [block.weight for block in model.blocks]
    assert [*map(id, muon.param_groups[0]["params"])] == [*map(id, matrices)]
    assert len(make_optimizers(model, 1e-2, None, 0.1)) == 1


def test_frozen_weights_stay_as_they_are():
    model = Tiny()
    model.blocks[0].requires_grad_(False)
    before = state_of(model)
    run(model)
    assert len(block_matrices(model)) == 1
    moved = {n for n, p in model.state_dict().items() if not p.equal(before[n])}
    assert moved == {n for n in before if not n.startswith("blocks.0")}


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 40), (40, 3), (64, 48)])
def test_orthogonalize_keeps_singular_vectors_and_maps_values_by_the_polynomial(shape):
    torch.manual_seed(0)
    G = torch.randn(shape, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    S = S / (G.norm() + 1e-7)
    for _ in range(5):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    # Rounding: each of 5 steps may enlarge an error by at most the slope at 0, 3.4445.
    slack = 3.4445**5 * 64 * torch.finfo(torch.float64).eps
    assert (orthogonalize(G) - (U * S) @ Vh).abs().max() <= slack


def test_muon_starts_with_a_step_along_the_orthogonalized_gradient():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(8, 2))
    before, p.grad = p.detach().clone(), torch.randn(8, 2)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    expected = 0.95 * before - 0.1 * 2 * orthogonalize(p.grad)  # √(8/2) = 2
    assert (p - expected).abs().max() <= 32 * torch.finfo(torch.float32).eps


def test_evaluate_is_the_mean_over_all_bytes_whatever_the_batch():
    model = Tiny()
    x, y = training.corpus.windows(TEXT, 8, 13)
    model.train()
    whole, ragged = (evaluate(model, x, y, batch=batch) for batch in (13, 4))
    assert model.training
    logits = model.eval()(x).double()
    p = logits.softmax(-1).gather(-1, y[..., None])
    exact = -p.log2().mean().item()
    assert whole == pytest.approx(exact, rel=1e-5)
    assert ragged == pytest.approx(exact, rel=1e-5)
    evaluate(model, x, y)
    assert not model.training


def test_evaluate_of_a_model_that_knows_nothing_is_the_bits_of_a_byte():
    model = Tiny()
    nn.init.zeros_(model.embed.weight)
    x, y = training.corpus.windows(TEXT, 8, 5)
    assert evaluate(model, x, y) == pytest.approx(math.log2(V))


def test_the_progress_bar_shows_bits_per_byte_or_nothing(capsys):
    run(progress=True)
    assert "bits per byte" in capsys.readouterr().err
    run()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(steps=0), "steps=0"),
        (dict(every=0), "every=0"),
        (dict(seed=-1), "seed=-1"),
        (dict(learning_rate=0.0), "learning_rate=0.0: a positive"),
        (dict(muon=math.nan), "muon=nan: a finite"),
        (dict(context=5000), "T=5000 needs 5001 bytes"),
        (dict(model=nn.Embedding(V, V)), "no nn.ModuleList"),
        (dict(model=Tiny().requires_grad_(False), muon=None), "no weight"),
    ],
)
def test_bad_arguments_are_named(changes, said):
    with pytest.raises(ValueError, match=said):
        run(**changes)
    x = torch.zeros(3, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\(3, 8\) and y \(2, 8\)"):
        evaluate(Tiny(), x, x[:2])


def test_the_loop_reads_no_clock():
    root = Path(training.__file__).parent
    paths = [root / "training.py", root / "optimizers.py", *root.glob("corpus/*.py")]
    assert len(paths) > 4
    for path in paths:
        text = path.read_text()
        assert "import time" not in text and "datetime" not in text
    assert Result((1.0, 2.0)).steps == 2
