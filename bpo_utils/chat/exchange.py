"""The store as a file to share: export and import as sorted JSON Lines, and what can be saved from a damaged store."""

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpo_utils import records
from bpo_utils.chat import wire
from bpo_utils.chat.store import Store, now, record

CALL = ("key", "provider", "address", "model", "sent", "sample")
MOST_GAPS = 5000  # rows in a row that cannot be read before salvage gives up


def export(store: Store, path: Path) -> int:
    """Write every answer and outcome, sorted by key; returns how many. The same store gives the same bytes."""
    query = (
        f"SELECT {', '.join(f'call.{name}' for name in CALL)}, raw, kind, detail FROM call"
        " LEFT JOIN answer USING(key) LEFT JOIN outcome USING(key)"
        " WHERE raw IS NOT NULL OR kind IS NOT NULL ORDER BY call.key"
    )
    lines = [_line(row) for row in store.db.execute(query)]
    records.write_text(path, "".join(lines))
    return len(lines)


def load(store: Store, path: Path) -> int:
    """Import an exported file; returns how many calls were new. They cost nothing here, and none is overwritten.

    Raises ValueError with the line for an entry that is no call, or whose key is not the hash of what it says was sent;
    nothing is imported then.
    """
    entries = [_entry(path, number, line) for number, line in enumerate(records.read_text(path).split("\n"), 1) if line]
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
        with contextlib.closing(sqlite3.connect(copy)) as db:
            try:
                calls, lost = _rows(db, "call", CALL)
                answers, lost_answers = _rows(db, "answer", ("key", "raw"))
                outcomes, lost_outcomes = _rows(db, "outcome", ("key", "kind", "detail"))
            except sqlite3.DatabaseError as error:
                raise OSError(
                    f"{path}: nothing is readable ({error}); restore it from an export or a backup"
                ) from error
    raw = {key: (text, None, None) for key, text in answers} | {key: (None, *rest) for key, *rest in outcomes}
    found = {row[0]: row for row in calls if row[0] in raw}
    records.write_text(target, "".join(_line((*found[key], *raw[key])) for key in sorted(found)))
    return len(found), lost + lost_answers + lost_outcomes


def _rows(db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> tuple[list[tuple[Any, ...]], int]:
    """Rows of a table, one by one by number, so that a broken page costs only its own rows."""
    db.execute(f"SELECT rowid FROM {table} LIMIT 0")  # a file without this table has nothing to save
    found, lost, gap, number = [], 0, 0, 0
    while gap < MOST_GAPS:
        number += 1
        try:
            row = db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?", (number,)).fetchone()
        except sqlite3.DatabaseError:
            row, lost = None, lost + 1
        gap = 0 if row else gap + 1
        if row:
            found.append(row)
    return found, lost


def _line(row: tuple[Any, ...]) -> str:
    *call, raw, kind, detail = row
    entry = dict(zip(CALL, call, strict=True))
    entry["sent"] = json.loads(entry["sent"])
    return wire.canonical(entry | ({"raw": raw} if raw is not None else {"outcome": kind, "detail": detail})) + "\n"


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        entry = json.loads(line)
        named = wire.name(entry["provider"], entry["address"], entry["sent"], entry["sample"])
        good = entry["key"] == named and entry["model"] == entry["sent"]["model"]
        if "raw" in entry:
            good = good and wire.parse(entry["raw"]).outcome == "answered"
        else:
            good = good and entry["outcome"] in ("refused", "too_long", "empty") and isinstance(entry["detail"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: not an exported call ({error}); export it again") from error
    if not good:
        raise ValueError(f"{where}: the key does not fit what was sent, or there is no answer; was the file edited?")
    return entry


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of an exported file, checked."""
    for number, line in enumerate(records.read_text(path).split("\n"), 1):
        if line:
            yield _entry(path, number, line)
