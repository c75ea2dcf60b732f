"""The figures of notebook 07: rounds, feedback, scaling, curves. Judges differ in colour, marker and line, so that they
can be told apart in grey; whiskers are the 95 % intervals over questions and seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpo_utils import bars, plots

# Okabe and Ito's colours; in grey they are told apart by marker (every second one hollow) and line.
LOOKS = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"), ("#CC79A7", "D", "-."))
HOLLOW = LOOKS[1::2]
Row = dict[str, Any]


def iterate_figure(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw Figure 3 of this run: net win by round, each judge; beside it what became of the texts.

    Returns the files written: `path_stem` with .png, .pdf, .svg and .json. Raises ValueError if there are no rows.
    """
    words, rows = _start(results, "iterate", "iterate", language)
    drift = [row for row in results["drift"] if row["experiment"] == "iterate"]
    shown = {"unchanged": "unchanged share", "topics_kept_unseen": "topics_kept_unseen", "flagged": "flagged share"}
    data = {"title": words["iterate"], "rows": rows, "drift": drift}

    def draw(figure: Any) -> None:
        left, right = _panels(figure, words["iterate"], _note(results, words))
        zero = {"setting": "round_0", "round": 0, "net_win": 0.0, "ci_low": 0.0, "ci_high": 0.0}
        for look, (judge, mine) in zip(LOOKS, _by(rows, "judge").items(), strict=False):
            _line(left, [zero, *mine], "round", look, judge, 0.06)
        title = words["iterate net"].format(model=results["answer_model"])
        _dress(left, title, words["round"], words["net points"])
        for look, (name, word) in zip(LOOKS[1:], shown.items(), strict=True):
            points = [(place, 100 * row[name]) for place, row in enumerate(drift, 1) if name in row]
            if points:
                right.plot(*zip(*points, strict=True), **_style(look), label=words[word])
        right.set_ylim(0, 140)  # room for the legend
        right.set_yticks(range(0, 101, 20))
        _dress(right, words["iterate drift"], words["round"], words["share of prompts"], "upper left")
        for axes in (left, right):
            axes.set_xticks(range(len(drift) + 1))
            axes.set_xlim(-0.3, len(drift) + 0.3)

    return plots._save(draw, (bars.WIDTH, 3.3), data, path_stem)


