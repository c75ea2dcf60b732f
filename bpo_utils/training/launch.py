"""Which process of how many this is, whoever started it: python, torchrun, or srun with one task per GPU."""

import os
import socket
import sys
from typing import NoReturn

# What srun tells each of its tasks; read here, in the task: in a batch file they would all be expanded to rank 0.
FROM_SRUN = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS"}


def set_up(deepspeed: bool) -> str:
    """Put rank, local rank and world size where torch looks for them; returns a sentence that says who started this.

    torchrun has done so already. Under srun they come from Slurm, and MASTER_ADDR and MASTER_PORT from the batch file.
    DeepSpeed wants them even for one process, which then gets a free port of this machine. Raises ValueError if srun
    started several tasks and nobody said where they meet.
    """
    if "RANK" in os.environ:
        return f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, as the launcher says"
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ValueError(
                f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} tasks, but {' and '.join(missing)} "
                f"{'are' if len(missing) > 1 else 'is'} not set; slurm/train.sbatch shows how to set them"
            )
        os.environ |= {name: os.environ[slurm] for name, slurm in FROM_SRUN.items()}
        return f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, as srun says"
    if deepspeed:
        port = str(_free_port())
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = port
    return "one process"


def leave() -> None:
    """Leave the group of processes in good order, so that no process waits for one that has gone."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """End this process with an exit code, and leave out the interpreter's own clean-up.

    DeepSpeed holds on to its Gloo groups, and so to their threads, after `leave`. While the interpreter takes itself
    down a process may abort ("terminate called without an active exception", seen once in 173 stops), and the batch
    file would take a training that was stopped in good order for one that broke. All files are closed by now.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
