"""The figures of notebook 09. Methods are told apart by their place, never by colour alone: each has its own panel or
line. Whiskers are 95 % intervals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from bpo_utils import bars, paths, plots, records

# Okabe and Ito's colours; marker and fill tell them apart in grey
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C8C8C8"
LOOKS = ((PURPLE, "s", "white"), (ORANGE, "^", ORANGE), (BLUE, "o", BLUE), (GREEN, "D", "white"))
TITLES = ("curves", "scores", "evidence", "costs", "against", "budgets")
HEAD, FOOT, LINE = 0.5, 0.82, 0.36  # inches above and below the axes, and for each method
Row = dict[str, Any]
Words = dict[str, str]


def curves(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the anytime curves, a panel per method. Returns the files written: `path_stem` with .png, .pdf, .svg and
    .json. Raises ValueError if there are no rows; so do all figures here."""
    words, rows = _start(results, "curves", language)
    last = {row["method"]: row for row in _largest(results["scores"])}
    first = rows[0]["dev"]  # before the first call all would return the same
    data = {"title": words["curves"], "curves": rows, "scores": list(last.values())}

    def draw_one(axes: Any, method: str, mine: bool) -> None:
        points = [row for row in rows if row["method"] == method]
        x, y = [row["target_calls"] for row in points], [row["dev"] for row in points]
        axes.step(x, y, where="post", color=BLUE if mine else GREY, linewidth=1.5 if mine else 0.7, zorder=2 + mine)
        if not mine:
            return
        low, high = ([row[name] for row in points] for name in ("dev_low", "dev_high"))
        axes.fill_between(x, low, high, step="post", color=BLUE, alpha=0.2, linewidth=0)
        axes.axhline(first, color=bars.INK, linewidth=0.8, linestyle=":")
        end = last[method]
        error = [[end["test"] - end["ci_low"]], [end["ci_high"] - end["test"]]]
        place = 1.05 * max(row["target_calls"] for row in rows)
        axes.errorbar([place], [end["test"]], error, color=ORANGE, marker="^", markersize=4, capsize=2, linewidth=1)

    note = words["note curves"].format(seeds=len(results["seeds"]))
    return _grid(draw_one, _methods(rows), words, ("curves", note, "target calls", "dev"), data, path_stem)


