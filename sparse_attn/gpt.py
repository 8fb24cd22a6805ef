"""One small GPT whose parts are switches: with the defaults it is GPT-2.

Knows how parts are put together; the parts are in `layers`, their price in `cost`.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparse_attn.checks import check_count, check_counts
from sparse_attn.layers import GELU, GroupedQueryAttention, RMSNorm, SwiGLU


@dataclass(frozen=True)
class GPTConfig:
    """What a GPT is made of. The defaults are GPT-2 small: 124,439,808 parameters.

    kv_heads: None means as many as heads. window: keys a query sees, itself included,
    None for all; sinks: first keys that stay visible. attend: "fused" or "formula".
    hidden: width of the MLP, None for 4 x width. Source: Radford et al. 2019.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocab: int = 50_257
    context: int = 1024
    kv_heads: int | None = None
    window: int | None = None
    sinks: int = 0
    attend: str = "fused"
    norm: str = "layer"
    positions: str = "learned"
    mlp: str = "gelu"
    hidden: int | None = None
    dropout: float = 0.0
    bias: bool = True
    tied: bool = True

    def __post_init__(self):
        check_counts(layers=self.layers, heads=self.heads, width=self.width)
        check_counts(vocab=self.vocab, context=self.context)
        check_count("sinks", self.sinks, least=0)
        for name, known in (("norm", NORMS), ("mlp", MLPS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: choose from {list(known)}"
                )

    @classmethod
    def gpt2(cls, **changes) -> "GPTConfig":
        """GPT-2 small, with `changes`."""
        return cls(**changes)

    def but(self, **changes) -> "GPTConfig":
        """The same with `changes`: config.but(kv_heads=4)."""
        return dataclasses.replace(self, **changes)


NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}
MLPS = {"gelu": GELU, "swiglu": SwiGLU}
POSITIONS = ("learned", "rotary")


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        norm, hidden = NORMS[config.norm], config.hidden
        hidden = 4 * config.width if hidden is None else hidden
        self.norm_1 = norm(config.width)
        self.attention = GroupedQueryAttention(
            config.width,
            config.heads,
            config.kv_heads,
            window=config.window,
            sinks=config.sinks,
            rotary=config.positions == "rotary",
            bias=config.bias,
            dropout=config.dropout,
            attend=config.attend,
        )
        self.norm_2 = norm(config.width)
        self.mlp = MLPS[config.mlp](config.width, hidden, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        x = x + self.attention(self.norm_1(x), cache)
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Tokens (B, T) in, logits (B, T, V) out; causal.

    Raises ValueError for more tokens than learned positions know.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = NORMS[config.norm](config.width)
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self._initialize()

    def forward(self, tokens: Tensor, cache=None) -> Tensor:
        x = self.embed(tokens, 0 if cache is None else cache.seen)
        for i, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache.layers[i])
        return self.head(self.norm(x))

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, T) -> (B, T, C): a vector per token, plus one for its position."""
        if tokens.ndim != 2 or 0 in tokens.shape:
            got = tuple(tokens.shape)
            raise ValueError(f"tokens has shape {got}: (B, T) is needed")
        x = self.tokens(tokens)
        if self.positions is not None:
            end = start + tokens.shape[1]
            if end > self.config.context:
                raise ValueError(
                    f"{end} tokens exceed the context of {self.config.context}"
                )
            x = x + self.positions(torch.arange(start, end, device=tokens.device))
        return self.dropout(x)

    def _initialize(self):
        """GPT-2's: normal weights of 0.02, less where they add to the residual."""
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                continue
            residual = name.endswith(("out.weight", "down.weight"))
            spread = 0.02 / math.sqrt(2 * self.config.layers) if residual else 0.02
            nn.init.normal_(weight, std=spread)
        for name, bias in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(bias)

    def parameter_count(self) -> int:
        """Parameters, a tied head counted once."""
        return sum(weight.numel() for weight in self.parameters())


def save(model: GPT, path: str | Path, **notes: str) -> None:
    """Write weights, config and `notes` to one safetensors file, in fp32.

    A tied head is written once. Nothing but numbers and text is in the file.
    Raises ValueError for a model whose embedding is not the one of its config.
    """
    if not isinstance(model.tokens, nn.Embedding):
        kind = type(model.tokens).__name__
        raise ValueError(
            f"model has a {kind}, which its config does not describe: save its "
            "state_dict"
        )
    weights = {name: x.detach().float().cpu() for name, x in model.state_dict().items()}
    if model.config.tied:
        del weights["head.weight"]
    about = {"config": json.dumps(dataclasses.asdict(model.config))}
    save_file(weights, path, metadata=about | {k: str(v) for k, v in notes.items()})


def load(path: str | Path) -> tuple[GPT, dict[str, str]]:
    """The model written by `save`, on the CPU and in eval mode, and its notes.

    Raises ValueError for a safetensors file that holds no GPT.
    """
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "config" not in notes:
        raise ValueError(f"path={str(path)!r}: this file holds no GPT config")
    model = GPT(GPTConfig(**json.loads(notes.pop("config"))))
    if model.config.tied:
        weights["head.weight"] = weights["tokens.weight"]
    model.load_state_dict(weights)
    return model.eval(), notes
