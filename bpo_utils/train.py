"""Fine-tuning the rewriter: Transformers' Trainer on (prompt -> optimized prompt), loss on the optimized prompt only.

    python -m bpo_utils.train --profile mini                             # one process
    torchrun --nproc-per-node 8 -m bpo_utils.train --profile paper       # one machine with eight GPUs
    srun python -m bpo_utils.train --profile paper                       # one task per GPU (slurm/train.sbatch)

Paper, appendix C: AdamW (0.9, 0.999), learning rate 2e-5 with linear decay, warm-up over a tenth of the steps, 3
epochs, 4 prompts on each of 8 GPUs = 32 per step. The file STOP in the run's 03_training (or SIGTERM, SIGUSR1) stops a
training after a complete checkpoint, with exit code 85; the same command goes on from there. SAVE writes a checkpoint.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bpo_utils import paths, profile, quiet, records, tokens
from bpo_utils.training import batches, checkpoint, flops, gpus, launch, log, loop, output, plan, setup, stop, zero
from bpo_utils.training.setup import base_folder, load_tokenizer, processes, shape

__all__ = ["base_folder", "finished", "load_tokenizer", "main", "planned", "shape", "train"]
finished = log.finished  # the notebooks read a training through this module


def train(
    pairs: list[records.Pair],
    training: profile.Training,
    folder: Path,
    *,
    validation: Sequence[records.Pair] = (),
    decoding: profile.Decoding | None = None,
    name: str = "",
    requests: stop.Requests | None = None,
) -> dict[str, Any]:
    """Fine-tune the base on the pairs; writes folder/model, log.jsonl, tensorboard/ and plan.json; returns the plan.

    A finished model of the same settings, data and code is left as it is. A training that was stopped goes on from its
    newest complete checkpoint. `decoding` becomes the model's generation config, `name` stands in its card. Raises
    ValueError if no pair fits into max_length, for a global batch that cannot be cut up, or for checkpoints of another
    training; OSError if the disk is too small; FloatingPointError if the loss is not finite; stop.Stopped on a stop.
    """
    quiet.transformers()
    tokenizer = load_tokenizer(training.base)
    data = [
        tokens.encode_pairs(tokenizer, list(rows), training.max_length, training.too_long)
        for rows in (pairs, validation)
    ]
    if not data[0].examples:
        raise ValueError(
            f"none of the {len(pairs)} pairs fits into max_length = {training.max_length} tokens; raise it"
        )
    what = planned(data[0], training, processes()) | {"validation_pairs": len(data[1].examples)}
    settings = output.settings_of(training, *(part.examples for part in data))
    facts = {"profile": name, "settings": settings, "code": code(), "commit": output.commit()}
    facts |= {"versions": output.versions(), "plan": what}
    if output.is_same(folder / "model", facts):
        say(f"{paths.shown(folder / 'model')} is finished, with these settings, this data and this code")
        return what
    found = checkpoint.resume_from(folder / "checkpoints", facts, say)
    needed = plan.disk_needed(what["parameters"], what["trained"], training)
    checkpoint.check_space(folder, needed - (checkpoint.size(found) if found else 0))
    say(f"{what['steps']} steps; {data[0].said()}; " + (f"goes on from {paths.shown(found)}" if found else "begins"))
    written = log.Log(folder)
    trainer, steering = prepare(data, training, folder, facts, found, written, requests or stop.Requests(folder))
    fit(trainer, steering, written, found)
    output.write(trainer, tokenizer, folder, facts | {"end": log.end_of(folder)}, decoding)
    if trainer.is_world_process_zero():
        records.write_json(folder / "plan.json", what)
        checkpoint.remove_all(folder / "checkpoints")
    return what


def planned(encoded: tokens.Encoded, training: profile.Training, count: int) -> dict[str, Any]:
    """What a training will do, before it starts: rows, tokens, steps, accumulation, bytes."""
    lengths = [len(example["input_ids"]) for example in encoded.examples]
    targets = [sum(label != tokens.IGNORED for label in example["labels"]) for example in encoded.examples]
    what = plan.resolved(lengths, targets, training, shape(training), count)
    return what | {"base": training.base, "cut": len(encoded.cut), "too_long": encoded.left_out}


def say(text: str) -> None:
    """Say something once, however many processes train."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def code() -> str:
    """A hash of the code that decides the numbers: a model made by other code is not taken for finished."""
    files = ["tokens.py", "train.py", *(f"training/{name}.py" for name in ("batches", "loop", "setup", "zero"))]
    return checkpoint.digest([records.read_text(paths.PACKAGE / file) for file in files])


