"""What torch.profiler saw of a call, by kind of operator: a second opinion.

`profiling` attributes time to the parts of a model; this asks another clock.
"""

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes progress to stderr

GROUPS = {  # words in the names of PyTorch's operators, those of backward included
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "::linear"),
    "activation": ("::gelu", "::silu"),
    "norms": ("layer_norm", "rms_norm"),
}


def by_operator(fn: Callable[[], object]) -> dict[str, float]:
    """Seconds of one warm call of `fn` by kind of operator.

    torch.profiler's self times, so its own clock: host time on CPU, time of kernels
    on CUDA. On MPS it sees only the host, which queues and does not wait.
    """
    seconds = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for name, (_, spent) in operators(fn).items():
        kinds = (
            kind for kind, words in GROUPS.items() if any(w in name for w in words)
        )
        seconds[next(kinds, "rest")] += spent
    return seconds


def operators(fn: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Calls and seconds of each operator in one warm call of `fn`, callees apart."""
    fn()
    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *cuda]) as seen:
        fn()
    rows = seen.key_averages()
    on_device = any(row.self_device_time_total for row in rows)
    spent = "self_device_time_total" if on_device else "self_cpu_time_total"
    return {row.key: (row.count, getattr(row, spent) * 1e-6) for row in rows}