def budgets(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw regret against budget on the landscape, a panel per method."""
    words, rows = _start(results, "budgets", language, "study")
    ticks = sorted({row["budget"] for row in rows})

    def draw_one(axes: Any, method: str, mine: bool) -> None:
        points = [row for row in rows if row["method"] == method]
        x, y = [row["budget"] for row in points], [row["regret"] for row in points]
        if mine:
            error = [
                [row["regret"] - row["ci_low"] for row in points],
                [row["ci_high"] - row["regret"] for row in points],
            ]
            axes.errorbar(x, y, error, color=BLUE, marker="o", markersize=3, capsize=1.5, linewidth=1.4, zorder=3)
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=60)
            axes.minorticks_off()
            axes.set_ylim(0, 1.05 * max(row["ci_high"] for row in rows))
        else:
            axes.plot(x, y, color=GREY, linewidth=0.7, zorder=2)

    note = words["note budgets"].format(seeds=rows[0]["seeds"])
    data = {"title": words["budgets"], "rows": rows}
    return _grid(draw_one, _methods(rows), words, ("budgets", note, "target calls", "regret"), data, path_stem, 0.32)


def scores(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the test score of every method at every budget."""
    words, rows = _start(results, "scores", language)
    methods, caps = _methods(rows), sorted({row["budget"] for row in rows})
    first = next((row["test"] for row in rows if row["method"] == "seed"), None)

    def draw(figure: Any) -> None:
        note = words["note scores"].format(seeds=len(results["seeds"]), n=rows[0]["n"])
        (axes,) = _lined(figure, words, "scores", note, methods)
        for row in rows:
            look = caps.index(row["budget"]) - len(caps)  # the largest budget always looks the same
            place = methods.index(row["method"]) + 0.22 * (caps.index(row["budget"]) - (len(caps) - 1) / 2)
            named = words["budget"].format(n=f"{row['budget']:,}") if row["method"] == methods[0] else None
            _whisker(axes, row["test"], row["ci_low"], row["ci_high"], place, LOOKS[max(look + 3, 0)], named)
        if first is not None:
            axes.axvline(first, color=bars.INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(words["test"])
        _legend(figure, axes)

    data = {"title": words["scores"], "rows": rows}
    return plots._save(draw, _size(methods), data, path_stem)


def evidence(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw test scores with and without evidence, and their difference."""
    words, rows = _start(results, "evidence", language, "ablation")
    methods = _methods(rows)

    def draw(figure: Any) -> None:
        told = {"seeds": rows[0]["seeds"], "n": rows[0]["n"], "budget": f"{rows[0]['budget']:,}"}
        left, right = _lined(figure, words, "evidence", words["note evidence"].format(**told), methods, 2)
        for place, row in enumerate(rows):
            left.plot([row["blind_test"], row["test"]], [place, place], color=GREY, linewidth=2, zorder=1)
            for name, key, (colour, marker, inside) in (
                ("with", "test", LOOKS[2]),
                ("without", "blind_test", LOOKS[0]),
            ):
                style = {"color": colour, "marker": marker, "markerfacecolor": inside, "linestyle": "none"}
                left.plot([row[key]], [place], **style, label=words[name] if place == 0 else None, zorder=2)
            _whisker(right, row["difference"], row["ci_low"], row["ci_high"], place, LOOKS[2], None)
            right.text(1.02, place, f"p = {row['p_holm']:.3f}", transform=right.get_yaxis_transform(), fontsize=7)
        right.axvline(0, color=bars.FAINT, linewidth=0.8)
        left.set_xlabel(words["test"])
        right.set_xlabel(f"{words['with']} − {words['without']}")
        _legend(figure, left)

    return plots._save(draw, _size(methods), {"title": words["evidence"], "rows": rows}, path_stem)


def costs(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw planned and used calls, and tokens, of one search at the largest budget."""
    words, rows = _start(results, "costs", language)
    # `cached` depends on what was searched before in the same folder: it is in the table, not in a figure
    rows = [{key: value for key, value in row.items() if key != "cached"} for row in _largest(rows)]
    methods = _methods(rows)
    panels = (
        ("target calls", "target_calls", "planned_target"),
        ("optimizer calls", "optimizer_calls", "planned_optimizer"),
    )

    def draw(figure: Any) -> None:
        note = words["note costs"].format(seeds=len(results["seeds"]))
        drawn = _lined(figure, words, "costs", note, methods, 3)
        places = range(len(rows))
        for axes, (name, used, planned) in zip(drawn, panels, strict=False):
            axes.barh(places, [row[used] for row in rows], 0.55, color=BLUE)
            for place, row in enumerate(rows):
                axes.plot([row[planned]] * 2, [place - 0.38, place + 0.38], color=bars.INK, linewidth=1.4)
            axes.set_xlabel(words[name])
        left = [row["target_tokens"] / 1000 for row in rows]
        drawn[2].barh(places, left, 0.55, color=BLUE, label=words["target calls"])
        right = [row["optimizer_tokens"] / 1000 for row in rows]
        style = {"color": "white", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0.6}
        drawn[2].barh(places, right, 0.55, left=left, label=words["optimizer calls"], **style)
        drawn[2].set_xlabel(words["tokens"])
        _legend(figure, drawn[2])

    return plots._save(draw, _size(methods), {"title": words["costs"], "rows": rows}, path_stem)


def against(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw BPO and the original prompt beside every single instruction, by the metric and by the judges."""
    rows = results["against_bpo"]
    words, _ = _start(results | {"against_bpo": rows or [{}]}, "against", language, "against_bpo")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    judges = list(dict.fromkeys(row["judge"] for row in results["duels"]))
    duels = [row for row in results["duels"] if row["first"] == "bpo"]
    data = {"title": words["against"], "rows": rows, "duels": duels}

    def draw(figure: Any) -> None:
        if not rows:
            figure.text(0.02, 0.5, f"{words['against']}\n{words['none']}", fontsize=9)
            return
        note = words["note against"].format(n=rows[0]["n"], seeds=len(results["seeds"]))
        left, right = _lined(figure, words, "against", note, methods, 2)
        for row in rows:
            look = LOOKS[0] if row["which"] == "seeds" else LOOKS[2]
            place = methods.index(row["method"]) + {"chosen": -0.14, "seeds": 0.14}.get(row["which"], 0)
            _whisker(left, row["test"], row["ci_low"], row["ci_high"], place, look, None)
        for row in duels:
            look, name = LOOKS[1 - judges.index(row["judge"])], row["judge"] if row["second"] == "original" else None
            place = methods.index(row["second"]) + 0.28 * (judges.index(row["judge"]) - 0.5)
            net = (100 * row[key] for key in ("net_win", "ci_low", "ci_high"))
            _whisker(right, *net, place, look, name)
        right.axvline(0, color=bars.FAINT, linewidth=0.8)
        left.set_xlabel(words["metric"])
        right.set_xlabel(words["net"])
        _legend(figure, right)

    return plots._save(draw, _size(methods), data, path_stem)


def words_of(language: str, label: str) -> Words:
    """The words of the other figures, with this room's own in front. Raises ValueError for another language."""
    common = plots._words(language, label)
    own = yaml.safe_load(records.read_text(paths.PACKAGE / "search" / "labels.yaml"))
    found = common | {name: entry[language] for name, entry in own.items()}
    return found | {name: found[name].format(label=common.get(label, label)) for name in TITLES}


def name_in(words: Words, method: str) -> str:
    """A method's name in the language of the words."""
    from bpo_utils.search import statistics

    return words.get(f"name {method}") or statistics.name_of(method)


def _start(results: Row, title: str, language: str, key: str = "") -> tuple[Words, list[Row]]:
    words, rows = words_of(language, results["label"]), results[key or title]
    if not rows:
        raise ValueError(f"no rows of {key or title} to draw; run notebook 09")
    return words, rows


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _largest(rows: Sequence[Row]) -> list[Row]:
    most = max(row["budget"] for row in rows)
    return [row for row in rows if row["budget"] == most]


def _size(methods: Sequence[str]) -> tuple[float, float]:
    return bars.WIDTH, HEAD + FOOT + LINE * max(3, len(methods)) + 0.1


def _around(figure: Any, title: str, note: str) -> float:
    """Title and note of a figure; returns its height in inches."""
    height = figure.get_size_inches()[1]
    figure.text(0.012, 1 - 0.22 / height, title, fontsize=10)
    figure.text(0.012, 0.08 / height, note, fontsize=6.5, color=bars.INK, linespacing=1.4)
    return height


def _lined(figure: Any, words: Words, title: str, note: str, methods: Sequence[str], count: int = 1) -> list[Any]:
    """Axes side by side with a line for each method, the first at the top."""
    height = _around(figure, words[title], note)
    left, gap, right = 0.19, 0.03, 0.98 if title != "evidence" else 0.91
    width = (right - left - gap * (count - 1)) / count
    found = []
    for number in range(count):
        box = (left + number * (width + gap), FOOT / height, width, 1 - (HEAD + FOOT) / height)
        axes = figure.add_axes(box)
        names = [name_in(words, method) for method in methods] if number == 0 else [""] * len(methods)
        axes.set_yticks(range(len(methods)), names)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.grid(axis="x")
        found.append(axes)
    return found


def _whisker(axes: Any, value: float, low: float, high: float, place: float, look: tuple, label: str | None) -> None:
    colour, marker, inside = look
    style = {"color": colour, "marker": marker, "markerfacecolor": inside, "markersize": 4.2, "linestyle": "none"}
    axes.errorbar([value], [place], xerr=[[value - low], [high - value]], capsize=2, linewidth=1, label=label, **style)


def _legend(figure: Any, axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    place = {"loc": "upper right", "bbox_to_anchor": (0.99, 1 - 0.24 / figure.get_size_inches()[1]), "borderaxespad": 0}
    figure.legend(handles, names, ncols=len(names), fontsize=7, handletextpad=0.3, columnspacing=1.0, **place)


def _grid(
    draw_one: Callable[[Any, str, bool], None],
    methods: Sequence[str],
    words: Words,
    told: tuple[str, str, str, str],  # title, note, names of the axes
    data: Row,
    path_stem: Path,
    below: float = 0.0,
) -> list[Path]:
    """A panel per method, all with the same axes, the other methods behind it."""
    columns = min(5, len(methods))
    lines = -(-len(methods) // columns)

    def draw(figure: Any) -> None:
        title, note, x_name, y_name = told
        height = _around(figure, words[title], note)
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        foot = (0.85 + below) / height
        figure.subplots_adjust(left=0.075, right=0.99, bottom=foot, top=1 - 0.62 / height, wspace=0.08, hspace=0.3)
        for place, axes in enumerate(panels):
            if place >= len(methods):
                axes.set_visible(False)
                continue
            for other in methods:
                draw_one(axes, other, other == methods[place])
            axes.set_title(name_in(words, methods[place]), loc="left", fontsize=8)
            axes.grid(axis="y")
            if place % columns == 0:
                axes.set_ylabel(words[y_name])
            if place + columns >= len(methods):
                axes.tick_params(labelbottom=True)
                axes.set_xlabel(words[x_name])

    return plots._save(draw, (bars.WIDTH, 1.5 + below + 1.35 * lines), data, path_stem)
