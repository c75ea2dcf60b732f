"""All searches of a profile's section `searching`: methods x budgets x seeds, and the ablation of evidence.

Each search lies in a folder of its own under 09_search/runs with the facts it was made from; with the same facts its
result is loaded, with others it is made again. Models in this process are shared out to `at_once` processes. Each has a
store of calls of its own and takes all budgets of a method and seed one after the other, the smallest first: a larger
budget then goes the way of the smaller one from the store. Methods and seeds go side by side (`together`). With a model
elsewhere there is one process and one store, and one search after the other.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from bpo_utils import paths, records, workers
from bpo_utils.chat import Calls, capabilities
from bpo_utils.profile import Model, Profile, Searching
from bpo_utils.search import methods, plan, programs, run, tasks, together
from bpo_utils.search.state import Roles, digest
from bpo_utils.search.task import Task

MODULE = "bpo_utils.search.compare_one"
BLINDED = ("opro", "protegi", "pe2")  # the methods whose evidence is taken away, where the profile has them
# files of this room that come before or after a search: what they say does not change its result
AFTERWARDS = (
    "__init__",
    "against_bpo",
    "chapter",
    "compare",
    "compare_one",
    "cost",
    "figures",
    "lineage",
    "statistics",
)
AFTERWARDS += ("study", "together")
Result = dict[str, Any]  # what `run.search` returns, with `blind`


@dataclass(frozen=True)
class One:
    """One search. `blind`: its optimizer is shown no evidence."""

    method: str
    budget: int
    seed: int
    blind: bool = False

    def folder(self, profile: str, task: str) -> Path:
        """Where it is kept; apart from what `bpo search` keeps, which is not this comparison's to remove."""
        kind = "blind" if self.blind else "compared"
        return run.folder_of(profile, task, self.method, self.budget, self.seed, kind)


def section(profile: Profile) -> Searching:
    """The profile's section `searching`. Raises ValueError with what to do if it has none."""
    if profile.searching is None:
        raise ValueError(
            f"profile {profile.name} has no section `searching`, so notebook 09 has nothing to search on. Profile mini "
            "has one; for other models see `bpo search --help`"
        )
    return profile.searching


def resolved(profile: Profile, calls: Calls) -> tuple[Profile, str]:
    """(the profile with successors in the place of models of this section that are gone, what was found in a sentence).

    Raises as `served.resolve`, and ValueError for a profile without the section.
    """
    from bpo_utils.chat import served

    searching, said = section(profile), []
    for role in ("target", "optimizer"):
        model = getattr(searching, role)
        if _inside(model):
            continue
        one = profile.model_copy(update={"answer_models": [model], "judges": []})
        found, told = served.resolve(one, calls)
        searching = searching.model_copy(update={role: found.answer_models[0]})
        said.append(f"{role}: {told}")
    told = " ".join(said) or "All models run in this process; nothing is sent anywhere."
    return profile.model_copy(update={"searching": searching}), told


def every(searching: Searching) -> list[One]:
    """All searches, the ablation's last; a method's budgets in ascending order. Raises ValueError for a name twice."""
    if len(set(searching.methods)) < len(searching.methods):
        raise ValueError(f"searching.methods names a method twice: {', '.join(searching.methods)}")
    budgets, blinded = sorted(set(searching.budgets)), [name for name in BLINDED if name in searching.methods]
    found = [One(name, cap, seed) for seed in searching.seeds for name in searching.methods for cap in budgets]
    return found + [One(name, blind_budget(searching), seed, True) for seed in searching.seeds for name in blinded]


