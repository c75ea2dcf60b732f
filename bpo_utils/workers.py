"""Processes beside this one, for trainings that take minutes: a few at a time, each with a file for what it says.

None outlives this process: each is killed when another fails or this one is interrupted, and ends by itself, if its
program begins with `end_with_parent`, when this one is killed.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpo_utils import paths

LAST_LINES = 15
POLL_S = 0.2
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What one process does: `python -m module *arguments`, and the file for what it says."""

    name: str
    module: str
    arguments: tuple[str, ...]
    log: Path


def run(
    jobs: Sequence[Job],
    at_once: int,
    threads: int | None = None,
    ended: Callable[[Job, float], None] = lambda job, seconds: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Do every job, in order, `at_once` of them at a time, with `threads` threads each (None: as many as it likes).

    `ended` is told of each that is done, `meanwhile` is called again and again until all are. Raises ChildProcessError
    with the last lines of the first job that fails.
    """
    waiting = list(jobs)
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running.append((job, start(job, threads), time.monotonic()))
            _wait(running[0][1])
            for each in [each for each in running if each[1].poll() is not None]:
                job, process, since = each
                running.remove(each)
                process.stdin.close()
                if process.returncode:
                    raise ChildProcessError(_failure(job, process.returncode))
                ended(job, time.monotonic() - since)
            meanwhile()
    finally:
        for _, process, _ in running:
            process.kill()
            process.wait()
            process.stdin.close()


def start(job: Job, threads: int | None = None) -> subprocess.Popen[bytes]:
    """The process of a job. Nothing is ever written to its standard input: the pipe closes when this process ends."""
    env = os.environ | (dict.fromkeys(THREADS, str(threads)) if threads else {}) | {"TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.ROOT), env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", job.module, *job.arguments]
    with job.log.open("wb") as said:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return


def _failure(job: Job, code: int) -> str:
    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = f"{job.name} ended with code {code}; what was finished is kept. Its last lines:"
    return "\n".join([told, *(f"  {line}" for line in lines[-LAST_LINES:])])


def end_with_parent() -> None:
    """End this process, with exit code 1, once the one that started it is gone. Returns at once."""

    def wait() -> None:
        # The descriptor itself, not sys.stdin: Python cannot end while a thread waits in a buffered read.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
