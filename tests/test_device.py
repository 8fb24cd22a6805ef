"""Choosing a device, describing it, and its peak memory; other backends are faked."""

import subprocess
import threading
from types import SimpleNamespace

import psutil
import pytest
import torch

from sparse_attn import device

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))
MB = 10**6


@pytest.fixture
def backends(monkeypatch):
    """A function that sets which backends there are; no wish in the environment."""
    monkeypatch.delenv("SPARSE_ATTN_DEVICE", raising=False)

    def there_are(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return there_are


@pytest.mark.parametrize(
    "kinds, best", [((), "cpu"), (("mps",), "mps"), (("mps", "cuda"), "cuda")]
)
def test_the_fastest_backend_is_picked(backends, kinds, best):
    backends(*kinds)
    assert device.pick_device() == torch.device(best)
    assert device.available_devices()[0] == best
    assert device.available_devices()[-1] == "cpu"


def test_the_environment_overrides_the_order(backends, monkeypatch):
    backends("cuda", "mps")
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "mps")
    assert device.pick_device() == MPS


def test_the_argument_overrides_the_environment(backends, monkeypatch):
    backends("cuda", "mps")
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "mps")
    assert device.pick_device("cuda:1") == torch.device("cuda:1")


def test_an_empty_variable_is_no_wish(backends, monkeypatch):
    backends("mps")
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "")
    assert device.pick_device() == MPS


def test_a_device_that_is_not_here_is_an_error_that_lists_what_is(
    backends, monkeypatch
):
    backends("mps")
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cuda")
    with pytest.raises(ValueError, match=r"'cuda'.*\['mps', 'cpu'\]"):
        device.pick_device()


def test_a_cpu_states_its_name_threads_and_memory():
    facts = device.facts(CPU)
    assert facts.kind == "cpu"
    assert facts.units == f"{torch.get_num_threads()} threads"
    assert facts.memory == psutil.virtual_memory().total
    assert facts.name and facts.name == facts.name.strip()


def test_facts_read_as_one_line():
    facts = device.Facts("cuda", "Some GPU", "132 SMs", 80 * 10**9)
    assert str(facts) == "Some GPU (cuda, 132 SMs, 80 GB)"


