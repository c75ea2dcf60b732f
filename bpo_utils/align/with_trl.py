"""The same two trainings by the library TRL (the optional extra `rlhf`): what one would take for real models.

TRL 1.16 has no PPO any more; its nearest policy-gradient trainer is RLOO. On the miniature it gives the same losses
and takes 3 to 5 times the processor time (one thread; per step of 32 pairs 3.7 s against 0.7 s, per step of 64 answers
5.6 s against 2.1 s): it has large models in mind. So the miniature uses this room's own loops, unless the profile says
`library: trl`.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpo_utils.tokens import ANSWER_FRAME, framed

MISSING = "aligning.library is trl, and TRL is not installed; install it with `make rlhf`, or set library: own"


def check() -> None:
    """Raise ModuleNotFoundError in one sentence, with the command, where TRL is not installed."""
    if importlib.util.find_spec("trl") is None:
        raise ModuleNotFoundError(MISSING)


def dpo(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    seed: int,
    look: Callable[[int], None],
    folder: Path,
) -> list[dict[str, float]]:
    """As `dpo.train`, by trl.DPOTrainer. Works in `folder`."""
    check()
    from trl import DPOConfig, DPOTrainer

    steps = max(1, len(rows) * settings["epochs"] // settings["batch"])
    how = _common(settings, seed, folder, steps) | {"precompute_ref_log_probs": True, "dataset_num_proc": None}
    how |= {"per_device_train_batch_size": settings["batch"], "max_length": None}
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**how),
        train_dataset=preference_set(tokenizer, rows),
        processing_class=tokenizer,
        callbacks=[_looking(look, steps, settings["looks"])],
    )
    trainer.train()
    return _log(trainer, {"loss": "loss", "rewards/accuracies": "accuracy"})


def policy_gradient(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    reward: Callable[[list[tuple[str, str]]], list[float]],
    settings: dict[str, Any],
    seed: int,
    look: Callable[[int], None],
    folder: Path,
) -> list[dict[str, float]]:
    """As `policy_gradient.train`, by trl.RLOOTrainer. Works in `folder`."""
    check()
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def score(completions: list[str], asked: list[str], **_: Any) -> list[float]:
        return reward([(question, text.strip()) for question, text in zip(asked, completions, strict=True)])

    how = _common(settings, seed, folder, settings["steps"]) | {"num_generations": settings["samples"]}
    how |= {"per_device_train_batch_size": settings["prompts"] * settings["samples"]}
    data = Dataset.from_list([{"prompt": _framed(tokenizer, text), "asked": text} for text in prompts])
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=score,
        args=RLOOConfig(**how, max_completion_length=settings["max_new_tokens"]),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[_looking(look, settings["steps"], settings["looks"])],
    )
    trainer.train()
    return _log(trainer, {"reward": "reward", "kl": "kl_token"})


def preference_set(tokenizer: Any, rows: list[dict[str, str]]) -> Any:
    """Rows {prompt, good, bad} as TRL wants them: it joins texts before it cuts them into tokens, hence the blanks."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": _framed(tokenizer, row["prompt"]), "chosen": f" {row['good']}", "rejected": f" {row['bad']}"}
            for row in rows
        ]
    )


def _framed(tokenizer: Any, text: str) -> str:
    return tokenizer.bos_token + framed(ANSWER_FRAME, text)


def _common(settings: dict[str, Any], seed: int, folder: Path, steps: int) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "learning_rate": settings["learning_rate"],
        "beta": settings["beta"],
        "max_steps": steps,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, steps // 10),
        "seed": seed,
        "bf16": False,
        "use_cpu": not gpu,
        "activation_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _looking(look: Callable[[int], None], steps: int, looks: int) -> Any:
    from transformers import TrainerCallback

    from bpo_utils.align.dpo import looked_at

    chosen = looked_at(steps, looks)

    class Looking(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            look(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in chosen:
                look(state.global_step)

    return Looking()


def _log(trainer: Any, names: dict[str, str]) -> list[dict[str, float]]:
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [{"step": row["step"]} | {ours: float(row[name]) for name, ours in names.items()} for row in rows]
