"""Which device the book runs on, what it is, and how much memory a call needs.

Knows backends; leaves clocks to `timing` and measured ceilings to `roofline`.
"""

import ctypes
import os
import platform
import re
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

ORDER = ("cuda", "mps", "cpu")  # fastest first


def available_devices() -> list[str]:
    """The backends that PyTorch can use here, fastest first; "cpu" is always last."""
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [kind for kind in ORDER if has[kind]]


def pick_device(wanted: str | None = None) -> torch.device:
    """The device to compute on: `wanted`, else SPARSE_ATTN_DEVICE, else the fastest.

    Raises ValueError, listing what is available, for a backend that is not here.
    """
    wanted = wanted or os.environ.get("SPARSE_ATTN_DEVICE") or ""
    available = available_devices()
    if not wanted:
        return torch.device(available[0])
    try:
        if wanted.split(":")[0] in available:
            return torch.device(wanted)
    except RuntimeError:  # an index that is none, as in "cuda:x"
        pass
    raise ValueError(
        f"device {wanted!r} is not available here: choose from {available} "
        "(argument, or environment variable SPARSE_ATTN_DEVICE)"
    )


def as_device(device: torch.device | str | None) -> torch.device:
    """`device` as it is, or the one picked for None or a name; no other backends."""
    if not isinstance(device, torch.device):
        return pick_device(device)
    if device.type not in ORDER:
        raise ValueError(f"device is {device}: one of {ORDER} is needed")
    return device


def synchronize(device: torch.device):
    """Wait until the work queued on `device` is done; on a CPU nothing is queued."""
    device = as_device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Facts:
    """What a device is. `memory` in bytes; `units` names its parallel parts."""

    kind: str
    name: str
    units: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.units}, {self.memory / 1e9:.0f} GB)"


def facts(device: torch.device | None = None) -> Facts:
    """Name, parallel units and memory of `device` (default: the one picked)."""
    device = as_device(device)
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        return Facts("cuda", p.name, f"{p.multi_processor_count} SMs", p.total_memory)
    memory = psutil.virtual_memory().total
    if device.type == "mps":
        return Facts("mps", _cpu_name(), "unified memory", memory)
    return Facts("cpu", _cpu_name(), f"{torch.get_num_threads()} threads", memory)


def _cpu_name() -> str:
    """The processor's name as its maker wrote it, where the system tells."""
    if platform.system() == "Linux":
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string")
    return platform.processor() or platform.machine()


def caches(device: torch.device | None = None) -> dict[str, int]:
    """Bytes of each cache between `device` and its memory, nearest first.

    {"L1": ..., "L2": ..., "L3": ...} as far as the system tells, else {}. A CPU's L1
    and L2 belong to one core, its last one is shared; a GPU's L2 is shared.
    """
    device = as_device(device)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return {"L1": found.shared_memory_per_multiprocessor, "L2": found.L2_cache_size}
    if platform.system() == "Linux":
        return _linux_caches(Path("/sys/devices/system/cpu/cpu0/cache"))
    if platform.system() == "Darwin":
        asked = {name: _sysctl(f"hw.perflevel0.{name.lower()}cachesize") for name in
                 ("L1d", "L2")}  # fmt: skip
        return {name[:2]: int(size) for name, size in asked.items() if size.isdigit()}
    return {}


def _linux_caches(folder: Path) -> dict[str, int]:
    """What sysfs says of a core's caches; instructions have one of their own."""
    found = {}
    for index in sorted(folder.glob("index*")):
        with suppress(OSError, ValueError):  # not every system tells everything
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found


def _sysctl(name: str) -> str:
    """What macOS says of itself; empty where it does not know the name."""
    asked = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True)
    return asked.stdout.strip()


def supports(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a small matrix product in `dtype` runs on `device`."""
    try:
        x = torch.ones(8, 8, dtype=dtype, device=device)
        return bool((x @ x)[0, 0] == 8)
    except (RuntimeError, TypeError):  # TypeError: float64 on MPS
        return False


@dataclass
class Peak:
    """Memory that a block of code added: `bytes` at its peak, and what that means."""

    meaning: str
    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device | None = None):
    """`with peak_memory() as peak: ...`, then peak.bytes and peak.meaning.

    Counts from what was in use at entry. Each backend answers a slightly different
    question, so `meaning` belongs beside every number that is shown.
    """
    device = as_device(device)
    probe = {"cuda": _peak_cuda, "mps": _peak_mps, "cpu": _peak_cpu}[device.type]
    with probe(device) as peak:
        yield peak


@contextmanager
def _peak_cuda(device):
    peak = Peak("CUDA allocator: most bytes in live tensors, exact")
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield peak
    synchronize(device)
    peak.bytes = torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _peak_mps(device):
    peak = Peak("MPS driver: growth of what Metal reserved, in whole heaps")
    torch.mps.empty_cache()  # else the growth hides in what was reserved before
    before = torch.mps.driver_allocated_memory()
    yield peak
    synchronize(device)
    peak.bytes = max(0, torch.mps.driver_allocated_memory() - before)


@contextmanager
def _peak_cpu(device, every=0.0005):
    peak = Peak("resident set: growth of the process, sampled every 0.5 ms")
    process = psutil.Process()
    _return_freed_memory()  # else the growth hides in what was freed but kept
    before = process.memory_info().rss
    done = threading.Event()

    def sample():
        while True:
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)
            if done.wait(every):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _return_freed_memory():
    """Ask the C library to give freed pages back; only glibc has the call."""
    trim = (
        getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    )
    if trim is not None:
        trim(0)
