"""Rows of notebook 07 under names that do not depend on how many rounds, sizes or shares a profile asks for.

The report reads these, so that its text holds for every setting of the section `iterating`.
"""

from collections.abc import Mapping
from typing import Any


def named(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: {judge: numbers}} of the answer model that has every experiment, and drift_... without a judge.

    first_round, last_round; second_round: what it adds to the first; fewest_pairs, fewer_pairs (the most but all),
    all_pairs; most_noise; drift_first_round, drift_last_round. What was not measured is left out.
    """
    mine = [row for row in results["rows"] if row["answer_model"] == results["answer_model"]]
    found: dict[str, dict[str, Any]] = {}
    for judge in dict.fromkeys(row["judge"] for row in mine):
        own = [row for row in mine if row["judge"] == judge]
        rounds, sizes, noise = (
            sorted((row for row in own if row["experiment"] == experiment), key=lambda row: row[key])
            for experiment, key in (("iterate", "round"), ("sizes", "pairs"), ("noise", "noise"))
        )
        steps = [row for row in results["steps"] if row["judge"] == judge and row["setting"] == "round_1_to_2"]
        chosen = {"first_round": rounds[:1], "last_round": rounds[-1:], "second_round": steps}
        chosen |= {"fewest_pairs": sizes[:1], "fewer_pairs": sizes[-2:-1], "all_pairs": sizes[-1:]}
        chosen |= {"most_noise": noise[-1:]}
        for name, rows in chosen.items():
            for row in rows[:1]:
                found.setdefault(name, {})[judge] = _numbers(row)
    drift = [row for row in results["drift"] if row["experiment"] == "iterate"]
    for name, rows in (("drift_first_round", drift[:1]), ("drift_last_round", drift[-1:])):
        for row in rows:
            found[name] = _numbers(row)
    return found


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}
