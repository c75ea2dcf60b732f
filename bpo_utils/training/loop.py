"""What this training adds to the Trainer of Transformers: its order, its checkpoints, its stops, its evaluation.

The classes here are mixed into Trainer and TrainerCallback when a training starts (`trainer_class`, `callback`), since
importing those takes seconds.
"""

from pathlib import Path
from typing import Any

from bpo_utils.training import batches, checkpoint, stop, zero
from bpo_utils.training.log import Log


class Hooks:
    """The Trainer's methods that this training does in its own way. `set_up` must be called before `train`."""

    def set_up(
        self, *, sampler: batches.Sampler, folder: Path, facts: dict[str, Any], log: Log, validation: list[Any]
    ) -> None:
        """`folder` gets the checkpoints, whose markers get the `facts`; `validation` are encoded examples."""
        self.sampler, self.folder, self.facts, self.log_file = sampler, folder, facts, log
        self.validation, self.saved_to = validation, ""

    def _get_train_sampler(self, *_: Any) -> Any:
        return self.sampler

    def create_optimizer(self, *args: Any) -> Any:
        made = super().create_optimizer(*args)
        self.decays = [group["weight_decay"] for group in made.param_groups]
        return made

    def _load_optimizer_and_scheduler(self, found: str) -> None:
        super()._load_optimizer_and_scheduler(found)
        if self.is_deepspeed_enabled:
            zero.repair(self.model_wrapped, self.decays)

    def _get_output_dir(self, trial: Any = None) -> str:
        return self.saved_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write under a temporary name; the leader names it once every process has written its part."""
        if self.is_world_process_zero():
            checkpoint.clear(self.folder)
        self.accelerator.wait_for_everyone()
        self.saved_to = str(checkpoint.writing(self.folder))
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.saved_to = ""
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            made = checkpoint.finish(self.folder, self.state.global_step, self.facts)
            self.log_file.write(self.state.global_step, event="checkpoint", name=made.name)
        self.accelerator.wait_for_everyone()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss on the validation rows: the mean over all their target tokens, whoever computed them.

        The Trainer's own loop averages the means of batches, which weighs short optimized prompts more. Every process
        makes the same number of passes (ZeRO-3 gathers its weights in all of them): one without rows of its own repeats
        one, uncounted.
        """
        import torch

        model, size = self.model_wrapped, self.args.per_device_eval_batch_size
        rows = [self.validation[start : start + size] for start in range(0, len(self.validation), size)]
        rank, world = self.args.process_index, self.args.world_size
        sums = torch.zeros(2, dtype=torch.float64)
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for first in range(0, len(rows), world):
                mine = first + rank < len(rows)
                batch = self._prepare_inputs(self.data_collator(rows[first + rank if mine else first]))
                labels = batch.pop("labels")
                total, count = batches.summed_loss(model(**batch).logits, labels)
                sums += torch.tensor([total.item(), count.item()], dtype=torch.float64) * mine
        model.train()
        total, count = self.accelerator.reduce(sums.to(self.args.device, torch.float32), "sum").tolist()
        if self.is_world_process_zero():
            self.log_file.write(
                self.state.global_step, event="evaluation", loss=total / count, rows=len(self.validation)
            )
        return {"eval_loss": total / count}


class Steering:
    """The part of a Trainer callback that listens to requests and keeps sampler and epoch together."""

    def __init__(self, requests: stop.Requests, sampler: batches.Sampler, log: Log) -> None:
        self.requests, self.sampler, self.log = requests, sampler, log
        self.stopping = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask all processes what was requested, and have the Trainer save and stop accordingly."""
        stopping, saving = self.requests.agreed(args.device, state.is_world_process_zero)
        if state.global_step >= state.max_steps:
            return  # what is left takes less time than stopping would
        if stopping:
            self.stopping = control.should_training_stop = True
            control.should_evaluate = False
        control.should_save = control.should_save or stopping or saving

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.requests.done(stop.SAVE)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.stopping:  # the Trainer takes a stop for the end of the epoch
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.requests.done(stop.STOP)  # also one that came too late: it must not stop the next training
            if self.stopping:
                self.log.write(state.global_step, event="stop")


def trainer_class() -> type:
    """Transformers' Trainer with the hooks of this module."""
    from transformers import Trainer

    return type("RewriterTrainer", (Hooks, Trainer), {})


def callback(part: type) -> type:
    """A TrainerCallback that does what `part` does."""
    from transformers import TrainerCallback

    return type(part.__name__, (part, TrainerCallback), {})
