"""`python -m sparse_attn demo`: real runs of tiny settings, and what is told."""

import io
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import util

import pytest

from sparse_attn import __main__ as command
from sparse_attn import demo, demo_page, timing

TINY = demo.Settings(
    steps=2,
    fits=(2, 2),
    evaluations=2,
    windows=2,
    tokens=128,
    keep=80,
    lengths=(256, 320),
    timed_keep=128,
    samples=3,
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "cpu")


def screen(settings=TINY) -> list[str]:
    with redirect_stdout(io.StringIO()) as told:
        demo.run(settings)
    return told.getvalue().splitlines()


@pytest.fixture(scope="module")
def once() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_ATTN_DEVICE", "cpu")
        return screen()


def test_the_story_fits_one_screen_and_tells_what_was_run(once):
    lines = once
    assert len(lines) <= 26 and max(map(len, lines)) <= demo.WIDTH
    text = "\n".join(lines)
    assert "model 2, networks 2 + 2; published: 300, 400 + 600" in text
    assert "80 of 128" in text and "128 keys" in text and "320" in text
    assert len([line for line in lines if line.startswith("  So")]) == 5


def numbers(lines: list[str]) -> list[str]:
    """All of the first two parts, whose numbers are no timings."""
    text = "\n".join(lines[1:])
    return re.findall(r"\d+\.\d+", text[: text.index("3 The clock")])


def test_numbers_come_from_runs(once):
    first = numbers(once)
    assert first == numbers(screen()), "the same seeds"
    other = numbers(screen(replace(TINY, steps=3, keep=96)))
    assert len(other) == len(first)
    assert sum(a != b for a, b in zip(first, other, strict=True)) > len(first) / 2


def test_the_whole_text_kept_loses_nothing_to_full_attention():
    model, text = demo.gpt.load(demo.TEACHER)[0], demo.corpus.load()
    whole = replace(TINY, keep=128)
    found = demo.repaired(whole, model, text, lambda what, done: None)
    for row in found.values():
        assert all(one.logit_error < 1e-5 for one in row.values())


def test_a_verdict_follows_from_its_interval():
    assert demo_page.verdict(0.2, 0.1, "it").startswith("wins over it by 0.200")
    assert demo_page.verdict(-0.2, 0.1, "it").startswith("loses to it by 0.200")
    assert demo_page.verdict(0.05, 0.1, "it").startswith("is level with it")
    gain, half = demo_page.difference([2.0, 3.0, 4.0], [1.0, 2.5, 2.5])
    assert gain == pytest.approx(1.0) and half > gain  # t of 2 degrees is 4.3


def took(ms: float) -> timing.Timing:
    return timing.Timing(ms, ms, ms, ms, (ms, ms, ms))


def test_the_clock_names_the_lengths_that_win_lose_and_neither():
    found = {
        100: dict(dense=took(1e-3), none=took(2e-3), pooled=took(1e-3)),
        2000: dict(dense=took(4e-3), none=took(2e-3), pooled=took(4e-3)),
    }
    lines = demo_page.clock_lines(found, 64)
    assert "2 ms" in lines[2] and "0.50x" in lines[2] and "2.00x" in lines[3]
    assert lines[-2] == "  So with the rest dropped it wins at 2,000; loses at 100."
    assert lines[-1] == "  So with the rest pooled it is level at 100 and 2,000."


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(steps=0), "steps=0"),
        (dict(keep=513), "keep=513"),
        (dict(windows=1), "windows=1"),
        (dict(evaluations=1), "evaluations=1"),
    ],
)
def test_impossible_settings_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        demo.Settings(**wrong)


def test_without_the_book_the_missing_file_is_named(tmp_path, monkeypatch, capsys):
    missing = tmp_path / "teacher.safetensors"
    monkeypatch.setattr(demo.run, "__defaults__", (None, missing))
    assert command.main(["demo"]) == 1
    out, said = capsys.readouterr()
    assert str(missing) in said and "clone the repository" in said
    assert said.count("\n") == 1 and not out


def test_without_the_text_its_remedy_is_named(monkeypatch, capsys):
    demo.corpus.load.cache_clear()
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert command.main(["demo"]) == 1
    assert "pip install sympy" in capsys.readouterr().err
    demo.corpus.load.cache_clear()


def test_an_impossible_device_is_one_clear_line(monkeypatch, capsys):
    monkeypatch.setenv("SPARSE_ATTN_DEVICE", "tpu")
    assert command.main(["demo"]) == 1
    assert "'tpu'" in capsys.readouterr().err


def test_the_command_runs_the_demo(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(demo, "run", lambda: asked.append("demo"))
    monkeypatch.setattr(command, "report", lambda: asked.append("report"))
    assert command.main(["demo"]) == command.main([]) == 0
    assert asked == ["demo", "report"]


@pytest.mark.parametrize("wrong", [["dmeo"], ["--demo"], ["demo", "demo"]])
def test_an_unknown_argument_is_a_clear_error(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(wrong)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and wrong[-1] in said and "demo" in said


def test_help_names_the_demo_without_any_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "demo" in said and "SPARSE_ATTN_DEVICE" in said
