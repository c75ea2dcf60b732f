"""What one search did, from its own files: a drawing of its lineage, and how its prompts evolved."""

import html
import math
from collections import Counter
from pathlib import Path
from typing import Any

from bpo_utils import bars, describe, plots, records
from bpo_utils.search import figures
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.task import Task

# Okabe and Ito's colours and a marker for each operator, in the order in which they come
LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"))
SPREAD = 0.7  # of the way to the next step, over which a step's candidates stand side by side
Row = dict[str, Any]


def read(folder: Path, task: Task) -> Row:
    """The lineage of a finished search: {method, budget, seed, nodes, edges, path}.

    Nodes are {id, step, operator, text, demo, score, rows, dev}: mean score over `rows` rows (None: never scored), all
    dev rows if `dev`; edges are [parent, child]; `path` leads from a first candidate to the one that was returned, by
    the parent with the best score. Raises FileNotFoundError if the search is not finished.
    """
    result = records.read_json(folder / "result.json")
    known = _scores(folder)
    nodes, edges = {}, []
    for one in _candidates(folder):
        nodes[one.id] = {"id": one.id, "step": one.step, "operator": one.operator, "text": one.text, "demo": one.demo}
        nodes[one.id] |= _mean(known.get(one.id, {}), {row.id for row in task.dev})
        edges += [[parent, one.id] for parent in one.parents]
    parents: dict[str, list[str]] = {}
    for parent, child in edges:
        parents.setdefault(child, []).append(parent)
    path = [result["best"]["id"]]
    while above := parents.get(path[0]):
        path.insert(0, max(above, key=lambda id: (nodes[id]["dev"], nodes[id]["score"] or 0.0, -int(id[1:]))))
    told = {key: result[key] for key in ("method", "budget", "seed", "trace")}
    return told | {"nodes": list(nodes.values()), "edges": edges, "path": path}


