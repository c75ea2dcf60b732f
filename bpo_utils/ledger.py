"""The ledger of a run folder, the hashes in it, and the lock that keeps a second runner out.

`running` is on disk before a kernel starts, and the line is replaced at the end. So a line that says `running` while
nobody holds the lock belongs to a runner that died, and the next start writes `interrupted` into it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bpo_utils import __version__, paths, records
from bpo_utils.notebook import WrongUse

STATUSES = ("running", "done", "failed", "timeout", "killed", "interrupted")
DIED = "the runner itself ended without a word (killed, or the machine went down, or the disk was full)"


@dataclass(frozen=True)
class Entry:
    """One notebook run. Times are ISO 8601 in UTC, hashes sha256; `ended` and `seconds` are null where nobody knows."""

    id: str
    notebook: str
    status: str  # one of STATUSES
    started: str
    ended: str | None
    seconds: float | None
    parameters: dict[str, object]
    source_hash: str
    code_hash: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    versions: dict[str, str | None]
    host: str
    pid: int
    error: dict[str, object] | None  # cell (counted from 1), heading, name, message, last_lines


def path_of(run: Path) -> Path:
    """The ledger's file in a run folder."""
    return run / "ledger.jsonl"


def read(run: Path) -> list[Entry]:
    """All lines of a run's ledger, oldest first. Raises WrongUse that names the broken line."""
    path = path_of(run)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            where = f"{paths.shown(path)}, line {number}"
            raise WrongUse(f"{where} is not a line of a ledger ({error}); move the file away and run again") from error
    return entries


def latest(run: Path) -> dict[str, Entry]:
    """The last line of each notebook, by notebook name."""
    return {entry.notebook: entry for entry in read(run)}


def begin(
    run: Path,
    *,
    notebook: str,
    parameters: dict[str, object],
    source_hash: str,
    inputs: dict[str, str],
) -> Entry:
    """Write the line of a notebook that is about to start; returns it."""
    entry = Entry(
        id=uuid.uuid4().hex[:12],
        notebook=notebook,
        status="running",
        started=now(),
        ended=None,
        seconds=None,
        parameters=parameters,
        source_hash=source_hash,
        code_hash=code_hash(),
        inputs=inputs,
        outputs={},
        versions=versions(),
        host=socket.gethostname(),
        pid=os.getpid(),
        error=None,
    )
    _write(run, [*read(run), entry])
    return entry


def end(run: Path, entry: Entry) -> None:
    """Replace the line of a notebook run by its final state."""
    _write(run, [entry if old.id == entry.id else old for old in read(run)])


def recover(run: Path) -> list[Entry]:
    """Turn every `running` line into `interrupted`; call it with the lock held. Returns the lines it changed."""
    entries = read(run)
    error = {"cell": None, "heading": None, "name": "Interrupted", "message": DIED, "last_lines": []}
    changed = {
        e.id: dataclasses.replace(e, status="interrupted", error=error) for e in entries if e.status == "running"
    }
    if changed:
        _write(run, [changed.get(entry.id, entry) for entry in entries])
    return list(changed.values())


def _write(run: Path, entries: list[Entry]) -> None:
    lines = (json.dumps(dataclasses.asdict(entry), ensure_ascii=False, allow_nan=False) + "\n" for entry in entries)
    records.write_text(path_of(run), "".join(lines))


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder for this process. Raises WrongUse that names the holder if another process has it."""
    import filelock

    run.mkdir(parents=True, exist_ok=True)
    holder = run / ".holder.json"
    lock = filelock.FileLock(run / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise WrongUse(f"{paths.shown(run)} is in use by {_holder(holder)}; wait until it ends, or stop it") from None
    try:
        records.write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_held(run: Path) -> bool:
    """Whether some process holds a run folder now."""
    import filelock

    if not (run / ".lock").exists():
        return False
    try:
        with filelock.FileLock(run / ".lock", timeout=0):
            return False
    except filelock.Timeout:
        return True


def _holder(path: Path) -> str:
    try:
        held = records.read_json(path)
    except FileNotFoundError:  # the holder writes it just after it took the lock
        return "another bpo process"
    return f"process {held['pid']} on {held['host']} since {held['since']}"


def now() -> str:
    """The present moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def code_hash() -> str:
    """Hash over all files of the package and over profiles of your own.

    So a changed line of code or of a profile makes every notebook run again.
    """
    files = (path for path in paths.PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    own = [digest(folder) or "" for folder in paths.profile_dirs() if folder != paths.PROFILES]
    package = _combined(paths.PACKAGE, files)
    return hashlib.sha256(" ".join([package, *own]).encode()).hexdigest() if own else package


def digest(path: Path) -> str | None:
    """Hash of a file, or of all files below a folder with their names; None if there is nothing."""
    if path.is_dir():
        files = [below for below in path.rglob("*") if below.is_file()]
        return _combined(path, files) if files else None
    return _file_hash(path) if path.is_file() else None


def _combined(folder: Path, files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        total.update(f"{_file_hash(path)}  {name}\n".encode())
    return total.hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result, read without importing them; null if absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "papermill"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"bpo_utils": __version__}
