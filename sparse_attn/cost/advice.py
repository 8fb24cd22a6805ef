"""Which remedy first? Predicted seconds and bytes of a GPT on a device, and a ranking.

Takes measured rates as a `roofline.Ceilings`, and knows no device by name. The model
is as plain as can be: an operation takes its FLOPs at the rate of a large product,
plus the bytes it reads and those it writes, at their rates, and nothing overlaps.
"""

from dataclasses import dataclass

from sparse_attn.checks import check_counts
from sparse_attn.cost.memory import key_width, parameters, training_bytes
from sparse_attn.cost.parts import flops_by_part

SQUARES = 4  # the formula writes so many T x T matrices, and reads as many
BACKWARD = 2.0  # times the forward pass; the fused kernel forms its scores once more
FUSED_BACKWARD = 2.5
OPTIMIZER = 7  # AdamW reads weight, gradient and two moments, and writes all but one


@dataclass(frozen=True)
class Advice:
    """A remedy, the `config` that has it, and what is predicted of a step with it.

    saved and spared: shares of the seconds and bytes without it, negative if it costs.
    exact: the model computes what it did before.
    """

    remedy: str
    config: object
    seconds: float
    bytes: int
    saved: float
    spared: float
    exact: bool


def advise(
    config, T: int, batch: int, device, *, training: bool = True, window: int = 256
) -> list[Advice]:
    """Single remedies for `config` at (batch, T) tokens, the largest saving first.

    device: its measured rates, from `roofline.measure_ceilings`. training: a training
    step; otherwise a forward pass, whose bytes are weights and one layer's scores.
    Only remedies that change something are listed. Biases are left out of the times.
    """
    check_counts(T=T, batch=batch, window=window)
    if not hasattr(device, "fresh"):
        raise ValueError(
            f"device={device!r}: measured rates are needed, measure_ceilings(device)"
        )
    before = _seconds(config, T, batch, device, training)
    held = _bytes(config, T, batch, training)
    found = []
    for remedy, changed in remedies(config, T, window).items():
        seconds = _seconds(changed, T, batch, device, training)
        bytes_ = _bytes(changed, T, batch, training)
        found.append(
            Advice(
                remedy,
                changed,
                seconds,
                bytes_,
                saved=1 - seconds / before,
                spared=1 - bytes_ / held,
                exact=changed == config.but(attend=changed.attend),
            )
        )
    return sorted(found, key=lambda advice: -advice.saved)


def remedies(config, T: int, window: int = 256) -> dict[str, object]:
    """The standard remedies that would change `config` at T tokens: name -> config."""
    found = {}
    if config.attend == "formula":
        found["fused attention"] = config.but(attend="fused")
    heads = config.kv_heads or config.heads
    for shared in (heads // 3, 1):
        if 0 < shared < heads and config.heads % shared == 0:
            name = f"{shared} key-value head{'s' * (shared > 1)}"
            found[name] = config.but(kv_heads=shared)
    wide = config.hidden or 4 * config.width
    if config.mlp == "gelu":
        found["MLP 3x"] = config.but(hidden=3 * wide // 4)
        found["SwiGLU"] = config.but(mlp="swiglu", hidden=2 * wide // 3)
    if window < min(T, config.window or T):
        found[f"window of {window}"] = config.but(window=window)
    return found


def seconds_by_part(config, T: int, device, *, B: int = 1) -> dict[str, float]:
    """Predicted seconds of one forward pass in fp32, by part as in `flops_by_part`."""
    work = flops_by_part(config, T, B=B)
    bytes_ = _bytes_by_part(config, T, B)
    return {
        part: work.get(part, 0) / device.matmul
        + 4 * read / device.copy
        + 4 * written / device.fresh
        for part, (read, written) in bytes_.items()
    }


def _bytes_by_part(config, T: int, B: int) -> dict[str, tuple[int, int]]:
    """Values (read, written) by the operations of each part, all layers together."""
    C, L, V = config.width, config.layers, config.vocab
    shared, hidden = key_width(config), config.hidden or 4 * C
    x, narrow, wide = B * T * C, B * T * shared, B * T * hidden
    gated, rotary = config.mlp == "swiglu", config.positions == "rotary"
    square = B * config.heads * T * T
    scores = (x + 2 * narrow, x)
    if config.attend == "formula":
        scores = (scores[0] + SQUARES * square, x + SQUARES * square)
    turns = 4 * (x + narrow) if rotary else 0
    ups = 2 if gated else 1
    parts = {
        "query": (x + C * C, x),
        "key": (x + C * shared, narrow),
        "value": (x + C * shared, narrow),
        "scores": scores,
        "out": (x + C * C, x),
        "mlp up": (ups * (x + C * hidden), ups * wide),
        "mlp activation": (3 * wide, 2 * wide) if gated else (wide, wide),
        "mlp down": (wide + C * hidden, x),
        "additions": (4 * x + turns, 2 * x + turns),
    }
    parts = {part: (L * read, L * written) for part, (read, written) in parts.items()}
    positions = 0 if rotary else 2 * x
    return parts | {
        "embedding": (x + positions, x + positions // 2),
        "norm": ((2 * L + 1) * x, (2 * L + 1) * x),
        "head": (x + C * V, B * T * V),
    }


def _seconds(config, T: int, B: int, device, training: bool) -> float:
    parts = seconds_by_part(config, T, device, B=B)
    if not training:
        return sum(parts.values())
    again = {"scores": FUSED_BACKWARD if config.attend == "fused" else BACKWARD}
    steps = sum((1 + again.get(part, BACKWARD)) * s for part, s in parts.items())
    weights = sum(parameters(config).values())
    return steps + 4 * OPTIMIZER * weights / device.copy


def _bytes(config, T: int, B: int, training: bool) -> int:
    formula = config.attend == "formula"
    if training:  # the formula's window is a mask over the same squares
        config = config.but(window=None) if formula else config
        return sum(training_bytes(config, T, B=B).values())
    weights = sum(parameters(config).values())
    scores = 2 * B * config.heads * T * T if formula else B * T * config.width
    return 4 * (weights + scores)
