"""One notebook through papermill, in a kernel of its own.

The kernel is started and ended here rather than by papermill: it then needs no registration, its sockets lie in a
private folder (parallel runs cannot collide), its environment does not leak into this process, and it is gone whatever
happens. What went wrong is taken from the exception that papermill raises; the metadata of the saved notebook say
"completed" even after a killed kernel or a timeout.
"""

import asyncio
import copy
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths
from bpo_utils.notebook import Notebook, Place
from bpo_utils.profile import Profile

START_TIMEOUT_S = 60
LOG = "kernel.log"  # what a kernel prints past Jupyter, such as why it could not start
LONGEST_SOCKET_PATH = 90  # macOS allows 104 bytes, and the port number is still to come
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
PLACES = ("BPO_RUNS_DIR", "BPO_CACHE_DIR", "BPO_DATA_DIR", "BPO_HUB_DIR", "BPO_PREFERENCES_DIR")
# glibc hands large blocks back to the system and a small model on a CPU asks for them again thousands of times; kept,
# the same work takes less time (benchmarks/allocator.py). Bytes; other C libraries take no notice.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


@dataclass(frozen=True)
class Outcome:
    """How a notebook run ended: done, failed, timeout, killed or interrupted, and the error unless it is done."""

    status: str
    error: dict[str, object] | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel's manager, and every client that was connected to it."""

    manager: Any
    clients: list[Any]

    def remember(self, client: Any) -> Any:
        """Keep a client in mind, so that it can be closed; returns it."""
        self.clients.append(client)
        return client


def environment(place: Place, profile: Profile) -> dict[str, str]:
    """Environment of a kernel: this process's, with absolute folders and what a headless run needs."""
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # it makes figures vanish
    env = ALLOCATOR | env
    # The kernel works in the notebooks' folder, so a folder given relative to ours would be another one there.
    env |= {name: str(Path(env[name]).resolve()) for name in PLACES if env.get(name)}
    env |= {"BPO_HEADLESS": "1", "TOKENIZERS_PARALLELISM": "false", "BPO_FIGURES_DIR": str(place.figures)}
    env.pop("BPO_RUN_DIR", None)
    if place.run != paths.runs_dir() / profile.name:
        env["BPO_RUN_DIR"] = str(place.run)
    if profile.data.source == "miniature":
        env["HF_HUB_OFFLINE"] = "1"
    # The kernel must import the very package whose hash goes into the ledger.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.ROOT), env.get("PYTHONPATH")]))
    return env


