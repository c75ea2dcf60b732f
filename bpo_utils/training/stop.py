"""Stopping a training so that it can go on: a file or a signal asks, all processes agree on the step, then they save.

A batch system sends its signal to the batch shell, which makes the file STOP; a person makes the same file by hand.
SAVE asks for a checkpoint and goes on. SIGTERM and SIGUSR1 act like STOP, for systems that signal every process.
Agreeing matters: a process that saw the signal one step before the others would wait for them in its save for ever.
"""

import signal
from pathlib import Path
from typing import Any

STOP, SAVE = "STOP", "SAVE"
RESUMABLE = 85  # exit code of a training that was stopped and can go on: the batch file requeues on this one only


class Stopped(Exception):
    """The training was asked to stop; a complete checkpoint of this step is written."""

    def __init__(self, step: int, checkpoint: str) -> None:
        super().__init__(f"stopped at step {step} as asked; {checkpoint} is complete, and the same command goes on")
        self.step = step


class Requests:
    """What has been asked of this run so far. One per process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.signalled = folder, False

    def listen(self) -> None:
        """Take SIGTERM and SIGUSR1 as STOP. For a program of its own only: a notebook's signals are its kernel's."""

        def heard(*_: Any) -> None:
            self.signalled = True

        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, heard)

    def agreed(self, device: Any, leader: bool) -> tuple[bool, bool]:
        """(stop, save): what any process was asked for, the same answer in every process. Call it in all of them.

        The files are looked at by the leader alone: on a network file system the others may see them a step later.
        """
        import torch
        import torch.distributed as dist

        stop = self.signalled or (leader and (self.folder / STOP).exists())
        save = leader and (self.folder / SAVE).exists()
        asked = torch.tensor([stop, save], dtype=torch.int32, device=device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked[0]), bool(asked[1])

    def done(self, name: str) -> None:
        """Remove a file that has been acted on, so that the next start does not act on it again."""
        (self.folder / name).unlink(missing_ok=True)
