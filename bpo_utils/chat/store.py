"""Every call in one SQLite file: what was asked, every attempt, every answer. Nothing that was answered is asked again.

- An attempt is written before it is sent; answer and status are written in one transaction. Killed in between, the
  attempt stays `sent`: it may have been paid for, and counts in the budget as its worst case until it is known better.
- Errors are never stored as answers. A refusal or a prompt that is too long is an outcome of its own.
- Verdicts are not stored: they are read out of the answers' raw text whenever they are needed.
- One process at a time sends calls (`calls.sqlite.lock`); the system frees the lock of a killed one. So a second
  process waits and then finds everything answered. Leases with an expiry would need clocks that agree; a lock needs
  none.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
APPLICATION = 0x42504F31  # "BPO1": no other program's SQLite file is taken for a store
RESERVE_BYTES = 4 * 2**20  # kept beside the store, given up when the disk is full, so that replies in flight find room
NETWORK_DISKS = ("nfs", "cifs", "smb", "9p", "drvfs", "fuse.sshfs", "afs")
SCHEMA = """
CREATE TABLE call(key TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT NOT NULL, model TEXT NOT NULL,
    sent TEXT NOT NULL, sample INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE attempt(id INTEGER PRIMARY KEY, key TEXT NOT NULL, started REAL NOT NULL, ended REAL, state TEXT NOT NULL,
    http INTEGER, code TEXT NOT NULL DEFAULT '', request_id TEXT NOT NULL DEFAULT '', usd REAL NOT NULL, batch TEXT);
CREATE INDEX attempt_state ON attempt(state);
CREATE TABLE answer(key TEXT PRIMARY KEY, raw TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
    model TEXT NOT NULL, fingerprint TEXT NOT NULL, input INTEGER, output INTEGER, usd REAL NOT NULL,
    source TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE outcome(key TEXT PRIMARY KEY, kind TEXT NOT NULL, detail TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE batch(id TEXT PRIMARY KEY, provider TEXT NOT NULL, address TEXT NOT NULL, model TEXT NOT NULL,
    state TEXT NOT NULL, file TEXT NOT NULL DEFAULT '', remote TEXT NOT NULL DEFAULT '', created REAL NOT NULL);
"""


class Damaged(OSError):
    """The store's file cannot be read; it was left as it is."""


class DiskFull(OSError):
    """No room for the next transaction."""


@dataclass(frozen=True)
class Stored:
    """What the store knows of one call: an answer, or an outcome without one (refused, too_long, empty)."""

    key: str
    text: str
    finish: str
    outcome: str
    model: str
    source: str


class Store:
    """One open store. Use it as a context manager; it is used from one thread at a time."""

    def __init__(self, path: Path, check: bool = True) -> None:
        """Open or make the store; `check`: read the whole file first, which is not needed right after it was.

        Raises Damaged for a file that SQLite cannot read, ValueError for one of another program or version, OSError for
        a network disk, where SQLite's journal is not safe.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_network_disk(path)
        if check and path.exists() and path.stat().st_size:
            _check(path)
        self.reserve = path.with_name(f"{path.name}.reserve")
        with self._faults():
            self.db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self.db.execute("PRAGMA synchronous=FULL")  # a committed answer survives a power cut
            self._make()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def _make(self) -> None:
        """Write the tables, if no other process did so first."""
        if self._version() and self.db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            return
        # The change of the journal's mode needs the file for itself. A lock of its own: the other one may be held for
        # as long as a run takes, by whoever was faster to make the same store.
        with lock(self.path, "making"):
            if not self._version():
                with self.transaction() as db:
                    for statement in SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id={APPLICATION}")
                    db.execute(f"PRAGMA user_version={VERSION}")
            self.db.execute("PRAGMA journal_mode=WAL")

    def _version(self) -> int:
        return self.db.execute("PRAGMA user_version").fetchone()[0]

    def keep_reserve(self) -> None:
        """Fill the reserve file. Raises DiskFull: better now than with paid replies in flight."""
        if self.reserve.exists() and self.reserve.stat().st_size >= RESERVE_BYTES:
            return
        try:
            self.reserve.write_bytes(
                os.urandom(2**20) * (RESERVE_BYTES // 2**20)
            )  # random: a file of zeros may take no room
        except OSError as error:
            self.drop_reserve()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _disk_full(self.path) from error

    def drop_reserve(self) -> None:
        """Give the reserve back to the disk."""
        self.reserve.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Give the reserve back to the disk, for what is still to be committed alone.

        SQLite would else copy its log into the database at a commit that comes soon, and fill the reserve with that.
        """
        self.drop_reserve()
        self.db.execute("PRAGMA wal_autocheckpoint=0")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on the disk when it returns."""
        with self._faults():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self.db.execute("ROLLBACK")
                raise

    def known(self, keys: Iterable[str]) -> dict[str, Stored]:
        """Answers and outcomes of those keys that have one."""
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.rows(f"SELECT key, '', '', kind, '', 'stored' FROM outcome WHERE key IN ({marks})", part)
            rows += self.rows(
                f"SELECT key, text, finish, 'answered', model, source FROM answer WHERE key IN ({marks})", part
            )  # after the outcomes: an answer that came later, in a batch, say, wins
            found.update((row[0], Stored(*row)) for row in rows)
        return found

    def used(self, keys: Iterable[str]) -> dict[str, tuple[int | None, int | None, float, float]]:
        """(input tokens, output tokens, US dollars, when it came) of the answers to these calls, by key."""
        wanted, found = list(dict.fromkeys(keys)), {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.rows(f"SELECT key, input, output, usd, created FROM answer WHERE key IN ({marks})", part)
            found.update((key, tuple(rest)) for key, *rest in rows)
        return found

    def spent(self) -> float:
        """US dollars of all calls ever sent through this store; those of unknown end at their worst case."""
        return self.rows("SELECT coalesce(sum(usd), 0) FROM attempt")[0][0]

    def unsettled(self, keys: Container[str], batched: bool = False) -> list[dict[str, Any]]:
        """Attempts at these calls by earlier runs that were sent and not heard of yet: they may have been paid for.
        `batched`: those that wait in a batch, else those that were made online."""
        rows = self.rows("SELECT id, key, usd FROM attempt WHERE state = 'sent' AND (batch IS NOT NULL) = ?", [batched])
        return [dict(zip(("id", "key", "usd"), row, strict=True)) for row in rows if row[1] in keys]

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a query finds. Raises Damaged, or OSError, with what to do."""
        with self._faults():
            return self.db.execute(query, values).fetchall()

    def output_tokens(self, model: str) -> tuple[float, int]:
        """(mean output tokens, answers) of one model so far; (0.0, 0) if there are none."""
        query = "SELECT avg(output), count(output) FROM answer WHERE key IN (SELECT key FROM call WHERE model = ?)"
        mean, count = self.rows(query, (model,))[0]
        return mean or 0.0, count

    def drift(self) -> list[tuple[str, list[str]]]:
        """Models that answered under more than one version: (name asked for, versions that answered)."""
        query = "SELECT DISTINCT call.model, answer.model FROM answer JOIN call USING(key) ORDER BY 1, 2"
        versions: dict[str, list[str]] = {}
        for asked, served in self.rows(query):
            versions.setdefault(asked, []).append(served)
        return [(asked, served) for asked, served in versions.items() if len(served) > 1]

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _fault(self.path, error) from error


def lock(path: Path, name: str = "lock") -> Any:
    """The lock that the process which sends calls holds; freed by the system if that process dies."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.{name}"), thread_local=False)


def record(db: sqlite3.Connection, call: dict[str, Any], now: float) -> None:
    """Write down what is asked, once."""
    values = (*(call[name] for name in ("key", "provider", "address", "model", "sent", "sample")), now)
    db.execute("INSERT OR IGNORE INTO call VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def end_attempt(db: Any, number: int, state: str, usd: float, failure: Any = None) -> None:
    """Write how an attempt ended, and what it cost at most."""
    told = (failure.status, failure.code, failure.request_id) if failure else (None, "", "")
    values = (now(), state, usd, *told, number)
    db.execute(
        "UPDATE attempt SET ended = ?, state = ?, usd = ?, http = ?, code = ?, request_id = ? WHERE id = ?", values
    )


def _check(path: Path) -> None:
    """Read the whole file without changing it."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            faults = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _fault(path, error) from error
    if faults != "ok":
        raise _damaged(path, " ".join(faults.split()))
    if (version or tables) and (application, version) != (APPLICATION, VERSION):
        raise ValueError(f"{path} is not a store of calls of this version ({application:#x}, {version}); move it away")


def _fault(path: Path, error: sqlite3.DatabaseError) -> OSError:
    """What an error of SQLite means for whoever runs this. On a full disk it says so, or "disk I/O error"."""
    if not isinstance(error, sqlite3.OperationalError):
        return _damaged(path, error)
    if "full" in str(error) or ("I/O" in str(error) and shutil.disk_usage(path.parent).free < RESERVE_BYTES):
        return _disk_full(path)
    return OSError(f"{path}: {error}; check the folder, then run again")


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(f"{path}: the disk is full; what was answered is stored. Free some space, then run again")


def _damaged(path: Path, reason: object) -> Damaged:
    return Damaged(
        f"{path} is damaged ({reason}); it was left as it is. `bpo calls salvage {path} FILE.jsonl` writes what "
        f"is readable; then move the damaged file away, `bpo calls import FILE.jsonl`, and run again"
    )


def _refuse_network_disk(path: Path) -> None:
    import psutil

    folder = path.parent.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype.lower() if mounts else ""
    if kind.startswith(NETWORK_DISKS):
        raise OSError(
            f"{path} lies on a network disk ({kind}), where SQLite cannot promise to lose nothing; set BPO_RUNS_DIR to "
            "a folder on a local disk, and carry the answers over with `bpo calls export` and `bpo calls import`"
        )


def now() -> float:
    """Seconds since 1970, for the record only: nothing waits for this clock, so it may jump."""
    return time.time()
