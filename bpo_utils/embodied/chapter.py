"""What the report takes from the results of notebook 10: cards of the course report's claims, and names for its text.

The names do not depend on how many embodied pairs a profile's curve asks for, and a table's rows hold what stands side
by side in the report.
"""

from collections.abc import Mapping
from typing import Any

from bpo_utils import reproduced
from bpo_utils.embodied.measure import METRICS
from bpo_utils.embodied.study import CONTROLS, REMEDIES
from bpo_utils.embodied.wordings import CONDITIONS
from bpo_utils.profile import Profile

Row = dict[str, Any]
Cells = dict[tuple[str, str, str], Mapping[str, Any]]  # by condition, remedy, metric
WORSE = ("frames_unseen", "synonyms_unseen", "both_unseen")  # wordings that neither policy nor remedy has seen
HELPED = ("both_known", "both_mixed", "both_unseen")  # of the remedies: all known, only the words, nothing


def cards(results: Mapping[str, Any], run: Profile) -> list[reproduced.Card]:
    """The cards of the course report's embodied part, from results.json: a row per kind of wording.

    Its two accuracies are held against ours by their signs: above a policy without language, and less when paraphrased.
    """
    cells, comparable, found = _cells(results), run.data.source != "miniature", []
    canonical = cells["canonical", "none", "action_accuracy"]
    floor = apart(canonical, cells["canonical", "blind", "action_accuracy"])
    found.append(_card("e_canonical", floor | {"label": "canonical"}, comparable))
    for condition in WORSE:
        drop = apart(canonical, cells[condition, "none", "action_accuracy"])
        found.append(_card("e_paraphrase", drop | {"label": condition}, comparable))
    gains = {(row["condition"], row["remedy"]): row for row in results["gains"]}
    for remedy in ("augmentation", "module"):
        for condition in HELPED:
            row = gains[condition, remedy]
            gain = {"difference": row["mean"], "label": condition}
            found.append(_card(f"e_{remedy}", {**row, **gain}, comparable))
    return found


def named(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows and says, by name; all is without a remedy where none is named.

    table: a row per metric and condition, the remedies side by side (`none`, `none_low`, `none_high` ...)
    gains: a row per condition, what each remedy adds to success; controls: a row per control, its success by condition
    drop: canonical - condition, over_blind: condition - the policy that is told nothing, by condition and metric
    curve: success by condition for none, fewest and most pairs; paraphrases: {said, right, share} over all seeds

    What was not measured is left out.
    """
    cells = _cells(results)
    found = {"table": _table(cells), "gains": _gains(results["gains"]), "controls": _controls(cells)}
    found |= {"drop": {}, "over_blind": {}, "curve": _curve(results["curve"])}
    for condition in CONDITIONS:
        mine = {metric: cells[condition, "none", metric] for metric in METRICS}
        blind = {metric: apart(row, cells[condition, "blind", metric]) for metric, row in mine.items()}
        found["over_blind"][condition] = blind
        if condition != "canonical":
            drop = {metric: apart(cells["canonical", "none", metric], row) for metric, row in mine.items()}
            found["drop"][condition] = drop
    if said := sum(row["said"] for row in results["paraphrases"]):
        right = sum(row["right"] for row in results["paraphrases"])
        found["paraphrases"] = {"said": said, "right": right, "share": right / said}
    return found


def apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> Row:
    """{difference, ci_low, ci_high, episodes, seeds} of two rows, first - second, from their own 95 % intervals.

    As if they were independent (MOVER: Zou and Donner, Statistics in Medicine 27, 2008). Both have the same episodes,
    which makes the interval rather too wide than too narrow.
    """
    a, b = ((row["mean"], row["ci_low"], row["ci_high"]) for row in (first, second))
    low = ((a[0] - a[1]) ** 2 + (b[2] - b[0]) ** 2) ** 0.5
    high = ((a[2] - a[0]) ** 2 + (b[0] - b[1]) ** 2) ** 0.5
    difference = a[0] - b[0]
    ends = {"ci_low": max(-1.0, difference - low), "ci_high": min(1.0, difference + high)}
    return {"difference": difference, **ends, "episodes": first["episodes"], "seeds": first["seeds"]}


def _cells(results: Mapping[str, Any]) -> Cells:
    return {(row["condition"], row["remedy"], row["metric"]): row for row in results["rows"]}


def _card(claim: str, row: Mapping[str, Any], comparable: bool) -> reproduced.Card:
    numbers = (row["difference"], row["ci_low"], row["ci_high"], row["episodes"], row["seeds"])
    return reproduced.card(claim, *numbers, label=row["label"], comparable=comparable)


def _table(cells: Cells) -> list[Row]:
    return [
        {"metric": metric, "condition": condition}
        | _side_by_side({remedy: cells[condition, remedy, metric] for remedy in REMEDIES})
        for metric in METRICS
        for condition in CONDITIONS
    ]


def _gains(rows: list[Mapping[str, Any]]) -> list[Row]:
    return [
        {"condition": condition}
        | _side_by_side(
            {row["remedy"]: row for row in rows if row["condition"] == condition and row["remedy"] in REMEDIES}
        )
        for condition in CONDITIONS
    ]


def _controls(cells: Cells) -> list[Row]:
    return [
        {"control": control} | _side_by_side({each: cells[each, control, "success"] for each in CONDITIONS})
        for control in ("none", *CONTROLS)
    ]


def _side_by_side(rows: Mapping[str, Mapping[str, Any]]) -> Row:
    found = {}
    for name, row in rows.items():
        found |= {name: row["mean"], f"{name}_low": row["ci_low"], f"{name}_high": row["ci_high"]}
    return found


def _curve(rows: list[Mapping[str, Any]]) -> dict[str, Row]:
    sizes = sorted({row["pairs"] for row in rows})
    trained = [size for size in sizes if size]
    chosen = {"none": [size for size in sizes if not size], "fewest": trained[:1], "most": trained[-1:]}
    found: dict[str, Row] = {}
    for name, size in ((name, size) for name, of in chosen.items() for size in of):
        mine = [row for row in rows if row["pairs"] == size and row["metric"] == "success"]
        measured = {row["condition"]: {end: row[end] for end in ("mean", "ci_low", "ci_high")} for row in mine}
        found[name] = {"pairs": size} | measured
    return found
