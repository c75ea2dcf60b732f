"""The figures. Each is written as PNG, PDF, SVG and a JSON file with exactly the numbers drawn.

Order and words are the same everywhere: B optimized better | C tie | A original better | no verdict. Colours
are Okabe and Ito's, told apart in every colour vision, with hatching that survives grey print. Same data, same bytes:
nothing in the files depends on the day, and the font comes with the package.
"""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpo_utils import bars, paths
from bpo_utils.records import TEST_SETS, write_bytes, write_json

FAMILY = "Noto Sans SC Subset"
STYLE = {
    "font.family": [FAMILY, "DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,  # a model's name may have dollar signs
    "text.color": bars.INK,
    "axes.labelcolor": bars.INK,
    "axes.edgecolor": bars.FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": bars.FAINT,
    "ytick.color": bars.FAINT,
    "xtick.labelcolor": bars.INK,
    "ytick.labelcolor": bars.INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "bpo",
}
PAPER_SETS = {"vicuna": ("vic", 80), "self_instruct": ("si", 252), "dolly": ("dol", 200), "bpo_test": ("bpo", 200)}
FACTS = {"T1": "paper_table1_data", "T2": "paper_table2_methods"} | {
    f"T{number}": "paper_win_rates" for number in range(3, 13)
}


def paper_rows(table: str) -> list[dict[str, Any]]:
    """Rows of a published table, "T1" to "T12", numbers as numbers and empty cells as None; win rates are percent.

    In "T3" to "T12" method_a's wins come first, so where method_a is BPO the paper's a is the course's B. Source:
    facts/README.md. Raises ValueError for another table.
    """
    if table not in FACTS:
        raise ValueError(f"no published table {table!r}; there are {', '.join(FACTS)}")
    with (paths.FACTS / f"{FACTS[table]}.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("table", table) == table]


def result_figure(results: dict, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw `rows` of results.json: a panel per test set and one pooled, a bar per answer model and judge.

    Returns the files written: `path_stem` with .png, .pdf, .svg and .json. Raises ValueError for an unknown language or
    if there are no rows.
    """
    words = _words(language, results["label"])
    panels = []
    for test_set in [*TEST_SETS, "pooled"]:
        drawn = [_bar(row) for row in results["rows"] if row["test_set"] == test_set]
        panels.append(_panel(TEST_SETS.get(test_set, words["pooled"]), drawn, words))
    return _save_bars(
        {"title": words["result"], "note": words["note"], "summary": True, "panels": panels}, words, path_stem
    )


def controls_figure(results: dict, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw `controls` of results.json the same way: a panel per control rewriter, over all test sets pooled."""
    words = _words(language, results["label"])
    pooled = [row for row in results["controls"] if row["test_set"] == "pooled"]
    panels = []
    for rewriter in dict.fromkeys(row["rewriter"] for row in pooled):
        drawn = [_bar(row) for row in pooled if row["rewriter"] == rewriter]
        panels.append(_panel(words.get(rewriter, rewriter), drawn, words))
    return _save_bars(
        {"title": words["controls"], "note": words["note"], "summary": False, "panels": panels}, words, path_stem
    )


def paper_table_figure(table: str, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the paper's Table 3 or 4 the same way, with the paper's a (with BPO) as the course's B.

    The last panel is the unweighted mean of the four sets. Intervals are not in the paper: they are the normal ones
    that follow from the published shares and the sets' sizes.
    """
    if table not in ("T3", "T4"):
        raise ValueError(f"only T3 and T4 are drawn, not {table!r}; paper_rows({table!r}) gives the numbers")
    words = _words(language, "")
    words |= {"B": words["paper B"], "A": words["paper A"], "invalid": ""}
    rows = paper_rows(table)
    panels = []
    for test_set in TEST_SETS:
        drawn = [_paper_bar(row, test_set) for row in rows]
        panels.append(_panel(TEST_SETS[test_set], drawn, words))
    panels.append(_panel(words["mean"], [_paper_mean(row) for row in rows], words))
    return _save_bars(
        {"title": words[table], "note": words["paper note"], "summary": True, "panels": panels}, words, path_stem
    )


def loss_figure(log_rows: list[dict], path_stem: Path, language: str = "en", label: str = "") -> list[Path]:
    """Draw the training loss: `log_rows` are dicts with `step` and `loss` (and `eval_loss` where one was measured).

    Returns the files written. Raises ValueError if no row has a loss.
    """
    words = _words(language, label)
    losses = [(row["step"], row["loss"]) for row in log_rows if row.get("loss") is not None]
    held_out = [(row["step"], row["eval_loss"]) for row in log_rows if row.get("eval_loss") is not None]
    if not losses:
        raise ValueError(f"none of {len(log_rows)} log rows has a loss; run notebook 03 first")
    window = max(1, len(losses) // 20)
    smooth = []
    for end in range(window, len(losses) + 1):
        smooth.append((losses[end - 1 - window // 2][0], sum(loss for _, loss in losses[end - window : end]) / window))
    data = {"title": words["loss"], "loss": losses, "running_mean_of": window, "smooth": smooth, "eval_loss": held_out}

    def draw(figure: Any) -> None:
        axes = _simple_axes(figure, words["loss"], words["step"], words["loss axis"])
        axes.plot(*zip(*losses, strict=True), color="#56B4E9", linewidth=0.8, label=words["loss each"])
        if window > 1:
            axes.plot(
                *zip(*smooth, strict=True), color=bars.INK, linewidth=1.4, label=words["loss smooth"].format(n=window)
            )
        if held_out:
            axes.plot(
                *zip(*held_out, strict=True), "o--", color=bars.COLOURS["A"], markersize=4, label=words["loss eval"]
            )
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")

    return _save(draw, (6.0, 3.2), data, path_stem)


def growth_figure(ratios: list[float], path_stem: Path, language: str = "en", label: str = "") -> list[Path]:
    """Draw how much longer optimized prompts are: a histogram of words after / words before on a doubling scale.

    Returns the files written. Raises ValueError for no ratios or one that is not above zero.
    """
    import numpy as np

    if not ratios or min(ratios) <= 0:
        raise ValueError(f"growth needs ratios above zero, got {len(ratios)} with least {min(ratios, default=None)}")
    words = _words(language, label)
    low, high = math.floor(math.log2(min(ratios))), math.floor(math.log2(max(ratios))) + 1
    edges = 2.0 ** np.linspace(low, high, 4 * (high - low) + 1)
    counts, median = np.histogram(ratios, edges)[0], float(np.median(ratios))
    data = {
        "title": words["growth"],
        "n": len(ratios),
        "median": median,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }

    def draw(figure: Any) -> None:
        axes = _simple_axes(
            figure, f"{words['growth']} ({words['n'].format(n=len(ratios))})", words["ratio"], words["prompts"]
        )
        axes.stairs(counts, edges, fill=True, color="#56B4E9", edgecolor="white")
        axes.vlines(edges[1:-1], 0, np.minimum(counts[1:], counts[:-1]), color="white", linewidth=0.6)
        axes.axvline(1, color=bars.FAINT, linewidth=1, linestyle=":", label=words["same length"])
        axes.axvline(
            median, color=bars.COLOURS["A"], linewidth=1.4, label=words["median"].format(value=f"{median:.2f}")
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            [2.0**power for power in range(low, high + 1)], [f"{2.0**power:g}" for power in range(low, high + 1)]
        )
        axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")

    return _save(draw, (6.0, 3.2), data, path_stem)


def _words(language: str, label: str) -> dict[str, str]:
    import yaml

    entries = yaml.safe_load((paths.PACKAGE / "labels.yaml").read_text(encoding="utf-8"))
    if any(language not in entry for entry in entries.values()):
        raise ValueError(f"no labels in language {language!r}; there are {', '.join(entries['result'])}")
    words = {name: entry[language] for name, entry in entries.items()}
    shown = words.get(label, label)
    return words | {name: words[name].format(label=shown) for name in ("result", "controls", "loss", "growth")}


def _value(text: str) -> str | int | float | None:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _panel(title: str, drawn: list[dict], words: dict[str, str]) -> dict:
    sizes = sorted({bar["n"] for bar in drawn})
    n = f"{sizes[0]}–{sizes[-1]}" if len(sizes) > 1 else "".join(map(str, sizes))
    groups = list(dict.fromkeys(bar["group"] for bar in drawn))  # the judges of one model stand together
    together = sorted(drawn, key=lambda bar: groups.index(bar["group"]))
    return {"title": f"{title}  ({words['n'].format(n=n)})", "bars": together}


def _bar(row: dict) -> dict:
    """A row of results.json as a bar; unreadable and refused verdicts are one segment, never hidden."""
    counts = row["counts"] | {"invalid": row["counts"].get("invalid", 0) + row["counts"].get("refused", 0)}
    counts = {letter: counts[letter] for letter in ("A", "B", "C", "invalid")}
    percent = {letter: 100 * counts[letter] / row["n"] for letter in bars.COLOURS}
    return {**row, "group": row["answer_model"], "name": row["judge"], "counts": counts, "percent": percent}


def _paper_bar(row: dict, test_set: str) -> dict:
    short, n = PAPER_SETS[test_set]
    percent = {letter: row[f"{short}_{ending}"] for letter, ending in (("B", "a"), ("C", "tie"), ("A", "b"))}
    net = (percent["B"] - percent["A"]) / 100
    half = 1.96 * (((percent["B"] + percent["A"]) / 100 - net**2) / (n - 1)) ** 0.5
    versus = row["table"] == "T4"
    return {
        "group": row["base"] if versus else "",
        "name": f"{row['method_a']} : {row['method_b']}" if versus else row["base"],
        "n": n,
        "percent": percent | {"invalid": 0.0},
        "net_win": net,
        "ci_low": net - half,
        "ci_high": net + half,
    }


def _paper_mean(row: dict) -> dict:
    sets = [_paper_bar(row, test_set) for test_set in PAPER_SETS]
    net, half = row["dwr_published"] / 100, 1.96 * row["se_derived"] / 100
    return sets[0] | {
        "n": sum(bar["n"] for bar in sets),
        "percent": {letter: sum(bar["percent"][letter] for bar in sets) / len(sets) for letter in bars.COLOURS},
        "net_win": net,
        "ci_low": net - half,
        "ci_high": net + half,
    }


def _save_bars(spec: dict, words: dict[str, str], path_stem: Path) -> list[Path]:
    spec["panels"] = [panel for panel in spec["panels"] if panel["bars"]]
    if not spec["panels"]:
        raise ValueError(f"nothing to draw for {path_stem.name}: no rows; run notebook 05 first")
    return _save(lambda figure: bars.draw(figure, spec, words), bars.size(spec), spec, path_stem)


def _simple_axes(figure: Any, title: str, x_label: str, y_label: str) -> Any:
    axes = figure.add_axes((0.1, 0.15, 0.87, 0.73))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(axis="y")
    return axes


def _save(draw: Callable[[Any], None], size: tuple[float, float], data: dict, path_stem: Path) -> list[Path]:
    """Draw on a fresh figure and write it in all formats. No pyplot: nothing stays behind, no display is needed."""
    from matplotlib import font_manager, style
    from matplotlib.figure import Figure

    if FAMILY not in font_manager.fontManager.get_font_names():
        font_manager.fontManager.addfont(paths.FONT)
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with style.context(["default", STYLE]):
        figure = Figure(size)
        draw(figure)
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=300, metadata=metadata)
            written.append(write_bytes(path_stem.with_name(f"{path_stem.name}.{ending}"), buffer.getvalue()))
    return [*written, write_json(path_stem.with_name(f"{path_stem.name}.json"), data)]
