"""A trial of notebook 07: one rewriter, trained from given pairs with one seed by notebook 03's own code.

A finished trial lies in 07_iterate/models/<key>: model/ (safetensors), facts.json (what it was made from) and
rewritten.jsonl. With the same facts it is loaded, with others trained again; a notebook that was stopped goes on. On
this machine trials run in processes of their own, `at_once` of them at a time; on Slurm each has its command.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths, records, rewrite, rewriters, rewrites_file, train, workers
from bpo_utils.profile import Profile, Rewriting, Training
from bpo_utils.records import Pair
from bpo_utils.rewrite import Rewritten
from bpo_utils.training import checkpoint, output

MODULE = "bpo_utils.further.train_one"


@dataclass(frozen=True)
class Trial:
    """One rewriter. `key` names its folder; `seed` is that of training, decoding and of what was drawn."""

    key: str
    seed: int
    pairs: tuple[Pair, ...]
    training: Training
    rewriting: Rewriting
    folder: Path
    on_gpu: bool

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the weights: settings, pairs and code."""
        named = [[row.id, row.prompt, row.optimized_prompt] for row in self.pairs]
        settings = output.settings_of(self.training, [], [])
        settings.pop("data")
        return {"settings": settings, "pairs": len(named), "data": checkpoint.digest(named), "code": train.code()}


def trial(run: Profile, key: str, pairs: Sequence[Pair], seed: int, rounds: int = 1) -> Trial:
    """The trial of a profile: notebook 03's training with the `iterating` section's changes, and its own seed.

    With `rounds` over 1 its rewrites are rewritten again and again (paper, 4.5). Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError(f"trial {key} has no pairs")
    iterating = run.iterating
    changed = {name: getattr(iterating, name) for name in ("epochs", "global_batch", "micro_batch")}
    changed = {name: value for name, value in changed.items() if value is not None} | {"seed": seed}
    mode = {"mode": "iterative", "rounds": rounds} if rounds > 1 else {}
    name = f"{key}-s{seed}"
    return Trial(
        name,
        seed,
        tuple(pairs),
        run.training.model_copy(update=changed | {"push_to": ""}),
        run.rewriting.model_copy(update=mode | {"seed": seed, "model": "", "backend": "transformers"}),
        paths.stage_dir(run.name, "07_iterate") / "models" / name,
        run.data.source != "miniature",
    )


def is_trained(one: Trial) -> bool:
    """Whether a finished model with the same facts lies in the trial's folder."""
    path = one.folder / "facts.json"
    return path.is_file() and (one.folder / "model" / "config.json").is_file() and _same(records.read_json(path), one)


def adopt(one: Trial, trained: Path, pairs: Sequence[Pair]) -> bool:
    """Take notebook 03's model (`trained`, made from `pairs`) for a trial that would train the same; whether it did.

    What it is compared by: the settings, the code, and the pairs.
    """
    path = trained / "training.json"
    if is_trained(one) or tuple(pairs) != one.pairs or not path.is_file():
        return False
    known, wanted = records.read_json(path), one.facts
    if {**known["settings"], "data": ""} != {**wanted["settings"], "data": ""} or known["code"] != wanted["code"]:
        return False
    one.folder.mkdir(parents=True, exist_ok=True)
    copy = one.folder / ".model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(trained, copy)
    output.replace(copy, one.folder / "model")
    records.write_json(one.folder / "facts.json", wanted)
    return True