def execute(
    notebook: Notebook, injected: dict[str, object], saved_as: Path, env: dict[str, str], timeout_s: int
) -> Outcome:
    """Run a notebook and save it, with outputs, as `saved_as`. Ctrl-C comes back as the outcome `interrupted`."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    running: list[int] = []  # positions of the cells started so far, counted in the executed notebook

    def ended(status: str, name: str, message: str, lines: list[str] | None = None, at: int | None = None) -> Outcome:
        at = at if at is not None else (running[-1] if running else None)
        return Outcome(status, _error(notebook, at, name, message, lines or []))

    try:
        executed = _papermill(notebook, injected, saved_as, env, timeout_s, running)
    except papermill.PapermillExecutionError as error:
        return ended("failed", error.ename, error.evalue, _tail("\n".join(error.traceback)), error.cell_index)
    except CellTimeoutError as error:
        return ended("timeout", type(error).__name__, f"the cell ran longer than cell_timeout_s, {timeout_s} s")
    except DeadKernelError as error:
        message = "the kernel died; most often because memory ran out, or something killed the process"
        return ended("killed", type(error).__name__, message, _notes(error))
    except KeyboardInterrupt as error:
        return ended("interrupted", type(error).__name__, "stopped by Ctrl-C or a signal")
    except (OSError, RuntimeError) as error:  # a full disk while saving, or a kernel that does not start
        return ended("failed", type(error).__name__, str(error), _notes(error))
    if "SystemExit" in {output.get("ename") for cell in executed.cells for output in cell.get("outputs", [])}:
        return ended("failed", "SystemExit", "the cell called exit, so the cells below it did not run")
    return Outcome("done")


def _papermill(
    notebook: Notebook, injected: dict, saved_as: Path, env: dict[str, str], timeout_s: int, running: list[int]
) -> Any:
    import nbformat
    import papermill

    saved_as.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(), _kernel(notebook.path.parent, env) as manager:
        return papermill.execute_notebook(
            nbformat.from_dict(copy.deepcopy(notebook.node)),
            str(saved_as).replace("{", "{{").replace("}", "}}"),  # papermill fills braces in paths
            injected,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            km=manager,
            execution_timeout=timeout_s,
            iopub_timeout=60,  # the default of 4 s calls a finished cell timed out on a busy machine
            coalesce_streams=True,
            on_cell_execute=lambda cell, cell_index: running.append(cell_index),
        )


def _error(notebook: Notebook, at: int | None, name: str, message: str, lines: list[str]) -> dict[str, object]:
    # Papermill put one cell after the parameters cell; people look into the source, where that cell is not.
    position = None if at is None else at - (at > notebook.parameters_cell)
    heading = None if position is None else notebook.heading(position)
    cell = None if position is None else position + 1
    return {"cell": cell, "heading": heading, "name": name, "message": message, "last_lines": lines}


def _notes(error: Exception) -> list[str]:
    return _tail("\n".join(getattr(error, "__notes__", [])))


def _tail(text: str) -> list[str]:
    lines = [line.rstrip() for line in ANSI.sub("", text).splitlines()]
    return [line for line in lines if line][-8:]


@contextmanager
def _kernel(folder: Path, env: dict[str, str]) -> Iterator[Any]:
    """Manager of a kernel that answers, working in `folder`.

    The kernel is gone at the end, with all that it started.
    """
    private = Path(tempfile.mkdtemp(prefix="bpo-"))
    kernels: list[Kernel] = []
    now = True
    try:
        try:
            _start(kernels, private, folder, env)
        except RuntimeError:  # it died or did not answer: a port taken meanwhile, a machine too busy
            _start(kernels, private, folder, env)
        yield kernels[-1].manager
        now = False  # it is idle, so it may end in its own way
    except RuntimeError as error:
        error.add_note((private / LOG).read_text("utf-8", "replace"))
        raise
    finally:
        with undisturbed():
            for kernel in kernels:
                _stop(kernel, now)
            shutil.rmtree(private, ignore_errors=True)


def _start(kernels: list[Kernel], private: Path, folder: Path, env: dict[str, str]) -> None:
    """Start a kernel and wait until it answers. It joins `kernels` first, so that an interrupt cannot lose it."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_core.utils import run_sync

    short = os.name != "nt" and len(os.fsencode(private)) < LONGEST_SOCKET_PATH
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # ours, not one that somebody registered as python3
        transport="ipc" if short else "tcp",
        connection_file=str(private / f"{len(kernels)}.json"),
    )
    kernels.append(Kernel(manager, []))
    connect = manager.client
    manager.client = lambda: kernels[-1].remember(connect())  # papermill asks for one and leaves it open
    with (private / LOG).open("wb") as log:
        run_sync(manager.start_kernel)(
            extra_arguments=["--HistoryManager.hist_file=:memory:"],  # parallel kernels would fight over the file
            cwd=str(folder),
            env=env.copy(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    run_sync(_answered)(manager)


async def _answered(manager: Any) -> None:
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=START_TIMEOUT_S)


async def _settled() -> None:
    # After Ctrl-C papermill's own waiting is still pending; left alone, it complains about the dead kernel at the end.
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.gather(*pending, return_exceptions=True)


def _stop(kernel: Kernel, now: bool) -> None:
    """End a kernel and everything that it started in its process group, and wait for it."""
    from jupyter_core.utils import run_sync

    run_sync(_settled)()
    for client in kernel.clients:
        client.stop_channels()
    if kernel.manager.provisioner is None:
        return
    group = kernel.manager.provisioner.pgid
    run_sync(kernel.manager.shutdown_kernel)(now=now)
    if group:
        with suppress(ProcessLookupError, PermissionError):  # all gone already
            os.killpg(group, signal.SIGKILL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold further Ctrl-C off while a kernel is being ended: an impatient second one must not leave it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep papermill's and asyncio's remarks off the terminal: what matters of them is in the outcome."""
    loggers = [logging.getLogger(name) for name in ("papermill", "asyncio", "traitlets")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
