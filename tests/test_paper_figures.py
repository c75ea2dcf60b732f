import json
import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bpo_utils import paper_figures, plots, published_tables
from bpo_utils.records import TEST_SETS

# method names in the tables of what Figure 1 calls them
IN_TABLES = [
    ("T3", "gpt-3.5-turbo", "BPO", "ori"),
    ("T3", "claude-2", "BPO", "ori"),
    ("T4", "llama-2-chat", "13B+BPO", "70B"),
    ("T5", "vicuna-13b-v1.3", "BPO", "PPO"),
    ("T5", "vicuna-13b-v1.3", "BPO", "DPO"),
    ("T5", "vicuna-13b-v1.3", "BPO+DPO", "DPO"),
]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """A missing glyph is only a warning in matplotlib; here it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_figure1_shows_the_vicuna_cells_of_the_tables():
    rows = paper_figures.figure1_rows()
    assert len(rows) == 6
    for row, (table, *names) in zip(rows, IN_TABLES, strict=True):
        cell = published_tables.find(table, *names)
        assert (row["a_win"], row["tie"], row["b_win"]) == (cell["vic_a"], cell["vic_tie"], cell["vic_b"])
        assert row["equals_table"] == table
        assert row["printed_delta"] == pytest.approx(row["a_win"] - row["b_win"])


def test_digits_that_occur_twice_by_coincidence_belong_to_other_comparisons():
    """8.8 and 10.1 are printed in Figure 1 and are also the means of claude-2 and gpt-4 in Table 3."""
    deltas = {row["printed_delta"]: row["a"] for row in paper_figures.figure1_rows()}
    means = {row["dwr_published"]: row["base"] for row in plots.paper_rows("T3")}
    assert {one: (deltas[one], means[one]) for one in deltas.keys() & means.keys()} == {
        8.8: ("vicuna-13b+BPO", "claude-2"),
        10.1: ("vicuna-13b+BPO", "gpt-4"),
    }


def test_figure7_follows_from_tables_4_and_9():
    rows = paper_figures.figure7_rows()
    assert len(rows) == 2 * 3 * 5
    for row in rows:
        table = {"gpt-4": "T4", "claude-v1.3": "T9"}[row["judge"]]
        cell = published_tables.find(table, "llama-2-chat", f"{row['size']}+BPO", "70B")
        assert cell["judge"] == row["judge"]
        sets = TEST_SETS if row["test_set"] == "mean" else [row["test_set"]]
        expected = sum(published_tables.net(cell, name) for name in sets) / len(sets)
        assert 100 * row["net_win"] == pytest.approx(expected, abs=0.006)


def test_intervals_are_those_of_the_tables_figures(tmp_path):
    plots.paper_table_figure("T4", tmp_path / "T4")
    panels = json.loads((tmp_path / "T4.json").read_text(encoding="utf-8"))["panels"]
    drawn = {"mean": panels[-1], **dict(zip(TEST_SETS, panels, strict=False))}
    bars = {name: {bar["name"]: bar for bar in panel["bars"]} for name, panel in drawn.items()}
    for row in paper_figures.figure7_rows():
        if row["judge"] == "gpt-4":
            bar = bars[row["test_set"]][f"{row['size']}+BPO : 70B"]
            within = 0.002 if row["test_set"] == "mean" else 1e-4  # there the error is rounded to a tenth of a point
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((bar["ci_low"], bar["ci_high"]), abs=within)


def test_claudes_intervals_follow_from_table_9():
    shares = published_tables.find("T9", "llama-2-chat", "7B+BPO", "70B")
    (row,) = (
        row
        for row in paper_figures.figure7_rows()
        if (row["judge"], row["size"], row["test_set"]) == ("claude-v1.3", "7B", "dolly")
    )
    half = 1.96 * published_tables.standard_error(shares, "dolly") * (200 / 199) ** 0.5 / 100
    assert row["ci_high"] - row["net_win"] == pytest.approx(half, abs=2e-5)


@pytest.mark.parametrize("draw", [paper_figures.figure1, paper_figures.figure7])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_figures_are_drawn_in_all_forms_twice_the_same(tmp_path, draw, language):
    first, second = draw(tmp_path / "a", language), draw(tmp_path / "b", language)
    assert [path.suffix for path in first] == [".png", ".pdf", ".svg", ".json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    title = json.loads(first[-1].read_text(encoding="utf-8"))["title"]
    assert {"en": "Published", "zh": "论文"}[language] in title


def test_json_beside_figure1_has_its_numbers(tmp_path):
    paper_figures.figure1(tmp_path / "a")
    (panel,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["panels"]
    assert panel["title"].endswith("(n = 80)") and len(panel["bars"]) == 6
    first = panel["bars"][0]
    assert first["percent"] == {"B": 60.0, "C": 8.7, "A": 31.3, "invalid": 0.0}
    assert (first["net_win"], first["ci_low"], first["ci_high"]) == pytest.approx((0.287, 0.0865, 0.4875), abs=0.001)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_of_figure7_leaves_the_page_or_covers_the_axes(tmp_path, monkeypatch, language):
    kept = []
    monkeypatch.setattr(plots, "_save", lambda draw, size, data, stem: kept.append((draw, size)))
    paper_figures.figure7(tmp_path / "x", language)
    from matplotlib import font_manager, style
    from matplotlib.figure import Figure

    if plots.FAMILY not in font_manager.fontManager.get_font_names():
        font_manager.fontManager.addfont(plots.paths.FONT)
    with style.context(["default", plots.STYLE]):
        figure = Figure(kept[0][1])
        kept[0][0](figure)
        FigureCanvasAgg(figure).draw()
    first = figure.axes[0]
    for text in [*figure.texts, first.yaxis.label, *figure.legends[0].get_texts()]:
        assert figure.bbox.count_contains(text.get_window_extent().corners()) == 4, (
            f"{text.get_text()!r} leaves the page"
        )
    assert first.yaxis.label.get_window_extent().x1 < min(t.get_window_extent().x0 for t in first.get_yticklabels())
    assert len(figure.axes) == 5
