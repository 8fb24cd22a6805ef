"""Writing one token at a time: a cache of keys and values, and a loop that uses it."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparse_attn.checks import check_count, check_finite
from sparse_attn.layers import rotate


class Cache:
    """The past of every layer of a GPT: `model(tokens, cache)` reads and extends it.

    Keeps all keys and values, or, for a model with a window, the first `sinks` and
    the last window - 1, so that its size is fixed. window and sinks: the model's own
    unless given. renumber: count positions inside the cache, as StreamingLLM does,
    so that a rotary model never meets a distance it was not trained on. store: how
    the numbers are kept, a key of `FORMATS`.
    Raises ValueError for renumber without rotary positions. Source: Xiao et al. 2023.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        window: int | None = None,
        sinks: int | None = None,
        renumber: bool = False,
        store: str = "as is",
    ):
        window = model.config.window if window is None else window
        sinks = model.config.sinks if sinks is None else sinks
        if window is not None:
            check_count("window", window)
        check_count("sinks", sinks, least=0)
        if renumber and model.config.positions != "rotary":
            raise ValueError(
                f"renumber={renumber} needs rotary positions, "
                f"not {model.config.positions!r}"
            )
        if store not in FORMATS:
            raise ValueError(f"store={store!r}: choose from {list(FORMATS)}")
        self.layers = [LayerCache(window, sinks, renumber, store) for _ in model.blocks]

    @property
    def seen(self) -> int:
        """Tokens that went through, kept or not."""
        return self.layers[0].seen

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values kept, all layers."""
        return sum(
            x.numel() * x.element_size()
            for layer in self.layers
            for x in (*layer.k, *layer.v)
        )


class LayerCache:
    """Keys and values of one layer, packed, and the position `at` of each token.

    k and v: tuples of tensors (B, Hkv, S, ...), as the format packs (B, Hkv, S, D).
    """

    def __init__(self, window: int | None, sinks: int, renumber: bool, store: str):
        self.window, self.sinks, self.renumber = window, sinks, renumber
        self.pack, self.unpack = FORMATS[store]
        self.k = self.v = ()
        self.at = None
        self.seen = 0

    def attend(self, attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The new queries against what is kept and themselves; then keep what fits."""
        T = q.shape[-2]
        if self.renumber and T > 1 and self._overflows(T):
            steps = zip(*(x.split(1, dim=-2) for x in (q, k, v)), strict=True)
            # Each query has its own distance to the sinks, as if it came alone.
            return torch.cat([self.attend(attention, *x) for x in steps], dim=-2)
        new = torch.arange(self.seen, self.seen + T, device=q.device)
        if attention.rotary and not self.renumber:
            q, k = rotate(q, new), rotate(k, new)
        self._append(k, v, new)
        k, v = (self.unpack(x).to(q.dtype) for x in (self.k, self.v))
        if attention.rotary and self.renumber:
            places = torch.arange(k.shape[-2], device=q.device)
            q, k = rotate(q, places[-T:]), rotate(k, places)
        y = attention.scores(q, k, v, self._mask(new))
        self._forget()
        return y

    def _overflows(self, T: int) -> bool:
        """T more tokens are more than a query sees."""
        return self.window is not None and self.seen + T > self.sinks + self.window

    def _append(self, k: Tensor, v: Tensor, new: Tensor):
        k, v = self.pack(k), self.pack(v)
        if self.at is None:
            self.k, self.v, self.at = k, v, new
        else:
            self.k, self.v = _joined(self.k, k), _joined(self.v, v)
            self.at = torch.cat((self.at, new))
        self.seen += len(new)

    def _mask(self, new: Tensor) -> Tensor | None:
        """(T, S) bool over the kept keys, by their true positions; None for causal."""
        if self.window is None:
            return None  # nothing was dropped: the last query is the last key
        seen = self.at <= new[:, None]
        return seen & ((self.at > new[:, None] - self.window) | (self.at < self.sinks))

    def _forget(self):
        """Drop keys that no later query can see."""
        if self.window is None:
            return
        kept = (self.at > self.seen - self.window) | (self.at < self.sinks)
        if not kept.all():
            self.k, self.v = (
                tuple(x[:, :, kept] for x in packed) for packed in (self.k, self.v)
            )
            self.at = self.at[kept]


def _joined(old: tuple, new: tuple) -> tuple:
    return tuple(torch.cat(both, dim=2) for both in zip(old, new, strict=True))


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers up to 127, and a scale for each token and head: x = n · scale.

    The scale is the largest magnitude over 127, so nothing is clipped, and the error
    is at most half a scale. It takes 4 bytes beside D bytes of whole numbers.
    """
    scale = x.abs().amax(dim=-1, keepdim=True).float() / 127
    n = x.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    return n.round().to(torch.int8), scale


FORMATS = {  # name -> (pack, unpack), for tensors (B, Hkv, S, D)
    "as is": (lambda x: (x,), lambda packed: packed[0]),
    "fp16": (lambda x: (x.half(),), lambda packed: packed[0]),
    "int8": (_to_int8, lambda packed: packed[0] * packed[1]),
}


@torch.no_grad()  # and not inference_mode: a cache and a text can be used on
def generate(
    model: nn.Module,
    tokens: Tensor,
    count: int,
    *,
    cache: Cache | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Tensor:
    """Extend `tokens` (B, T) by `count` sampled tokens: (B, T + count).

    cache: what came before `tokens`; a new one unless given. temperature 0 takes the
    likeliest token. generator: on the CPU, so that a seed gives the same text on every
    device. Dropout is as the model has it: call model.eval() first.
    """
    check_count("count", count, least=0)
    check_finite("temperature", temperature)
    if temperature < 0:
        raise ValueError(f"temperature={temperature}: 0 or more is needed")
    cache = Cache(model) if cache is None else cache
    fresh = tokens
    for _ in tqdm(range(count), desc="writing", unit="token", disable=not progress):
        logits = model(fresh, cache)[:, -1].float().cpu()  # (B, V)
        if temperature == 0:
            fresh = logits.argmax(dim=-1, keepdim=True)
        else:
            weights = (logits / temperature).softmax(dim=-1)
            fresh = torch.multinomial(weights, 1, generator=generator)
        fresh = fresh.to(tokens.device)
        tokens = torch.cat((tokens, fresh), dim=-1)
    return tokens
