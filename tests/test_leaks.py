"""The check that a model of the next token does not see it: no false word, no miss."""

import pytest
import torch
import torch.nn.functional as F
from small_gpt import SMALL, lively, name, text
from test_bad_input import explains
from torch import nn

from sparse_attn.metrics import future_leak

pytestmark = pytest.mark.usefixtures("one_thread")
V, T = SMALL.vocab, SMALL.context
CAUSAL = [
    SMALL,
    SMALL.but(attend="formula", positions="rotary", norm="rms"),
    SMALL.but(window=4, sinks=2, kv_heads=2, mlp="swiglu", tied=False),
]


class Encoder(nn.Module):
    """A language model of PyTorch's own layers, whose mask is easily forgotten.

    Without positions: no order of what comes after a token makes a difference to it.
    """

    def __init__(self, masked: bool):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.masked = nn.Embedding(V, 16), masked
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, V)

    def forward(self, tokens):
        mask = None
        if self.masked:
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embed(tokens), mask=mask))


class Peeking(nn.Module):
    """A causal model whose logits at t say a little about token t + `ahead`."""

    def __init__(self, ahead: int):
        super().__init__()
        self.model, self.ahead = lively(SMALL), ahead

    def forward(self, tokens):
        logits = self.model(tokens)
        seen = F.one_hot(tokens[:, self.ahead :], V).to(logits.dtype)
        return logits + F.pad(seen, (0, 0, 0, self.ahead))


@pytest.mark.parametrize("config", CAUSAL, ids=name)
@pytest.mark.parametrize("seed", range(3))
def test_a_causal_model_does_not_leak(config, seed):
    assert future_leak(lively(config), text(3, T, V, seed), seed) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_an_encoder_leaks_until_it_has_its_mask(seed):
    tokens = text(3, T, V, seed)
    assert future_leak(Encoder(masked=False), tokens, seed) > 0.05
    assert future_leak(Encoder(masked=True), tokens, seed) < 1e-5


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ahead", [1, 2, T - 1])
def test_a_leak_of_a_single_token_is_found(ahead, seed):
    assert future_leak(Peeking(ahead), text(4, T, V, seed), seed) > 0.05


@pytest.mark.parametrize("place", [T // 4, T // 2, T - 3])
def test_a_leak_at_one_place_is_found_early_late_and_in_the_middle(place):
    class There(Peeking):
        def forward(self, tokens):
            logits = self.model(tokens)
            logits[:, place] += 3 * F.one_hot(tokens[:, place + 1], V)
            return logits

    assert future_leak(There(1), text(4, T, V)) > 0.05


def test_a_leak_is_the_change_relative_to_the_largest_logit():
    class Ahead(nn.Module):
        """A logit of 8 at the last place; elsewhere the next token, at most 3."""

        def forward(self, tokens):
            logits = F.pad(tokens[:, 1:].float(), (0, 1), value=8.0)
            return logits[..., None]

    tokens = torch.tensor([[0, 3] * 12])  # a token that changes, changes by 3
    assert future_leak(Ahead(), tokens) == 3 / 8


@pytest.mark.parametrize("training", [True, False])
def test_it_judges_without_dropout_and_leaves_the_model_as_it_was(training):
    model = lively(SMALL.but(dropout=0.5)).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert future_leak(model, text(3, T, V)) < 1e-5
    assert model.training is training
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_mode_comes_back_after_an_error_too():
    model = lively(SMALL).train()
    with pytest.raises(ValueError):
        future_leak(model, text(1, T + 1, V))
    assert model.training


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7])
def test_short_texts_are_enough(length):
    tokens = torch.arange(2 * length).reshape(2, length) % V
    assert future_leak(lively(SMALL), tokens) < 1e-5
    assert future_leak(Encoder(masked=False), tokens) > 0.05


@pytest.mark.parametrize("shape", [(8,), (2, 3, 4), (0, 8), (2, 0)])
def test_tokens_of_another_shape_are_refused(shape):
    tokens = torch.zeros(shape, dtype=torch.long)
    explains(lambda: future_leak(lively(SMALL), tokens), "tokens", shape)


@pytest.mark.parametrize("tokens", [torch.full((2, 9), 3), torch.tensor([[1], [2]])])
def test_a_text_with_a_single_future_or_none_proves_nothing(tokens):
    explains(lambda: future_leak(lively(SMALL), tokens), "tokens", tuple(tokens.shape))


class Constant(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, tokens):
        return torch.full((*tokens.shape, V), self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_model_without_usable_logits_is_not_called_causal(value):
    explains(lambda: future_leak(Constant(value), text(2, T, V)), "model", value)


def test_logits_that_are_equal_for_every_text_do_not_leak():
    assert future_leak(Constant(2.0), text(2, T, V)) == 0
