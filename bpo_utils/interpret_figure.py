"""The figure of section "what the rewriter adds": net win by strategy, category and harm, every bar a link.

Rows are groups and answer models, columns judges. In the SVG each bar links to the examples behind it on the page that
`interpret_page` writes. Words come from labels.yaml, colours and formats from the other figures.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bpo_utils import bars, plots
from bpo_utils.interpret import SMALL
from bpo_utils.records import TEST_SETS

DRAWN = ("strategy", "category", "harm")
GREY = "#D5D5D5"
HEAD, FOOT, TITLE, ROW, GAP = 0.52, 0.9, 0.3, 0.135, 0.5  # inches; GAP in rows, between two groups


def fragment(panel: str, group: str = "", answer_model: str = "", judge: str = "") -> str:
    """The part of the page's address that names a bar (or a panel only), without "#"."""
    names = {"panel": panel, "group": group, "model": answer_model, "judge": judge}
    return urlencode({name: value for name, value in names.items() if value})


def group_label(panel: str, row: dict, words: dict[str, str]) -> str:
    """What a group of `interpret.panels` is called; a category keeps its own name, whatever that is."""
    group = row["group"]
    if panel == "growth":
        low, high = (f"{value:.1f}" for value in row["growth"])
        return words["growth range"].format(low=low, high=high)
    if panel == "set_category":
        test_set, _, category = group.partition("/")
        return f"{TEST_SETS.get(test_set, test_set)}: {_category(category, words)}"
    return _category(group, words) if panel == "category" else words.get(group, group)


def figure(
    panels: list[dict], label: str, path_stem: Path, language: str = "en", page: Path | None = None
) -> list[Path]:
    """Draw the panels DRAWN of `interpret.panels`; returns the files written (PNG, PDF, SVG and JSON).

    `page`: the page of examples that the bars of the SVG link to, by its place relative to the figure. Raises
    ValueError for an unknown language or if there is nothing to draw.
    """
    words = plots._words(language, label)
    chosen = [panel for panel in panels if panel["panel"] in DRAWN]
    if not chosen:
        raise ValueError(f"nothing to draw for {path_stem.name}: no panels; run notebooks 04 and 05 first")
    link = Path(os.path.relpath(page, path_stem.parent)).as_posix() if page else ""
    spec = {
        "title": words["interpretation"].format(label=words.get(label, label)),
        "note": words["interpretation note"].format(small=SMALL),
        "panels": [{"title": words[f"by {panel['panel']}"], **_labelled(panel, words)} for panel in chosen],
    }
    height = HEAD + FOOT + sum(TITLE + _height(panel) for panel in spec["panels"])
    return plots._save(lambda drawn: _draw(drawn, spec, words, link), (bars.WIDTH, height), spec, path_stem)


def _category(name: str, words: dict[str, str]) -> str:
    """A category may be called what a label is called too; only what this course put in brackets is translated."""
    return words.get(name, name) if name.startswith("(") else name


def _labelled(panel: dict, words: dict[str, str]) -> dict:
    groups = []
    for row in panel["groups"]:
        n = words["n"].format(n=row["n"])
        groups.append(row | {"label": f"{group_label(panel['panel'], row, words)}  ({n})"})
    return {"panel": panel["panel"], "groups": groups}


def _models(group: dict) -> list[str]:
    return list(dict.fromkeys(bar["answer_model"] for bar in group["bars"]))


def _places(panel: dict) -> list[tuple[dict, list[float]]]:
    """Row of each answer model of each group, from the top."""
    found, at = [], 0.0
    for group in panel["groups"]:
        models = _models(group)
        found.append((group, [at + number for number in range(len(models))]))
        at += len(models) + GAP
    return found


def _height(panel: dict) -> float:
    return (sum(len(_models(group)) + GAP for group in panel["groups"]) - GAP) * ROW


