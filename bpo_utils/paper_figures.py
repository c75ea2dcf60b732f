"""The paper's Figures 1 and 7, drawn from the published numbers in the look of the course's own figures.

Each is written as PNG, PDF, SVG and a JSON file with the numbers drawn. Source of the numbers: facts/README.md. The
paper prints no intervals; as in `plots.paper_table_figure`, these follow from the published shares and the sets' sizes.
"""

import csv
from pathlib import Path
from typing import Any

from bpo_utils import bars, paths, plots, published_tables
from bpo_utils.records import TEST_SETS, read_text

SIZES = ("7B", "13B", "70B")
# Okabe and Ito; the marker, its filling and the line tell the judges apart without colour
LOOKS = {
    "gpt-4": {"color": "#0072B2", "marker": "o", "linestyle": "-", "mfc": "#0072B2"},
    "claude-v1.3": {"color": "#D55E00", "marker": "s", "linestyle": "--", "mfc": "white"},
}
TABLES = {"gpt-4": "T4", "claude-v1.3": "T9"}
MEAN = "mean"


def figure1_rows() -> list[dict[str, Any]]:
    """The six bars of the lower part of Figure 1: {a, b, a_win, tie, b_win, printed_delta, equals_table}, percent."""
    rows = _read("paper_figure1.csv")
    for row in rows:
        row |= {name: float(row[name]) for name in ("a_win", "tie", "b_win", "printed_delta")}
    return rows


def figure7_rows() -> list[dict[str, Any]]:
    """Net win of llama-2-chat with BPO against 70B without, a row per judge, size and test set (or `mean`).

    {judge, size, test_set, n, net_win, ci_low, ci_high}, fractions. Values: facts/paper_figure7_scaling.csv, which
    follows from Tables 4 and 9; intervals: normal ones from the shares printed there.
    """
    rows = []
    for line in _read("paper_figure7_scaling.csv"):
        judge, size = line["judge"], line["model_a_vs_70B"].removesuffix("+BPO")
        shares = published_tables.find(TABLES[judge], "llama-2-chat", f"{size}+BPO", "70B")
        for test_set in (*TEST_SETS, MEAN):
            where = "" if test_set == MEAN else test_set
            n = plots.PAPER_SETS[where][1] if where else sum(n for _, n in plots.PAPER_SETS.values())
            names = {"judge": judge, "size": size, "test_set": test_set, "n": n}
            half = _half(shares, where)
            rows.append(names | _interval(float(line[test_set]), half))
    return rows


def figure1(path_stem: Path, language: str = "en") -> list[Path]:
    """Draw Figure 1: a bar per pair, the one named first at the left. Returns the files written."""
    words = plots._words(language, "")
    words |= {"B": words["figure1 B"], "A": words["figure1 A"], "invalid": ""}
    n = plots.PAPER_SETS["vicuna"][1]
    drawn = []
    for row in figure1_rows():
        shares = {"vic_a": row["a_win"], "vic_tie": row["tie"], "vic_b": row["b_win"]}
        percent = {"B": row["a_win"], "C": row["tie"], "A": row["b_win"], "invalid": 0.0}
        bar = {"group": "", "name": f"{row['a']} : {row['b']}", "n": n, "percent": percent}
        drawn.append(bar | _interval(row["a_win"] - row["b_win"], _half(shares, "vicuna")))
    panels = [plots._panel(words["figure1 panel"], drawn, words)]
    spec = {"title": words["figure1"], "note": words["paper note"], "summary": False, "panels": panels}
    return plots._save_bars(spec, words | {"net": words["figure1 net"]}, path_stem)


def figure7(path_stem: Path, language: str = "en") -> list[Path]:
    """Draw Figure 7: a panel per test set and one for their mean, the net win over the size of the model with BPO."""
    words = plots._words(language, "")
    rows = figure7_rows()
    data = {"title": words["figure7"], "note": words["figure7 note"], "points": rows}

    def draw(figure: Any) -> None:
        figure.text(0.014, 0.965, words["figure7"], fontsize=11, va="top")
        figure.text(0.014, 0.02, words["figure7 note"], fontsize=6.8, color=bars.FAINT, va="bottom")
        panels = figure.subplots(1, len(TEST_SETS) + 1, sharey=True)
        figure.subplots_adjust(left=0.075, right=0.99, bottom=0.24, top=0.74, wspace=0.08)
        for axes, test_set in zip(panels, (*TEST_SETS, MEAN), strict=True):
            _draw_panel(axes, [row for row in rows if row["test_set"] == test_set])
            axes.set_title(TEST_SETS.get(test_set, words["figure7 mean"]), fontsize=8.5)
        for axes in panels[1:]:
            axes.tick_params(axis="y", length=0)
        panels[0].set_ylabel(words["figure7 y"], fontsize=7.5)
        figure.text(0.53, 0.115, words["figure7 x"], fontsize=7.5, ha="center")
        labels = [words["figure7 judge"].format(name=judge) for judge in LOOKS]
        handles = panels[0].get_legend_handles_labels()[0]
        place = {"loc": "upper left", "bbox_to_anchor": (0.014, 0.9), "borderaxespad": 0, "borderpad": 0}
        figure.legend(handles, labels, ncols=2, fontsize=8, **place)

    return plots._save(draw, (bars.WIDTH, 3.1), data, path_stem)


def _draw_panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.axhline(0, color=bars.FAINT, linewidth=0.9)
    for shift, (judge, look) in zip((-0.09, 0.09), LOOKS.items(), strict=True):
        own = {row["size"]: row for row in rows if row["judge"] == judge}
        nets = [100 * own[size]["net_win"] for size in SIZES]
        halves = [100 * (own[size]["ci_high"] - own[size]["net_win"]) for size in SIZES]
        places = [place + shift for place in range(len(SIZES))]
        axes.errorbar(places, nets, halves, label=judge, markersize=4, linewidth=1.2, elinewidth=0.8, **look)
    axes.set_xticks(range(len(SIZES)), SIZES)
    axes.set_xlim(-0.4, len(SIZES) - 0.6)
    axes.grid(axis="y")


def _half(shares: dict[str, Any], test_set: str) -> float:
    """Half of the 95 % interval in points, the same that `plots.paper_table_figure` draws for this cell or mean."""
    half = 1.96 * published_tables.standard_error(shares, test_set)
    if not test_set:
        return half
    n = plots.PAPER_SETS[test_set][1]
    return half * (n / (n - 1)) ** 0.5


def _interval(net: float, half: float) -> dict[str, float]:
    """Net win and interval in points as fractions."""
    ends = {"net_win": net, "ci_low": net - half, "ci_high": net + half}
    return {name: round(value / 100, 5) for name, value in ends.items()}


def _read(name: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(read_text(paths.FACTS / name).splitlines()))
