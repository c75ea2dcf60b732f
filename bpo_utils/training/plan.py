"""The plan before the job: what a training will take and how long, without a GPU and without weights.

    bpo plan --profile paper --gpu a100-40 --gpus 4

All numbers are predictions from formulas, each with its source in the module that has it: `flops` (parameters,
operations), `memory` (states, activations, buffers, disk), `plan_time` (seconds), `plan_inputs` (where data and sizes
come from). `resolved` and `disk_needed` are what the training itself uses at its start.
"""

import math
from collections.abc import Sequence
from typing import Any

from bpo_utils.profile import Profile, Training
from bpo_utils.training import batches, flops, memory, plan_inputs, plan_time
from bpo_utils.training.gpus import Gpu, named
from bpo_utils.training.plan_text import tables, text
from bpo_utils.training.plan_verdict import fits, smallest, verdict

__all__ = ["disk_needed", "make", "resolved", "tables", "text"]
MACHINES = (("a800-80", 8), ("a100-80", 8), ("a100-40", 4), ("h100", 8), ("h200", 8), ("h200", 1), ("rtx4090", 1))


def resolved(
    lengths: Sequence[int], targets: Sequence[int], training: Training, shape: flops.Shape, processes: int
) -> dict[str, Any]:
    """What a training will do, before it starts: rows, tokens (of one epoch), steps, warm-up, accumulation, bytes.

    `lengths` and `targets`: tokens of each example, and how many of them carry loss. Raises ValueError with the numbers
    if the global batch is not micro batch x processes x a whole number, or if an epoch would have no step.
    """
    per_pass = training.micro_batch * processes
    if training.global_batch % per_pass:
        raise ValueError(
            f"global batch {training.global_batch} is not a multiple of micro batch {training.micro_batch} x "
            f"{processes} process(es) = {per_pass}; change global_batch or micro_batch in the profile"
        )
    whole = math.floor if training.drop_last else math.ceil
    steps = whole(len(lengths) / training.global_batch) * training.epochs
    if not steps:
        raise ValueError(
            f"{len(lengths)} examples make no whole global batch of {training.global_batch}; lower global_batch or set "
            "drop_last: false in the profile"
        )
    trained = flops.trained_parameters(shape, training)
    return {
        "pairs": len(lengths),
        "tokens": sum(lengths),
        "target_tokens": sum(targets),
        "parameters": shape.parameters,
        "trained": trained,
        "epochs": training.epochs,
        "global_batch": training.global_batch,
        "micro_batch": training.micro_batch,
        "processes": processes,
        "accumulation": training.global_batch // per_pass,
        "steps": steps,
        "warmup_steps": math.ceil(steps * training.warmup_ratio),
        "learning_rate": training.learning_rate,
        # Of one whole model. Mixed-precision AdamW: 2 bytes weight + 2 gradient + 12 for the float32 copy and both
        # moments (ZeRO paper, arXiv 1910.02054, section 3.1); float32 needs the same 16: 4 + 4 + 8. What is frozen is
        # only kept.
        "state_bytes": 16 * trained + memory.kept_width(training) * (shape.parameters - trained),
    }


def disk_needed(parameters: int, trained: int, training: Training) -> int:
    """Bytes that must be free before the first step: two checkpoints, or one and the finished model.

    The checkpoint before is removed when the next is complete, the last when the model is written. Going on with
    another number of GPUs takes 12 bytes per trained parameter more, for the universal form.
    """
    checkpoint = memory.checkpoint_bytes(parameters, trained, training)
    return checkpoint + max(checkpoint, memory.model_bytes(parameters, training))


