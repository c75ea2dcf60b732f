"""A process that makes calls and can be killed: one run per line of JSON on stdin, each in a fork of this process.

A fork starts with everything imported, so fifty runs that are killed take seconds. `Child` is the handle for tests.
"""

import contextlib
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENDED = "-- the run has ended --"
ENDS = {"BudgetReached": 3, "Unfinished": 4, "KeyboardInterrupt": 130}


class Child:
    """The process, and the run that it is making."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.pid, self.up = process, 0, False

    def ready(self) -> None:
        """Wait until everything is imported."""
        self.up = self.up or bool(self.process.stdout.readline())

    def start(self, **run: Any) -> None:
        """Begin a run: folder, model (its fields), count, and what `asking.calls` takes."""
        self.ready()
        if self.pid:
            self.heard(ENDED)  # after all that the last run said
        self._say(json.dumps(run))
        self.pid = int(self.process.stdout.readline())

    def end(self, by: int | None = None) -> int:
        """Wait for the end of the run, after sending it a signal if one is given; returns its exit status."""
        if by is not None:
            os.kill(self.pid, by)
        self._say("ended?")
        return int(self.process.stdout.readline())

    def _say(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def heard(self, text: str) -> None:
        """Wait until the run, which must be `aloud`, says something on stderr that contains `text`."""
        while text not in (line := self.process.stderr.readline()):
            assert line and ENDED not in line, f"never said {text!r}; the process ended: {self.process.poll()}"


@contextlib.contextmanager
def running(**environment: str) -> Iterator[Child]:
    """Such a process, for as long as the block lasts; its runs have these environment variables too."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, __file__], **pipes, text=True, env=os.environ | environment) as process:
        try:
            yield Child(process)
        finally:
            process.stdin.close()


def work(run: dict[str, Any]) -> None:
    """One run, in the fork; what it says goes to `said` in its folder, or to stderr if `aloud`."""
    import asking

    from bpo_utils import chat, profile
    from bpo_utils.chat import engine, limits

    engine.Engine.jitter, limits.COOLDOWN_S = 0.001, 0.02
    folder, model = Path(run.pop("folder")), profile.Model.model_validate(run.pop("model"))
    asked = asking.questions(model, run.pop("count"), run.pop("word", "question"))
    if not run.pop("aloud", False):
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
    if run.pop("debug", False):
        logging.basicConfig(level=logging.DEBUG)
    if "limits" in run:
        run["allowed"] = profile.Limits(**asking.FREELY.model_dump() | run.pop("limits"))
    chat.complete(asked, asking.calls(folder, **run))


def main() -> None:
    # Nothing is encrypted here, and reading the certificates takes half of the time.
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None
    import aiolimiter  # noqa: F401
    import anyio._backends._asyncio  # noqa: F401
    import asking  # noqa: F401
    import filelock  # noqa: F401
    import tenacity  # noqa: F401
    import tqdm  # noqa: F401

    from bpo_utils.chat import batch, clients, engine, local, session, store  # noqa: F401

    clients.OpenAIClient("http://127.0.0.1:9/v1", "none", 1.0, 1)  # the SDKs import most when they are first used
    clients.ZhipuClient("http://127.0.0.1:9/v1", "none", 1.0, 1)
    with tempfile.TemporaryDirectory() as folder:
        store.Store(Path(folder) / "calls.sqlite").db.close()

    print("ready", flush=True)
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            status = 0
            try:
                work(json.loads(line))
            except BaseException as error:
                traceback.print_exc()
                status = ENDS.get(type(error).__name__, 1)
            logging.shutdown()
            sys.stderr.flush()
            os._exit(status)
        print(pid, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it keeps its number until the test has had its say
        print(ENDED, file=sys.stderr, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
