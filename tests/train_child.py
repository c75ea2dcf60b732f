"""Trainings one after the other in one group of processes: python -m torch.distributed.run ... train_child.py JOBS.json

A job: folder, changes (of the settings below), stop_at (the last process asks to stop at this step) and pairs.
"""

import json
import os
import sys
from pathlib import Path

from bpo_utils import profile, records, train
from bpo_utils.training import launch, stop

TOPICS = ("tides", "jazz", "maps", "sleep", "ballet", "voting", "caching", "poetry")
PAIRS = [
    records.Pair(
        f"p{n}",
        f"{TOPICS[n % 8]} why" + " please" * (n % 5),
        f"Explain the reasons behind {TOPICS[n % 8]}: explain what causes it." + " Give an example." * (n % 3),
        "s",
    )
    for n in range(44)
]
SETTINGS = {"epochs": 4, "global_batch": 8, "micro_batch": 2, "freeze_embeddings": False, "learning_rate": 1e-3}


def settings(**changes: object) -> profile.Training:
    """The miniature's training, small: 44 pairs, 8 a step, 20 steps in 4 epochs with the last batch dropped."""
    return profile.load("mini").training.model_copy(update={"drop_last": True, **SETTINGS, **changes})


class AskAt(stop.Requests):
    """The process of the highest rank is told to stop when it has done so many steps; the others are told nothing."""

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(folder)
        self.step, self.done_steps = step, 0

    def agreed(self, device: object, leader: bool) -> tuple[bool, bool]:
        self.done_steps += 1
        last = int(os.environ.get("RANK", "0")) == train.processes() - 1
        self.signalled = last and self.done_steps == self.step
        return super().agreed(device, leader)


def run(job: dict) -> None:
    """One training, stopped where the job says so."""
    folder = Path(job["folder"])
    training = settings(**job.get("changes", {}))
    rest = {"validation": PAIRS[:6], "name": "test", "requests": AskAt(folder, job.get("stop_at"))}
    try:
        train.train(PAIRS, training, folder, **rest)
    except stop.Stopped as stopped:
        train.say(f"{folder.name}: {stopped}")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    train.say(launch.set_up(deepspeed=True))
    for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(each)
    launch.leave()
    launch.end(0)  # as bpo_utils.train does
