"""The models that notebook 08 compares, as tasks, and the questions that they answer. A system is (model, prompt)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.align.tasks import Task
from bpo_utils.profile import Aligning, Profile

RLHF = {"original": "ori", "dpo": "DPO", "policy_gradient": "PG"}  # model -> its name in the tables
INSTRUCTED = ("ori_full", "bpo_small", "bpo_full")


def questions(rewrites: Sequence[records.Rewrite], count: int | None) -> list[records.Rewrite]:
    """The test prompts that are used, with the run's own rewrites: all, or `count`, from every set in its share.

    Which ones depends on their ids alone: those with the smallest hashes. In the order of `rewrites`.
    """
    rows = [row for row in rewrites if row.rewriter == "bpo"]
    if count is None or count >= len(rows):
        return rows
    chosen: set[tuple[str, str]] = set()
    sets = list(dict.fromkeys(row.test_set for row in rows))
    for name in sets:
        ids = sorted((row.id for row in rows if row.test_set == name), key=_hash)
        chosen |= {(name, id) for id in ids[: max(1, round(count * len(ids) / len(rows)))]}
    return [row for row in rows if (row.test_set, row.id) in chosen]


def preference_rows(path: Path) -> list[dict[str, str]]:
    """Preference rows of a file as {prompt, good, bad}, the context joined to its prompt."""
    rows = records.read_rows(path, records.Preference)
    return [{"prompt": records.joined(row.prompt, row.context), "good": row.good, "bad": row.bad} for row in rows]


def aligned(
    run: Profile,
    kinds: Sequence[str],
    rows: list[dict[str, str]],
    held_out: list[dict[str, str]],
    asked: list[records.Rewrite],
) -> list[Task]:
    """The answer model as it is (original), after DPO (dpo) or the policy gradient (policy_gradient), for every seed.

    All answer the original and the optimized prompts of `asked`, each seed with random numbers of its own. They are
    made in the order of `kinds`: the slow ones first, so that two processes end at about the same time.
    """
    settings, tasks = run.aligning, []
    texts = list(dict.fromkeys(text for row in asked for text in (row.prompt, row.optimized_prompt)))
    for kind in kinds:
        for seed in settings.seeds:
            job = None if kind == "original" else _job(run, kind, seed, rows, held_out)
            decoding = run.answering.model_copy(update={"seed": seed})
            tasks.append(Task(f"{kind}-{seed}", settings.base, job, texts, decoding))
    return tasks


def instructed(run: Profile, sets: dict[str, list[dict[str, str]]], asked: list[Any]) -> list[Task]:
    """A fresh model for every instruction set and seed; all answer the original prompts of `asked`."""
    settings, tasks = run.aligning, []
    texts = list(dict.fromkeys(row.prompt for row in asked))
    for name, rows in sets.items():
        for seed in settings.seeds:
            chosen = settings.instructions
            training = run.training.model_copy(
                update={
                    "base": chosen.base,
                    "epochs": chosen.epochs,
                    "learning_rate": chosen.learning_rate,
                    "global_batch": chosen.batch,
                    "micro_batch": chosen.batch,
                    "seed": seed,
                    "processes": 1,
                }
            )
            job = {"kind": "instructions", "training": training.model_dump(mode="json"), "rows": rows}
            decoding = run.answering.model_copy(update={"seed": seed})
            tasks.append(Task(f"{name}-{seed}", chosen.base, job, texts, decoding))
    return tasks


def sets_of(
    settings: Aligning, rewrites: list[records.Rewrite], answers: list[records.Answer]
) -> dict[str, list[dict[str, str]]]:
    """The three instruction sets: the full original one, and the small and the full one answered from rewrites."""
    from bpo_utils.align.augment import training_rows

    small = settings.instructions.small
    return {
        "ori_full": training_rows(rewrites, answers, "original"),
        "bpo_full": training_rows(rewrites, answers, "bpo"),
        "bpo_small": training_rows(rewrites, answers, "bpo", small),
    }


def _job(
    run: Profile, kind: str, seed: int, rows: list[dict[str, str]], held_out: list[dict[str, str]]
) -> dict[str, Any]:
    settings = run.aligning
    own = getattr(settings, kind).model_dump() | {"looks": settings.looks}
    own["max_new_tokens"] = run.answering.max_new_tokens
    # The word vectors stay as they are, for the rewriter's reason (the profile, training.freeze_embeddings).
    rest = {"freeze_embeddings": run.training.freeze_embeddings, "reward": settings.reward}
    rest |= {"library": settings.library, "rows": rows, "held_out": held_out}
    return {"kind": kind, "seed": seed, "settings": own} | rest


def _hash(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()


def taken(run: str) -> set[str]:
    """Prompts of a run, in lower case, that no instruction set may have: preference rows and test prompts."""
    data = paths.stage_dir(run, "01_data")
    found = {
        records.joined(row.prompt, row.context).lower()
        for part in ("train", "validation")
        for row in records.read_rows(data / f"{part}.jsonl", records.Preference)
    }
    for path in sorted((data / "test").glob("*.jsonl")):
        found |= {
            records.joined(row.prompt, row.context).lower() for row in records.read_rows(path, records.TestPrompt)
        }
    return found
