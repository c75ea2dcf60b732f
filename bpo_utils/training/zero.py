"""The DeepSpeed configuration of a training. What the Trainer knows stands as "auto", so no number is in two places."""

from typing import Any

from bpo_utils.profile import Training

AUTOMATIC = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def config(training: Training, processes: int, saved_by: int | None = None) -> dict[str, Any] | None:
    """DeepSpeed's configuration as a dict, None without DeepSpeed.

    `saved_by`: how many processes wrote the checkpoint that is loaded; another number than `processes` needs
    DeepSpeed's universal form. No scheduler and no optimizer stand in it: the Trainer's AdamW and its linear decay are
    the same with and without DeepSpeed (accelerate issue 2124: a scheduler here made the first step at full rate).
    """
    if training.zero_stage is None:
        return None
    zero: dict[str, Any] = {"stage": training.zero_stage}
    if training.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if training.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if training.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # else the saved model would be empty shells
    chosen: dict[str, Any] = {key: "auto" for key in AUTOMATIC}
    chosen |= {"bf16": {"enabled": "auto"}, "zero_optimization": zero}
    if training.zero_stage and training.global_batch > training.micro_batch * processes:
        # Gradients accumulated in bfloat16 lose the small ones (DeepSpeed issue 2768).
        chosen["data_types"] = {"grad_accum_dtype": "fp32"}
    if training.zero_stage and saved_by not in (None, processes):
        chosen["checkpoint"] = {"load_universal": True}
    return chosen


def make_universal(checkpoint: Any) -> None:
    """Bring a checkpoint into DeepSpeed's universal form, from which any number of processes can go on.

    The weights and both moments of AdamW are put together from the parts of all processes; the parts stay beside them.
    """
    from argparse import Namespace

    from deepspeed.checkpoint import ds_to_universal

    parts = next(path for path in sorted(checkpoint.glob("global_step*")) if not path.name.endswith("_universal"))
    whole = checkpoint / f"{parts.name}_universal"
    if (checkpoint / "latest_universal").is_file():
        return
    ds_to_universal.main(
        Namespace(
            input_folder=str(parts),
            output_folder=str(whole),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # the Trainer does not write what this converter looks for
        )
    )
    (checkpoint / "latest_universal").write_text(whole.name, encoding="utf-8")


def repair(engine: Any, decays: list[float]) -> None:
    """Undo two faults of DeepSpeed 0.19.8 in what it loads from the universal form under stage 3.

    It gives all parameter groups one tensor as their step counter, which AdamW then counts up once for each group; and
    it copies the settings of the first group over the others, so that weights without decay would get one. (stage3.py,
    load_hp_checkpoint_state_from_checkpoint_dir_stage3; seen as losses 2 % off after resuming on fewer processes.)
    """
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in optimizer.state.values():
        if hasattr(state.get("step"), "clone"):
            state["step"] = state["step"].clone()
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay


def for_other_processes(trainer: Any, found: Any) -> None:
    """Make a checkpoint loadable by another number of processes than wrote it; called in every process.

    Without DeepSpeed, or under its stage 0, every process holds everything and there is nothing to do.
    """
    if trainer.is_deepspeed_enabled and list(found.glob("global_step*/*optim_states.pt")):
        if trainer.is_world_process_zero():
            make_universal(found)
        trainer.accelerator.wait_for_everyone()
