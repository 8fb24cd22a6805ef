"""Many small calls to PyTorch at once, each on a thread of its own.

Knows how work is dealt out on a CPU: PyTorch would split every call among its threads,
which costs more than a small call gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode


def side_by_side(work: Callable[[Iterator], None], items: Iterable):
    """Call work(iterator) on every thread that PyTorch may use; all share the iterator.

    So each item is worked on by one thread, and `work` can keep a buffer for all that
    it gets. No gradients. One thread does all of it where a mode watches the calls of
    this one, as FLOP counters do, for they would miss those of others.
    """
    items = list(items)
    threads = min(torch.get_num_threads(), len(items))
    inference = torch.is_inference_mode_enabled()
    dealt = iter(items)  # next() of a list's iterator is safe between threads

    def alone(_=None):
        with torch.inference_mode(inference), torch.no_grad():
            work(dealt)

    if threads < 2 or _get_current_dispatch_mode() is not None:
        return alone()
    allowed = torch.get_num_threads()
    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done in [pool.submit(alone) for _ in range(threads)]:
            done.result()
    torch.set_num_threads(allowed)  # what threads that begin after this one take
