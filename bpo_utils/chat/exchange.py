"""The store as a file to share: export and import as sorted JSON Lines, and what can be saved from a damaged store."""

import contextlib
import hashlib
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bpo_utils import records
from bpo_utils.chat import wire
from bpo_utils.chat.store import Store, now, record

CALL = ("key", "provider", "address", "model", "sent", "sample")
PAGE = 4096  # bytes, SQLite's default
MOST_GAPS = 5000  # rows in a row that cannot be read before salvage gives up


def export(store: Store, path: Path) -> int:
    """Write every answer and outcome, sorted by key; returns how many. The same store gives the same bytes."""
    query = (
        f"SELECT {', '.join(f'call.{name}' for name in CALL)}, raw, kind, detail FROM call"
        " LEFT JOIN answer USING(key) LEFT JOIN outcome USING(key)"
        " WHERE raw IS NOT NULL OR kind IS NOT NULL ORDER BY call.key"
    )
    lines = [_line(row) for row in store.rows(query)]
    records.write_text(path, "".join(lines))
    return len(lines)


def load(store: Store, path: Path) -> int:
    """Import an exported file; returns how many calls were new. They cost nothing here, and none is overwritten.

    Raises ValueError with the line for an entry that is no call, or that was changed since it was exported; nothing is
    imported then.
    """
    entries = list(lines(path))
    known = store.known(entry["key"] for entry in entries)
    new = [entry for entry in entries if entry["key"] not in known]
    with store.transaction() as db:
        for entry in new:
            record(db, entry | {"sent": wire.canonical(entry["sent"])}, now())
            if "raw" in entry:
                save_answer(db, entry["key"], entry["raw"], 0.0, "imported")
            else:
                save_outcome(db, entry["key"], entry["outcome"], entry["detail"])
    return len(new)


def save_answer(db: sqlite3.Connection, key: str, raw: str, usd: float, source: str) -> None:
    """Write an answer. `source`: online, batch, recovered, local or imported. Raises ValueError if `raw` is none."""
    read = wire.parse(raw)
    if read.outcome != "answered":
        raise ValueError(f"call {key[:12]}: the reply is {read.outcome}, which is not an answer")
    used = (read.usage.input, read.usage.output) if read.usage else (None, None)
    values = (key, raw, read.text, read.finish, read.model, read.fingerprint, *used, usd, source, now())
    db.execute("INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def save_outcome(db: sqlite3.Connection, key: str, kind: str, detail: str) -> None:
    """Write that a call ended without an answer: refused, too_long or empty."""
    db.execute("INSERT OR IGNORE INTO outcome VALUES (?, ?, ?, ?)", (key, kind, detail, now()))


def salvage(path: Path, target: Path) -> tuple[int, int]:
    """Write what is readable of a damaged store as JSON Lines: (calls written, rows that could not be read).

    Works on a copy, so the damaged file stays as it is. Raises OSError if nothing can be read at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for end in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        entries, lost = _readable(copy)
        if not entries:
            _new_first_page(copy)
            entries, lost = _readable(copy)
    if not entries:
        raise OSError(f"{path}: nothing is readable; restore it from an export or a backup")
    records.write_text(target, "".join(entries[key] for key in sorted(entries)))
    return len(entries), lost


def _readable(copy: Path) -> tuple[dict[str, str], int]:
    """({key: exported line}, rows that could not be read) of a store that may be damaged anywhere."""
    with contextlib.closing(sqlite3.connect(copy)) as db, contextlib.suppress(sqlite3.DatabaseError):
        db.execute("PRAGMA writable_schema=ON")  # else a file that is shorter than it says is not read at all
        calls, lost = _rows(db, "call", CALL)
        answers, lost_answers = _rows(db, "answer", ("key", "raw"))
        outcomes, lost_outcomes = _rows(db, "outcome", ("key", "kind", "detail"))
        ends = {key: (None, *rest) for key, *rest in outcomes} | {key: (raw, None, None) for key, raw in answers}
        entries, lost = {}, lost + lost_answers + lost_outcomes
        for row in calls:
            if row[0] in ends:
                try:
                    entries[row[0]] = _line((*row, *ends[row[0]]))
                    _entry("", entries[row[0]])
                except (ValueError, TypeError):  # read, but not as it was written
                    lost += 1
                    entries.pop(row[0], None)
        return entries, lost
    return {}, 0


def _new_first_page(copy: Path) -> None:
    """Replace a broken header and table of contents: they are the same in every store."""
    with Store(copy.with_name("fresh.sqlite")) as fresh:
        fresh.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        page = bytearray(fresh.path.read_bytes()[:PAGE])
    page[28:32] = bytes(4)  # how many pages there are: SQLite then asks the file
    with copy.open("r+b") as file:
        file.write(page)


def _rows(db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> tuple[list[tuple[Any, ...]], int]:
    """Rows of a table, one by one by number, so that a broken page costs only its own rows; how many could not be read.

    The index on the keys knows the numbers. If it is broken too, they are counted up until no row comes for long, and
    a broken end of the table counts as one.
    """
    db.execute(f"SELECT rowid FROM {table} LIMIT 0")  # a file without this table has nothing to save
    indexed = f"SELECT rowid FROM {table} INDEXED BY sqlite_autoindex_{table}_1"
    try:
        numbers: Iterable[int] = [number for (number,) in db.execute(indexed)]
    except sqlite3.DatabaseError:
        numbers = itertools.count(1)
    found, lost, broken, gap = [], 0, 0, 0
    for number in numbers:
        try:
            row = db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?", (number,)).fetchone()
        except sqlite3.DatabaseError:
            row, broken = None, broken + 1
        gap += 1
        if row:
            found.append(row)
            lost, broken, gap = lost + broken, 0, 0
        elif gap == MOST_GAPS:
            break
    return found, lost + (min(broken, 1) if gap == MOST_GAPS else broken)


def _line(row: tuple[Any, ...]) -> str:
    *call, raw, kind, detail = row
    entry = dict(zip(CALL, call, strict=True))
    entry["sent"] = json.loads(entry["sent"])
    entry |= {"raw": raw} if raw is not None else {"outcome": kind, "detail": detail}
    return wire.canonical(entry | {"check": _check(entry)}) + "\n"


def _check(entry: dict[str, Any]) -> str:
    """So that a line which was changed by hand is noticed: its key covers what was sent, not what was answered."""
    return hashlib.sha256(wire.canonical(entry).encode()).hexdigest()[:16]


def _entry(where: str, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        check = entry.pop("check")
        named = wire.name(entry["provider"], entry["address"], entry["sent"], entry["sample"])
        good = entry["key"] == named and entry["model"] == entry["sent"]["model"] and check == _check(entry)
        if "raw" in entry:
            good = good and wire.parse(entry["raw"]).outcome == "answered"
        else:
            good = good and entry["outcome"] in ("refused", "too_long", "empty") and isinstance(entry["detail"], str)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: not an exported call ({error}); export it again") from error
    if not good:
        raise ValueError(f"{where}: this line was changed after it was exported; export it again")
    return entry


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of an exported file, checked."""
    for number, line in enumerate(records.read_text(path).split("\n"), 1):
        if line:
            yield _entry(f"{path}, line {number}", line)
