"""One search: what is searched, who is asked, what came out so far, what it cost, and how it is saved.

A search that was stopped is run again from its beginning: every random number comes from its seed and every call that
was answered is in the store of calls, so the same steps are taken at no cost and then it goes on. What is saved after
each step is there to be read, and to check that the replay took the same way.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.chat import Calls, wire
from bpo_utils.chat.store import now
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import programs
from bpo_utils.search.candidates import LONGEST, Candidate, normal
from bpo_utils.search.task import Task

IDLE_STEPS = 3  # steps in a row without anything new, after which a search ends: its optimizer only repeats itself

COUNTED = {  # fields of Counts by role
    "target": ("target_calls", "target_tokens"),
    "optimizer": ("optimizer_calls", "optimizer_tokens"),
    "measured": ("measured", "measured_tokens"),
}


class BudgetSpent(RuntimeError):
    """The next evaluation would pass the budget of target calls."""


@dataclass(frozen=True)
class Roles:
    """Who answers the task (target), who writes prompts (optimizer), and how calls are made. `complete` as chat's."""

    target: Model
    optimizer: Model
    calls: Calls
    complete: Callable[[Sequence[wire.Request], Calls], list[Reply]] = programs.complete


@dataclass(frozen=True)
class Scored:
    """What one candidate got on one row: the target's answer, what was read out of it, and its value."""

    row: str
    value: float
    answer: str
    read: str
    unreadable: bool


@dataclass
class Counts:
    """What a search used. Calls count whether or not the store knew the answer already (`cached`).

    `target_calls` and `optimizer_calls` are requests as they go over the wire, one for each completion; `measured` are
    those that only look at the result (test, curves). Tokens are the provider's count, else an estimate from letters;
    `estimated` counts the calls for which they are. `unreadable`: answers that the metric could not read;
    `bad_replies`: replies of the optimizer that nothing could be read out of; `duplicates`: proposals known already.
    """

    target_calls: int = 0
    optimizer_calls: int = 0
    measured: int = 0
    cached: int = 0
    target_tokens: int = 0
    optimizer_tokens: int = 0
    measured_tokens: int = 0
    estimated: int = 0
    usd: float = 0.0
    unreadable: int = 0
    bad_replies: int = 0
    duplicates: int = 0


@dataclass
class Search:
    """The state that every method shares. `budget`: target calls, None: no cap. `blind`: show the optimizer no evidence
    (for ablations). `tries`: how often an optimizer is asked for one reply that can be read."""

    task: Task
    roles: Roles
    seed: int = 1
    budget: int | None = None
    folder: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)  # method, settings: what a saved search must agree with
    blind: bool = False
    tries: int = 2
    tell: Callable[[str], None] = lambda text: None
    step: int = 0
    candidates: list[Candidate] = field(default_factory=list)
    scores: dict[str, dict[str, Scored]] = field(default_factory=dict)  # candidate -> row -> score
    likelihoods: dict[str, dict[str, Scored]] = field(default_factory=dict)  # the other score (likelihood.py)
    measures: dict[str, dict[str, Scored]] = field(default_factory=dict)  # the first, outside of the budget
    trace: list[dict[str, Any]] = field(default_factory=list)  # {step, target_calls, candidate}: the favourite by then
    counts: Counts = field(default_factory=Counts)
    asked: Counter[str] = field(default_factory=Counter)  # how often the optimizer got the same text
    saved: dict[str, str] = field(default_factory=dict)  # step -> digest, of an earlier run of this search
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.known: dict[str, Candidate] = {}  # by normal form
        self.tests = {row.id for row in self.task.test}
        self.began = now()
        if self.folder and (self.folder / "state.json").is_file():
            self._resume(records.read_json(self.folder / "state.json"))

    @property
    def left(self) -> float:
        """Target calls that are left."""
        return float("inf") if self.budget is None else self.budget - self.counts.target_calls

    @property
    def config(self) -> dict[str, Any]:
        """What decides the result of a search, but for the answers of its models."""
        rows = [[row.id, row.input, row.gold] for part in ("train", "dev") for row in getattr(self.task, part)]
        told = {"task": self.task.name, "seed": self.seed, "budget": self.budget, "blind": self.blind}
        models = {role: _model(getattr(self.roles, role)) for role in ("target", "optimizer")}
        asked = {name: getattr(self.task, name) for name in ("position", "form", "right", "answer_tokens")}
        told |= models | {"tries": self.tries, "rows": digest(rows), "start": self.task.seed}
        return told | asked | self.about

    def _resume(self, state: dict[str, Any]) -> None:
        config = json.loads(wire.canonical(self.config))
        if state["config"] != config:
            other = [key for key, value in config.items() if state["config"].get(key) != value]
            raise ValueError(
                f"{paths.shown(self.folder)} holds another search (it differs in {', '.join(other) or 'its form'}); "
                "take another folder, or remove this one"
            )
        self.saved = state["digests"]
        self.tell(f"{paths.shown(self.folder)}: taken up after step {state['step']}; calls that are known cost nothing")