def prepare(
    data: list[tokens.Encoded],
    training: profile.Training,
    folder: Path,
    facts: dict[str, Any],
    found: Path | None,
    written: log.Log,
    requests: stop.Requests,
) -> tuple[Any, loop.Steering]:
    """The Trainer of a training, and the part of it that knows whether it was asked to stop.

    `data`: encoded pairs for training and for validation; `facts["plan"]`: what `planned` gave; `found`: the checkpoint
    to go on from.
    """
    import torch

    torch.manual_seed(training.seed)
    what = facts["plan"]
    arguments = setup.arguments(training, what, folder, checkpoint.marker(found)["processes"] if found else None)
    model, tokenizer = setup.model(training, arguments), load_tokenizer(training.base)
    at_once = training.micro_batch * processes() if processes() > 1 else 1
    sampler = batches.Sampler(what["pairs"], training.seed, training.global_batch, training.drop_last, at_once)
    steering = loop.callback(loop.Steering)(requests, sampler, written)
    work = log.Work.of(data[0], training)
    recorder = loop.callback(log.Recorder)(written, work, partial(step_flops, training, shape(training)), peak_flops())
    trainer = loop.trainer_class()(
        model=model,
        args=arguments,
        train_dataset=[*data[0].examples, batches.blank(data[0].examples)],
        eval_dataset=data[1].examples or None,
        data_collator=batches.collator(training.batching, tokenizer, training.attention.startswith("flash")),
        compute_loss_func=batches.loss_function(training.loss_mean),
        callbacks=[steering, recorder],
    )
    trainer.set_up(
        sampler=sampler,
        folder=folder / "checkpoints",
        facts={key: facts[key] for key in ("settings", "code", "commit", "versions")} | {"processes": processes()},
        log=written,
        validation=data[1].examples,
    )
    if training.loss_mean == "micro_batches":
        trainer.loss_is_scaled_for_ga = False  # a mean of each micro batch, which the Trainer averages over the step
    return trainer, steering


def step_flops(training: profile.Training, model: flops.Shape, lengths: list[int], targets: int) -> float:
    """Operations of one step: `flops.training_flops` of this training."""
    return flops.training_flops(model, lengths, targets, trainable="lora" if training.lora else "all")


def peak_flops() -> float | None:
    """FLOP/s of all GPUs of this training together; None where it is not known what one of them can do."""
    import torch

    peak = gpus.peak_flops(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    return peak and peak * processes()


def fit(trainer: Any, steering: loop.Steering, written: log.Log, found: Path | None) -> None:
    """Train from the beginning or from a checkpoint; raises stop.Stopped if it was asked to stop before the end."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # one line per step belongs into the log, not into a notebook
    step = checkpoint.marker(found)["step"] if found else 0
    if trainer.is_world_process_zero():
        written.open(step)
        written.write(step, event="resume" if found else "start", processes=processes(), commit=output.commit())
    if found and processes() != checkpoint.marker(found)["processes"]:
        zero.for_other_processes(trainer, found)
    try:
        trainer.train(resume_from_checkpoint=str(found) if found else None)
        if trainer.is_world_process_zero() and not steering.stopping:
            written.write(trainer.state.global_step, event="end")
    finally:
        if trainer.is_world_process_zero():
            written.close()
    if steering.stopping:
        raise stop.Stopped(trainer.state.global_step, paths.shown(checkpoint.newest(trainer.folder)))


def main() -> int:
    """Train the rewriter of a profile from the pairs of notebook 02; exit code 0: finished, 85: stopped, can go on."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", required=True, metavar="NAME", help="a name in bpo_utils/profiles")
    run = profile.load(parser.parse_args().profile)
    if run.training is None:
        raise SystemExit(f"profile {run.name} has no training section")
    say(launch.set_up(deepspeed=run.training.zero_stage is not None))
    folder, source = paths.stage_dir(run.name, "03_training"), paths.stage_dir(run.name, "02_pairs")
    requests = stop.Requests(folder)
    requests.listen()
    pairs, validation = (records.read_rows(source / f"{part}.jsonl", records.Pair) for part in ("pairs", "validation"))
    rest = {"validation": validation, "decoding": run.rewriting, "name": run.name, "requests": requests}
    try:
        train(pairs, run.training, folder, **rest)
    except stop.Stopped as stopped:
        say(str(stopped))
        return stop.RESUMABLE
    finally:
        launch.leave()
    if run.training.push_to and os.environ.get("RANK", "0") == "0":
        say(f"uploaded to {output.push(folder / 'model', run.training.push_to)}")
    return 0


if __name__ == "__main__":
    launch.end(main())