def blind_budget(searching: Searching) -> int:
    """The budget of the ablation: the middle one, of two the larger."""
    budgets = sorted(set(searching.budgets))
    return budgets[len(budgets) // 2]


def planned(searching: Searching, task: Task) -> list[dict[str, Any]]:
    """A row per method and budget: calls at most of one search, and of all seeds with the look at what came out.

    Raises ValueError with every method whose budget is too small.
    """
    found, small, looks = [], [], run.measured_at_most(task)
    for name in searching.methods:
        for budget in sorted(set(searching.budgets)):
            try:
                settings = run.settings_of(searching, name, task, budget)
            except ValueError as error:
                small.append(str(error))
                continue
            most, knob = run.planned(name, settings, task, budget), methods.find(name).KNOB
            row = {"method": name, "budget": budget, "knob": f"{knob} {getattr(settings, knob)}"}
            row |= {"target_calls": most.target, "optimizer_calls": most.optimizer, "seeds": len(searching.seeds)}
            found.append(row | {"all_target_calls": (most.target + looks) * len(searching.seeds)})
    if small:
        raise ValueError("\n".join(small))
    return found


def bill(searching: Searching, task: Task, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences on what all searches can cost, from the rows of `planned`."""
    from bpo_utils.chat import money
    from bpo_utils.search import cost

    blind = [one for one in every(searching) if one.blind]
    by_cell = {(row["method"], row["budget"]): row for row in rows}
    cells = [(one.method, one.budget) for one in every(searching)]
    target = sum(by_cell[cell]["target_calls"] for cell in cells)
    optimizer, looks = sum(by_cell[cell]["optimizer_calls"] for cell in cells), len(cells) * run.measured_at_most(task)
    told = [
        f"{len(cells)} searches, {len(blind)} of them without evidence.",
        f"At most {target:,} target calls to search and {looks:,} to look at what came out; {optimizer:,} optimizer "
        "calls.",
    ]
    if alone(searching):
        return [*told, "All models run in this process: nothing to pay."]
    return [*told, money.table(cost.lines(searching, task, plan.Plan(target, optimizer), looks))]


def run_all(profile: Profile, calls: Calls, tell: Callable[[str], None] = print) -> list[Result]:
    """The results of all searches, in the order of `every`; those that are there are loaded.

    `calls`: how calls to models elsewhere are made. Raises ChildProcessError with the last lines of a process that
    fails; what is finished is kept. Raises what `run.search` raises.
    """
    searching = section(profile)
    everyone = every(searching)
    missing = [one for one in everyone if not is_there(profile.name, searching, one)]
    tell(f"{len(everyone)} searches: {len(everyone) - len(missing)} are there, {len(missing)} to make")
    for one in missing:
        _clear(profile.name, searching, one)
    if missing and alone(searching):
        _in_processes(profile.name, searching, missing, tell)
    elif missing:
        make(profile.name, searching, missing, calls, tell)
    return [_result(profile.name, searching, one) for one in everyone]


def is_there(profile: str, searching: Searching, one: One) -> bool:
    """Whether the result of the very same search, made by the same code, lies in its folder."""
    folder = one.folder(profile, searching.task)
    if not (folder / "result.json").is_file() or not (folder / "facts.json").is_file():
        return False
    return records.read_json(folder / "facts.json") == facts(searching, one)


def facts(searching: Searching, one: One) -> dict[str, Any]:
    """What decides a search's result, but for the weights of its models."""
    told = searching.model_dump(mode="json", exclude={"budgets", "seeds", "methods", "settings", "at_once"})
    return {"code": code(), "searching": told | {"settings": searching.settings.get(one.method, {})}}


@cache
def code() -> str:
    """A short name for the code and meta-prompts of this room that a search runs through."""
    here = paths.PACKAGE / "search"
    files = [file for file in sorted(here.glob("*.py")) if file.stem not in AFTERWARDS]
    files += [*sorted((here / "methods").glob("*.py")), *sorted((here / "prompts").glob("*.md"))]
    return digest([[file.name, records.read_text(file)] for file in files])


def make(
    profile: str,
    searching: Searching,
    todo: Sequence[One],
    calls: Calls,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Make searches in this process: with models elsewhere one after the other, else those of each method and seed
    beside those of the others, so that the model gets full batches."""
    task, left = tasks.of(searching), len(todo)
    free = alone(searching)  # only then is measured what the curves alone need: it is in no plan

    def walk(mine: Sequence[One], complete: together.Complete) -> None:
        nonlocal left
        roles = Roles(searching.target, searching.optimizer, calls, complete)
        for one in mine:
            folder = one.folder(profile, searching.task)
            run.search(searching, task, roles, one.method, one.budget, one.seed, folder, blind=one.blind, curve=free)
            left -= 1
            tell(f"  {folder.name}: done ({left} searches left)")

    if not free:
        return walk(todo, programs.complete)
    lanes: dict[tuple[str, int, bool], list[One]] = {}
    for one in todo:
        lanes.setdefault((one.method, one.seed, one.blind), []).append(one)
    together.run([partial(walk, mine) for mine in lanes.values()])


def _clear(profile: str, searching: Searching, one: One) -> None:
    """Remove what other facts led to, and write these; a search that was stopped stays, to be gone on with."""
    folder, told = one.folder(profile, searching.task), facts(searching, one)
    kept = folder / "facts.json"
    if folder.exists() and not (kept.is_file() and records.read_json(kept) == told):
        shutil.rmtree(folder)
    records.write_json(kept, told)


def alone(searching: Searching) -> bool:
    """Whether target and optimizer both run in this process, so that several processes can each have their own."""
    return _inside(searching.target) and _inside(searching.optimizer)


def _inside(model: Model) -> bool:
    return model.provider in (*programs.PROGRAMS, *capabilities.IN_PROCESS)


def shares(todo: Sequence[One], count: int) -> list[list[One]]:
    """The searches in `count` parts. A method and seed stays together; each method is split over all parts, so that
    none has all of a slow one."""
    names, numbers = (list(dict.fromkeys(getattr(one, field) for one in todo)) for field in ("method", "seed"))
    parts: list[list[One]] = [[] for _ in range(count)]
    for one in todo:
        parts[(names.index(one.method) + numbers.index(one.seed)) % count].append(one)
    return [part for part in parts if part]


def _in_processes(profile: str, searching: Searching, todo: Sequence[One], tell: Callable[[str], None]) -> None:
    parts = shares(todo, searching.at_once)
    jobs = [_prepared(profile, searching, part, number) for number, part in enumerate(parts)]
    waiting = list(todo)
    workers.run(jobs, len(parts), threads(len(parts)), meanwhile=lambda: _tell(profile, searching, waiting, tell))


def threads(count: int) -> int | None:
    """Threads of each of `count` processes: two that both want all cores are slower than one after the other."""
    return max(1, (os.cpu_count() or 1) // count) if count > 1 else None


def _prepared(profile: str, searching: Searching, part: Sequence[One], number: int) -> workers.Job:
    """Write what a process reads; returns the process."""
    folder = paths.stage_dir(profile, "09_search")
    told = {"profile": profile, "searching": searching.model_dump(mode="json"), "store": f"calls-{number}.sqlite"}
    path = records.write_json(folder / f"job-{number}.json", told | {"searches": [asdict(one) for one in part]})
    return workers.Job(f"searching, part {number}", MODULE, ("--child", str(path)), path.with_suffix(".log"))


def _tell(profile: str, searching: Searching, waiting: list[One], tell: Callable[[str], None]) -> None:
    """A line for every method and seed whose searches are all done."""
    before = {(one.method, one.seed, one.blind) for one in waiting}
    waiting[:] = [one for one in waiting if not (one.folder(profile, searching.task) / "result.json").is_file()]
    left = {(one.method, one.seed, one.blind) for one in waiting}
    for method, seed, blind in sorted(before - left):
        shown = f"{method} without evidence" if blind else method
        tell(f"  {shown}, seed {seed}: done ({len(waiting)} searches left)")


def _result(profile: str, searching: Searching, one: One) -> Result:
    return records.read_json(one.folder(profile, searching.task) / "result.json") | {"blind": one.blind}
