"""One search from beginning to end: plan, search, one look at the test rows. Its folder says everything."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bpo_utils import paths, records
from bpo_utils.profile import Searching
from bpo_utils.search import methods, plan
from bpo_utils.search.evaluate import measure
from bpo_utils.search.state import Roles, Search, by_id, save
from bpo_utils.search.task import Task


def folder_of(profile: str, task: str, method: str, budget: int | None, seed: int, changed: str = "") -> Path:
    """Where one search is kept. `changed`: what tells a search with other settings than the profile's from that one."""
    name = f"{method}-{'unlimited' if budget is None else budget}-s{seed}" + (f"-{changed}" if changed else "")
    return paths.stage_dir(profile, "09_search") / "runs" / task.replace("/", "-") / name


def settings_of(searching: Searching, method: str, task: Task, budget: int | None) -> Any:
    """A method's settings: its paper's defaults, what the profile changes, and what the budget allows.

    Raises ValueError for a setting that the method does not have, or a budget that is too small.
    """
    module = methods.find(method)
    try:
        settings = module.Settings.model_validate(searching.settings.get(method, {}))
    except ValidationError as error:
        known = ", ".join(module.Settings.model_fields)
        raise ValueError(f"settings of {method}: {error}\nit has {known}") from None
    return plan.fitted(module, settings, plan.Sizes(len(task.train), len(task.dev)), budget)


def planned(method: str, settings: Any, task: Task, budget: int | None) -> plan.Plan:
    """What the search can cost at most."""
    most = methods.find(method).plan(settings, plan.Sizes(len(task.train), len(task.dev)))
    return plan.Plan(most.target if budget is None else min(most.target, budget), most.optimizer)


def search(
    searching: Searching,
    task: Task,
    roles: Roles,
    method: str,
    budget: int | None,
    seed: int,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    blind: bool = False,
    curve: bool = True,
) -> dict[str, Any]:
    """Run one search, or load it if its folder has the result of the very same one; returns the result.

    The result: `best` (the candidate), its `dev` score, `scores` on the test rows, those of the first instruction
    (`seed_`), the `trace` of favourites, `planned` and used calls (`counts`). With `curve` all favourites have dev
    scores and are measured for it; without, only those that the search itself scored there. Raises what
    `chat.complete` raises; run again, it goes on.
    """
    module, settings = methods.find(method), settings_of(searching, method, task, budget)
    about = {"method": method, "settings": settings.model_dump(mode="json")}
    state = Search(task, roles, seed, budget, folder, about, blind, searching.tries, tell)
    if folder and (folder / "result.json").is_file():
        return records.read_json(folder / "result.json")
    plans = planned(method, settings, task, budget)
    tell(f"{module.NAME}: {plans.said(budget, searching.tries)}")
    found = module.run(state, settings)
    save(state, "end")
    result = {
        "method": method,
        "seed": seed,
        "budget": budget,
        "planned": asdict(plans),
        **_measured(state, found, curve),
    }
    if folder:
        records.write_json(folder / "result.json", result)
    return result


def measured_at_most(task: Task) -> int:
    """Target calls at most after a search without its curve: first and best instruction on the test and dev rows."""
    return 2 * (len(task.test) + len(task.dev))


def _measured(state: Search, found: Any, curve: bool) -> dict[str, Any]:
    """What is only looked at, after the search: the test rows, once, and the dev scores of the trace."""
    first = state.candidates[0]
    favourites = [by_id(state, id) for id in dict.fromkeys(row["candidate"] for row in state.trace)]
    if not curve:
        favourites = [
            one for one in favourites if {row.id for row in state.task.dev} <= set(state.scores.get(one.id, ()))
        ]
    dev = {one.id: _mean(scores) for one, scores in _pairs(state, [first, *favourites, found], "dev")}
    test = {one.id: scores for one, scores in _pairs(state, [first, found], "test")}
    used = asdict(state.counts)
    told = {
        "best": asdict(found) | {"parents": list(found.parents)},
        "dev": dev[found.id],
        "test": _mean(test[found.id]),
        "counts": used,
    }
    told |= {"scores": {one.row: one.value for one in test[found.id]}}
    told |= {"seed_dev": dev[first.id], "seed_scores": {one.row: one.value for one in test[first.id]}}
    return told | {"trace": [row | {"dev": dev.get(row["candidate"])} for row in state.trace]}


def _pairs(state: Search, candidates: list[Any], name: str) -> list[tuple[Any, list[Any]]]:
    unique = list({one.id: one for one in candidates}.values())
    return list(zip(unique, measure(state, unique, getattr(state.task, name)), strict=True))


def _mean(scores: list[Any]) -> float:
    return math.fsum(one.value for one in scores) / len(scores)
