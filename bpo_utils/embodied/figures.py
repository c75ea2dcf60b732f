"""The figures of notebook 10. Hatches, markers and line styles tell apart what colours do; whiskers are 95 % intervals.

Every figure gives the files written, `path_stem` with .png, .pdf, .svg and .json, and raises ValueError without rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bpo_utils import paths, plots, records
from bpo_utils.bars import FAINT, INK, WIDTH
from bpo_utils.embodied import world
from bpo_utils.embodied.wordings import CONDITIONS

GREY, BLUE, SKY, ORANGE, GREEN = "#D9D9D9", "#0072B2", "#56B4E9", "#E69F00", "#009E73"  # Okabe and Ito's
REMEDIES = {"none": (GREY, ""), "augmentation": (ORANGE, "////"), "module": (SKY, ""), "both": (GREEN, "....")}
CONTROLS = {"none": (GREY, ""), "shuffled": ("white", ""), "wrong_paraphrases": ("white", "xxxx")}
CONTROLS |= {"random_edits": ("#CC79A7", "////"), "linear": (SKY, "...."), "sentence_identity": ("#F0E442", "----")}
LIMITS = {"blind": "--", "perfect": "-"}  # lines: the language-blind floor, and the best that a module can do
MARKERS = {"canonical": "o", "known": "s", "unseen": "^"}  # where the frame is from
LINES = {"canonical": (BLUE, "-"), "known": ("#D55E00", "--"), "unseen": (GREEN, ":")}  # where the synonyms are from
METRICS = ("success", "exact_sequence", "action_accuracy")
MOST = 8  # pictures of a rollout
Row = dict[str, Any]


def bars(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw every remedy under every condition, a panel per metric."""
    return _grouped("bars", REMEDIES, METRICS, results, path_stem, language)