def test_a_gpu_states_its_multiprocessors(backends, monkeypatch):
    backends("cuda")
    properties = SimpleNamespace(name="GPU", multi_processor_count=7, total_memory=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert device.facts(CUDA) == device.Facts("cuda", "GPU", "7 SMs", 9)


def test_an_apple_device_is_named_by_its_system(backends, monkeypatch):
    backends("mps")
    told = SimpleNamespace(stdout="Apple M9\n")
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    facts = device.facts(MPS)
    assert (facts.kind, facts.name, facts.units) == (
        "mps",
        "Apple M9",
        "unified memory",
    )


def test_another_system_falls_back_to_what_python_knows(monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Plan 9")
    monkeypatch.setattr(device.platform, "processor", lambda: "")
    monkeypatch.setattr(device.platform, "machine", lambda: "mips")
    assert device.facts(CPU).name == "mips"


def test_a_cpu_multiplies_floats_but_no_truth_values():
    assert device.supports(torch.float32, CPU)
    assert device.supports(torch.float64, CPU)
    assert not device.supports(torch.bool, CPU)


@pytest.mark.parametrize("refusal", [TypeError, RuntimeError])
def test_a_dtype_that_a_backend_refuses_is_not_supported(monkeypatch, refusal):
    def refuse(*_, **__):
        raise refusal("Cannot convert a MPS Tensor to float64")

    monkeypatch.setattr(torch, "ones", refuse)
    assert not device.supports(torch.float64, MPS)


def test_peak_memory_sees_what_was_freed_again():
    with device.peak_memory(CPU) as peak:
        x = torch.ones(50 * MB, dtype=torch.float32)
        x.sum()  # long enough for a sample, however busy the machine
        del x
    assert 190 * MB < peak.bytes < 260 * MB
    assert "resident set" in peak.meaning


def test_peak_memory_counts_from_what_was_there_before():
    before = torch.ones(50 * MB, dtype=torch.float32)
    with device.peak_memory(CPU) as peak:
        before.add_(1)
    assert peak.bytes < before.nbytes / 2


def test_a_failing_call_leaves_no_sampling_thread():
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="mine"), device.peak_memory(CPU):
        raise RuntimeError("mine")
    assert threading.active_count() == threads


class Allocator:
    """Stands in for torch.cuda and torch.mps: bytes in use, and what was asked."""

    def __init__(self):
        self.used = self.most = 300
        self.reserved = 1000
        self.asked = []

    def use(self, n):
        self.used += n
        self.most = max(self.most, self.used)
        self.reserved = max(self.reserved, self.used)

    def synchronize(self, *where):
        self.asked.append(("synchronize", *where))

    def reset_peak_memory_stats(self, _):
        self.asked.append(("reset",))
        self.most = self.used

    def memory_allocated(self, _):
        return self.used

    def max_memory_allocated(self, _):
        self.asked.append(("read",))
        return self.most

    def empty_cache(self):
        self.reserved = self.used

    def driver_allocated_memory(self):
        self.asked.append(("read",))
        return self.reserved


CALLS = {
    "cuda": (
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "max_memory_allocated",
    ),
    "mps": ("synchronize", "empty_cache", "driver_allocated_memory"),
}


@pytest.fixture
def allocator(backends, monkeypatch):
    backends("cuda", "mps")
    fake = Allocator()
    for kind, names in CALLS.items():
        for name in names:
            monkeypatch.setattr(getattr(torch, kind), name, getattr(fake, name))
    return fake


def test_peak_memory_on_cuda_is_the_allocators_own(allocator):
    allocator.use(500)  # an older peak, which must not count
    allocator.use(-500)
    with device.peak_memory(CUDA) as peak:
        allocator.use(70)
        allocator.use(-60)
    assert peak.bytes == 70
    assert "CUDA allocator" in peak.meaning


def test_cuda_is_waited_for_before_its_peak_is_reset_and_read(allocator):
    with device.peak_memory(CUDA):
        pass
    wait = ("synchronize", CUDA)
    assert allocator.asked == [wait, ("reset",), wait, ("read",)]


def test_peak_memory_on_mps_is_the_growth_of_what_metal_reserved(allocator):
    with device.peak_memory(MPS) as peak:
        allocator.use(70)
        allocator.use(-60)
    assert peak.bytes == 70
    assert "MPS driver" in peak.meaning


def test_mps_is_waited_for_before_its_memory_is_read(allocator):
    with device.peak_memory(MPS):
        allocator.asked.clear()
    assert allocator.asked == [("synchronize",), ("read",)]


def test_synchronize_waits_for_the_device_it_is_given(allocator):
    for where in (CPU, CUDA, MPS):
        device.synchronize(where)
    assert allocator.asked == [("synchronize", CUDA), ("synchronize",)]


def test_a_cpu_lists_its_caches_and_not_those_of_instructions(tmp_path):
    def index(i, level, kind, size):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")

    index(0, 1, "Data", "32K")
    index(1, 1, "Instruction", "64K")
    index(2, 2, "Unified", "1024K")
    index(3, 3, "Unified", "33000000")  # a system that writes it otherwise
    (tmp_path / "index4").mkdir()  # and tells nothing here
    expected = {"L1": 2**15, "L2": 2**20, "L3": 33_000_000 * 1024}
    assert device._linux_caches(tmp_path) == expected
    assert device._linux_caches(tmp_path / "none") == {}


def test_a_mac_lists_its_caches_as_far_as_it_knows(backends, monkeypatch):
    backends("mps")
    sizes = {"hw.perflevel0.l1dcachesize": "131072", "hw.perflevel0.l2cachesize": ""}
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device, "_sysctl", sizes.get)
    assert device.caches(MPS) == {"L1": 131_072}


def test_a_gpu_lists_what_an_sm_and_what_all_share(backends, monkeypatch):
    backends("cuda")
    told = SimpleNamespace(shared_memory_per_multiprocessor=9, L2_cache_size=70)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    assert device.caches(CUDA) == {"L1": 9, "L2": 70}


def test_another_system_tells_nothing_of_its_caches(monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Plan 9")
    assert device.caches(CPU) == {}