def ablation_figure(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw Table 7 of this run: three comparisons, each judge. Returns and raises as above."""
    words, rows = _start(results, "ablation", "feedback", language)
    compared = [("bpo", "original"), ("no_feedback", "original"), ("bpo", "no_feedback")]
    judges = list(_by(rows, "judge"))
    data = {"title": words["ablation"], "rows": rows}

    def draw(figure: Any) -> None:
        axes = _panels(figure, words["ablation"], _note(results, words), 1, left=0.22)[0]
        for place, pair in enumerate(compared):
            for row in rows:
                if (row["setting"], row["against"]) == pair:
                    _whisker(axes, row, place, judges.index(row["judge"]), named=place == 0)
        axes.axvline(0, color=bars.FAINT, linewidth=0.8)
        axes.set_yticks(range(len(compared)), [words[f"{a}_vs_{b}"] for a, b in compared])
        axes.set_ylim(len(compared) - 0.5, -0.5)
        axes.set_title(results["answer_model"], loc="left", fontsize=8.5)
        axes.set_xlabel(words["net first"])
        axes.grid(axis="x")
        figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=7.5)

    return plots._save(draw, (bars.WIDTH, 2.7), data, path_stem)


def scaling_figure(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw Figure 7 of this run: every answer model with and without BPO against the largest without it."""
    words, rows = _start(results, "scaling", "scaling", language)
    models, judges = list(_by(rows, "answer_model")), list(_by(rows, "judge"))
    data = {"title": words["scaling"], "rows": rows}

    def draw(figure: Any) -> None:
        panels = _panels(figure, words["scaling"], _note(results, words), len(judges))
        for axes, judge in zip(panels, judges, strict=True):
            for look, (ending, word) in zip(LOOKS, (("+bpo", "with BPO"), ("", "without BPO")), strict=False):
                mine = [
                    row for row in rows if row["judge"] == judge and row["setting"].endswith("+bpo") == bool(ending)
                ]
                placed = [row | {"place": models.index(row["answer_model"])} for row in mine]
                if not ending:  # the largest against itself: nothing to measure
                    placed.append({"place": len(models) - 1, "net_win": 0.0, "ci_low": 0.0, "ci_high": 0.0})
                _line(axes, placed, "place", look, words[word], 0.05)
            title = words["net against"].format(judge=judge, model=rows[0]["against"])
            _dress(axes, title, "", words["net points"] if axes is panels[0] else "")
            axes.set_xticks(range(len(models)), models)
            axes.set_xlim(-0.4, len(models) - 0.6)
        _same_y(panels)

    return plots._save(draw, (bars.WIDTH, 3.1), data, path_stem)


def curves_figure(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw net win over the number of training pairs and over the share of wrong labels, each judge."""
    words, sizes = _start(results, "curves", "sizes", language)
    noise = [row for row in results["rows"] if row["experiment"] == "noise"]
    data = {"title": words["curves"], "rows": [*sizes, *noise]}

    def draw(figure: Any) -> None:
        left, right = _panels(figure, words["curves"], _note(results, words))
        for look, judge in zip(LOOKS, _by(sizes, "judge"), strict=False):
            _line(left, [row for row in sizes if row["judge"] == judge], "pairs", look, judge, 1.03)
            mine = [row | {"percent": 100 * row["noise"]} for row in noise if row["judge"] == judge]
            _line(right, mine, "percent", look, judge, 0.5)
        left.set_xscale("log")
        ticks = sorted({row["pairs"] for row in sizes})
        left.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        left.minorticks_off()
        title = words["iterate net"].format(model=results["answer_model"])
        _dress(left, title, words["training pairs"], words["net points"])
        pairs = f"{noise[0]['pairs']:,.0f}" if noise else ""
        _dress(right, "", words["wrong labels"].format(pairs=pairs), "")
        right.set_xticks(sorted({100 * row["noise"] for row in noise}))
        _same_y([left, right])

    return plots._save(draw, (bars.WIDTH, 3.1), data, path_stem)


def _start(results: Row, title: str, experiment: str, language: str) -> tuple[dict[str, str], list[Row]]:
    words = plots._words(language, results["label"])
    rows = [row for row in results["rows"] if row["experiment"] == experiment]
    if not rows:
        raise ValueError(f"no rows of {experiment} to draw; run notebook 07")
    return words | {title: words[title].format(label=words.get(results["label"], results["label"]))}, rows


def _note(results: Row, words: dict[str, str]) -> str:
    return words["further note"].format(n=results["n"], seeds=len(results["seeds"]))


def _panels(figure: Any, title: str, note: str, count: int = 2, left: float = 0.085) -> list[Any]:
    """Axes side by side under one title and above one note."""
    height = figure.get_size_inches()[1]
    gap = 0.09 if left < 0.1 else 0.03
    width = (0.98 - left - gap * (count - 1)) / count
    bottom, top = 0.75 / height, 1 - 0.62 / height
    figure.text(0.015, 1 - 0.24 / height, title, fontsize=10)
    figure.text(0.015, 0.1 / height, note, fontsize=7, color=bars.INK)
    return [figure.add_axes((left + place * (width + gap), bottom, width, top - bottom)) for place in range(count)]


def _line(axes: Any, rows: Sequence[Row], place: str, look: tuple[str, str, str], label: str, apart: float) -> None:
    """Net wins in points with whiskers; lines stand `apart` (a factor if over 1), so that no whisker hides another."""
    values = [100 * row["net_win"] for row in rows]
    down = [100 * (row["net_win"] - row["ci_low"]) for row in rows]
    up = [100 * (row["ci_high"] - row["net_win"]) for row in rows]
    by = LOOKS.index(look) - 0.5
    x = [row[place] * apart ** (2 * by) if apart > 1 else row[place] + 2 * by * apart for row in rows]
    axes.errorbar(x, values, yerr=[down, up], capsize=2.5, label=label, **_style(look))


def _style(look: tuple[str, str, str]) -> dict[str, Any]:
    colour, marker, line = look
    inside = {"markerfacecolor": "white"} if look in HOLLOW else {}
    return {"color": colour, "marker": marker, "linestyle": line, "markersize": 4.5, "linewidth": 1.2} | inside


def _whisker(axes: Any, row: Row, place: int, judge: int, named: bool) -> None:
    style = _style(LOOKS[judge % len(LOOKS)]) | {"linestyle": "none"}
    value = 100 * row["net_win"]
    error = [[value - 100 * row["ci_low"]], [100 * row["ci_high"] - value]]
    y = place + 0.26 * (judge - 0.5)
    label = row["judge"] if named else None
    axes.errorbar([value], [y], xerr=error, capsize=2.5, label=label, **style)


def _dress(axes: Any, title: str, x_label: str, y_label: str, legend: str = "best") -> None:
    axes.axhline(0, color=bars.FAINT, linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=8.5)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(axis="y")
    axes.legend(loc=legend, fontsize=7, frameon=True, framealpha=0.9, edgecolor="none")


def _same_y(panels: Sequence[Any]) -> None:
    ends = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _by(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found
