"""Fine-tuning the rewriter: Transformers' Trainer on (prompt -> optimized prompt), loss on the optimized prompt only.

    python -m bpo_utils.train --profile mini                               # one process
    torchrun --nproc-per-node 8 -m bpo_utils.train --profile paper         # one node; the sbatch file does this

Paper, appendix C: AdamW (0.9, 0.999), learning rate 2e-5 with linear decay, warm-up over a tenth of the steps, 3
epochs, 4 prompts on each of 8 GPUs = 32 per step.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from bpo_utils import paths, profile, quiet, records, tokens


def plan(
    examples: list[dict[str, list[int]]], training: profile.Training, sizes: dict[str, int], processes: int
) -> dict[str, Any]:
    """What a training will do, before it starts: steps, warm-up, accumulation, tokens and bytes.

    `sizes` is what `count_parameters` gives.
    Raises ValueError with the numbers if the global batch is not micro batch x processes x a whole number.
    """
    per_pass = training.micro_batch * processes
    if training.global_batch % per_pass:
        raise ValueError(
            f"global batch {training.global_batch} is not a multiple of micro batch {training.micro_batch} x "
            f"{processes} process(es) = {per_pass}; change global_batch or micro_batch in the profile"
        )
    steps = math.ceil(len(examples) / training.global_batch) * training.epochs
    target = sum(label != tokens.IGNORED for example in examples for label in example["labels"])
    return {
        "pairs": len(examples),
        "tokens": sum(len(example["input_ids"]) for example in examples),
        "target_tokens": target,
        **sizes,
        "epochs": training.epochs,
        "global_batch": training.global_batch,
        "micro_batch": training.micro_batch,
        "processes": processes,
        "accumulation": training.global_batch // per_pass,
        "steps": steps,
        "warmup_steps": math.ceil(steps * training.warmup_ratio),
        "learning_rate": training.learning_rate,
        # Mixed-precision AdamW: 2 bytes weight + 2 gradient + 12 for the float32 copy and both moments (ZeRO paper,
        # arXiv 1910.02054, section 3.1). Float32 training needs the same 16: 4 + 4 + 8. What is frozen is only kept.
        "state_bytes": 16 * sizes["trained"] + 4 * (sizes["parameters"] - sizes["trained"]),
    }


def train(pairs: list[records.Pair], training: profile.Training, folder: Path) -> dict[str, Any]:
    """Fine-tune the base on the pairs; writes folder/model, folder/log.jsonl and folder/plan.json and returns the plan.

    Raises ValueError if no pair fits into max_length, or for a global batch that cannot be cut up.
    """
    quiet.transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, PrinterCallback, Trainer

    tokenizer = AutoTokenizer.from_pretrained(base_folder(training.base))
    tokenizer.pad_token = (
        tokenizer.pad_token or tokenizer.eos_token
    )  # labels mask padding by position, so </s> is learnt
    examples, too_long = tokens.encode_pairs(tokenizer, pairs, training.max_length)
    if not examples:
        raise ValueError(
            f"none of the {len(pairs)} pairs fits into max_length = {training.max_length} tokens; raise it"
        )
    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    torch.manual_seed(training.seed)
    model = _prepared(AutoModelForCausalLM.from_pretrained(base_folder(training.base), dtype=torch.float32), training)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    what = plan(examples, training, _sizes(model), processes) | {"too_long": too_long, "base": training.base}
    log: list[dict[str, Any]] = []
    trainer = Trainer(
        model=model,
        args=_arguments(training, what, folder, bf16=dtype is torch.bfloat16),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=tokens.IGNORED),
        callbacks=[_recorder(log)],
    )
    trainer.remove_callback(PrinterCallback)  # one line per step belongs into the log, not into a notebook
    trainer.train()
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder / "model")
        records.write_text(folder / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in log))
        records.write_json(folder / "plan.json", what)
    return what


def finished(folder: Path) -> list[dict[str, Any]]:
    """The log of a finished training, one entry per step. Raises FileNotFoundError if there is no finished model."""
    if not (folder / "plan.json").is_file() or not (folder / "model" / "config.json").is_file():
        raise FileNotFoundError(
            f"{paths.shown(folder)} holds no finished model; if it is trained on Slurm, submit the command above "
            "and run this notebook again when the job has ended"
        )
    lines = records.read_text(folder / "log.jsonl").splitlines()
    return [json.loads(line) for line in lines]


def count_parameters(training: profile.Training) -> dict[str, int]:
    """Parameters of the base model, {"parameters", "trained"}, from its configuration alone: no weights are loaded."""
    quiet.transformers()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_folder(training.base)))
    return _sizes(_prepared(model, training))


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base model."""
    quiet.transformers()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_folder(base))


def base_folder(base: str) -> str:
    """Where the base model lies: `mini:NAME` is a shipped model, anything else a Hub id or a local folder."""
    if base.startswith("mini:"):
        from bpo_utils.mini import models

        return str(models.folder(base.removeprefix("mini:")))
    return base


def sbatch_command(profile_name: str) -> str:
    """The command that submits the training of a profile to Slurm."""
    return f"sbatch --export=ALL,PROFILE={profile_name} {paths.shown(paths.ROOT / 'slurm' / 'train.sbatch')}"


def _prepared(model: Any, training: profile.Training) -> Any:
    # Freezing comes before counting and before the optimizer is made: both look at what is trainable.
    if training.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
        model.get_output_embeddings().requires_grad_(False)
    return model


def _sizes(model: Any) -> dict[str, int]:
    return {"parameters": model.num_parameters(), "trained": model.num_parameters(only_trainable=True)}


def _arguments(training: profile.Training, what: dict[str, Any], folder: Path, bf16: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=what["accumulation"],
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=what["warmup_steps"],
        adam_beta1=training.adam_betas[0],
        adam_beta2=training.adam_betas[1],
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        data_seed=training.seed,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        deepspeed=_deepspeed(training.zero_stage) if training.zero_stage else None,
    )


def _deepspeed(stage: int) -> dict[str, Any]:
    # "auto": the values above count, so that no number stands in two places.
    automatic = (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    )
    return {key: "auto" for key in automatic} | {"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": stage}}


def _recorder(log: list[dict[str, Any]]) -> Any:
    from transformers import TrainerCallback

    started = time.perf_counter()

    class Recorder(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                numbers = {key: float(logs[key]) for key in ("epoch", "loss", "learning_rate", "grad_norm")}
                log.append({"step": state.global_step, **numbers, "seconds": round(time.perf_counter() - started, 2)})

    return Recorder()


def main() -> None:
    """Train the rewriter of a profile from the pairs of notebook 02."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", required=True, help="a name in bpo_utils/profiles")
    run = profile.load(parser.parse_args().profile)
    if run.training is None:
        raise SystemExit(f"profile {run.name} has no training section")
    pairs = records.read_rows(paths.stage_dir(run.name, "02_pairs") / "pairs.jsonl", records.Pair)
    train(pairs, run.training, paths.stage_dir(run.name, "03_training"))


if __name__ == "__main__":
    main()
