"""`python -m sparse_attn`: what it prints, and how it says what is missing."""

import json
import subprocess
import sys

import pytest

from sparse_attn import __main__ as command
from sparse_attn import device, roofline


@pytest.fixture
def quick(monkeypatch):
    """The same report with a small copy and a small product."""
    monkeypatch.setattr(roofline, "COPY_BYTES", 2**16)
    monkeypatch.setattr(roofline, "MATMUL_SIDES", {"cpu": (16,)})
    monkeypatch.setattr(roofline, "caches", lambda _: {})
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")
    roofline.measure_ceilings.cache_clear()
    yield
    roofline.measure_ceilings.cache_clear()


def test_the_report_names_the_device_its_abilities_and_every_chapter(quick, capsys):
    assert command.main() == 0
    said = capsys.readouterr().out
    for part in (device.facts().name, "float32", "GFLOP/s", "B/s", "PyTorch"):
        assert part in said
    assert "01_attention_cost: at most about" in said


def test_an_impossible_device_is_one_clear_line(monkeypatch, capsys):
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "tpu")
    assert command.main() == 1
    said = capsys.readouterr().err
    assert "'tpu'" in said and "cpu" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", command.NEEDED)
def test_a_missing_library_is_named_with_its_remedy(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    assert command.main() == 1
    said = capsys.readouterr().err
    assert f"{name} is missing" in said and "requirements.txt" in said


def test_an_old_python_is_told_which_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 6, "final", 0))
    assert command.main() == 1
    assert "Python 3.11 or newer is needed, this is 3.9" in capsys.readouterr().err


def test_importing_the_package_imports_nothing_that_may_be_missing():
    code = "import sys, sparse_attn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_slower_device_is_promised_more_minutes_and_a_faster_one_no_fewer(tmp_path):
    about = {"device": "one", "matmul": 2e11, "seconds": 60}
    notebook = {"metadata": {"sparse_attn": about}}
    (tmp_path / "01_one.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "02_unrun.ipynb").write_text('{"metadata": {}}')
    (slow,) = command.chapter_lines(tmp_path, 1e11)
    (fast,) = command.chapter_lines(tmp_path, 1e15)
    assert "about 2.0 min here (1.0 min on one)" in slow
    assert "about 1.0 min here" in fast


def test_without_chapters_the_report_says_where_they_are(tmp_path):
    assert command.chapter_lines(tmp_path, 1e11) == [
        "no notebooks beside this package: clone the repository"
    ]
