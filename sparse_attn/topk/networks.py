"""The two small networks of the published method: one picks keys, one stands in.

Knows their shapes; leaves training to `steps` and use to `heads`.
"""

from torch import Tensor, nn

from sparse_attn.checks import check_counts, check_vectors


class KeySelector(nn.Module):
    """A query in, a logit for each of `seq_len` positions out: no key is looked at.

    forward: (..., T, d_in) -> (..., T, seq_len). The last axis is absolute positions
    of one length, fixed for good: output 7 is "the seventh token", whatever it says.
    Source: github.com/MikeyBeez/sparse-attention-mlp, README and published script.
    """

    def __init__(self, d_in: int, seq_len: int, hidden: int = 64):
        super().__init__()
        check_counts(d_in=d_in, seq_len=seq_len, hidden=hidden)
        self.d_in, self.seq_len = d_in, seq_len
        self.net = _two_layers(d_in, hidden, seq_len)

    def forward(self, q: Tensor) -> Tensor:
        return self.net(_last_axis("q", q, self.d_in))


class HeadApproximator(nn.Module):
    """The values of the chosen keys, side by side, in; the head's output out.

    forward: (..., K·D) -> (..., d_out). It sees neither query, keys nor weights, and
    tells its inputs apart by the slot they stand in. Source: as KeySelector.
    """

    def __init__(self, d_in: int, d_out: int, hidden: int = 64):
        super().__init__()
        check_counts(d_in=d_in, d_out=d_out, hidden=hidden)
        self.d_in, self.d_out = d_in, d_out
        self.net = _two_layers(d_in, hidden, d_out)

    def forward(self, values: Tensor) -> Tensor:
        return self.net(_last_axis("values", values, self.d_in))


def _two_layers(d_in: int, hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, hidden), nn.ReLU(), nn.Linear(hidden, d_out))


def _last_axis(name: str, x: Tensor, width: int) -> Tensor:
    check_vectors(name, x, "..., width")
    if x.shape[-1] != width:
        raise ValueError(
            f"{name} has {x.shape[-1]} numbers per token: this network takes {width}"
        )
    return x
