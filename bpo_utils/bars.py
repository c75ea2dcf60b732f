"""The stacked bars shared by the result, the controls and the published tables: one panel above the other.

What is drawn is a `spec`: {title, note, summary, panels: [{title, bars: [{group, name, n, percent, net_win, ci_low,
ci_high, and counts where there are any}]}]}; `summary` says that the last panel sums up the others. At the left are the
shares of B | C | A | invalid or refused, at the right the net win with its interval.
"""

import math
from collections.abc import Iterable
from typing import Any

COLOURS = {"B": "#009E73", "C": "#BBBBBB", "A": "#D55E00", "invalid": "#FFFFFF"}  # Okabe and Ito; in the order drawn
HATCHES = {"B": "////", "C": "", "A": "....", "invalid": "xxxxxx"}
INK, FAINT = "#222222", "#777777"
SMALLEST_LABEL = 4.0  # percent; a narrower segment has no room for its number
WIDTH, NET_WIDTH = 7.2, 1.3  # inches: the figure (text width of an A4 page with small margins), the net win's axes
MARGIN, HEAD, FOOT, TITLE = 0.1, 0.5, 0.72, 0.32  # inches: at the sides, above and below all panels, above each panel
BAR, GAP = 0.172, 0.4  # inches of one row; rows left free between two groups


def size(spec: dict) -> tuple[float, float]:
    """Width and height in inches that the panels of a spec need."""
    return WIDTH, HEAD + FOOT + sum(TITLE + _rows_height(panel["bars"]) for panel in spec["panels"])


def draw(figure: Any, spec: dict, words: dict[str, str]) -> None:
    """All panels, laid out in inches, so that a long model name takes its room from the bars and covers nothing."""
    height = figure.get_size_inches()[1]
    bars = [bar for panel in spec["panels"] for bar in panel["bars"]]
    group, name, net, interval = (_text_width(figure, texts) for texts in zip(*map(_texts, bars), strict=True))
    left = MARGIN + group + 0.14 * bool(group) + name + 0.06
    net_left = WIDTH - MARGIN - interval - 0.06 - net - 0.12 - NET_WIDTH
    _write_around(figure, spec, words)
    top = height - HEAD
    for panel in spec["panels"]:
        last, rows = panel is spec["panels"][-1], _rows_height(panel["bars"])
        top -= TITLE
        if last and spec.get("summary"):
            y = (top + TITLE - 0.04) / height
            figure.add_artist(_line([MARGIN / WIDTH, 1 - MARGIN / WIDTH], [y, y]))
        figure.text(left / WIDTH, (top + 0.07) / height, panel["title"], fontsize=8.5)
        top -= rows
        for x, width, draw_part, label in (
            (left, net_left - 0.4 - left, _draw_shares, words["share"]),
            (net_left, NET_WIDTH, _draw_net, words["net"]),
        ):
            axes = figure.add_axes((x / WIDTH, top / height, width / WIDTH, rows / height))
            draw_part(axes, panel["bars"], bars)
            axes.set_xlabel(label if last else "", fontsize=7.5)
            axes.tick_params(axis="x", labelbottom=last, length=2.5 * last)
            axes.spines["bottom"].set_visible(last)


def _write_around(figure: Any, spec: dict, words: dict[str, str]) -> None:
    """Title and legend above the panels, the note below them."""
    from matplotlib.patches import Patch

    height = figure.get_size_inches()[1]
    figure.text(MARGIN / WIDTH, 1 - 0.1 / height, spec["title"], fontsize=11, va="top")
    figure.text(MARGIN / WIDTH, 0.08 / height, spec["note"], fontsize=6.8, color=FAINT, va="bottom", linespacing=1.4)
    letters = [letter for letter in COLOURS if words[letter]]
    patches = [Patch(**_look(letter), label=words[letter]) for letter in letters]
    place = {
        "loc": "upper left",
        "bbox_to_anchor": (MARGIN / WIDTH, 1 - 0.32 / height),
        "borderaxespad": 0,
        "borderpad": 0,
    }
    figure.legend(handles=patches, ncols=len(patches), fontsize=8, handlelength=2.4, handleheight=1.1, **place)


