"""One task of notebook 08 in a process of its own: python -m bpo_utils.align.work FOLDER (see `tasks`)."""

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

from bpo_utils import profile, quiet, records, workers
from bpo_utils.align import augment, dpo, held_out, policy, policy_gradient, tasks, with_trl
from bpo_utils.tokens import ANSWER_FRAME, framed
from bpo_utils.training import output
from bpo_utils.training.setup import base_folder


def main() -> None:
    """Do what FOLDER/job.json says."""
    import torch

    torch.set_num_threads(1)
    quiet.transformers()
    workers.end_with_parent()
    place = Path(sys.argv[1])
    job = records.read_json(place / "job.json")
    if not tasks.has_model(place, job["facts"]):
        _make(place, job)
    answer(place, job)


def answer(place: Path, job: dict[str, Any]) -> None:
    """Ask the model and write answers.json: {facts, answers: {text: answer}}."""
    from bpo_utils.chat import local

    folder = base_folder(job["base"]) if job["train"] is None else place / "model"
    model, tokenizer = local.load(folder)
    decoding = profile.Decoding(**job["decoding"])
    texts = local.generate(model, tokenizer, [framed(ANSWER_FRAME, text) for text in job["ask"]], decoding)
    found = dict(zip(job["ask"], texts, strict=True))
    records.write_json(place / "answers.json", {"facts": job["facts"]["answers"], "answers": found})


def _make(place: Path, job: dict[str, Any]) -> None:
    """Train, and put model, log and facts into place/model in one step of renaming."""
    made, work = place / ".model", place / ".work"
    for folder in (made, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    kind = instructed if job["train"]["kind"] == "instructions" else aligned
    model, tokenizer, log = kind(job["base"], job["train"], work)
    model.config.use_cache = True  # the Trainer turned it off
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    records.write_json(made / "log.json", log)
    records.write_json(made / "facts.json", {"facts": job["facts"]["model"]})
    output.replace(made, place / "model")
    shutil.rmtree(work)


def instructed(base: str, job: dict[str, Any], work: Path) -> tuple[Any, Any, dict[str, Any]]:
    """A base model fine-tuned on an instruction set."""
    training = profile.Training(**job["training"])
    return *augment.train(base, job["rows"], training, work), {"steps": [], "looks": []}


def aligned(base: str, job: dict[str, Any], work: Path) -> tuple[Any, Any, dict[str, Any]]:
    """An answer model trained by DPO or by policy gradient, with what was measured on the way."""
    model, tokenizer = policy.load(base_folder(base), job["freeze_embeddings"])
    reference, _ = policy.load(base_folder(base))
    reward = held_out.scorer(job["reward"])
    watched = held_out.HeldOut(reference, tokenizer, job["held_out"], reward, job["settings"]["max_new_tokens"])
    look = functools.partial(watched.look, model)
    rest = (job["settings"], job["seed"], look)
    prompts = list(dict.fromkeys(row["prompt"] for row in job["rows"]))
    match job["kind"], job["library"]:
        case "dpo", "own":
            steps = dpo.train(model, tokenizer, job["rows"], *rest)
        case "dpo", "trl":
            steps = with_trl.dpo(model, tokenizer, job["rows"], *rest, work)
        case "policy_gradient", "own":
            steps = policy_gradient.train(model, reference, tokenizer, prompts, reward, *rest)
        case "policy_gradient", "trl":
            steps = with_trl.policy_gradient(model, tokenizer, prompts, reward, *rest, work)
    return model, tokenizer, {"steps": steps, "looks": watched.looks}


if __name__ == "__main__":
    main()
