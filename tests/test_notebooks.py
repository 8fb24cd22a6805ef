"""The stored chapters: one clean run each, honest in form, and nbval really bites."""

import copy
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbval.plugin import IPyNbCell, get_sanitize_patterns, nocolors

from tools.notebooks import ROOT, chapters, normalise

CHAPTERS = chapters()
LOOSE = "nbval-ignore-output"
COLUMNS, LINES = 79, 16
NOT_COMPARED = (  # what nbval leaves out by itself
    "metadata", "traceback", "prompt_number", "output_type", "name", "execution_count",
    "application/vnd.jupyter.widget-view+json", "image/png", "image/jpeg",
)  # fmt: skip
PATHS = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|Users|opt|usr)/[\w.-]+")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_loose(cell):
    return LOOSE in cell.metadata.get("tags", [])


def test_there_are_chapters():
    assert CHAPTERS


@each_chapter
def test_a_chapter_is_one_clean_run_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds, cell.source
        streams = {output.name for output in cell.outputs if "name" in output}
        assert "stderr" not in streams, cell.source


@each_chapter
def test_at_least_60_percent_of_the_outputs_are_compared_strictly(path):
    shown = [cell for cell in code_cells(path) if cell.outputs]
    strict = [cell for cell in shown if not is_loose(cell)]
    assert len(strict) >= 0.6 * len(shown), f"{len(strict)} of {len(shown)}"


@each_chapter
def test_cells_are_small_and_narrow(path):
    for cell in code_cells(path):
        lines = cell.source.split("\n")
        assert len(lines) <= LINES, cell.source
        assert max(map(len, lines)) <= COLUMNS, cell.source


@each_chapter
def test_printed_lines_fit_the_page(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            for line in output.get("text", "").split("\n"):
                assert len(line) <= COLUMNS, line


@each_chapter
def test_no_chapter_names_a_path_of_some_machine(path):
    found = PATHS.search(path.read_text())
    assert found is None, found


@each_chapter
def test_every_figure_has_an_alt_text_and_a_caption_of_its_own_run(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                page = cell.metadata["mystnb"]
                assert len(page["image"]["alt"]) > 30
                assert page["figure"]["caption"] == output.data["text/plain"]


@each_chapter
def test_the_minutes_to_read_follow_from_the_length(path):
    """140 words a minute, predictions included, and two seconds for a line of code."""
    cells = nbformat.read(path, as_version=4).cells
    stated = int(re.search(r"\*\*Time\.\*\* (\d+) minutes to read", cells[0].source)[1])
    heads = ["## Exercises" in cell.source for cell in cells]
    text = {"markdown": "", "code": ""}
    for cell in cells[: heads.index(True)]:
        text[cell.cell_type] += cell.source + "\n"
    words = len(re.findall(r"\w[\w'-]*", text["markdown"]))
    lines = sum(bool(line.strip()) for line in text["code"].split("\n"))
    needed = words / 140 + lines / 30
    assert abs(stated - needed) <= 0.25 * needed, f"{needed:.1f} minutes"


@each_chapter
def test_a_chapter_keeps_the_minutes_it_promises(path):
    notebook = nbformat.read(path, as_version=4)
    opening = "\n".join(cell.source for cell in notebook.cells[:2])
    promised = int(re.search(r"runs in (\d+) minutes? or less", opening)[1])
    assert promised <= 2
    assert notebook.metadata["sparse_attn"]["seconds"] <= 60 * promised


@each_chapter
def test_normalising_a_stored_chapter_changes_nothing(path):
    notebook = nbformat.read(path, as_version=4)
    again = copy.deepcopy(notebook)
    normalise(again)
    again.metadata["sparse_attn"] = notebook.metadata["sparse_attn"]
    assert again == notebook


class Comparison(IPyNbCell):
    """nbval's own comparison of outputs, without its kernel and its report."""

    def __init__(self):
        rules = get_sanitize_patterns((ROOT / "tests" / "nbval.cfg").read_text())
        self.parent = SimpleNamespace(
            sanitize_patterns=dict(rules), skip_compare=NOT_COMPARED
        )
        self.colors = nocolors

    def format_output_compare(self, key, left, right):
        pass


def with_one_digit_flipped(outputs):
    """The same outputs, one digit of the first text that has one raised by one."""
    changed = copy.deepcopy(outputs)
    for output in changed:
        holder, key = (output, "text") if "text" in output else (None, None)
        if "data" in output and "text/plain" in output.data:
            holder, key = output.data, "text/plain"
        digit = re.search(r"\d", holder[key]) if holder else None
        if digit:
            raised = str((int(digit[0]) + 1) % 10)
            text = holder[key]
            holder[key] = text[: digit.start()] + raised + text[digit.end() :]
            return changed
    return None


@each_chapter
def test_a_flipped_digit_in_any_strict_output_is_a_difference(path):
    nbval, flipped = Comparison.__new__(Comparison), 0
    Comparison.__init__(nbval)
    for cell in code_cells(path):
        if cell.outputs and not is_loose(cell):
            assert nbval.compare_outputs(cell.outputs, cell.outputs), cell.source
            changed = with_one_digit_flipped(cell.outputs)
            if changed:
                assert not nbval.compare_outputs(cell.outputs, changed), cell.source
                flipped += 1
    assert flipped >= 5


def run_nbval(path):
    rules = ROOT / "tests" / "nbval.cfg"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", rules]
    command += [path, "--rootdir", path.parent]
    # In CI pytest explains an assertion at greater length, and in other lines.
    quiet = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    return subprocess.run(command, capture_output=True, text=True, env=quiet)


def only_difference(report):
    """The one line that nbval computed, and the one it had expected instead."""
    told = report.partition("mismatch")[2]
    found = [re.findall(rf"^  {re.escape(sign)} (.*)$", told, re.M) for sign in "-+"]
    assert [len(lines) for lines in found] == [1, 1], report
    return found[0][0], found[1][0]


@each_chapter
def test_nbval_finds_the_flipped_digit_in_an_opening_and_nothing_else(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    strict = [
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.outputs and not is_loose(cell)
    ]
    notebook.cells = notebook.cells[: strict[0] + 1]
    notebook.cells[-1].outputs = with_one_digit_flipped(notebook.cells[-1].outputs)
    nbformat.write(notebook, tmp_path / "flipped.ipynb")
    lying = run_nbval(tmp_path / "flipped.ipynb")
    assert lying.returncode == 1, lying.stdout
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    passed = f", {cells - 1} passed" if cells > 1 else ""
    assert f"1 failed{passed} in" in lying.stdout, lying.stdout
    computed, expected = only_difference(lying.stdout)
    assert sum(a != b for a, b in zip(computed, expected, strict=True)) == 1


@each_chapter
def test_no_paragraph_is_a_word_in_capitals_that_waits_for_its_text(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            waiting = re.findall(r"^[A-Z][A-Z0-9_-]{2,}$", cell.source, re.MULTILINE)
            assert not waiting, waiting
