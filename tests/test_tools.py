"""The tools that run notebooks: one stable form, rerun only for a reason."""

import copy
import subprocess

import nbformat
import pytest
from nbformat import v4

from tools import notebooks, play
from tools.notebooks import ROOT, WIDGET_VIEW, execute, fingerprint, normalise

FIGURE = "from sparse_attn import figures\n\nfigures.block_share(512, 768)"
SLIDER = (
    "from sparse_attn.explore import explore\n\n"
    "explore(figures.block_share, T=[512, 1024], C=[768])"
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "01_small.ipynb"
    cells = [v4.new_markdown_cell("# Small")]
    cells += [v4.new_code_cell(code) for code in ("print(1 + 1)", FIGURE, SLIDER)]
    nbformat.write(v4.new_notebook(cells=cells), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "measure_ceilings", lambda _: Rates)
        return execute(path, device="cpu")


class Rates:
    matmul = 1.23456e11


def test_a_run_counts_its_cells_and_names_its_device(executed):
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert code[0].outputs[0].text == "2\n"
    about = executed.metadata["sparse_attn"]
    assert "cpu" in about["device"] and about["matmul"] == 1.23e11


def test_a_figure_hands_its_caption_and_alt_text_to_the_page(executed):
    cell = executed.cells[2]
    assert "10.0%" in cell.metadata["mystnb"]["figure"]["caption"]
    assert "S-curve" in cell.metadata["mystnb"]["image"]["alt"]


def test_a_stored_slider_has_frames_and_no_dead_widget(executed):
    (output,) = executed.cells[3].outputs
    assert WIDGET_VIEW not in output.data
    assert output.data["text/html"].count('"png"') == 2
    assert "widgets" not in executed.metadata


def test_normalising_twice_is_normalising_once(executed):
    again = copy.deepcopy(executed)
    normalise(again)
    again.metadata["sparse_attn"] = executed.metadata["sparse_attn"]
    assert again == executed


def test_code_changes_the_fingerprint_and_prose_does_not(executed):
    changed = copy.deepcopy(executed)
    changed.cells[0].source += " and new words"
    assert fingerprint(changed) == fingerprint(executed)
    changed.cells[1].source += "  # new"
    assert fingerprint(changed) != fingerprint(executed)


def test_an_unchanged_chapter_is_left_alone(executed, tmp_path, monkeypatch, capsys):
    path = tmp_path / "01_small.ipynb"
    nbformat.write(executed, path)
    before = path.read_bytes()
    monkeypatch.setattr("sys.argv", ["notebooks.py", str(path)])
    assert notebooks.main() == 0
    assert "up to date" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_help_lists_every_command_of_the_readme():
    told = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True)
    for target in ("book", "test", "lab", "mybook", "notebooks", "format", "clean"):
        assert f"make {target}" in told.stdout


def test_what_voila_serves_is_a_notebook_that_shows_the_dashboard():
    made = play.notebook()
    nbformat.validate(made)
    text, code = made.cells
    assert "\\" not in text.source
    names = {}
    *before, last = code.source.split("\n")
    exec("\n".join(before), names)
    assert isinstance(eval(last, names), names["playground"].live.Dashboard)
