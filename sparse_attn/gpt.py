"""One small GPT, made of parts. So far: the block of GPT-2."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.attention import attention
from sparse_attn.checks import check_counts


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm x), then x + MLP(norm x).

    C: width; H: heads, a divisor of C; attend: any f(q, k, v, *, causal) on
    (B, H, T, D). Input and output (B, T, C). Source: Radford et al. 2019.
    """

    def __init__(self, C: int, H: int, attend: Callable[..., Tensor] = attention):
        super().__init__()
        check_counts(C=C, H=H)
        if C % H:
            raise ValueError(f"C={C} is not a multiple of H={H} heads")
        self.H, self.attend = H, attend
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project_out(self.scores(*self.project_in(self.norm_1(x))))
        return x + self.mlp(self.norm_2(x))

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> q, k, v, each (B, H, T, D) with D = C / H."""
        qkv = self.qkv(x).unflatten(-1, (3, self.H, -1))  # (B, T, 3, H, D)
        return qkv.permute(2, 0, 3, 1, 4).unbind()  # 3 x (B, H, T, D)

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ) v, causal: (B, H, T, D)."""
        return self.attend(q, k, v, causal=True)

    def project_out(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, H, T, D) -> (B, T, C)

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """PyTorch's fused attention under this book's signature, for T = S."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
