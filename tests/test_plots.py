import itertools
import json
import subprocess
import sys
import warnings

import pytest
import yaml
from fontTools.ttLib import TTFont
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bpo_utils import bars, paths, plots
from bpo_utils.records import TEST_SETS


def row(test_set, model, judge, letters, **more):
    counts = dict(zip(("A", "B", "C", "invalid"), letters, strict=True))
    n = sum(letters)
    net = (counts["B"] - counts["A"]) / n
    numbers = {"n": n, "counts": counts, "net_win": net, "ci_low": net - 0.1, "ci_high": net + 0.1}
    return {"test_set": test_set, "answer_model": model, "judge": judge, **more, **numbers}


def results(models=("mini-weak", "mini-strong"), sets=(*TEST_SETS, "pooled")):
    rows = [row(name, model, judge, (20, 50, 22, 8)) for name in sets for model in models for judge in ("r", "p")]
    controls = [row("pooled", "mini-weak", "r", (0, 0, 100, 0), rewriter=name) for name in ("identity", "drop_words")]
    return {"label": "miniature", "rows": rows, "controls": controls}


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """A missing glyph is only a warning in matplotlib; here it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_figure_is_drawn_without_a_missing_glyph(tmp_path, language):
    log = [{"step": step, "loss": 3 / step} for step in range(1, 60)] + [{"step": 59, "eval_loss": 0.4}]
    written = [
        plots.result_figure(results(sets=("vicuna", "pooled")), tmp_path / "result", language),
        plots.controls_figure(results(), tmp_path / "controls", language),
        plots.paper_table_figure("T4", tmp_path / "T4", language),
        plots.loss_figure(log, tmp_path / "loss", language, "miniature"),
        plots.growth_figure([0.5, 1, 1.3, 1.4, 9], tmp_path / "growth", language, "miniature"),
    ]
    assert [path.suffix for path in written[0]] == [".png", ".pdf", ".svg", ".json"]
    assert all(path.stat().st_size > 500 for paths_of_one in written for path in paths_of_one)
    assert not list(tmp_path.glob(".*"))
    word = {"en": "miniature", "zh": "微缩"}[language]
    for name in ("result", "controls", "loss", "growth"):
        assert word in json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["title"]


def test_font_has_every_character_of_the_labels():
    entries = yaml.safe_load((paths.PACKAGE / "labels.yaml").read_text(encoding="utf-8"))
    assert all(set(entry) == {"en", "zh"} for entry in entries.values())
    used = {character for entry in entries.values() for text in entry.values() for character in text} - {"\n"}
    missing = {character for character in used if ord(character) not in TTFont(paths.FONT).getBestCmap()}
    assert not missing, f"add to fonts/characters.txt and make the font again: {''.join(sorted(missing))}"


def test_font_is_small_licensed_and_as_described():
    font = TTFont(paths.FONT)
    assert paths.FONT.stat().st_size <= 250_000 and font["name"].getDebugName(1) == plots.FAMILY
    licence = (paths.FONT.parent / "OFL.txt").read_text(encoding="utf-8")
    assert "Copyright 2014-2021 Adobe" in licence and "SIL OPEN FONT LICENSE Version 1.1" in licence
    listed = (paths.FONT.parent / "characters.txt").read_text(encoding="utf-8").replace("\n", "")
    assert {ord(character) for character in listed} <= font.getBestCmap().keys()


def test_json_has_exactly_the_numbers(tmp_path):
    given = results()
    plots.result_figure(given, tmp_path / "result")
    panels = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["panels"]
    assert [panel["title"] for panel in panels] == [
        "BPO-test  (n = 100)",
        "Dolly  (n = 100)",
        "Vicuna  (n = 100)",
        "Self-Instruct  (n = 100)",
        "All four sets pooled  (n = 100)",
    ]
    drawn = [bar for panel in panels for bar in panel["bars"]]
    assert [{key: bar[key] for key in given["rows"][0]} for bar in drawn] == given["rows"]
    assert all(sum(bar["percent"].values()) == pytest.approx(100) for bar in drawn)
    assert list(drawn[0]["percent"].items()) == [("B", 50), ("C", 22), ("A", 20), ("invalid", 8)]


def test_judges_of_one_model_stand_together_whatever_order_the_verdicts_came_in(tmp_path):
    given = results(sets=("vicuna", "pooled"))
    given["rows"].sort(key=lambda row: row["judge"])
    plots.result_figure(given, tmp_path / "result")
    for panel in json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["panels"]:
        groups = [bar["group"] for bar in panel["bars"]]
        assert groups == sorted(groups, reverse=True)  # mini-weak before mini-strong, each in one piece


def test_drawing_twice_gives_the_same_bytes(tmp_path):
    given = results(sets=("vicuna",))
    first = [path.read_bytes() for path in plots.result_figure(given, tmp_path / "a", "zh")]
    second = [path.read_bytes() for path in plots.result_figure(given, tmp_path / "b", "zh")]
    assert first == second
    assert b"CreationDate" not in first[1] and b"/Type0" in first[1] and b"matplotlib" not in first[0]


def drawn_on_canvas(tmp_path, monkeypatch, given):
    """The matplotlib figure of a result, as drawn."""
    kept = []
    monkeypatch.setattr(bars, "draw", lambda *arguments, draw=bars.draw: (draw(*arguments), kept.append(arguments[0])))
    plots.result_figure(given, tmp_path / "seen")
    return kept[0]


def test_dollars_in_a_name_are_no_formula(tmp_path):
    written = plots.result_figure(results(models=("at $0.15, then $0.60",)), tmp_path / "dollars")
    (drawn,) = (path.read_text(encoding="utf-8") for path in written if path.suffix == ".svg")
    assert "at $0.15, then $0.60" in drawn and "Oblique" not in drawn  # a formula's letters are slanted


def test_nothing_overlaps_or_leaves_the_page(tmp_path, monkeypatch):
    given = results(models=("Llama-2-7b-chat-hf", "gpt-3.5-turbo-0125"))
    figure = drawn_on_canvas(tmp_path, monkeypatch, given)
    FigureCanvasAgg(figure).draw()  # puts the legend and the tick labels in their places
    texts = figure.texts + figure.legends[0].get_texts()
    for axes in figure.axes:
        shown = axes.get_xticklabels() if axes.xaxis.get_tick_params()["labelbottom"] else []
        texts += [*axes.texts, *axes.get_yticklabels(), *shown, axes.xaxis.label]
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts if text.get_text()]
    assert len(boxes) > 150
    for name, box in boxes:
        assert figure.bbox.count_contains(box.corners()) == 4, f"{name!r} leaves the page"
    for (one, first), (two, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), f"{one!r} covers {two!r}"
    for share, net in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        assert share.bbox.x1 < net.bbox.x0
        assert all(text.get_window_extent().x0 > net.bbox.x1 for text in net.texts)


def test_counts_invalid_and_hatching_are_visible(tmp_path, monkeypatch):
    figure = drawn_on_canvas(tmp_path, monkeypatch, results(models=("m",), sets=("vicuna",)))
    share, net = figure.axes
    assert [text.get_text() for text in share.texts[:8]] == ["50", "50", "22", "22", "20", "20", "8", "8"]
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in share.patches}
    assert len(looks) == 4 and len({hatch for _, hatch in looks}) == 4
    assert [patch.get_width() for patch in share.patches[::2]] == [50, 22, 20, 8]
    assert {"+30.0", "[+20.0, +40.0]"} <= {text.get_text() for text in net.texts}


def test_small_segments_have_no_number(tmp_path, monkeypatch):
    given = {"label": "x", "rows": [row("vicuna", "m", "j", (3, 90, 4, 3))]}
    share = drawn_on_canvas(tmp_path, monkeypatch, given).axes[0]
    assert [text.get_text() for text in share.texts if text.get_text().isdigit()] == ["90", "4"]
    assert [patch.get_width() for patch in share.patches] == [90, 4, 3, 3]


def test_paper_tables_have_the_letters_of_the_course(tmp_path):
    plots.paper_table_figure("T3", tmp_path / "T3")
    panels = json.loads((tmp_path / "T3.json").read_text(encoding="utf-8"))["panels"]
    vicuna = panels[list(TEST_SETS).index("vicuna")]["bars"][0]
    assert vicuna["name"] == "gpt-3.5-turbo"
    assert vicuna["percent"] == {"B": 60.0, "C": 8.7, "A": 31.3, "invalid": 0.0}
    assert vicuna["net_win"] == pytest.approx(0.287)
    assert [bar["net_win"] for bar in panels[-1]["bars"]] == pytest.approx([0.22, 0.101, 0.129, 0.088, 0.205])


def test_published_means_follow_from_the_published_shares():
    rows = [row for number in range(3, 13) for row in plots.paper_rows(f"T{number}")]
    assert len(rows) == 70
    for one in rows:
        mean = sum(one[f"{name}_a"] - one[f"{name}_b"] for name in ("vic", "si", "dol", "bpo")) / 4
        assert mean == pytest.approx(one["dwr_published"], abs=0.06), one
    assert plots.paper_rows("T1")[-1]["kept_n"] == 14395
    assert plots.paper_rows("T8")[0]["vic_tie"] is None
    with pytest.raises(ValueError, match="no published table 'T13'"):
        plots.paper_rows("T13")


def test_wrong_language_table_and_empty_data_are_errors(tmp_path):
    with pytest.raises(ValueError, match="language 'fr'; there are en, zh"):
        plots.result_figure(results(), tmp_path / "x", "fr")
    with pytest.raises(ValueError, match="only T3 and T4"):
        plots.paper_table_figure("T5", tmp_path / "x")
    with pytest.raises(ValueError, match="no rows"):
        plots.result_figure({"label": "x", "rows": []}, tmp_path / "x")
    with pytest.raises(ValueError, match="has a loss"):
        plots.loss_figure([{"step": 1}], tmp_path / "x")
    with pytest.raises(ValueError, match="above zero"):
        plots.growth_figure([1.0, 0.0], tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_no_global_state(tmp_path):
    program = """
import pathlib, sys
import matplotlib
from bpo_utils import plots

def state():  # without the backend: asking for it makes matplotlib choose one and load pyplot
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}

before = state()
plots.growth_figure([1.0, 2.0], pathlib.Path(sys.argv[1]) / "growth")
assert state() == before, "rcParams changed"
assert "matplotlib.pyplot" not in sys.modules, "pyplot was loaded"
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=paths.ROOT)
