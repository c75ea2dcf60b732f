"""The log of a training: one JSON line per optimizer step and per event, TensorBoard beside it, and how to read it."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.tokens import IGNORED
from bpo_utils.training import batches


@dataclass(frozen=True)
class Work:
    """What the log needs to know of the data: the work of each step follows from the order of the examples."""

    ids: list[str]
    lengths: list[int]
    targets: list[int]  # tokens with loss, of each example
    seed: int
    global_batch: int
    micro_batch: int
    batching: str
    drop_last: bool

    @classmethod
    def of(cls, encoded: Any, training: Any) -> "Work":
        """The work of training on `tokens.Encoded` examples as a profile's training section says."""
        lengths = [len(example["input_ids"]) for example in encoded.examples]
        targets = [sum(label != IGNORED for label in example["labels"]) for example in encoded.examples]
        sizes = (training.seed, training.global_batch, training.micro_batch, training.batching, training.drop_last)
        return cls(encoded.ids, lengths, targets, *sizes)

    def of_step(self, step: int) -> list[int]:
        """Places of the examples that optimizer step `step` (from 1) trains on."""
        count = len(self.lengths)
        whole = count // self.global_batch if self.drop_last else math.ceil(count / self.global_batch)
        epoch, batch = divmod(step - 1, whole)
        places = batches.order(count, self.seed, epoch, self.global_batch, self.drop_last)
        return places[batch * self.global_batch : (batch + 1) * self.global_batch]


class Log:
    """log.jsonl and tensorboard/ of a training, written by one process, each line as soon as it is known."""

    def __init__(self, folder: Path) -> None:
        self.path, self.board_folder = folder / "log.jsonl", folder / "tensorboard"
        self.board: Any = None
        self.began = time.perf_counter()
        self.before = 0.0  # seconds of the starts before this one

    def open(self, step: int) -> None:
        """Begin at `step` done steps: what an earlier start logged beyond it was lost with it, and is taken out."""
        from torch.utils.tensorboard import SummaryWriter

        kept = [line for line in lines(self.path) if line["step"] <= step] if step else []
        self.before = max((line["seconds"] for line in kept), default=0.0)
        records.write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self.board = SummaryWriter(str(self.board_folder), purge_step=step + 1 if step else None)

    def write(self, step: int, **values: Any) -> None:
        """One line; numbers also go to TensorBoard."""
        seconds = round(self.before + time.perf_counter() - self.began, 3)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        group = values.get("event", "step")
        for name, value in values.items():
            if isinstance(value, int | float):
                self.board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Bring everything onto the disk."""
        self.board.close()
        with self.path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())


class Recorder:
    """The part of a Trainer callback that logs each step: what it gave, how fast it was, what it took."""

    def __init__(self, log: Log, work: Work, flops: Callable[[list[int], int], float], peak: float | None) -> None:
        """`flops(lengths, targets)` of the model; `peak` in FLOP/s of all GPUs together, None where it is unknown."""
        self.log, self.work, self.flops, self.peak = log, work, flops, peak
        self.last = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Write the step's line. Raises FloatingPointError, in every process, if the loss is not finite."""
        if "loss" not in logs:
            return
        took = time.perf_counter() - self.last
        places = self.work.of_step(state.global_step)
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"step {state.global_step}: the loss is {logs['loss']}; its examples are "
                f"{', '.join(self.work.ids[place] for place in places)}. Look at them, and lower learning_rate"
            )
        if not state.is_world_process_zero:
            return
        # DeepSpeed's stage 0 in float32 does not tell the norm; then it is null.
        numbers = {name: logs.get(name) for name in ("loss", "learning_rate", "grad_norm")}
        self.log.write(state.global_step, epoch=round(state.epoch, 4), **numbers, **self._speed(places, took))

    def _speed(self, places: list[int], took: float) -> dict[str, Any]:
        lengths = [self.work.lengths[place] for place in places]
        targets = sum(self.work.targets[place] for place in places)
        computed = batches.computed_tokens(lengths, self.work.micro_batch, self.work.batching)
        speed = self.flops(lengths, targets) / took
        return {
            "tokens": sum(lengths),
            "tokens_per_s": round(sum(lengths) / took, 1),
            "target_tokens_per_s": round(targets / took, 1),
            "utilisation": round(sum(lengths) / computed, 4),
            "mfu": round(speed / self.peak, 4) if self.peak else None,
            "memory_gib": round(_memory(), 3),
        }


def _memory() -> float:
    """Peak memory of this process so far, in GiB: of its GPU, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    import psutil

    return psutil.Process().memory_info().rss / 2**30


def lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a log, steps and events. A last line that was cut off by a kill is left out."""
    if not path.is_file():
        return []
    found = []
    for text in records.read_text(path).splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            break  # only the line that was being written can be half there
    return found


def finished(folder: Path) -> list[dict[str, Any]]:
    """The steps of a finished training, one entry each. Raises FileNotFoundError if there is no finished model."""
    if not (folder / "plan.json").is_file() or not (folder / "model" / "config.json").is_file():
        raise FileNotFoundError(
            f"{paths.shown(folder)} holds no finished model; if it is trained on Slurm, submit the command above "
            "and run this notebook again when the job has ended"
        )
    return [line for line in lines(folder / "log.jsonl") if "event" not in line]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of one event of a log, such as `evaluation` or `checkpoint`."""
    return [line for line in lines(folder / "log.jsonl") if line.get("event") == name]


def end_of(folder: Path) -> dict[str, float | None]:
    """The last losses of a training, for its model card: of its last step, and of its last evaluation if it had one."""
    steps = [line for line in lines(folder / "log.jsonl") if "event" not in line]
    evaluations = events(folder, "evaluation")
    return {
        "loss": steps[-1]["loss"] if steps else None,
        "validation_loss": evaluations[-1]["loss"] if evaluations else None,
    }


def curve(folder: Path) -> list[dict[str, Any]]:
    """Points for the loss figure: {step, loss} of every step, {step, eval_loss} of every evaluation."""
    evaluations = [{"step": line["step"], "eval_loss": line["loss"]} for line in events(folder, "evaluation")]
    return [*finished(folder), *evaluations]
