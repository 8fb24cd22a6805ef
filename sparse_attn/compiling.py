"""torch.compile where it works, and a plain sentence where it does not.

It needs a C++ compiler on a CPU, Triton on CUDA, and a version of Python it knows.
"""

from collections.abc import Callable

import torch


def compiled(fn: Callable, *example) -> tuple[Callable | None, str]:
    """(`fn` compiled and called once on `example`, ""), or (None, why it can't be).

    What goes wrong in compiling is told in one line; it is no error of the caller.
    An error that `fn` itself raises on `example` is raised.
    """
    fn(*example)  # its own errors come first
    try:
        faster = torch.compile(fn, dynamic=False)
        faster(*example)
    except Exception as error:  # of many kinds: no compiler, no Triton, no support
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"torch.compile does not work here: {lines[0][:120]}"
    return faster, ""