def make_all(
    trials: Sequence[Trial], texts: Sequence[str], at_once: int, tell: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Train what is not there yet and rewrite `texts` with every trial: {trial, source, pairs, seed, seconds} of each.

    `source`: loaded or trained. Raises FileNotFoundError with the commands where trainings belong on a cluster,
    ChildProcessError with its last lines if a training fails (the finished ones are kept), ValueError for two trials
    of one name.
    """
    if len({one.key for one in trials}) < len(trials):
        raise ValueError(f"two trials with one name: {sorted(one.key for one in trials)}")
    there = {one.key for one in trials if is_trained(one)}
    missing = [one for one in trials if one.key not in there]
    for one in trials:
        _prepare(one, texts)
    if missing and missing[0].training.launch == "slurm":
        raise FileNotFoundError(_commands(missing))
    todo = [one for one in trials if one.key not in there or not has_rewrites(one, texts)]
    if todo:
        tell(f"{len(trials)} rewriters: {len(there)} loaded, {len(missing)} to train, {at_once} at a time")
        _in_processes(todo, min(at_once, len(todo)), tell)
    rows = []
    for one in trials:
        source = "loaded" if one.key in there else "trained"
        seconds = train.finished(one.folder)[-1]["seconds"] if source == "trained" else 0.0
        rows.append({"trial": one.key, "source": source, "pairs": len(one.pairs), "seed": one.seed, "seconds": seconds})
    return rows


def make_one(folder: Path, tell: Callable[[str], None] = print) -> None:
    """Train the prepared trial of a folder and rewrite its texts, in this process; skips what is finished."""
    told = records.read_json(folder / "trial.json")
    pairs = records.read_rows(folder / "pairs.jsonl", Pair)
    settings, rewriting = Training.model_validate(told["training"]), Rewriting.model_validate(told["rewriting"])
    one = Trial(folder.name, settings.seed, tuple(pairs), settings, rewriting, folder, told["on_gpu"])
    if not is_trained(one):
        (folder / "facts.json").unlink(missing_ok=True)
        train.train(pairs, settings, folder, decoding=rewriting, name=folder.name)
        if os.environ.get("RANK", "0") == "0":
            records.write_json(folder / "facts.json", one.facts)
    if os.environ.get("RANK", "0") == "0":
        rewritten(one, told["texts"])
        tell(f"{folder.name}: done")


def rewritten(one: Trial, texts: Sequence[str]) -> list[Rewritten]:
    """What a trained trial makes of every text, in order; kept in rewritten.jsonl and made where it is missing."""
    model = one.folder / "model"
    with rewrites_file.opened(one.folder / "rewritten.jsonl", rewriters.facts(one.rewriting, model), print) as file:
        found = {text: Rewritten(**file.known[text]) for text in texts if text in file.known}
        missing = rewrite.by_length(text for text in texts if text not in found)
        size, loaded = rewriters.block(one.rewriting), None
        for start in range(0, len(missing), size):
            loaded = loaded or rewriters.load(one.rewriting, model, one.on_gpu)
            rows = rewrite.through(loaded, missing[start : start + size], one.rewriting)
            file.append(rows)
            found |= {row.prompt: row for row in rows}
    return [found[text] for text in texts]


def has_rewrites(one: Trial, texts: Sequence[str]) -> bool:
    """Whether every text has been rewritten by the trial's present model."""
    cache = one.folder / "rewritten.jsonl"
    if not cache.is_file():
        return False
    with rewrites_file.opened(cache, rewriters.facts(one.rewriting, one.folder / "model"), print) as file:
        return set(texts) <= set(file.known)


def _same(known: dict[str, Any], one: Trial) -> bool:
    return known == json.loads(json.dumps(one.facts))


def _prepare(one: Trial, texts: Sequence[str]) -> None:
    """Write what the process of a trial reads."""
    told = {"training": one.training.model_dump(mode="json"), "rewriting": one.rewriting.model_dump(mode="json")}
    records.write_json(one.folder / "trial.json", told | {"on_gpu": one.on_gpu, "texts": list(texts)})
    records.write_rows(one.folder / "pairs.jsonl", one.pairs)


def _commands(missing: Sequence[Trial]) -> str:
    lines = [f"  srun python -m {MODULE} {paths.shown(one.folder)}" for one in missing]
    told = f"{len(missing)} rewriters are not trained yet, and this profile trains on Slurm. In a job like that of"
    return "\n".join([f"{told} slurm/train.sbatch, run each of these, then this notebook again:", *lines])


def shares(trials: Sequence[Trial], count: int) -> list[list[Trial]]:
    """The trials in `count` parts of about the same work (pairs x epochs), the largest first in each."""
    parts: list[list[Trial]] = [[] for _ in range(count)]
    for one in sorted(trials, key=lambda one: (-_work(one), one.key)):
        min(parts, key=lambda part: sum(map(_work, part))).append(one)
    return [part for part in parts if part]


def _work(one: Trial) -> int:
    # rewriting the test prompts takes about as long as training on as many pairs; more where it is done in rounds
    rounds = one.rewriting.rounds if one.rewriting.mode == "iterative" else 1
    return (0 if is_trained(one) else len(one.pairs) * one.training.epochs) + 300 * rounds


def _in_processes(todo: Sequence[Trial], count: int, tell: Callable[[str], None]) -> None:
    """Make the trials in `count` processes, each with its part of them, so that libraries are loaded once in each."""
    waiting = {one.key: one for one in todo if not is_trained(one)}
    # Each has its share of the cores: two trainings that both want all of them are slower than one by one.
    threads = max(1, (os.cpu_count() or 1) // count) if count > 1 else None
    with tempfile.TemporaryDirectory() as logs:
        jobs = [job(part, Path(logs) / f"{number}.log") for number, part in enumerate(shares(todo, count))]
        workers.run(jobs, count, threads, meanwhile=lambda: _tell_finished(waiting, tell))


def job(part: Sequence[Trial], log: Path) -> workers.Job:
    """The process that makes some trials, one after the other."""
    arguments = ("--child", *(str(one.folder) for one in part))
    return workers.Job(f"the training of {', '.join(one.key for one in part)}", MODULE, arguments, log)


def _tell_finished(waiting: dict[str, Trial], tell: Callable[[str], None]) -> None:
    for key, one in list(waiting.items()):
        if is_trained(one):
            tell(f"  {key}: {len(one.pairs)} pairs, trained")
            del waiting[key]
