"""Ranks started as processes of their own, so that a notebook can run them.

Knows torchrun's command line; leaves what the ranks do to `trial`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import psutil
from safetensors.torch import save_file

from sparse_attn.checks import check_counts
from sparse_attn.distributed.inputs import sized
from sparse_attn.distributed.settings import Settings

LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # enough for ranks on one machine
TAIL = 12  # lines that are shown of ranks that said nothing of their own


def launch(N: int, *, within: int = 300, threads: int = 1, **settings) -> dict:
    """Runs `python -m sparse_attn.distributed` in N processes; returns its report.

    settings: the fields of `Settings`, as tokens=4096; for qkv also three tensors, as a
    model's layer has them. within, threads: see `torchrun`.
    The report has "ranks", "backend", "device", the settings, "one process" (name ->
    seconds), "rate" (FLOP/s there, over all keys) and "methods": name -> "error" (the
    largest, against one process), "sent" and "formula" (bytes by kind, a dict for each
    rank) and "seconds".
    Raises ValueError for settings that do not fit, RuntimeError as `torchrun`.
    """
    known = {field.name for field in fields(Settings)}
    if not settings.keys() <= known:
        raise ValueError(f"settings={sorted(settings)}: choose from {sorted(known)}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        if not isinstance(settings.get("qkv", ""), str | Path):
            settings |= {"qkv": _saved(settings["qkv"], Path(folder))}
        settings |= {"qkv": str(settings.get("qkv", Settings.qkv))}
        sized(Settings(**settings)).check(N)  # its errors come before any process
        options = [_option(*item) for item in settings.items() if item[1] is not None]
        program = ["-m", "sparse_attn.distributed", *options, f"--out={out}"]
        torchrun(N, program, within=within, threads=threads)
        return json.loads(out.read_text())


def _saved(qkv, folder: Path) -> Path:
    """Where q, k and v now are; not held as arguments, which have no room for them."""
    if len(qkv) != 3:
        raise ValueError(f"qkv has {len(qkv)} tensors: q, k and v are needed")
    path = folder / "qkv.safetensors"
    tensors = zip("qkv", qkv, strict=True)
    save_file({x: y.detach().cpu().contiguous().clone() for x, y in tensors}, path)
    return path


def _option(name: str, value) -> str:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def torchrun(
    N: int, program: Sequence[str], *, within: int = 300, threads: int = 1
) -> str:
    """Runs `program`, a script or -m module with arguments, in N ranks of this machine;
    returns what they print.

    within: seconds after which all are ended; threads: of each rank on a CPU.
    Raises RuntimeError, with what the ranks said last, when one fails or time is up.
    """
    check_counts(N=N, within=within, threads=threads)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={N}", *program]
    code, said = _run(command, within, _environment(threads))
    if code == 0:
        return said
    ended = f"were ended after {within} s" if code is None else "failed"
    raise RuntimeError(f"{N} ranks {ended}\n" + "\n".join(_reasons(said)))


def _environment(threads: int) -> dict[str, str]:
    """Few threads for each rank, this package in reach, messages within the machine."""
    given = dict(os.environ)
    if sys.platform in LOOPBACK:
        given.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, given.get("PYTHONPATH"))))
    return given | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def _run(command: list[str], within: int, environment: dict) -> tuple[int | None, str]:
    """Exit status, None when time was up, and all that was printed."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command, env=environment, **pipes)
    try:
        said, _ = process.communicate(timeout=within)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        _end(process)
        return None, process.communicate()[0]
    except BaseException:  # an interrupted cell of a notebook leaves nothing running
        _end(process)
        raise


def _end(process: subprocess.Popen):
    """Ends torchrun and the ranks, which are in sessions of their own."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    for one in started:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


KILLED = re.compile(r"rank\s*: (\d+) .*\n\s*exitcode\s*: -(\d+)")


def _reasons(said: str) -> list[str]:
    """Who was killed, and what the others said; else the last lines.

    SIGTERM kills nobody: with it torchrun ends those that are left.
    """
    dead = {int(rank): int(by) for rank, by in KILLED.findall(said)}
    found = [f"rank {r} was killed by signal {by}" for r, by in sorted(dead.items())
             if by != signal.SIGTERM]  # fmt: skip
    shown = [line for line in said.splitlines() if line.strip()]
    found += [line for line in shown if re.match(r"rank \d+\b", line)]
    return found or shown[-TAIL:]
