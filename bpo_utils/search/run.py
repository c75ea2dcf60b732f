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


def folder_of(profile: str, task: str, method: str, budget: int | None, seed: int) -> Path:
    """Where one search is kept."""
    cap = "unlimited" if budget is None else str(budget)
    return paths.stage_dir(profile, "09_search") / "runs" / task.replace("/", "-") / f"{method}-{cap}-s{seed}"


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
) -> dict[str, Any]:
    """Run one search, or load it if its folder has the result of the very same one; returns the result.

    The result: `best` (the candidate), its `dev` score, `scores` on the test rows, those of the first instruction
    (`seed_`), the `trace` of favourites with their dev scores, `planned` and used calls (`counts`). Raises what
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
    result = {"method": method, "seed": seed, "budget": budget, "planned": asdict(plans), **_measured(state, found)}
    if folder:
        records.write_json(folder / "result.json", result)
    return result


def _measured(state: Search, found: Any) -> dict[str, Any]:
    """What is only looked at, after the search: the test rows, once, and the dev scores of the trace."""
    first = state.candidates[0]
    favourites = list({row["candidate"]: by_id(state, row["candidate"]) for row in state.trace}.values())
    dev = {one.id: _mean(scores) for one, scores in _pairs(state, [first, *favourites, found], "dev")}
    test = {one.id: scores for one, scores in _pairs(state, [first, found], "test")}
    used = asdict(state.counts)
    told = {"best": asdict(found), "dev": dev[found.id], "test": _mean(test[found.id]), "counts": used}
    told |= {"scores": {one.row: one.value for one in test[found.id]}}
    told |= {"seed_dev": dev[first.id], "seed_scores": {one.row: one.value for one in test[first.id]}}
    return told | {"trace": [row | {"dev": dev[row["candidate"]]} for row in state.trace]}


def _pairs(state: Search, candidates: list[Any], name: str) -> list[tuple[Any, list[Any]]]:
    unique = list({one.id: one for one in candidates}.values())
    return list(zip(unique, measure(state, unique, getattr(state.task, name)), strict=True))


def _mean(scores: list[Any]) -> float:
    return math.fsum(one.value for one in scores) / len(scores)
