"""Which update rule each weight gets: AdamW, or Muon for the matrices of the blocks.

Knows rules and groups; leaves the schedule of the learning rates to `training`.
"""

import torch
from torch import Tensor, nn

from sparse_attn.checks import check_finite


def make_optimizers(
    model: nn.Module, learning_rate: float, muon: float | None, weight_decay: float
) -> list[tuple[torch.optim.Optimizer, float]]:
    """AdamW, and Muon if it has a learning rate, each with its full learning rate.

    Frozen weights are left out. Norms, biases and other vectors never decay.
    """
    for name, value in (("learning_rate", learning_rate), ("muon", muon)):
        if value is not None:
            check_finite(name, value)
            if value <= 0:
                raise ValueError(f"{name}={value!r}: a positive number is needed")
    check_finite("weight_decay", weight_decay)

    blocks = [] if muon is None else block_matrices(model)
    if muon is not None and not blocks:
        raise ValueError(f"muon={muon} but no nn.ModuleList of model holds a matrix")
    taken = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    if not rest and not blocks:
        raise ValueError("model has no weight that requires a gradient")
    groups = (
        dict(params=[p for p in rest if p.ndim >= 2], weight_decay=weight_decay),
        dict(params=[p for p in rest if p.ndim < 2], weight_decay=0.0),
    )
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    optimizers = [(adamw, learning_rate)]
    if blocks:
        optimizers.append((Muon(blocks, weight_decay=weight_decay), muon))
    return optimizers


def block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trainable 2-D weights in the model's lists of layers (nn.ModuleList).

    Embedding, head and final norm stand outside of these lists; a table of vectors is
    no matrix that anything is multiplied with, wherever it stands.
    """
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found = {id(p): p for layers in lists for p in layers.parameters()}  # each once
    found = {key: p for key, p in found.items() if key not in tables}
    return [p for p in found.values() if p.ndim == 2 and p.requires_grad]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for 2-D weights.

    Every direction in which the gradient points moves a weight equally far. Iterates
    in the weights' own dtype; torch.optim.Muon casts to bfloat16, slow on most CPUs.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, beta = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - beta)
                update = orthogonalize(p.grad.lerp(momentum, beta))  # Nesterov
                tall = max(1, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - lr * group["decay"]).sub_(update, alpha=lr * tall)


def orthogonalize(G: Tensor, steps: int = 5) -> Tensor:
    """(m, n) -> (m, n): the same singular vectors, all singular values near 1.

    A step maps each singular value s to a·s + b·s³ + c·s⁵ without finding any; the
    coefficients are chosen for speed, so that the values end between 0.7 and 1.2.
    Source: Jordan et al. 2024, Newton-Schulz iteration.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm() + 1e-7)  # no singular value above 1
    wide = G.shape[0] <= G.shape[1]
    X = X if wide else X.mT  # the smaller square is the cheaper
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X if wide else X.mT