def make(run: Profile, *, gpu: str | None = None, gpus: int | None = None, nodes: int = 1) -> dict[str, Any]:
    """The plan of a run on `nodes` x `gpus` GPUs of the kind `gpu`, as one JSON value; `text` and `tables` show it.

    Without `gpu`: the one of this machine, else A800 80GB for a profile that trains on Slurm; without `gpus`: as many
    as the profile has processes. Raises ValueError for an unknown GPU, a batch that cannot be cut up, a profile without
    training, or a base whose configuration cannot be had.
    """
    training = run.training
    if training is None:
        raise ValueError(f"profile {run.name} has no training section, so there is nothing to plan")
    if nodes < 1 or (gpus is not None and gpus < 1):
        raise ValueError(f"{nodes} node(s) with {gpus} GPU(s): at least one of each")
    card, why = plan_inputs.gpu(gpu, run)
    gpus = gpus or max(1, training.processes // nodes)
    shape, model_source = plan_inputs.model(training.base)
    data = plan_inputs.lengths(run)
    what = resolved(data.all, data.targets, training, shape, gpus * nodes)
    own = memory.Setting(training.zero_stage or None, training.offload, training.checkpointing)
    job = _job(training, shape, data, card, gpus, nodes)
    needs = [memory.need(each, job) for each in memory.settings(own)] if card else [memory.need(own, job)]
    per_step = plan_time.flops_per_step(shape, data.all, data.targets, training.global_batch, training.lora is not None)
    machine = {"gpu": card.label if card else None, "name": card.name if card else None, "gpus": gpus, "nodes": nodes}
    machine["memory_gib"] = card.memory_gib if card else None
    known = {
        "profile": run.name,
        "label": run.label,
        "machine": machine,
        "inputs": {
            "model": model_source,
            "data": data.source,
            "machine": why,
            "states": memory.estimators()[0] if job.width == 2 else "float32 weights, 16 bytes per parameter",
        },
        "training": what | {name: getattr(training, name) for name in ("base", "max_length", "batching", "drop_last")},
        "utilisation": _utilisation(training, data.all),
        "memory": [_memory_row(each, own, card) for each in needs],
        "micro_batch_tokens": {"most": job.tokens, "mean": training.micro_batch * sum(data.all) / len(data.all)},
        "disk": _disk(what, training),
        "flops": {"step": per_step, "all": per_step * what["steps"]},
        "time": _times(training, shape, data, per_step, card, gpus, nodes),
    }
    return known | {"verdict": verdict(run, own, needs, card, _lora(run, shape, data, card, gpus, nodes), known)}


def _job(
    training: Training, shape: flops.Shape, data: plan_inputs.Lengths, card: Gpu | None, gpus: int, nodes: int
) -> memory.Job:
    # The largest micro batch that the settings allow, all of it taught: no data can need more.
    tokens = training.micro_batch * training.max_length
    return memory.Job(
        shape=shape,
        trained=flops.trained_parameters(shape, training),
        gpus=gpus,
        nodes=nodes,
        tokens=tokens,
        examples=training.micro_batch,
        targets=tokens,
        accumulation=training.global_batch // (training.micro_batch * gpus * nodes),
        attention=training.attention,
        batching=training.batching,
        width=memory.width(training, gpu=card is not None),
        lora=training.lora is not None,
        gpu=card is not None,
    )


def _utilisation(training: Training, lengths: Sequence[int]) -> dict[str, float]:
    """Share of the computed tokens that are tokens of examples, in the first epoch's order, for three ways to batch."""
    order = batches.order(len(lengths), training.seed, 0, training.global_batch, training.drop_last)
    ordered = [lengths[place] for place in order]
    padded = batches.computed_tokens(ordered, training.micro_batch, "pad")
    shares = {"flat": 1.0, "pad": sum(ordered) / padded, "pad to max_length": sum(ordered) / len(ordered)}
    shares["pad to max_length"] /= training.max_length
    return {name: round(share, 4) for name, share in shares.items()}


def _memory_row(need: memory.Need, own: memory.Setting, card: Gpu | None) -> dict[str, Any]:
    sizes = {"states": need.states, "states_16": need.states_16, "activations": need.activations}
    sizes |= {"buffers": need.buffers, "gpu": need.gpu, "host": need.host}
    return {
        "setting": str(need.setting),
        "checkpointing": need.setting.checkpointing,
        "own": need.setting == own,
        **{f"{name}_gib": round(size / memory.GIB, 4) for name, size in sizes.items()},
        "fits": fits(need, card) if card else None,
    }


def _disk(what: dict[str, Any], training: Training) -> dict[str, int]:
    sizes = what["parameters"], what["trained"]
    return {
        "checkpoint": memory.checkpoint_bytes(*sizes, training),
        "model": memory.model_bytes(sizes[0], training),
        "needed": disk_needed(*sizes, training),
    }


def _times(
    training: Training, shape: flops.Shape, data: plan_inputs.Lengths, per_step: float, card: Gpu | None, *here: int
) -> list[dict[str, Any]]:
    """One row for each machine, the one asked for first. Empty for float32, whose peak is not in the table of GPUs."""
    if memory.width(training, gpu=True) == 4:
        return []
    asked = [(card, *here)] if card else []
    others = [(named(name), count, 1) for name, count in MACHINES]
    rows = []
    for gpu, gpus, nodes in [*asked, *(each for each in others if each not in asked)]:
        if training.global_batch % (training.micro_batch * gpus * nodes):
            continue
        job = _job(training, shape, data, gpu, gpus, nodes)
        own = memory.Setting(training.zero_stage or None, training.offload, training.checkpointing)
        need = smallest([memory.need(each, job) for each in memory.settings(own)], own, gpu)
        row = {"machine": f"{nodes} x {gpus} x {gpu.label}" if nodes > 1 else f"{gpus} x {gpu.label}"}
        if need is None:
            rows.append(row | {"setting": None})
            continue
        share = _utilisation(training, data.all)[training.batching]
        work = plan_time.Work(per_step, share, job.accumulation, job.trained, training.lora is not None, job.width)
        time = plan_time.step(need.setting, work, shape, gpu, gpus, nodes)
        steps = resolved(data.all, data.targets, training, shape, gpus * nodes)["steps"]
        rows.append(
            row
            | {"setting": str(need.setting), "checkpointing": need.setting.checkpointing, "own": need.setting == own}
            | {"fits": fits(need, gpu)}
            | {"compute_s": time.compute, "communication_s": time.communication, "offload_s": time.offload}
            | {"step_s": time.step, "bound_by": time.bound_by, "minutes": time.step * steps / 60}
            | {"mfu": per_step / time.step / (gpus * nodes * gpu.tflops * 1e12)}
        )
    return rows


def _lora(
    run: Profile, shape: flops.Shape, data: plan_inputs.Lengths, card: Gpu | None, gpus: int, nodes: int
) -> memory.Need | None:
    """What the profile lora needs on the same GPUs; None for a profile that trains adapters itself."""
    from bpo_utils import profile

    if run.training.lora is not None or card is None:
        return None
    other = profile.load("lora").training
    if other is None or other.lora is None or other.global_batch % (other.micro_batch * gpus * nodes):
        return None
    setting = memory.Setting(other.zero_stage or None, other.offload, other.checkpointing)
    return memory.need(setting, _job(other, shape, data, card, gpus, nodes))
