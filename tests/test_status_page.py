"""The status page: what notebooks and results say of themselves, line by line."""

import json

import nbformat
import pytest
from nbformat import v4

from tools import status
from tools.notebooks import ROOT

LOOSE = {"tags": [status.LOOSE]}


def chapter(folder, name, opening="The notebook runs in 2 minutes or less.", **about):
    """A notebook of four cells, of which three have output and one is loose."""
    printed = [v4.new_output("stream", text="1\n")]
    cells = [v4.new_markdown_cell(f"# {name}\n\n{opening}")]
    cells += [v4.new_code_cell("1", outputs=printed) for _ in range(2)]
    cells += [v4.new_code_cell("1", outputs=printed, metadata=LOOSE)]
    cells += [v4.new_code_cell("x = 1")]
    known = dict(device="a CPU (cpu)", seconds=51, torch="2.13.0") | about
    stored = {key: value for key, value in known.items() if value is not None}
    notebook = v4.new_notebook(cells=cells, metadata={"sparse_attn": stored})
    nbformat.write(notebook, folder / name)


def test_each_chapter_has_its_line(tmp_path):
    chapter(tmp_path, "01_one.ipynb")
    chapter(tmp_path, "12_two.ipynb", "It runs in 1 minute or less.", seconds=90)
    table = status.chapter_tables(status.runs(tmp_path)).split("\n")
    assert table[0] == "Run on a CPU (cpu), PyTorch 2.13.0:"
    assert table[2:4] == [
        "| no. | chapter | seconds | promised | cells | compared strictly |",
        "| --: | --- | --: | --- | --: | --- |",
    ]
    assert table[4:6] == [
        "| 1 | [](01_one.ipynb) | 51 | 2 minutes | 4 | 2 of 3, 67% |",
        "| 12 | [](12_two.ipynb) | 90 | 1 minute | 4 | 2 of 3, 67% |",
    ]
    assert table[-1] == (
        "Together: 2.4 minutes for 8 cells, of whose 6 outputs 4 (67%) are compared "
        "strictly."
    )


def test_chapters_of_two_machines_stand_in_two_tables(tmp_path):
    chapter(tmp_path, "01_one.ipynb", python="3.12.1")
    chapter(tmp_path, "02_two.ipynb", device="a GPU (cuda)")
    found = status.runs(tmp_path)
    tables = status.chapter_tables(found)
    for place in ("a CPU (cpu), Python 3.12.1, PyTorch 2.13.0", "a GPU (cuda), PyTo"):
        assert f"Run on {place}" in tables
    assert tables.count("| no. |") == 2
    assert status.edition(found) == (
        "a CPU (cpu), Python 3.12.1, PyTorch 2.13.0; a GPU (cuda), PyTorch 2.13.0"
    )


def test_a_chapter_that_promises_nothing_says_so(tmp_path):
    chapter(tmp_path, "01_one.ipynb", "Before you start.")
    assert "| nothing |" in status.chapter_tables(status.runs(tmp_path))


@pytest.mark.parametrize("lost", status.STORED)
def test_a_chapter_without_metadata_is_named_with_what_to_do(tmp_path, lost):
    chapter(tmp_path, "01_one.ipynb", **{lost: None})
    with pytest.raises(ValueError, match=rf"01_one\.ipynb.*{lost}.*make notebooks"):
        status.runs(tmp_path)


def test_no_chapters_are_no_error(tmp_path):
    assert status.runs(tmp_path) == []
    assert status.edition([]) == "no device yet"
    assert "0 cells" in status.chapter_tables([])


def test_each_result_has_its_line(tmp_path):
    (tmp_path / "speed-one.json").write_text(json.dumps({"device": "a CPU"}))
    about = {"device": "a GPU", "torch": "2.13.0"}
    (tmp_path / "roofline-two.json").write_text(json.dumps(about))
    assert status.benchmark_table(tmp_path).split("\n")[2:] == [
        "| `roofline.py` | `roofline-two.json` | a GPU, PyTorch 2.13.0 |",
        "| `speed.py` | `speed-one.json` | a CPU |",
    ]


def test_a_result_without_a_device_is_named(tmp_path):
    (tmp_path / "speed-one.json").write_text("{}")
    with pytest.raises(ValueError, match=r"speed-one\.json names no device"):
        status.benchmark_table(tmp_path)


def test_the_book_itself_has_a_line_for_each_chapter_and_result():
    tables = status.chapter_tables(status.runs(ROOT / "book"))
    results = ROOT / "benchmarks" / "results"
    listed = status.benchmark_table(results)
    for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb"):
        assert f"[]({path.name})" in tables
    for path in results.glob("*.json"):
        assert f"`{path.name}`" in listed
        script = path.name.partition("-")[0]
        assert (ROOT / "benchmarks" / f"{script}.py").is_file()