def add(
    search: Search, text: str, operator: str, parents: Sequence[Candidate] = (), reply: str = "", **more: str
) -> Candidate | None:
    """A new candidate, or None for one that is known already (counted), empty or too long. `more`: demo, meta."""
    text = text.strip()
    name = f"{normal(text)}\n{normal(more.get('demo', ''))}"
    if name in search.known or len(text) > LONGEST or (not text and operator != "seed"):
        search.counts.duplicates += name in search.known
        return None
    ids = tuple(parent.id for parent in parents)
    one = Candidate(f"c{len(search.candidates)}", text, more.pop("demo", ""), ids, search.step, operator, reply, **more)
    search.candidates.append(one)
    search.known[name] = one
    return one


def start(search: Search) -> Candidate:
    """The seed candidate: the instruction that the task starts from."""
    return search.candidates[0] if search.candidates else add(search, search.task.seed, "seed")


def completed(search: Search, role: str, requests: Sequence[wire.Request]) -> list[Reply]:
    """Replies to requests of one role (target, optimizer or measured), with what they took counted."""
    replies = search.roles.complete(requests, search.roles.calls) if requests else []
    counts, calls, tokens = search.counts, COUNTED[role][0], COUNTED[role][1]
    setattr(counts, calls, getattr(counts, calls) + len(requests))
    for took in programs.used(requests, replies, search.roles.calls, search.began):
        setattr(counts, tokens, getattr(counts, tokens) + took.tokens)
        counts.usd += took.usd
        counts.estimated += took.estimated
        counts.cached += took.cached
    return replies


def by_id(search: Search, id: str) -> Candidate:
    """The candidate of an id such as `c12`."""
    return search.candidates[int(id[1:])]


def note(search: Search, favourite: Candidate, target_calls: int | None = None) -> None:
    """Write down which candidate the search would return now, for the curve of what it reached at what cost.

    `target_calls`: at what cost, if not all that were made by now (of a pool that was scored in one batch).
    """
    calls = search.counts.target_calls if target_calls is None else target_calls
    row = {"step": search.step, "target_calls": calls, "candidate": favourite.id}
    search.trace.append(row)


def steps(
    search: Search, most: int, worst: int | Callable[[], int], keep: int = 0, patience: int = IDLE_STEPS
) -> Iterator[int]:
    """Step numbers 1, 2 ... `most`, as long as a step of `worst` target calls and `keep` calls for the end are left.

    `worst` is a function where steps differ; it is asked before each. The state is saved after each. Ends early after
    `patience` steps in a row that brought nothing new.
    """
    idle = 0
    for number in range(1, most + 1):
        needed = worst() if callable(worst) else worst
        if search.left < needed + keep:
            search.tell(f"step {number} could take {needed} target calls, {search.left:g} are left: this is the end")
            return
        before = (search.counts.target_calls, len(search.candidates))
        search.step = number
        yield number
        save(search, str(number))
        idle = 0 if before != (search.counts.target_calls, len(search.candidates)) else idle + 1
        if idle == patience:
            search.tell(f"{idle} steps brought nothing new: this is the end")
            return


def save(search: Search, step: str) -> None:
    """Save everything after a step: state.json, candidates.jsonl, scores.jsonl; `step` is its number, or `end`.

    Raises ValueError if a search that was taken up again did not take the same way as before.
    """
    tables = (search.scores, search.likelihoods)
    table = [{"candidate": id, **vars(one)} for each in tables for id, found in each.items() for one in found.values()]
    came_out = digest([[asdict(one) for one in search.candidates], table, search.rng.getstate()])
    if search.saved.get(step, came_out) != came_out:
        raise ValueError(
            f"{paths.shown(search.folder)}: step {step} came out differently from the run that is saved there (other "
            "code, or other answers of a model); remove the folder to search anew"
        )
    search.digests[step] = came_out
    if search.folder is None:
        return
    records.write_json(search.folder / "state.json", {"config": search.config, **_state(search)})
    records.write_rows(search.folder / "candidates.jsonl", search.candidates)
    records.write_text(search.folder / "scores.jsonl", "".join(wire.canonical(row) + "\n" for row in table))


def _model(model: Model) -> str:
    """A model as a saved search remembers it: under the same name another one may answer later."""
    return f"{model.name} ({model.provider}: {model.model})"


def _state(search: Search) -> dict[str, Any]:
    told = {"step": search.step, "counts": asdict(search.counts), "trace": search.trace}
    # digests of an earlier run stay, so that a search which is stopped twice is still checked to its last step
    return told | {"rng": search.rng.getstate(), "digests": search.saved | search.digests}


def digest(value: Any) -> str:
    """A short name for a value of plain types."""
    return hashlib.sha256(wire.canonical(value).encode()).hexdigest()[:16]
