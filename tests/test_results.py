"""Stored results: found by their question, for every device that has answered."""

import json

import pytest

from sparse_attn import results


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Results of two devices, in a folder of their own."""
    for device in ("b-machine", "a-machine"):
        path = tmp_path / f"speed-{device}.json"
        path.write_text(json.dumps({"device": device, "runs": {}}))
    monkeypatch.setattr(results, "HOME", tmp_path)
    return tmp_path


def test_results_come_in_the_order_of_their_devices(stored):
    found = results.load_all("speed")
    assert [one["device"] for one in found] == ["a-machine", "b-machine"]
    assert results.load("speed") == found[0]


def test_a_question_that_nothing_answers_says_which_there_are(stored):
    with pytest.raises(FileNotFoundError, match=r"'sped'.*\['speed'\]"):
        results.load("sped")


def test_a_mean_is_over_the_runs_of_one_name(stored):
    runs = {"a | seed 0": {"x": {"y": 1.0}}, "a | seed 1": {"x": {"y": 2.0}}, "ab": 9}
    made = {"device": "a", "runs": runs}
    (stored / "topk-a.json").write_text(json.dumps(made))
    assert results.mean("topk", "a", "x", "y") == 1.5
    with pytest.raises(ValueError, match="name='b': topk has no such run"):
        results.mean("topk", "b")


def test_the_books_own_results_name_their_device():
    for path in results.HOME.glob("*.json"):
        for one in results.load_all(path.name.split("-")[0]):
            assert one["device"], path.name
