"""The experiment of notebook 10: which policies and rewriters are trained, what each is told, and what comes of it.

A finished policy lies in 10_embodied/policies/<kind>-s<seed> with the facts that it was made from and is loaded if they
are the same. Policies are trained in processes of their own: python -m bpo_utils.embodied.study FOLDER ...
"""

import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths, profile, records, rewrite, rewriters, workers
from bpo_utils.embodied import measure, policy, remedies, world
from bpo_utils.embodied.measure import Outcome
from bpo_utils.embodied.wordings import CONDITIONS, TASKS, Bank, bank, canonical, pairs
from bpo_utils.further import trials
from bpo_utils.profile import Embodying, Profile
from bpo_utils.training import checkpoint

REMEDIES = {  # the policy, and who turns what is said into what the policy is told
    "none": ("fixed", "as_said"),
    "augmentation": ("augmented", "as_said"),
    "module": ("fixed", "joint"),
    "both": ("augmented", "joint"),
}
CONTROLS = {
    "blind": ("blind", "as_said"),
    "shuffled": ("shuffled", "as_said"),
    "wrong_paraphrases": ("wrong", "as_said"),
    "random_edits": ("edited", "as_said"),
    "linear": ("fixed", "linear"),
    "perfect": ("fixed", "perfect"),
    "sentence_identity": ("sentence", "as_said"),
}
READS = {"sentence": "sentence", "blind": "nothing"}  # how a policy reads; the others: words
Told = dict[tuple[str, str], list[str]]  # by condition and translator: an instruction for each test episode
KINDS = ("fixed", "augmented", "wrong", "edited", "shuffled", "sentence", "blind")


@dataclass(frozen=True)
class Seed:
    """What belongs to one seed: its bank and its rewriters; `curve` by pairs, None for notebook 03's own rewriter."""

    seed: int
    bank: Bank
    joint: trials.Trial
    curve: dict[int, trials.Trial | None]
    paraphraser: trials.Trial


def episodes(settings: Embodying, folder: Path) -> dict[str, list[world.Episode]]:
    """The expert's demonstrations: train, validation, test. `folder`: of the stage."""
    counts = {"train": settings.demonstrations, "validation": settings.validation, "test": settings.test}
    (folder / "demonstrations").mkdir(parents=True, exist_ok=True)
    return {
        name: world.demonstrations(name, n, folder / "demonstrations" / f"{name}.npz") for name, n in counts.items()
    }


def said(seed: int, condition: str, test: Sequence[world.Episode]) -> list[str]:
    """What a user says in each test episode under a condition; seed and condition decide which wordings are drawn."""
    of, rng, parts = bank(seed), random.Random(f"said {seed} {condition}"), CONDITIONS[condition]
    return [of.say(each.task, parts[:1], parts[1:], rng) for each in test]


def train_rewriters(run: Profile, test: Sequence[world.Episode]) -> tuple[list[Seed], list[dict[str, Any]]]:
    """Train the rewriters that are not there yet, and let them rewrite what is said: the seeds, a row per training."""
    made, rows, settings = [], [], run.embodying
    for seed in settings.seeds:
        of = bank(seed)
        curve = {n: remedies.continued(run, of, n, seed) if n else None for n in settings.sizes}
        made.append(Seed(seed, of, remedies.joint(run, of, seed), curve, remedies.paraphraser(run, of, seed)))
        texts = sorted({text for condition in CONDITIONS for text in said(seed, condition, test)})
        rows += trials.make_all([made[-1].joint, *filter(None, curve.values())], texts, settings.at_once)
    rows += trials.make_all([each.paraphraser for each in made], [], settings.at_once)
    return made, rows


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """So small a model is fastest on one core, and then has the same numbers on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def paraphrased(run: Profile, made: Seed) -> dict[str, list[str]]:
    """What a seed's augmenter says for each canonical sentence; kept in its folder with the facts it was made from."""
    trial, samples = made.paraphraser, run.embodying.samples
    facts = rewriters.facts(trial.rewriting, trial.folder / "model") | {
        "samples": samples,
        "temperature": remedies.TEMPERATURE,
    }
    path = trial.folder / "paraphrases.json"
    if not path.is_file() or records.read_json(path)["facts"] != facts:
        pool = remedies.paraphrases(trial, [canonical(task) for task in TASKS], samples)
        records.write_json(path, {"facts": facts, "pool": pool})
    return records.read_json(path)["pool"]


@one_thread()
def told(run: Profile, made: Seed, test: Sequence[world.Episode]) -> Told:
    """What a policy is told in each test episode, by condition and by who turned what was said into it."""
    every = {condition: said(made.seed, condition, test) for condition in CONDITIONS}
    texts = sorted({text for each in every.values() for text in each})
    by: dict[str, Callable[[str], str]] = {"as_said": str}
    by["linear"] = remedies.linear(pairs(made.bank, run.embodying.pairs, made.seed))
    greedy = remedies.greedy(run, made.seed)
    for name, trial in {"joint": made.joint, **{f"pairs{n}": one for n, one in made.curve.items()}}.items():
        if trial:
            done = trials.rewritten(trial, texts)
        else:
            done = rewrite.through(rewriters.load(greedy, remedies.trained(run)), texts, greedy)
        by[name] = {row.prompt: row.optimized_prompt for row in done}.__getitem__
    found = {(condition, name): [*map(turn, every[condition])] for condition in every for name, turn in by.items()}
    return found | {(condition, "perfect"): [canonical(each.task) for each in test] for condition in every}


