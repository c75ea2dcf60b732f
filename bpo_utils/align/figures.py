"""The figures of notebook 08: Tables 5 and 6 beside the paper's, and what happened during the trainings."""

from pathlib import Path
from typing import Any

import yaml

from bpo_utils import bars, paths, plots, records

MODELS = {"PG": ("#D55E00", "s", "--"), "DPO": ("#0072B2", "o", "-")}  # Okabe and Ito; marker and line tell them too
SHOWN = ("reward", "rubric", "kl", "tokens")
WIDTH, HEIGHT, TITLE, FOOT = 7.2, 2.35, 0.5, 0.42  # inches


def rlhf(rows: list[dict[str, Any]], label: str, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the eight comparisons, below them the paper's Table 5 for vicuna-7b; returns the files written."""
    published = [row for row in plots.paper_rows("T5") if row["base"] == "vicuna-7b-v1.3"]
    return _comparisons("rlhf", "T5", rows, published, label, path_stem, language)


def augment(rows: list[dict[str, Any]], label: str, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the two comparisons, below them the paper's Table 6; returns the files written."""
    return _comparisons("augment", "T6", rows, plots.paper_rows("T6"), label, path_stem, language)


def reward(rows: list[dict[str, Any]], prompts: int, label: str, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw reward, rubric, KL and length by step (rows of `curves.rows`); returns the files written."""
    words = _words(language, label)
    note = words["note reward"].format(n=prompts)
    data = {"title": words["reward"], "note": note, "points": rows}

    def draw(figure: Any) -> None:
        figure.text(0.014, 1 - 0.1 / HEIGHT, words["reward"], fontsize=11, va="top")
        figure.text(0.014, 0.08 / HEIGHT, note, fontsize=6.8, color=bars.FAINT, va="bottom")
        panels = figure.subplots(1, len(SHOWN))
        figure.subplots_adjust(left=0.07, right=0.99, bottom=0.3, top=0.72, wspace=0.42)
        for axes, name in zip(panels, SHOWN, strict=True):
            for model in MODELS:
                _lines(axes, [row for row in rows if row["model"] == model], name, words[model])
            axes.set_title(words[f"axis {name}"], fontsize=8)
            axes.set_xlabel(words["step"], fontsize=7.5)
            axes.set(xlim=(-4, 104), xticks=(0, 50, 100))
            axes.grid(axis="y")
        handles, names = panels[0].get_legend_handles_labels()
        place = {"loc": "upper right", "bbox_to_anchor": (0.995, 1 - 0.06 / HEIGHT), "borderaxespad": 0}
        figure.legend(handles, names, ncols=2, fontsize=8, **place)

    return plots._save(draw, (WIDTH, HEIGHT), data, path_stem)


def _lines(axes: Any, rows: list[dict[str, Any]], name: str, label: str) -> None:
    if not rows:
        return
    colour, marker, line = MODELS[rows[0]["model"]]
    runs: dict[int, list[tuple[float, float]]] = {}
    last = max(row["step"] for row in rows)
    for row in rows:
        runs.setdefault(row["seed"], []).append((100 * row["step"] / last, row[name]))
    for points in runs.values():
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.5)
    steps = [step for step, _ in next(iter(runs.values()))]
    means = [sum(points[n][1] for points in runs.values()) / len(runs) for n in range(len(steps))]
    axes.plot(steps, means, color=colour, linewidth=1.6, linestyle=line, marker=marker, markersize=3.5, label=label)


def _comparisons(
    name: str,
    table: str,
    rows: list[dict[str, Any]],
    published: list[dict[str, Any]],
    label: str,
    path_stem: Path,
    language: str,
) -> list[Path]:
    words = _words(language, label)
    if not rows:
        raise ValueError(f"nothing to draw for {path_stem.name}: no comparisons")
    several = len({row["base"] for row in published}) > 1
    paper = [
        plots._paper_mean(row)
        | {"group": row["base"] if several else "", "name": f"{row['method_a']} : {row['method_b']}"}
        for row in published
    ]
    panels = [
        {"title": words["ours"].format(n=rows[0]["n"], seeds=rows[0]["seeds"]), "bars": [_bar(row) for row in rows]},
        {"title": words[f"paper {table}"], "bars": paper},
    ]
    spec = {"title": words[name], "note": words[f"note {name}"], "summary": True, "panels": panels}
    return plots._save_bars(spec, words, path_stem)


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    """A row of results.json as a bar; refused and unreadable verdicts are one segment. Counts are over all seeds."""
    counts = {letter: row[letter] for letter in ("A", "B", "C")} | {"invalid": row["invalid"] + row["refused"]}
    total = sum(counts.values())
    percent = {letter: 100 * counts[letter] / total for letter in bars.COLOURS}
    kept = {key: row[key] for key in ("n", "seeds", "net_win", "ci_low", "ci_high")}
    return kept | {"group": row["comparison"], "name": row["judge"], "counts": counts, "percent": percent}


def _words(language: str, label: str) -> dict[str, str]:
    """The words of the other figures, with this room's own in front."""
    common = plots._words(language, label)
    own = yaml.safe_load(records.read_text(paths.PACKAGE / "align" / "labels.yaml"))
    found = common | {name: entry[language] for name, entry in own.items()}
    shown = common.get(label, label)
    return found | {name: found[name].format(label=shown) for name in ("rlhf", "augment", "reward")}
