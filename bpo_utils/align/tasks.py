"""Models and answers of notebook 08, each made in a process of its own, two at a time, and kept.

A task lies in a folder below 08_align/models: `job.json` says what to do, `model/` (safetensors, with `facts.json`) and
`answers.json` are what came of it. What was made from equal facts (data, settings, base, seed, code) is taken as it is,
so an interrupted notebook goes on with what is missing. A process ends when the one that started it does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths, records, rewriters, workers
from bpo_utils.profile import Decoding
from bpo_utils.training import checkpoint, output

AT_ONCE = 2  # processes, of one thread each: as fast on two cores as it gets, and the same numbers on every machine
CODE = ("tokens.py", "train.py", "chat/local.py", *(f"align/{name}.py" for name in ("dpo", "held_out", "policy")))
CODE += tuple(f"align/{name}.py" for name in ("augment", "policy_gradient", "with_trl", "work"))


@dataclass(frozen=True)
class Task:
    """One model to train (`train`: kind, settings, seed, rows, ...; None: the base as it is), then what to ask it."""

    key: str
    base: str  # mini:NAME, or a Hub id or folder
    train: dict[str, Any] | None
    ask: list[str]
    decoding: Decoding


def facts(task: Task) -> dict[str, Any]:
    """What decides a model and its answers: {model, answers}, flat and short, data as hashes."""
    from bpo_utils.training.setup import base_folder

    code = checkpoint.digest([records.read_text(paths.PACKAGE / name) for name in CODE])
    made = {"base": checkpoint.digest(rewriters.weights(base_folder(task.base))), "code": code}
    made |= {f"version of {name}": version for name, version in output.versions().items()}
    for name, value in (task.train or {"kind": "none"}).items():
        made |= {name: checkpoint.digest(value) if isinstance(value, list) else value}
    asked = {"texts": checkpoint.digest(task.ask), "decoding": task.decoding.model_dump(exclude={"batch_size"})}
    return {"model": made, "answers": made | asked}


def run(tasks: Sequence[Task], folder: Path, tell: Callable[[str], None] = print) -> dict[str, dict[str, str]]:
    """Make what is missing; returns {key: {text: answer}}. Raises ChildProcessError with the end of what one said."""
    waiting = []
    for task in tasks:
        place, known = folder / task.key, facts(task)
        if is_made(place, known):
            tell(f"{task.key}: found, made with these facts before")
        else:
            job = {"base": task.base, "train": task.train, "ask": task.ask, "facts": known}
            records.write_json(place / "job.json", job | {"decoding": task.decoding.model_dump()})
            waiting.append(task.key)
    _in_processes(waiting, folder, tell)
    return {task.key: records.read_json(folder / task.key / "answers.json")["answers"] for task in tasks}


def is_made(place: Path, known: dict[str, Any]) -> bool:
    """Whether model and answers with these facts lie in a task's folder."""
    return has_model(place, known) and _has(place / "answers.json", known["answers"])


def has_model(place: Path, known: dict[str, Any]) -> bool:
    """Whether the model with these facts is there, or none is needed."""
    return known["model"]["kind"] == "none" or _has(place / "model" / "facts.json", known["model"])


def log_of(folder: Path, key: str) -> dict[str, Any]:
    """The log of a training: {steps, looks}."""
    return records.read_json(folder / key / "model" / "log.json")


def _has(path: Path, known: dict[str, Any]) -> bool:
    return path.is_file() and records.read_json(path)["facts"] == known


def _in_processes(keys: list[str], folder: Path, tell: Callable[[str], None]) -> None:
    jobs = [workers.Job(key, "bpo_utils.align.work", (str(folder / key),), folder / key / "output.txt") for key in keys]
    workers.run(jobs, AT_ONCE, threads=1, ended=lambda job, seconds: tell(f"{job.name}: made in {seconds:.0f} s"))
