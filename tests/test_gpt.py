"""The GPT: GPT-2 to the last parameter, and what each of its switches promises."""

import os

import pytest
import torch
from safetensors.torch import save_file
from small_gpt import ALL, SMALL, SWITCHES, WINDOWS, lively, name, text

from sparse_attn.gpt import GPT, GPTConfig, load, save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def transformers():
    """The library that GPT-2 is compared with, never on the network; must be in CI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        try:
            import transformers
        except ImportError as error:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop(f"nothing to compare GPT-2 with, install transformers: {error}")
        transformers.logging.set_verbosity_error()
        yield transformers


def test_the_defaults_are_gpt2_small_to_the_last_parameter():
    config = GPTConfig.gpt2()
    assert config == GPTConfig()
    with torch.device("meta"):  # counted, not filled
        assert GPT(config).parameter_count() == 124_439_808


def test_gpt2_and_but_change_what_they_are_told_and_nothing_else():
    config = GPTConfig.gpt2(layers=2, window=8)
    assert config == GPTConfig(layers=2, window=8)
    assert config.but(layers=12, window=None) == GPTConfig()
    assert config.layers == 2


@pytest.fixture(scope="module")
def pair(transformers):
    """Our GPT-2 and theirs, with the same weights."""
    ours = lively(GPTConfig(layers=3, heads=4, width=48, vocab=101))
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=3, n_head=4, n_embd=48, vocab_size=101, n_positions=1024,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    missing, unexpected = theirs.load_state_dict(as_theirs(ours), strict=False)
    assert (missing, unexpected) == ([], [])
    return ours, theirs.eval()


def as_theirs(model):
    """Our weights under their names: q, k, v in one matrix, matrices transposed."""
    state = {
        "transformer.wte.weight": model.tokens.weight,
        "transformer.wpe.weight": model.positions.weight,
        "transformer.ln_f.weight": model.norm.weight,
        "transformer.ln_f.bias": model.norm.bias,
        "lm_head.weight": model.head.weight,
    }
    for i, block in enumerate(model.blocks):
        attention, mlp = block.attention, block.mlp
        for theirs, ours in {
            "ln_1": [block.norm_1],
            "attn.c_attn": [attention.query, attention.key, attention.value],
            "attn.c_proj": [attention.out],
            "ln_2": [block.norm_2],
            "mlp.c_fc": [mlp.up],
            "mlp.c_proj": [mlp.down],
        }.items():
            path = f"transformer.h.{i}.{theirs}"
            weight = torch.cat([part.weight for part in ours])
            state[f"{path}.weight"] = weight.T if weight.ndim == 2 else weight
            state[f"{path}.bias"] = torch.cat([part.bias for part in ours])
    return {path: weight.detach() for path, weight in state.items()}


@pytest.mark.parametrize("T", [1, 2, 63, 97, 300, 1023, 1024])
@torch.no_grad()
def test_logits_are_those_of_transformers_with_the_same_weights(pair, T):
    ours, theirs = pair
    tokens = text(2, T, 101, seed=T)
    logits = ours(tokens)
    assert 0.3 < logits.std() < 3, "logits of order 1, or the comparison is empty"
    assert (logits - theirs(tokens).logits).abs().max() <= 1e-4


def test_both_count_the_same_parameters(pair):
    ours, theirs = pair
    assert ours.parameter_count() == theirs.num_parameters()


def parameters(c):
    """The closed form, switch by switch."""
    C, D = c.width, c.width // c.heads
    kv = (c.kv_heads or c.heads) * D
    hidden = c.hidden or 4 * C
    attention = 2 * C * C + 2 * C * kv + c.bias * (2 * C + 2 * kv)
    mlp = {
        "gelu": 2 * C * hidden + c.bias * (hidden + C),
        "swiglu": 3 * C * hidden + c.bias * (2 * hidden + C),
    }[c.mlp]
    norm = {"layer": 2 * C, "rms": C}[c.norm]
    tokens = c.vocab * C * (1 if c.tied else 2)
    positions = c.context * C if c.positions == "learned" else 0
    return tokens + positions + c.layers * (attention + mlp + 2 * norm) + norm


def test_every_switch_has_its_closed_form_of_parameters():
    assert parameters(GPTConfig.gpt2()) == 124_439_808
    plain = [c for c in ALL if (c.attend, c.window) == ("fused", None)]
    masked = [SMALL.but(attend="formula", **window) for window in WINDOWS]
    hidden = [SMALL.but(hidden=40), SMALL.but(hidden=7, mlp="swiglu")]
    with torch.device("meta"):
        for config in plain + masked + hidden:
            assert GPT(config).parameter_count() == parameters(config), config


def test_a_tied_head_is_the_embedding_itself():
    model = GPT(SMALL)
    assert model.head.weight is model.tokens.weight
    names = [path for path, _ in model.named_parameters()]
    assert "head.weight" not in names
    free = GPT(SMALL.but(tied=False))
    assert free.head.weight.data_ptr() != free.tokens.weight.data_ptr()


def test_a_tied_head_stays_tied_when_moved_and_loaded():
    model = lively(SMALL).double()
    model.load_state_dict(lively(SMALL, torch.float64, seed=1).state_dict())
    assert model.head.weight is model.tokens.weight


@pytest.mark.parametrize("config", ALL, ids=name)
def test_every_combination_trains_every_parameter(config):
    model = lively(config)
    tokens = text(2, config.context + 1, config.vocab)
    logits = model(tokens[:, :-1])
    assert logits.shape == (2, config.context, config.vocab)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].ravel()
    )
    loss.backward()
    for path, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), path
        # One bias for all keys of a head moves all scores of a query alike, which
        # softmax ignores: only turned by its position does it have an effect.
        silent = path.endswith("key.bias") and config.positions == "learned"
        assert silent or weight.grad.abs().max() > 1e-6, path


@pytest.mark.parametrize("config", ALL, ids=name)
@torch.no_grad()
def test_every_combination_is_causal(config):
    model, before = lively(config), text(2, 14, config.vocab)
    logits, t = model(before), 9
    after = before.clone()
    after[:, t] = (after[:, t] + 1) % config.vocab
    changed = model(after)
    assert changed[:, :t].equal(logits[:, :t])
    assert (changed[:, t] - logits[:, t]).abs().amax(-1).min() > 1e-3
    assert (changed[:, t + 1] - logits[:, t + 1]).abs().amax(-1).min() > 1e-6


FORMULAS = [config for config in ALL if config.attend == "formula"]


@pytest.mark.parametrize("config", FORMULAS, ids=name)
@torch.no_grad()
def test_fused_is_at_most_twice_as_wrong_as_the_formula(config):
    tokens = text(2, 17, config.vocab)
    exact = lively(config, torch.float64)(tokens)
    formula = (lively(config)(tokens) - exact).abs().max()
    fused = (lively(config.but(attend="fused"))(tokens) - exact).abs().max()
    # Every logit is a sum of `width` products, rounded.
    eps = torch.finfo(torch.float32).eps
    assert fused <= 2 * formula + config.width * eps * exact.abs().max()


@torch.no_grad()
def moved(config, T, at):
    """How far each logit row moves when the token `at` is another, (T,)."""
    model, tokens = lively(config, torch.float64), text(1, T, config.vocab)
    other = tokens.clone()
    other[0, at] = (other[0, at] + 1) % config.vocab
    return (model(other) - model(tokens)).abs().amax(-1)[0]


@pytest.mark.parametrize("attend", SWITCHES["attend"])
@pytest.mark.parametrize("positions", SWITCHES["positions"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_reaches_one_less_than_itself_per_layer(
    window, layers, positions, attend
):
    config = SMALL.but(window=window, layers=layers, positions=positions, attend=attend)
    at, reach = 3, layers * (window - 1)
    far = moved(config, 24, at)
    assert (far[:at] == 0).all(), "the past"
    assert (far[at : at + reach + 1] > 1e-9).all(), "inside"
    assert (far[at + reach + 1 :] == 0).all(), "outside"


@pytest.mark.parametrize("attend", SWITCHES["attend"])
@pytest.mark.parametrize("positions", SWITCHES["positions"])
@pytest.mark.parametrize("layers", [1, 2])
def test_sinks_are_seen_from_everywhere_and_nothing_else_is(layers, positions, attend):
    config = SMALL.but(
        window=3, sinks=2, layers=layers, positions=positions, attend=attend
    )
    for sink in (0, 1):
        assert (moved(config, 24, sink)[sink:] > 1e-9).all()
    beyond = 2 + layers * 2 + 1
    assert (moved(config, 24, 2)[beyond:] == 0).all()


@pytest.mark.parametrize("attend", SWITCHES["attend"])
@torch.no_grad()
def test_a_window_of_the_whole_text_changes_nothing(attend):
    tokens = text(2, 24, SMALL.vocab)
    wide = lively(SMALL.but(window=24, attend=attend))(tokens)
    assert wide.equal(lively(SMALL.but(attend=attend))(tokens))


@torch.no_grad()
def test_dropout_acts_in_training_and_not_in_eval():
    tokens = text(2, 9, SMALL.vocab)
    model = lively(SMALL.but(dropout=0.5))
    assert model(tokens).equal(lively(SMALL)(tokens))
    model.train()
    assert not model(tokens).equal(model(tokens))


@pytest.mark.parametrize("mlp", SWITCHES["mlp"])
@pytest.mark.parametrize("norm", SWITCHES["norm"])
@pytest.mark.parametrize("tied", SWITCHES["tied"])
def test_weights_start_with_the_spread_of_gpt2(tied, norm, mlp):
    torch.manual_seed(0)
    config = GPTConfig(
        layers=8,
        heads=4,
        width=64,
        vocab=300,
        kv_heads=2,
        tied=tied,
        norm=norm,
        mlp=mlp,
    )
    for path, weight in GPT(config).named_parameters():
        if path.endswith("bias"):
            assert (weight == 0).all(), path
        elif weight.ndim == 1:
            assert (weight == 1).all(), path
        else:
            residual = "attention.out" in path or "mlp.down" in path
            spread = 0.02 / 4 if residual else 0.02  # 1/√(2·8) on the residual path
            n = weight.numel()
            assert abs(weight.mean()) <= 5 * spread / n**0.5, path
            assert abs(weight.std() / spread - 1) <= 5 / (2 * n) ** 0.5, path


def test_a_new_gpt_knows_nothing():
    torch.manual_seed(0)
    config = GPTConfig(layers=4, heads=4, width=64, vocab=97, context=128)
    tokens = text(4, 129, 97)
    logits = GPT(config)(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].ravel()
    )
    # log V, plus half the variance of a logit: 64 weights of 0.02 times a norm's 1.
    expected = torch.tensor(97.0).log() + 64 * 0.02**2 / 2
    assert abs(loss - expected) <= 0.03


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(width=18), "width=18.*heads=4"),
        (dict(kv_heads=3), "heads=4.*kv_heads=3"),
        (dict(kv_heads=0), "kv_heads=0"),
        (dict(norm="batch"), "norm='batch'.*layer.*rms"),
        (dict(mlp="relu"), "mlp='relu'.*gelu.*swiglu"),
        (dict(positions="sine"), "positions='sine'.*learned.*rotary"),
        (dict(attend="flash"), "attend='flash'.*fused"),
        (dict(window=0), "window=0"),
        (dict(window=-3), "window=-3"),
        (dict(sinks=-1), "sinks=-1"),
        (dict(layers=0), "layers=0"),
        (dict(heads=0), "heads=0"),
        (dict(width=-16), "width=-16"),
        (dict(vocab=0), "vocab=0"),
        (dict(context=2.5), "context=2.5"),
        (dict(hidden=0), "hidden=0"),
        (dict(dropout=1.5), "dropout.*1.5"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        GPT(SMALL.but(**changes))


@pytest.mark.parametrize("shape", [(5,), (2, 5, 1), (2, 0), (0, 5)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"tokens has shape \(.*\(B, T\)"):
        GPT(SMALL)(torch.zeros(shape, dtype=torch.long))


def test_learned_positions_end_with_the_context_and_rotary_ones_do_not():
    tokens = text(1, 25, SMALL.vocab)
    with pytest.raises(ValueError, match="25 tokens exceed the context of 24"):
        GPT(SMALL)(tokens)
    assert GPT(SMALL.but(positions="rotary"))(tokens).isfinite().all()


def test_all_switches_are_among_the_combinations():
    assert len(ALL) == 3 * 2**6 * len(WINDOWS)


def test_a_saved_model_comes_back_with_its_weights_and_notes(tmp_path):
    model = GPT(GPTConfig(layers=1, heads=2, width=8, vocab=9, context=5)).eval()
    save(model, tmp_path / "small.safetensors", steps="7")
    again, notes = load(tmp_path / "small.safetensors")
    tokens = torch.tensor([[1, 2, 3]])
    assert notes == {"steps": "7"} and again.config == model.config
    assert again.head.weight is again.tokens.weight and not again.training
    assert torch.equal(again(tokens), model(tokens))


def test_a_file_without_a_model_is_explained(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        load(tmp_path / "other.safetensors")
