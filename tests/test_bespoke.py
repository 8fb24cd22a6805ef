"""The experiment with bespoke embeddings, made tiny: fair, repeatable, resumable."""

import importlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sparse_attn import embeddings, gpt, training

pytestmark = pytest.mark.usefixtures("one_thread")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")
TINY = dict(
    TRAIN=256, CHOOSE=65, JUDGE=129, CONTEXT=8, BATCH=4, QUARTER=2, EPOCHS=2, WARMUP=2,
    SHAPE=dict(
        layers=1, heads=2, width=16, hidden=32, context=8,
        positions="rotary", norm="rms",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("bespoke")


@pytest.fixture
def tiny(script, monkeypatch):
    """The experiment's module with constants that take a moment."""
    for name, value in TINY.items():
        assert hasattr(script, name)
        monkeypatch.setattr(script, name, value)
    return script


def config_of(module, language="independent"):
    given = module.LANGUAGES[language](0)
    bands = embeddings.FrequencyAnalysis.of(given.train, given.vocab)
    return gpt.GPTConfig(vocab=given.vocab, **module.SHAPE), bands


# Languages


@pytest.mark.parametrize("language", ["independent", "chain", "words"])
def test_a_language_depends_on_its_seed_alone_and_its_parts_differ(tiny, language):
    first, again, other = (tiny.LANGUAGES[language](seed) for seed in (0, 0, 1))
    for name in ("train", "choose", "judge"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert len(getattr(first, name)) == getattr(tiny, name.upper())
        assert getattr(first, name).max() < first.vocab
    assert not torch.equal(first.train, other.train)
    assert not torch.equal(first.choose, first.judge[: len(first.choose)])


def test_words_learn_from_one_text_and_are_judged_on_another(tiny):
    text = tiny.corpus.words(2000)
    given = tiny.written(3)
    start = 3 * 7919 * tiny.CONTEXT % (len(text.train) - tiny.TRAIN)
    assert torch.equal(given.train, text.train[start:][: tiny.TRAIN])
    held_out = torch.cat((given.choose, given.judge))
    assert torch.equal(held_out, text.validation[: len(held_out)])


def test_the_real_sizes_fit_into_the_text(script):
    for seed in (*script.SEEDS, *script.PILOT):
        given = script.written(seed)
        sizes = [len(part) for part in (given.train, given.choose, given.judge)]
        assert sizes == [script.TRAIN, script.CHOOSE, script.JUDGE]


def test_ways_share_the_data_and_the_batches_of_their_seed(tiny, monkeypatch):
    seen, drawn = {}, tiny.corpus.batch

    def noted(*args):
        found = drawn(*args)
        seen[way].append(found[0])
        return found

    monkeypatch.setattr(tiny.corpus, "batch", noted)
    for way in ("standard", "bespoke", "adaptive"):
        seen[way] = []
        tiny.run("chain", way, 0, CPU)
    steps = min(map(len, seen.values()))
    assert steps >= tiny.QUARTER
    for way in seen:
        assert torch.equal(
            torch.stack(seen[way][:steps]), torch.stack(seen["standard"][:steps])
        )
    assert not torch.equal(seen["standard"][0], seen["standard"][1])


def test_no_two_steps_and_no_two_seeds_draw_their_batches_alike(tiny, monkeypatch):
    seeds, drawn = [], tiny.corpus.batch

    def noted(data, B, T, generator):
        seeds.append(generator.initial_seed())
        return drawn(data, B, T, generator)

    monkeypatch.setattr(tiny.corpus, "batch", noted)
    for seed in (0, 1):
        tiny.run("independent", "standard", seed, CPU)
    assert len(seeds) >= 4 * tiny.QUARTER and len(set(seeds)) == len(seeds)


# Ways


def test_each_way_is_the_model_that_it_is_called(tiny):
    config, bands = config_of(tiny)
    widths = {
        way: [t.weight.shape[1] for t in make(config, bands).tokens.tables]
        for way, make in tiny.WAYS.items()
        if way not in ("standard", "as many parameters")
    }
    assert widths == {
        "bespoke": [22, 16, 9],
        "equal, projected": [16, 16, 16],
        "reversed": [9, 16, 22],
        "adaptive": [16, 4, 1],
    }


@pytest.mark.parametrize("tiny_shape", [True, False])
def test_as_many_parameters_are_bespokes_or_less_than_a_unit_more(
    script, monkeypatch, tiny_shape
):
    if tiny_shape:
        monkeypatch.setattr(script, "SHAPE", TINY["SHAPE"])
    bands = embeddings.FrequencyAnalysis(torch.arange(1000))
    config = gpt.GPTConfig(vocab=1000, **script.SHAPE)
    ways = {way: script.WAYS[way](config, bands) for way in script.WAYS}
    counts = {way: model.parameter_count() for way, model in ways.items()}
    unit = config.layers * (2 * config.width + 1)  # a row, its bias, a column
    assert 0 <= counts["as many parameters"] - counts["bespoke"] < unit
    assert isinstance(ways["as many parameters"].tokens, torch.nn.Embedding)
    assert counts["standard"] < counts["bespoke"]


# Runs


@pytest.mark.parametrize("way", ["standard", "bespoke", "as many parameters"])
def test_a_run_is_the_same_whenever_it_is_run(tiny, way):
    first, again, other = (tiny.run("independent", way, s, CPU) for s in (0, 0, 1))
    assert repr(first) == repr(again)  # NaN too
    assert first["nats"] != other["nats"]
    assert len(first["by_band"]) == 3 and first["parameters"] == other["parameters"]


def test_what_is_judged_is_the_loss_on_the_text_kept_for_it(tiny):
    given = tiny.LANGUAGES["chain"](0)
    config, bands = config_of(tiny, "chain")
    model = gpt.GPT(config)
    whole, by_band = tiny.parts(model, given.judge, bands.band)
    x, y = tiny.corpus.windows(given.judge, 8, 16)
    assert whole == pytest.approx(
        training.evaluate(model, x, y) * math.log(2), rel=1e-5
    )
    counts = bands.band[y].flatten().bincount(minlength=3)
    mean = sum(n * one for n, one in zip(counts.tolist(), by_band, strict=True) if n)
    assert mean / y.numel() == pytest.approx(whole, rel=1e-5)


# The rule to stop by


@pytest.fixture
def learned(tiny, monkeypatch):
    """learned(losses): what `learn` does if these are the losses that it finds."""

    def learn(losses):
        given = tiny.LANGUAGES["independent"](0)
        torch.manual_seed(0)
        model = gpt.GPT(gpt.GPTConfig(vocab=given.vocab, **tiny.SHAPE))
        coming, at, shares, before = iter(losses), [], [], []
        descend = training.descend

        def noted(model, loss, optimizers, share):
            shares.append(share)
            before.append(weights(model))
            return descend(model, loss, optimizers, share)

        def evaluate(model, x, y, batch):
            assert torch.equal(x.flatten(), given.choose[: x.numel()])
            at.append(weights(model))
            return next(coming) / math.log(2)

        monkeypatch.setattr(training, "descend", noted)
        monkeypatch.setattr(training, "evaluate", evaluate)
        found = tiny.learn(model, given, 0)
        monkeypatch.setattr(training, "descend", descend)
        return found, weights(model), at, shares, before

    return learn


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def test_four_quarters_without_a_gain_then_an_epoch_of_falling_rates(
    tiny, learned, monkeypatch
):
    constant = [5, 4, 3, 2.999, 3.1, 3.2, 3.3]  # 2.999 is best, but is no gain
    falling = [3, 2.9, 2.95, 2.97]
    monkeypatch.setattr(tiny, "EPOCHS", 9)
    found, left, at, shares, before = learned([*constant, *falling, 0.0])
    assert found == pytest.approx([*constant, *falling])
    assert torch.equal(left, at[8])  # of 2.9, the best
    assert shares[:3] == [0.5, 1, 1]  # warming up
    assert shares[3 : 7 * 2] == [1] * 11
    assert shares[7 * 2 :] == [eighths / 8 for eighths in range(8, 0, -1)]
    assert torch.equal(before[7 * 2], at[3])  # falling begins at the best weights


def test_if_falling_rates_spoil_the_model_the_best_before_is_left(
    tiny, learned, monkeypatch
):
    monkeypatch.setattr(tiny, "EPOCHS", 9)
    _, left, at, _, _ = learned([5, 3, 3.1, 3.1, 3.1, 3.1, 4, 4, 4, 4])
    assert len(at) == 10 and torch.equal(left, at[1])


def test_what_gains_forever_ends_with_its_last_epoch(tiny, learned):
    losses = [5 - 0.1 * i for i in range(100)]
    found, left, at, shares, _ = learned(losses)
    assert len(found) == 4 * tiny.EPOCHS == 8
    assert torch.equal(left, at[-1]) and shares[2:] == [1] * 14


def test_the_optimizer_goes_back_with_the_weights(tiny):
    given = tiny.LANGUAGES["independent"](0)
    model = gpt.GPT(gpt.GPTConfig(vocab=given.vocab, **tiny.SHAPE))
    optimizers = tiny.make_optimizers(model, tiny.RATE, None, 0.1)
    x, y = tiny.corpus.windows(given.choose, 8, 8)

    def steps():
        for _ in range(3):
            training.descend(model, training.nats(model, x, y), optimizers, 1.0)
        return weights(model)

    steps()
    kept = tiny.state(model, optimizers)
    after = steps()
    tiny.restore(model, optimizers, kept)
    assert torch.equal(steps(), after)


# The whole

FOUND = dict(nats=1.0, by_band=[1.0] * 3, choose=[1.0], parameters=1)


@pytest.fixture
def whole(script, monkeypatch, tmp_path):
    """The experiment with results in a folder of its own, in this process."""
    monkeypatch.setattr(
        script, "ProcessPoolExecutor", lambda *_, mp_context: ThreadPoolExecutor(1)
    )
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return script


def test_a_finished_run_is_kept_and_not_run_again(whole, monkeypatch, tmp_path):
    ran = []

    def run(language, way, seed, device):
        ran.append((language, way, seed))
        return FOUND

    monkeypatch.setattr(whole, "run", run)
    monkeypatch.setattr("sys.argv", ["bespoke.py", "--workers", "1", "--pilot"])
    whole.main()
    wanted = {
        (language, way, seed)
        for language in whole.LANGUAGES
        for way in ("standard", "bespoke")
        for seed in whole.PILOT
    }
    assert set(ran) == wanted and len(ran) == len(wanted)

    (path,) = tmp_path.glob("bespoke-*.json")
    results = json.loads(path.read_text())
    assert set(results["runs"]) == {" | ".join(map(str, key)) for key in wanted}
    assert results["runs"].pop("chain | bespoke | 101") == FOUND
    path.write_text(json.dumps(results))
    ran.clear()
    whole.main()
    assert ran == [("chain", "bespoke", 101)]
    assert json.loads(path.read_text())["runs"]["chain | bespoke | 101"] == FOUND


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_part_the_whole_experiment_whole_seeds_first(whole, monkeypatch, ranks):
    ran = []

    def one(key, place, path):
        ran.append(key)
        return key, FOUND

    monkeypatch.setattr(whole, "one", one)
    monkeypatch.setattr("sys.argv", ["bespoke.py", "--workers", "1"])
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        before = len(ran)
        whole.main()
        seeds = [seed for _, _, seed in ran[before:]]
        assert seeds == sorted(seeds)
    assert len(ran) == len(set(ran)) == 108  # as the protocol says
    for language in whole.LANGUAGES:
        for way in whole.WAYS:
            seeds = {key[2] for key in ran if key[:2] == (language, way)}
            assert seeds == set(range(7 if way in whole.JUDGED else 5))
