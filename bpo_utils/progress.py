"""What a person sees of a run: one line per notebook, a failure told in five lines, and the table at the end."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bpo_utils import paths, records
from bpo_utils.ledger import Entry
from bpo_utils.notebook import Place

INTERVAL_S = 1.0
RESULTS = "06_results/results.json"


class Unreadable(ValueError):
    """results.json is there but cannot be shown as a table."""


@contextmanager
def elapsed(label: str) -> Iterator[None]:
    """On a terminal, show the running time beside a label until the block ends, then clear the line; else nothing."""
    if not sys.stdout.isatty():
        yield
        return
    stop = threading.Event()
    started = time.monotonic()

    def tick() -> None:
        while True:
            print(f"\r{label}  running  {duration(time.monotonic() - started)} ", end="", flush=True)
            if stop.wait(INTERVAL_S):
                return

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        stop.set()
        ticker.join()
        print("\r\x1b[2K", end="", flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `0.8 s`, `41 s`, `2 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"


def line(label: str, *parts: str) -> None:
    """Print the one line of a notebook."""
    print("  ".join([label, *filter(None, parts)]), flush=True)


def wrote(writes: tuple[str, ...], place: Place) -> str:
    """`wrote 03_training/model (4 files), 03_training/log.jsonl`; empty if nothing is declared."""
    parts = []
    for entry in writes:
        path = place.find(entry)
        count = sum(1 for below in path.rglob("*") if below.is_file()) if path.is_dir() else 0
        parts.append(f"{entry.rstrip('/')} ({count} file{'s' * (count != 1)})" if path.is_dir() else entry)
    return f"wrote {', '.join(parts)}" if parts else ""


def failure(entry: Entry, executed: Path, resume: str) -> None:
    """Print where a notebook stopped and why, where to look, and how to go on."""
    error = entry.error or {}
    message = f"{error['name']}: {error['message']}".strip().splitlines() or [""]
    lines = [*message[:4], *(text for text in error["last_lines"] if text not in message)]
    where = (
        f"{error['heading']} (cell {error['cell']})" if error["cell"] else "(before the first or after the last cell)"
    )
    print(f"  cell    {where}")
    print("  error   " + "\n          ".join(lines))
    if executed.exists():
        print(f"  saved   {paths.shown(executed)}")
    print(f"  resume  {resume}", flush=True)


def results(place: Place, label: str, stale: list[str]) -> None:
    """Print the table of results.json, the controls in the same form, and where the files are; nothing if it is absent.

    `stale`: notebooks that are not up to date, so that nobody takes an older table for the present state.
    """
    path = place.run / RESULTS
    if not path.exists():
        return
    try:
        found = records.read_json(path)
        rows = [row for row in found["rows"] if row["test_set"] == "pooled"]
        controls = [row for row in found["controls"] if row["test_set"] == "pooled"]
        table = _table([[row["answer_model"], row["judge"], *_cells(row)] for row in rows], ["answer model", "judge"])
        keys = ["rewriter", "answer_model", "judge"]
        below = _table(
            [[*(row[key] for key in keys), *_cells(row)] for row in controls], ["rewriter", "answer model", "judge"]
        )
    except (KeyError, TypeError, ZeroDivisionError, ValueError) as error:
        told = f"{paths.shown(path)} cannot be shown as a table ({type(error).__name__}: {error})"
        raise Unreadable(f"{told}; bpo run --only 06 --force writes it again") from error
    print(
        f"\nResults ({label}, all test sets pooled). A: answer to the original prompt better, B: to the optimized one,"
    )
    print("C: tie. Net win is B - A, with its 95 % interval, in percentage points.\n")
    print(f"{table}\n\nControls\n\n{below}\n")
    if stale:
        print(f"Not up to date: {', '.join(stale)}. The table is from before; `bpo run` brings it up to date.")
    for name, file in {
        "figure": place.figures / "result.png",
        "notebooks": place.run / "notebooks",
        "results": path,
    }.items():
        if file.exists():
            print(f"{name:<10}{paths.shown(file)}")


def _cells(row: dict) -> list[str]:
    shares = [f"{100 * row['counts'][letter] / row['n']:.1f}" for letter in "ABC"]
    net, low, high = (f"{100 * row[key]:+.1f}" for key in ("net_win", "ci_low", "ci_high"))
    return [str(row["n"]), *shares, f"{net} [{low}, {high}]", str(row["n"] - sum(row["counts"][x] for x in "ABC"))]


def _table(rows: list[list[str]], names: list[str]) -> str:
    return columns([[*names, "n", "A %", "B %", "C %", "net win [95 %]", "no verdict"], *rows], right_from=len(names))


def columns(rows: list[list[str]], right_from: int | None = None) -> str:
    """Rows of text as aligned columns; those from `right_from` on are set to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    right = len(widths) if right_from is None else right_from
    aligned = [
        [
            text.rjust(width) if place >= right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in aligned)