def prepare(run: Profile, seed: int, pool: dict[str, list[str]], instructions: Told) -> list[Path]:
    """The job of every kind of policy of a seed: what it is trained on, and what it is tested with."""
    jobs, settings = [], run.embodying.model_dump(mode="json")
    trained_by = {name: settings[name] for name in ("demonstrations", "policy", "wordings")}
    files = [records.read_text(Path(each.__file__)) for each in (policy, remedies, measure)]
    code = checkpoint.digest([world.code(), *files])
    for kind in KINDS:
        uses = {by for which, by in {**REMEDIES, **CONTROLS}.values() if which == kind}
        uses |= {by for _, by in instructions if by.startswith("pairs")} if kind == "fixed" else set()
        wanted = {each for (_, by), texts in instructions.items() if by in uses for each in enumerate(texts)}
        facts = {"kind": kind, "seed": seed, **trained_by, "pool": pool if kind in ("augmented", "wrong") else {}}
        jobs.append(paths.stage_dir(run.name, "10_embodied") / "policies" / f"{kind}-s{seed}")
        job = {"facts": facts | {"code": code}, "settings": settings, "wanted": sorted(map(list, wanted))}
        records.write_json(jobs[-1] / "job.json", job)
    return jobs


def train_policies(run: Profile, jobs: Sequence[Path], tell: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Do what is not done yet, `at_once` jobs at a time; a row for each with the seconds that its training took."""
    todo = [job for job in jobs if not _is_done(job)]
    count = min(run.embodying.at_once, len(todo))
    tell(f"{len(jobs)} policies: {len(jobs) - len(todo)} loaded, {len(todo)} to train or to test, {count} at a time")
    with tempfile.TemporaryDirectory() as logs:
        # Dearest kinds first, dealt out there and back, so that all processes end at about the same time.
        todo.sort(key=lambda job: KINDS.index(job.name.rsplit("-s", 1)[0]))
        dealt = [todo[n :: 2 * count] + todo[2 * count - 1 - n :: 2 * count] for n in range(count)]
        parts = [("--child", *map(str, part)) for part in dealt]
        module = "bpo_utils.embodied.study"
        work = [workers.Job("the policies", module, part, Path(logs) / f"{n}.log") for n, part in enumerate(parts)]
        workers.run(work, max(count, 1), threads=1)
    return [records.read_json(job / "facts.json")["told"] for job in jobs]


def outcomes(job: Path) -> dict[tuple[int, str], Outcome]:
    """What came of each test episode under each instruction, with the policy of a job."""
    rows = records.read_json(job / "outcomes.json")["rows"]
    return {(number, text): Outcome(*rest) for number, text, *rest in rows}


def results(run: Profile, jobs: Sequence[Path], instructions: dict[int, Told]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every condition with every remedy and control, of the curve, and of each remedy's gain in success."""
    known = {job.name: outcomes(job) for job in jobs}

    def of(kind: str, by: str, condition: str) -> list[list[Outcome]]:
        told = {seed: instructions[seed][condition, by] for seed in run.embodying.seeds}
        return [[known[f"{kind}-s{seed}"][each] for each in enumerate(texts)] for seed, texts in told.items()]

    found: dict[str, list[dict[str, Any]]] = {"rows": [], "curve": [], "gains": []}
    for condition in CONDITIONS:
        without = of("fixed", "as_said", condition)
        gap = measure.difference({}, of("fixed", "as_said", "canonical"), without)["mean"]
        for remedy, (kind, by) in {**REMEDIES, **CONTROLS}.items():
            names, outcome = {"condition": condition, "remedy": remedy}, of(kind, by, condition)
            found["rows"] += measure.rows(names, outcome)
            if remedy != "none":
                gain = measure.difference(names, outcome, without)
                found["gains"].append(gain | {"closed": gain["mean"] / gap if gap > 0 else None})
        for n in run.embodying.sizes:
            found["curve"] += measure.rows({"condition": condition, "pairs": n}, of("fixed", f"pairs{n}", condition))
    return found


def _is_done(job: Path) -> bool:
    wanted, path = records.read_json(job / "job.json"), job / "outcomes.json"
    if not (path.is_file() and _is_trained(job, wanted["facts"])):
        return False
    known = records.read_json(path)
    return known["facts"] == wanted["facts"] and wanted["wanted"] == [row[:2] for row in known["rows"]]


def _is_trained(job: Path, facts: dict[str, Any]) -> bool:
    return (job / "facts.json").is_file() and records.read_json(job / "facts.json")["facts"] == facts


def do(job: Path) -> None:
    """Train the policy of a prepared job, if it is not there, and test it."""
    asked = records.read_json(job / "job.json")
    facts, settings = asked["facts"], profile.Embodying.model_validate(asked["settings"])
    sets, began = episodes(settings, job.parent.parent), time.monotonic()
    if not _is_trained(job, facts):
        (job / "facts.json").unlink(missing_ok=True)
        sentences = remedies.said(facts["kind"], sets["train"], facts["pool"], settings.wordings, facts["seed"])
        reads = READS.get(facts["kind"], "words")
        policy.save(policy.train(sets["train"], sentences, settings.policy, facts["seed"], reads), job)
        row = {"policy": facts["kind"], "seed": facts["seed"], "seconds": round(time.monotonic() - began, 1)}
        records.write_json(job / "facts.json", {"facts": facts, "told": row})
    wanted = [(number, text) for number, text in asked["wanted"]]
    made = measure.outcomes(policy.load(job, settings.policy), sets["test"], wanted)
    rows = [[*each, *asdict(outcome).values()] for each, outcome in zip(wanted, made, strict=True)]
    records.write_json(job / "outcomes.json", {"facts": facts, "rows": rows})


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        workers.end_with_parent()
    for folder in sys.argv[1 + (sys.argv[1] == "--child") :]:
        do(Path(folder))
