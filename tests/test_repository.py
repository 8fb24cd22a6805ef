"""The repository speaks of itself alone, and its modules stay small."""

import re
import subprocess

import pytest

from tools.notebooks import ROOT

TEXT = {".py", ".md", ".yml", ".toml", ".txt", ".cfg", ".json", ".css", ".js", ".bib"}
HOMES = ("home", "root", "work", "farm", "tmp", "Users")
PATH = re.compile(rf"(?<![\w./-])/(?:{'|'.join(HOMES)})/[\w.-]+")
MODULE_LINES = 260


def tracked():
    """Files of this repository, as git lists them."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\n") if name]


def test_no_file_names_a_path_of_some_machine():
    for path in tracked():
        if path.suffix in TEXT and path.exists():
            found = PATH.search(path.read_text())
            assert found is None, f"{path.name}: {found and found[0]}"


@pytest.mark.parametrize("place", ["sparse_attn", "tools", "benchmarks"])
def test_a_module_is_one_idea_of_readable_length(place):
    for path in (ROOT / place).rglob("*.py"):
        lines = len(path.read_text().split("\n"))
        assert lines <= MODULE_LINES, f"{path.name} has {lines} lines"


def test_pages_have_no_placeholders():
    for path in (ROOT / "book").glob("*.[mi][dp]*"):
        for word in ("TODO", "FIXME", "lorem", "example.com", "yourusername"):
            assert word not in path.read_text(), f"{path.name}: {word}"


def test_only_the_timer_reads_a_clock():
    clocks = re.compile(r"perf_counter|time\.time\(|monotonic\(|process_time")
    for place in ("sparse_attn", "tools", "benchmarks"):
        for path in (ROOT / place).rglob("*.py"):
            if path.name != "timing.py":
                assert not clocks.search(path.read_text()), path.name
