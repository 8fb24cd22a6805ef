"""`torchrun --nproc-per-node=4 -m sparse_attn.distributed`: every method, compared.

Knows the command line and the printed lines; leaves what is done to `trial`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import torch.distributed as dist

from sparse_attn.distributed.inputs import sized
from sparse_attn.distributed.settings import DRAWN, Settings
from sparse_attn.distributed.trial import set_up, trial


def lines(report: dict) -> list[str]:
    """The report as two lines of settings and one line for each method.

    Bytes are those of the rank that sends most: counted, and by the formula; the sign
    between them compares those of all ranks and kinds.
    """
    shape = "T={tokens}, H={heads}, Hkv={kv_heads}, D={head_dim}, {dtype}"
    shape += ", causal" if report["causal"] else ""
    kind = report["qkv"] if report["qkv"] in DRAWN else "given"
    chosen = "selected: {keep} keys in blocks of {block_k} for {block_q} queries; "
    chosen += f"rest={{rest}}; {kind}"
    found = [("{ranks} ranks, {backend} on {device}: " + shape), chosen]
    found = [line.format(**report) for line in found]
    for name, seconds in report["one process"].items():
        found.append(f"{'one process, ' + name:55} {seconds:20.4f} s")
    for name, one in report["methods"].items():
        both = one["sent"], one["formula"]  # Counters: a kind that is not there is 0
        sent, formula = (max(sum(kinds.values()) for kinds in bills) for bills in both)
        same = all(Counter(a) == Counter(b) for a, b in zip(*both, strict=True))
        found.append(
            f"{name:16}  error {one['error']:7.1e}  sent {sent:>11} B "
            f"{'=' if same else '≠'} {formula:>11} B {one['seconds']:8.4f} s"
        )
    return found


def parser() -> argparse.ArgumentParser:
    """One option for each field of `Settings`, and --out."""
    made = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node=N -m sparse_attn.distributed",
        description="Attention across ranks: every method, against one process. Beside "
        "each option stands its default; `Settings` explains them.",
    )
    kinds = {"int": int, "int | None": int, "str": str}
    for field in fields(Settings):
        kind = kinds.get(field.type)
        how = dict(type=kind) if kind else dict(action=argparse.BooleanOptionalAction)
        name = "--" + field.name.replace("_", "-")
        made.add_argument(name, default=field.default, help=f"{field.default}", **how)
    made.add_argument("--out", help="file that gets the report as JSON")
    return made


def main() -> int:
    given = vars(parser().parse_args())
    out = given.pop("out")
    if "LOCAL_RANK" not in os.environ:
        parser().error("no ranks: start this with torchrun, as the usage line shows")
    try:
        settings = sized(Settings(**given))
        settings.check(int(os.environ["WORLD_SIZE"]))
        report = trial(settings, set_up(settings.timeout))
    except (RuntimeError, ValueError) as error:
        said = str(error)
        said = (
            said if said.startswith("rank ") else f"rank {os.environ['RANK']}: {said}"
        )
        print(said, file=sys.stderr, flush=True)
        os._exit(1)  # at once: to leave a group that lacks a rank can take forever
    if dist.get_rank() == 0:
        print("\n".join(lines(report)), flush=True)
        if out:
            Path(out).write_text(json.dumps(report, indent=1) + "\n")
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