def _draw_shares(axes: Any, bars: list[dict], _: list[dict]) -> None:
    """Stacked bars of one panel, a number in each segment that has room for it, names at the left."""
    places = _positions(bars)
    starts = [0.0] * len(bars)
    for letter in COLOURS:
        widths = [bar["percent"][letter] for bar in bars]
        edges = [0.5 * (width > 0) for width in widths]
        axes.barh(places, widths, 0.82, starts, **_look(letter) | {"linewidth": edges})
        for bar, place, start, width in zip(bars, places, starts, widths, strict=True):
            if width >= SMALLEST_LABEL:
                number = str(bar["counts"][letter]) if "counts" in bar else f"{width:.1f}"
                patch = {"facecolor": COLOURS[letter], "edgecolor": "none", "pad": 0.9}  # no hatching behind digits
                axes.text(start + width / 2, place, number, fontsize=6.5, ha="center", va="center_baseline", bbox=patch)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set(xlim=(0, 100), ylim=(places[-1] + 0.5, -0.5), xticks=range(0, 101, 25))
    axes.set_yticks(places, [bar["name"] for bar in bars])
    axes.tick_params(axis="y", length=0, pad=3)
    axes.spines["left"].set_visible(False)
    for group in dict.fromkeys(bar["group"] for bar in bars):
        members = [place for bar, place in zip(bars, places, strict=True) if bar["group"] == group]
        middle = (members[0] + members[-1]) / 2
        axes.text(MARGIN / WIDTH, middle, group, transform=_across(axes), fontsize=7.5, va="center_baseline")


def _draw_net(axes: Any, bars: list[dict], all_bars: list[dict]) -> None:
    """Net win of each bar as a dot with its interval, in points, and the same in figures at the right."""
    places = _positions(bars)
    net_end = 1 - (MARGIN + 0.06 + _text_width(axes.figure, [_texts(bar)[3] for bar in all_bars])) / WIDTH
    axes.axvline(0, color=FAINT, linewidth=0.9)
    for bar, place in zip(bars, places, strict=True):
        low, net, high = (100 * bar[key] for key in ("ci_low", "net_win", "ci_high"))
        fill = "white" if low <= 0 <= high else INK
        axes.plot([low, high], [place, place], color=INK, linewidth=1.1, solid_capstyle="butt", clip_on=False)
        axes.plot(net, place, "o", ms=3.8, mfc=fill, mec=INK, mew=0.9, clip_on=False)
        style = {"transform": _across(axes), "ha": "right", "va": "center_baseline", "fontsize": 7.5}
        _, _, figures, interval = _texts(bar)
        axes.text(1 - MARGIN / WIDTH, place, interval, **style)
        axes.text(net_end, place, figures, **style)
    ends = [100 * bar[key] for bar in all_bars for key in ("ci_low", "ci_high")]
    step = 50 if max(ends) - min(ends) > 100 else 25
    low, high = step * math.floor(min([*ends, 0]) / step), step * math.ceil(max([*ends, step]) / step)
    axes.set(xlim=(low, high), ylim=(places[-1] + 0.5, -0.5), yticks=[], xticks=range(low, high + 1, step))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _texts(bar: dict) -> tuple[str, str, str, str]:
    """What is written beside a bar: group, name, net win and its interval, both in points."""
    net, low, high = (f"{100 * bar[key]:+z.1f}".replace("-", "−") for key in ("net_win", "ci_low", "ci_high"))
    return bar["group"], bar["name"], net, f"[{low}, {high}]"


def _look(letter: str) -> dict:
    edge = FAINT if letter == "invalid" else "white"
    return {"facecolor": COLOURS[letter], "hatch": HATCHES[letter], "edgecolor": edge, "linewidth": 0.5}


def _positions(bars: list[dict]) -> list[float]:
    """Row of each bar from the top, with a gap between groups."""
    places = [0.0]
    for before, bar in zip(bars, bars[1:], strict=False):
        places.append(places[-1] + 1 + GAP * (before["group"] != bar["group"]))
    return places


def _rows_height(bars: list[dict]) -> float:
    return (_positions(bars)[-1] + 1) * BAR


def _across(axes: Any) -> Any:
    """Horizontal places in the figure, vertical ones in the data."""
    from matplotlib.transforms import blended_transform_factory

    return blended_transform_factory(axes.figure.transFigure, axes.transData)


def _line(x: list[float], y: list[float]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(x, y, color=FAINT, linewidth=0.7)


def _text_width(figure: Any, texts: Iterable[str]) -> float:
    """Width in inches of the widest text at the labels' size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    probe = figure.text(0, 0, "", fontsize=7.5)
    widths = []
    for text in set(texts):
        probe.set_text(text)
        widths.append(probe.get_window_extent(renderer).width / figure.dpi)
    probe.remove()
    return max(widths)
