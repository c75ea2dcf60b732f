"""What a budget buys, on the synthetic landscape, whose best instruction is known: regret against target calls.

    python -m bpo_utils.search.study PART.json

Regret is the true accuracy of the best instruction there is less that of the one that was found, so no test rows are
needed. The same methods, settings and dev rows as in the comparison, larger budgets besides, twice as many seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bpo_utils import paths, records, seeds, workers
from bpo_utils.chat import Calls
from bpo_utils.profile import Model, Profile, Searching
from bpo_utils.search import compare, landscape, run, statistics, tasks
from bpo_utils.search.state import Roles

MODULE = "bpo_utils.search.study"
TARGET = Model(name="landscape", provider="landscape", model="phrases")
OPTIMIZER = Model(name="program", provider="program", model="phrases")
Row = dict[str, Any]


def section(searching: Searching) -> Searching:
    """The profile's section with the landscape as its task: its budgets and two larger ones, twice its seeds."""
    most, count = max(searching.budgets), 2 * len(searching.seeds)
    changed = {"task": "landscape", "target": TARGET, "optimizer": OPTIMIZER, "seeds": list(range(1, count + 1))}
    changed |= {"rows": searching.rows.model_copy(update={"test": 1})}  # the truth is known
    return searching.model_copy(update=changed | {"budgets": [*sorted(set(searching.budgets)), 2 * most, 4 * most]})


def run_all(profile: Profile) -> list[Row]:
    """{method, budget, seed, regret, target_calls, instruction} of every search; loaded where they are there already.

    Raises ChildProcessError with the last lines of a process that fails.
    """
    searching = section(compare.section(profile))
    todo = [one for one in compare.every(searching) if not one.blind]
    folder, jobs, parts = paths.stage_dir(profile.name, "09_search") / "study", [], []
    for number, part in enumerate(compare.shares(todo, searching.at_once)):
        job = {"code": compare.code(), "searching": searching.model_dump(mode="json")}
        job |= {"searches": [[one.method, one.budget, one.seed] for one in part]}
        path = folder / f"part-{number}.json"
        parts.append(path)
        if not (path.is_file() and records.read_json(path) == job and _rows_of(path).is_file()):
            _rows_of(path).unlink(missing_ok=True)
            records.write_json(path, job)
            jobs.append(
                workers.Job(f"the study, part {number}", MODULE, ("--child", str(path)), path.with_suffix(".log"))
            )
    if jobs:
        workers.run(jobs, len(jobs), compare.threads(len(jobs)))
    rows = [row for path in parts for row in records.read_json(_rows_of(path))]
    return sorted(rows, key=lambda row: (searching.methods.index(row["method"]), row["budget"], row["seed"]))


def make(path: Path) -> None:
    """Make the searches of a prepared file and write what came out beside it."""
    job = records.read_json(path)
    searching = Searching.model_validate(job["searching"])
    task = tasks.load(searching.task, searching.rows)
    roles = Roles(searching.target, searching.optimizer, Calls(path.with_suffix(".sqlite")))
    rows = []
    for method, budget, seed in job["searches"]:
        found = run.search(searching, task, roles, method, budget, seed)
        rows.append({"method": method, "budget": budget, "seed": seed, "regret": regret(found["best"])})
        rows[-1] |= {"target_calls": found["counts"]["target_calls"], "instruction": found["best"]["text"]}
    records.write_json(_rows_of(path), rows)


def regret(best: Row) -> float:
    """True accuracy of the best instruction there is, less that of a candidate with its demonstration."""
    return landscape.optimum()[1] - landscape.value(landscape.phrases_in(f"{best['text']}\n{best['demo']}"))


def summary(rows: list[Row]) -> list[Row]:
    """A row per method and budget: {method, name, budget, regret, ci_low, ci_high, target_calls, seeds}.

    The interval is Student's over seeds; nothing else varies. It ends at 0.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["budget"]), []).append(row)
    found = []
    for (method, budget), group in groups.items():
        mean = seeds.over([[row["regret"] for row in group]])
        told = {"method": method, "name": statistics.name_of(method), "budget": budget, "regret": mean.mean}
        told |= {"ci_low": max(0.0, mean.low), "ci_high": mean.high}
        calls = sum(row["target_calls"] for row in group) / len(group)
        found.append(told | {"target_calls": calls, "seeds": len(group)})
    return found


def _rows_of(path: Path) -> Path:
    return path.with_name(f"rows-{path.name.partition('-')[2]}")


def main() -> int:
    """Make the searches of a prepared part; exit code 0."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=main.__doc__)
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    parser.add_argument("part", type=Path, metavar="PART.json")
    given = parser.parse_args()
    if given.child:
        workers.end_with_parent()
    make(given.part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