def _draw(drawn: Any, spec: dict, words: dict[str, str], link: str) -> None:
    everything = [bar for panel in spec["panels"] for group in panel["groups"] for bar in group["bars"]]
    judges = list(dict.fromkeys(bar["judge"] for bar in everything))
    labels = [_short(group["label"]) for panel in spec["panels"] for group in panel["groups"]]
    group_width = _width(drawn, labels)
    left = bars.MARGIN + group_width + 0.1 + _width(drawn, [_short(bar["answer_model"]) for bar in everything])
    column = (bars.WIDTH - bars.MARGIN - left) / len(judges)
    ends = [100 * bar[name] for bar in everything for name in ("ci_low", "ci_high")]
    limits = (25 * (min([*ends, 0.0]) // 25), -25 * (-max([*ends, 25.0]) // 25))
    height = drawn.get_size_inches()[1]
    _write(drawn, spec, height)
    top = height - HEAD
    for panel in spec["panels"]:
        top -= TITLE
        _text(drawn, bars.MARGIN / bars.WIDTH, (top + 0.09) / height, panel["title"], fontsize=8.5)
        rows = _height(panel)
        top -= rows
        for number, judge in enumerate(judges):
            x = left + 0.08 + number * column
            axes = drawn.add_axes((x / bars.WIDTH, top / height, (column - 0.46) / bars.WIDTH, rows / height))
            _panel(axes, panel, judge, limits, link)
            last = panel is spec["panels"][-1]
            axes.tick_params(axis="x", labelbottom=last, length=2.5 * last)
            axes.spines["bottom"].set_visible(last)
            axes.set_xlabel(words["net"] if last else "", fontsize=7)
            if panel is spec["panels"][0]:
                _text(axes, 0, 1 + TITLE / rows, judge, transform=axes.transAxes, fontsize=8.5)
            if not number:
                _name_rows(axes, panel)


def _write(drawn: Any, spec: dict, height: float) -> None:
    x = bars.MARGIN / bars.WIDTH
    _text(drawn, x, 1 - 0.1 / height, spec["title"], fontsize=11, va="top")
    style = {"fontsize": 6.8, "color": bars.FAINT, "va": "bottom", "linespacing": 1.4}
    _text(drawn, x, 0.06 / height, spec["note"], **style)


def _name_rows(axes: Any, panel: dict) -> None:
    """Group at the far left, answer models beside the bars."""
    ticks = [
        (place, model) for group, places in _places(panel) for place, model in zip(places, _models(group), strict=True)
    ]
    axes.set_yticks([place for place, _ in ticks], [_short(model) for _, model in ticks], fontsize=6.8)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    for group, places in _places(panel):
        style = {"transform": bars._across(axes), "fontsize": 7.2, "va": "center_baseline"}
        grey = {"color": bars.FAINT} if group["small"] else {}
        middle = (places[0] + places[-1]) / 2
        _text(axes, bars.MARGIN / bars.WIDTH, middle, _short(group["label"]), **style, **grey)


def _panel(axes: Any, panel: dict, judge: str, limits: tuple[float, float], link: str) -> None:
    axes.axvline(0, color=bars.FAINT, linewidth=0.9)
    places = _places(panel)
    for group, rows in places:
        by_model = {bar["answer_model"]: bar for bar in group["bars"] if bar["judge"] == judge}
        for model, place in zip(_models(group), rows, strict=True):
            if model in by_model:
                url = f"{link}#{fragment(panel['panel'], group['group'], model, judge)}" if link else None
                _bar(axes, by_model[model], place, group["small"], limits, url)
    axes.set(xlim=limits, ylim=(places[-1][1][-1] + 0.5, -0.5), yticks=[])
    axes.set_xticks(range(int(limits[0]), int(limits[1]) + 1, 50 if limits[1] - limits[0] > 100 else 25))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0, pad=3)
    axes.spines["left"].set_visible(False)


def _bar(axes: Any, bar: dict, place: float, small: bool, limits: tuple[float, float], url: str | None) -> None:
    low, net, high = (100 * bar[name] for name in ("ci_low", "net_win", "ci_high"))
    look = bars._look("B" if net >= 0 else "A") if not small else {"facecolor": GREY, "edgecolor": bars.FAINT}
    axes.barh(place, net, 0.74, **look | {"linewidth": 0.4}, url=url)
    axes.plot([low, high], [place, place], color=bars.INK, linewidth=0.8, solid_capstyle="butt")
    # nothing to see, but a bar of length zero can be clicked too
    axes.barh(place, limits[1] - limits[0], 0.98, limits[0], facecolor="white", alpha=0, linewidth=0, url=url)
    style = {"fontsize": 6.5, "va": "center_baseline", "ha": "right", "color": bars.FAINT if small else bars.INK}
    at = axes.get_yaxis_transform()
    # room for four characters at the right of the axes
    width = axes.get_position().width * bars.WIDTH
    _text(axes, 1 + 0.3 / width, place, f"{net:+z.0f}".replace("-", "−"), transform=at, **style)


def _text(where: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text as it is: a dollar in a category or a model's name starts no formula."""
    where.text(x, y, text, parse_math=False, **style)


def _width(drawn: Any, texts: list[str]) -> float:
    """Width in inches of the widest text; `bars` has this for texts that may hold formulas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(drawn).get_renderer()
    probe = drawn.text(0, 0, "", fontsize=7.2, parse_math=False)
    widths = []
    for text in set(texts):
        probe.set_text(text)
        widths.append(probe.get_window_extent(renderer).width / drawn.dpi)
    probe.remove()
    return max(widths)


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