def draw(tree: Row, label: str, path_stem: Path, language: str = "en") -> list[Path]:
    """Draw a lineage: x is the step, y the score, colour and marker the operator. Returns the files written."""
    words = figures.words_of(language, label)
    shown = {one["id"]: one | {"x": x} for one, x in _placed(tree["nodes"]) if one["score"] is not None}
    if not shown:
        raise ValueError(f"{tree['method']}: no candidate was scored, there is nothing to draw")
    name = figures.name_in(words, tree["method"])
    title = words["lineage"].format(name=name, label=words.get(label, label))
    note = words["note lineage"].format(unscored=len(tree["nodes"]) - len(shown))
    operators = list(dict.fromkeys(one["operator"] for one in shown.values()))
    looks = {operator: LOOKS[place % len(LOOKS)] for place, operator in enumerate(operators)}
    thick = set(zip(tree["path"], tree["path"][1:], strict=False))
    edges = [pair for pair in map(tuple, tree["edges"]) if shown.keys() >= set(pair)]

    def paint(figure: Any) -> None:
        axes = figure.add_axes((0.08, 0.24, 0.9, 0.59))
        figure.text(0.012, 0.94, title, fontsize=10)
        figure.text(0.012, 0.02, note, fontsize=6.5, color=bars.INK, linespacing=1.4)
        faint = 0.6 if len(edges) <= 150 else max(0.08, 90 / len(edges))  # many parents each: a thicket
        for parent, child in edges:
            chosen = (parent, child) in thick
            style = {"linewidth": 2.0, "alpha": 1.0, "zorder": 3} if chosen else {"linewidth": 0.7, "alpha": faint}
            ends = [[shown[id][key] for id in (parent, child)] for key in ("x", "score")]
            axes.plot(*ends, color=looks[shown[child]["operator"]][0], **style)
        for operator, (colour, marker) in looks.items():
            for full in (True, False):
                mine = [one for one in shown.values() if one["operator"] == operator and one["dev"] == full]
                style = {"color": colour, "marker": marker, "markersize": 4.5, "linestyle": "none", "zorder": 4}
                inside = {} if full else {"markerfacecolor": "white"}
                axes.plot([one["x"] for one in mine], [one["score"] for one in mine], **style, **inside)
            axes.plot([], [], color=colour, marker=marker, markersize=4.5, linewidth=1, label=operator)
        if best := shown.get(tree["path"][-1]):
            axes.plot(best["x"], best["score"], marker="*", color="#000000", markersize=11, zorder=5)
        axes.set(xlabel=words["step"], ylabel=words["score"])
        steps = sorted({one["step"] for one in shown.values()})
        axes.set_xticks(steps[:: 1 + len(steps) // 20])
        axes.grid(axis="y")
        place = {"loc": "upper right", "bbox_to_anchor": (0.99, 0.925), "borderaxespad": 0}
        figure.legend(*axes.get_legend_handles_labels(), ncols=len(looks), fontsize=7, **place)

    return plots._save(paint, (bars.WIDTH, 3.1), {"title": title} | tree, path_stem)


def evolution(tree: Row) -> list[Row]:
    """How the returned instruction came about, a row per candidate on its way: {step, operator, before, after, score,
    rows, dev, target_calls}; `dev`: whether it was scored on all dev rows; calls: made when its step was done."""
    nodes, found = {one["id"]: one for one in tree["nodes"]}, []
    for place, id in enumerate(tree["path"]):
        one = nodes[id]
        before = _whole(nodes[tree["path"][place - 1]]) if place else ""
        calls = [row["target_calls"] for row in tree["trace"] if row["step"] >= one["step"]]
        row = {"step": one["step"], "operator": one["operator"], "before": before, "after": _whole(one)}
        row |= {"score": one["score"], "rows": one["rows"], "dev": one["dev"]}
        found.append(row | {"target_calls": min(calls) if place and calls else 0})
    return found


def as_html(rows: list[Row]) -> str:
    """The rows of `evolution` as a table; what a step took out is struck through, what it put in is underlined."""
    head = "".join(
        f"<th style='text-align:left'>{name}</th>" for name in ("step", "by", "instruction", "score", "calls")
    )
    lines = []
    for row in rows:
        text = describe.word_diff(row["before"], row["after"]) if row["before"] else _plain(row["after"])
        score = "" if row["score"] is None else f"{row['score']:.3f} ({row['rows']} {'dev' if row['dev'] else 'other'})"
        cells = (str(row["step"]), html.escape(row["operator"]), text, score, f"{row['target_calls']:,}")
        lines.append("".join(f"<td style='text-align:left;vertical-align:top'>{cell}</td>" for cell in cells))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _candidates(folder: Path) -> list[Candidate]:
    """The saved candidates; their parents are a list there, which `records.read_rows` does not read."""
    import json

    lines = records.read_text(folder / "candidates.jsonl").splitlines()
    return [Candidate(**(one | {"parents": tuple(one["parents"])})) for one in map(json.loads, lines)]


def _scores(folder: Path) -> dict[str, dict[str, float]]:
    import json

    found: dict[str, dict[str, float]] = {}
    for line in records.read_text(folder / "scores.jsonl").splitlines():
        row = json.loads(line)
        # APE's other score comes after the metric's, on the same rows: the first one counts
        found.setdefault(row["candidate"], {}).setdefault(row["row"], row["value"])
    return found


def _mean(values: dict[str, float], dev: set[str]) -> Row:
    """The mean over all dev rows where they were all scored, else over whatever was."""
    full = dev <= values.keys()
    used = [values[row] for row in sorted(dev)] if full else list(values.values())
    return {"score": math.fsum(used) / len(used) if used else None, "rows": len(used), "dev": full}


def _placed(nodes: list[Row]) -> list[tuple[Row, float]]:
    """Each node with its place on the x axis: its step, and within it the order of birth."""
    sizes, seen, found = Counter(one["step"] for one in nodes), Counter(), []
    for one in nodes:
        step = one["step"]
        found.append((one, step + SPREAD * seen[step] / sizes[step]))
        seen[step] += 1
    return found


def _whole(one: Row) -> str:
    return f"{one['demo']}\n\n{one['text']}" if one["demo"] else one["text"]


def _plain(text: str) -> str:
    return f'<div style="white-space:pre-wrap">{html.escape(text)}</div>'
