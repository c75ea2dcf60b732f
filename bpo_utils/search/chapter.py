"""What notebook 09 shows of the skeleton and of each method."""

import html
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpo_utils import paths, show
from bpo_utils.chat import Calls, wire
from bpo_utils.profile import Profile, Searching
from bpo_utils.records import Reply
from bpo_utils.search import against_bpo, compare, lineage, methods, programs, run
from bpo_utils.search.evaluate import evaluate
from bpo_utils.search.state import Roles
from bpo_utils.search.task import Task, prompt

__all__ = ["asked", "defaults", "drawn", "evaluate", "evolved", "explained", "folder", "sets"]
BLOCK = "margin:4px 0;padding:6px 10px;border-left:3px solid #0072B2;white-space:pre-wrap;max-width:75em"


def sets(task: Task) -> list[dict[str, Any]]:
    """A row per set: how many rows, and one of them as the target gets it with the first instruction."""
    found = []
    for name in ("train", "dev", "test"):
        rows = getattr(task, name)
        first = prompt(task, task.seed, rows[0].input)[0].replace("\n", " / ")
        found.append({"set": name, "rows": len(rows), "first prompt": first, "gold": rows[0].gold})
    return found


def asked(searching: Searching, task: Task, calls: Calls) -> Any:
    """The last question to the optimizer in one small search of the first method that asks any, and its reply."""
    names = [name for name in ("opro", *searching.methods) if name in searching.methods and name != "seed"]
    heard: list[tuple[wire.Request, Reply]] = []

    def listening(requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
        replies = programs.complete(requests, calls)
        pairs = zip(requests, replies, strict=True)
        heard.extend(pair for pair in pairs if pair[0].model == searching.optimizer)
        return replies

    roles = Roles(searching.target, searching.optimizer, calls, listening)
    run.search(searching, task, roles, names[0], min(searching.budgets), searching.seeds[0])
    question, reply = heard[-1]
    return show.html(f"{_block(question.prompt)}<p>{html.escape(searching.optimizer.name)}:</p>{_block(reply.text)}")


def explained(searching: Searching, task: Task, method: str) -> Any:
    """A method's own words: its algorithm and sources, and which settings differ here from its defaults."""
    module = methods.find(method)
    told = [f"<b>{html.escape(module.NAME)}</b> ({html.escape(module.PAPER)})", _block(inspect.getdoc(module))]
    if method in searching.methods:
        most = max(searching.budgets)
        told.append(_settings(module, run.settings_of(searching, method, task, most), most))
    else:
        told.append("Not among this profile's methods.")
    return show.html("".join(f"<div>{part}</div>" for part in told))


def defaults(method: str) -> Any:
    """A method's settings as its file has them: every default with its source."""
    return show.show_source(methods.find(method).Settings)


def drawn(profile: Profile, task: Task, results: Sequence[Any], method: str) -> Any:
    """The drawing of a method's chosen search, written in both languages; a sentence if the profile leaves it out."""
    tree = _tree(profile, task, results, method)
    if tree is None:
        return show.html("Not among this profile's methods.")
    for language, name in (("en", method), ("zh", f"{method}_zh")):
        lineage.draw(tree, profile.label, folder(profile) / name, language)
    return show.image(folder(profile) / f"{method}.png")


def evolved(profile: Profile, task: Task, results: Sequence[Any], method: str) -> Any:
    """How the chosen search's instruction came about, and what the search took."""
    tree = _tree(profile, task, results, method)
    if tree is None:
        return show.html("Not among this profile's methods.")
    one = against_bpo.chosen(results)[method]
    used, planned = one["counts"], one["planned"]
    told = (
        f"Seed {one['seed']}, {one['budget']:,} target calls allowed: {used['target_calls']:,} used (planned at most "
        f"{planned['target']:,}), {used['optimizer_calls']:,} optimizer calls (planned at most {planned['optimizer']:,}"
        f" if every reply can be read), {len(tree['nodes'])} instructions, {used['duplicates']} proposed twice, "
        f"{used['bad_replies']} replies unreadable. Dev {one['dev']:.3f}, test {one['test']:.3f}."
    )
    return show.html(f"{lineage.as_html(lineage.evolution(tree))}<p>{told}</p>")


def folder(profile: Profile) -> Path:
    """Where the drawings lie."""
    return paths.stage_dir(profile.name, "09_search") / "lineage"


def _tree(profile: Profile, task: Task, results: Sequence[Any], method: str) -> dict[str, Any] | None:
    one = against_bpo.chosen(results).get(method)
    if one is None:
        return None
    place = compare.One(method, one["budget"], one["seed"]).folder(profile.name, profile.searching.task)
    return lineage.read(place, task)


def _settings(module: Any, settings: Any, most: int) -> str:
    default = module.Settings()
    other = [
        f"{name} {getattr(settings, name)} (default {getattr(default, name)})"
        for name in type(settings).model_fields
        if name != module.KNOB and getattr(settings, name) != getattr(default, name)
    ]
    told = f"At {most:,} target calls: {module.KNOB} {getattr(settings, module.KNOB)} (default "
    told += f"{getattr(default, module.KNOB)}); other than its defaults: {', '.join(other) or 'nothing'}."
    return html.escape(told)


def _block(text: str) -> str:
    return f'<div style="{BLOCK}">{html.escape(text)}</div>'
