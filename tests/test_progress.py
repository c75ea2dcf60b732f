import io
import sys

import pytest

from bpo_utils import progress, records
from bpo_utils.notebook import Place

ROW = {"test_set": "pooled", "answer_model": "mini-weak", "judge": "rubric", "n": 200, "counts": {}}
ROW |= {"net_win": 0.215, "ci_low": 0.1, "ci_high": 0.3304}
ROW["counts"] = {"A": 40, "B": 83, "C": 75, "invalid": 2}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "run", tmp_path / "figures")


def test_the_table_of_results(place, capsys):
    found = {"rows": [ROW, ROW | {"test_set": "dolly", "n": 1}], "controls": [ROW | {"rewriter": "identity"}]}
    records.write_json(place.run / "06_results/results.json", found)
    records.write_text(place.figures / "result.png", "")
    progress.results(place, "miniature", ["04_inference"])
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert "miniature" in told.splitlines()[1]
    assert ["mini-weak", "rubric", "200", "20.0", "41.5", "37.5", "+21.5", "[+10.0,", "+33.0]", "2"] in lines
    assert lines.index(["Controls"]) < lines.index(
        ["identity", "mini-weak", "rubric", "200", "20.0", "41.5", "37.5", "+21.5", "[+10.0,", "+33.0]", "2"]
    )
    assert "Not up to date: 04_inference" in told
    assert lines[-2:] == [
        ["figure", str(place.figures / "result.png")],
        ["results", str(place.run / "06_results/results.json")],
    ]


def test_results_that_cannot_be_shown(place, capsys):
    progress.results(place, "miniature", [])
    assert capsys.readouterr().out == ""
    records.write_json(place.run / "06_results/results.json", {"rows": [{"test_set": "pooled"}]})
    with pytest.raises(progress.Unreadable, match=r"results.json cannot be shown .*KeyError"):
        progress.results(place, "miniature", [])


def test_durations():
    assert [progress.duration(s) for s in (0.04, 9.96, 41.2, 59.6, 125)] == [
        "0.0 s",
        "10 s",
        "41 s",
        "1 min 00 s",
        "2 min 05 s",
    ]


def test_elapsed_time_only_on_a_terminal(monkeypatch, capsys):
    with progress.elapsed("03_x"):
        pass
    assert capsys.readouterr().out == ""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    with progress.elapsed("03_x"):
        pass
    assert screen.getvalue().startswith("\r03_x  running  0.0 s") and screen.getvalue().endswith("\r\x1b[2K")


def test_what_was_written(place):
    for name in ("a", "b"):
        records.write_text(place.run / "03_training/model" / name, "")
    records.write_text(place.run / "03_training/log.jsonl", "")
    told = progress.wrote(("03_training/model/", "03_training/log.jsonl"), place)
    assert told == "wrote 03_training/model (2 files), 03_training/log.jsonl"
    assert progress.wrote((), place) == ""