def controls(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the controls beside no remedy: success and action accuracy."""
    return _grouped("controls", CONTROLS, METRICS[::2], results, path_stem, language)


def curve(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw success and action accuracy by number of embodied pairs, a line per condition."""
    words, metrics = words_of(language, results["label"]), METRICS[::2]
    rows = [row for row in _some(results["curve"]) if row["metric"] in metrics]
    limits = [row for row in results["rows"] if row["remedy"] in LIMITS and row["metric"] in metrics]
    cells = {(row["metric"], row["condition"], row["pairs"]): row for row in rows}
    sizes, conditions = sorted({row["pairs"] for row in rows}), list(dict.fromkeys(row["condition"] for row in rows))

    def draw(figure: Any) -> None:
        told = words["curve"], words["note curve"].format(**rows[0])
        for axes, metric in zip(_stack(figure, told, len(metrics)), metrics, strict=True):
            for n, condition in enumerate(conditions):
                places = [place + 0.06 * (n - (len(conditions) - 1) / 2) for place in range(len(sizes))]
                mean, error = _percent([cells[metric, condition, size] for size in sizes])
                (frame, synonyms), name = CONDITIONS[condition], words[f"at {condition}"].replace("\n", " ")
                style = {"color": LINES[synonyms][0], "linestyle": LINES[synonyms][1], "marker": MARKERS[frame]}
                style |= {"markersize": 4.5, "markerfacecolor": "white", "linewidth": 1, "capsize": 1.5}
                axes.errorbar(places, mean, error, label=name, **style)
            axes.set_xlabel(words["pairs"])
            _finish(axes, limits, metric, sizes, words)
        _legend(figure, axes, 5)

    return plots._save(draw, (WIDTH, 5.6), {"title": words["curve"], "rows": rows, "limits": limits}, path_stem)


def strip(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw what one policy does in one scene under each wording, a row of pictures each."""
    words, told = words_of(language, results["label"]), results["strip"]
    names = words["actions"].split(", ")
    replayed = [frames(told["seed"], row["actions"]) for row in _some(told["rows"])]
    rows = [row | {"shown": shown(pictures)} for row, pictures in zip(told["rows"], replayed, strict=True)]
    note = words["note strip"].format(seed=told["seed"], policy=words[f"policy {told['policy']}"], most=MOST)

    def draw(figure: Any) -> None:
        stack = _stack(figure, (words["strip"], note), len(rows), 0.62, 0.4)
        for axes, row, pictures in zip(stack, rows, replayed, strict=True):
            for place, step in enumerate(row["shown"]):  # no interpolation: PDF and SVG keep every pixel
                axes.imshow(pictures[step], extent=(place, place + 0.95, 0, 0.95), interpolation="none")
            below = [f"{step}  {names[row['actions'][step - 1]]}" if step else words["start"] for step in row["shown"]]
            ended = words["success" if row["success"] else "failure"].format(n=len(pictures) - 1)
            said = f'{words["at " + row["condition"]]}: "{row["text"]}" – {ended}'.replace("\n", " ")
            _bare(axes, said, [place + 0.475 for place in range(len(below))], below)
            axes.set(xlim=(0, MOST), ylim=(0, 0.95), anchor="NW")

    data = {"title": words["strip"]} | told | {"rows": rows}
    return plots._save(draw, (WIDTH, 1.05 + 1.3 * len(rows)), data, path_stem)


def saliency(results: Row, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw the words of some sentences, each with the weight that it has for the policy."""
    words, rows = words_of(language, results["label"]), _some(results["saliency"])
    weights = [100 * weight for row in rows for _, weight in row["words"]]
    low, high, longest = min(0, *weights), max(1, *weights), max(len(row["words"]) for row in rows)

    def draw(figure: Any) -> None:
        told = words["saliency"], words["note saliency"]
        for axes, row in zip(_stack(figure, told, len(rows), 0.62, 0.9), rows, strict=True):
            values = [100 * weight for _, weight in row["words"]]
            fill = [("white", "/////") if value < 0 else (BLUE, "") for value in values]
            style = dict(zip(("color", "hatch"), zip(*fill, strict=True), strict=True))
            drawn = axes.bar(range(len(values)), values, 0.5, edgecolor=INK, linewidth=0.5, **style)
            axes.bar_label(drawn, [f"{value:+z.1f}".replace("-", "−") for value in values], fontsize=6.5, padding=1)
            axes.axhline(0, color=FAINT, linewidth=0.8)
            name = f"{words['at ' + row['condition']]} · {words['with ' + row['remedy']]}".replace("\n", " ")
            _bare(axes, name, range(len(values)), [word for word, _ in row["words"]])
            axes.set(xlim=(-0.5, longest - 0.5), ylim=(1.2 * low - 0.2 * high, 1.2 * high - 0.2 * low))

    data = {"title": words["saliency"], "rows": rows}
    return plots._save(draw, (WIDTH, 1.0 + 1.05 * len(rows)), data, path_stem)


def frames(seed: int, actions: Sequence[int], tile: int = 32) -> list[Any]:
    """Pictures of a scene at its start and after each action, uint8 (6 tiles, 6 tiles, 3); -1 is no action."""
    env, _ = world.scene(seed)
    pictures = [env.get_frame(tile_size=tile)]
    for action in [each for each in actions if each >= 0]:
        env.step(action)
        pictures.append(env.get_frame(tile_size=tile))
    return pictures


def shown(pictures: Sequence[Any]) -> list[int]:
    """Which pictures of a rollout are drawn: the first, the last, and evenly between of those with something new."""
    last = len(pictures) - 1
    new = [n for n in range(last + 1) if n in (0, last) or (pictures[n] != pictures[n - 1]).any()]
    count = min(len(new), MOST)
    return [new[round(n * (len(new) - 1) / max(count - 1, 1))] for n in range(count)]


def words_of(language: str, label: str) -> dict[str, str]:
    """The words of the other figures, with this room's own in front. Raises ValueError for another language."""
    common = plots._words(language, label)
    own = yaml.safe_load(records.read_text(paths.PACKAGE / "embodied" / "labels.yaml"))
    return common | {name: entry[language].replace("{label}", common.get(label, label)) for name, entry in own.items()}


def _grouped(title: str, looks: Row, metrics: Sequence[str], results: Row, stem: Path, language: str) -> list[Path]:
    """A panel per metric, a group of bars per condition."""
    words = words_of(language, results["label"])
    kept = [row for row in _some(results["rows"]) if row["remedy"] in {**looks, **LIMITS} and row["metric"] in metrics]
    cells = {(row["metric"], row["remedy"], row["condition"]): row for row in kept}
    conditions, width = list(dict.fromkeys(row["condition"] for row in kept)), 0.84 / len(looks)

    def draw(figure: Any) -> None:
        told = words[title], words["note bars"].format(**kept[0])
        for axes, metric in zip(_stack(figure, told, len(metrics)), metrics, strict=True):
            for n, (remedy, (colour, hatch)) in enumerate(looks.items()):
                mean, error = _percent([cells[metric, remedy, condition] for condition in conditions])
                places = [place + width * (n - (len(looks) - 1) / 2) for place in range(len(conditions))]
                style = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}
                axes.bar(places, mean, width, label=words[f"with {remedy}"], **style)
                axes.errorbar(places, mean, error, color=INK, linestyle="none", linewidth=0.8, capsize=1.5)
            axes.set_xlim(-0.5, len(conditions) - 0.5)
            _finish(axes, kept, metric, [words[f"at {condition}"] for condition in conditions], words)
        _legend(figure, axes, 4)

    return plots._save(draw, (WIDTH, 1.5 + 1.5 * len(metrics)), {"title": words[title], "rows": kept}, stem)


def _some(rows: list[Row]) -> list[Row]:
    if not rows:
        raise ValueError("there are no rows to draw; run notebook 10")
    return rows


def _percent(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    ends = [[row["mean"] - row["ci_low"] for row in rows], [row["ci_high"] - row["mean"] for row in rows]]
    return [100 * row["mean"] for row in rows], [[max(0.0, 100 * each) for each in end] for end in ends]


def _stack(figure: Any, told: tuple[str, str], count: int, head: float = 0.95, gap: float = 0.25) -> Sequence[Any]:
    """Axes one above the other, `head` inches below the top, with title and note around them."""
    height = figure.get_size_inches()[1]
    figure.text(0.012, 1 - 0.22 / height, told[0], fontsize=10)
    figure.text(0.012, 0.08 / height, told[1], fontsize=6.5, linespacing=1.4)
    left, foot = (0.055, 0.95) if head > 0.8 else (0.012, 0.65)
    figure.subplots_adjust(left=left, right=0.99, bottom=foot / height, top=1 - head / height, hspace=gap)
    return figure.subplots(count, 1, squeeze=False)[:, 0]


def _finish(axes: Any, rows: Sequence[Row], metric: str, below: Sequence[Any], words: dict[str, str]) -> None:
    """Floor and ceiling with their intervals (the same in every condition: neither hears what is said), and scale."""
    for remedy, line in LIMITS.items():
        row = next(row for row in rows if (row["remedy"], row["metric"]) == (remedy, metric))
        axes.axhspan(100 * row["ci_low"], 100 * row["ci_high"], color=FAINT, alpha=0.25, linewidth=0, zorder=0.5)
        axes.axhline(100 * row["mean"], color=INK, linewidth=0.9, linestyle=line, label=words[f"with {remedy}"])
    axes.set_title(words[f"metric {metric}"], loc="left", fontsize=8.5)
    axes.set_xticks(range(len(below)), below)
    axes.set(ylim=(0, 104), yticks=range(0, 101, 25))
    axes.grid(axis="y")
    axes.label_outer()


def _bare(axes: Any, title: str, places: Sequence[float], below: Sequence[str]) -> None:
    """Title above, words below, and nothing else around."""
    axes.set_title(title, loc="left", fontsize=7.5)
    axes.set_xticks(places, below, fontsize=7)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _legend(figure: Any, axes: Any, columns: int) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (0.005, 1 - 0.27 / figure.get_size_inches()[1])}
    names = axes.get_legend_handles_labels()
    figure.legend(*names, ncols=columns, fontsize=7, borderaxespad=0, columnspacing=0.9, handlelength=2.2, **place)
