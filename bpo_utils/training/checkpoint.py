"""Checkpoints that are complete or not there.

One is written under a temporary name; when every process has written its part, the marker COMPLETE is written last,
with the size of every file, and the folder gets its name. What a killed save leaves behind never has that name, and a
folder whose files do not have the sizes stated in its marker (a copy that broke off) is not resumed from.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from bpo_utils import paths, records

MARKER, WRITING = "COMPLETE", ".writing"


def newest(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in `folder`, if there is one."""
    steps = {path: _step(path) for path in folder.glob("checkpoint-*") if problem(path) is None}
    return max(steps, key=steps.get, default=None)


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: None if it is complete."""
    if not (checkpoint / MARKER).is_file():
        return f"no {MARKER} marker: it was not written to the end"
    for name, size in marker(checkpoint)["files"].items():
        found = (checkpoint / name).stat().st_size if (checkpoint / name).is_file() else None
        if found != size:
            return f"{name} has {'no file' if found is None else f'{found} bytes'}, the marker says {size} bytes"
    return None


def marker(checkpoint: Path) -> dict[str, Any]:
    """What the marker says: step, processes, settings, data, files."""
    return records.read_json(checkpoint / MARKER)


def writing(folder: Path) -> Path:
    """Where a checkpoint is put together."""
    return folder / WRITING


def size(checkpoint: Path) -> int:
    """Bytes of a complete checkpoint."""
    return sum(marker(checkpoint)["files"].values())


def clear(folder: Path) -> None:
    """Remove what a killed save has left behind. For one process, before any begins to write."""
    if writing(folder).exists():
        shutil.rmtree(writing(folder))


def finish(folder: Path, step: int, facts: dict[str, Any]) -> Path:
    """Give the checkpoint in the making its marker and its name, and remove older ones; returns its path.

    For one process, after all have written. Every file is on the disk before the marker is, and the marker before the
    name.
    """
    made, final = writing(folder) / f"checkpoint-{step}", folder / f"checkpoint-{step}"
    files = sorted(path for path in made.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    sizes = {path.relative_to(made).as_posix(): path.stat().st_size for path in files}
    records.write_json(made / MARKER, {"step": step, **facts, "files": sizes})
    _sync(made)
    if final.exists():  # a later start came to the same step again
        shutil.rmtree(final)
    os.replace(made, final)
    _sync(folder)
    for other in folder.glob("checkpoint-*"):
        if other != final:
            shutil.rmtree(other)
    return final


def remove_all(folder: Path) -> None:
    """Remove the checkpoints of a training whose model is written: a 7B model's take about 108 GB each."""
    if folder.exists():
        shutil.rmtree(folder)


def resume_from(folder: Path, facts: dict[str, Any], say: Any) -> Path | None:
    """The checkpoint that a training with these `facts` (settings, data) goes on from; None if it begins anew.

    Raises ValueError if there is one of another training: going on would mix two, and beginning anew would lose it.
    """
    for path in sorted(folder.glob("checkpoint-*")):
        if wrong := problem(path):
            say(f"{paths.shown(path)} is passed over: {wrong}")
    found = newest(folder)
    if found is None:
        return None
    known = marker(found)
    if differing := differences(known["settings"], facts["settings"]):
        raise ValueError(
            f"{paths.shown(found)} belongs to another training: {'; '.join(differing)}. Set these back to go on from "
            f"it, or remove {paths.shown(folder)} to begin anew"
        )
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each setting that differs, as one phrase."""
    names = sorted(before.keys() | now.keys())
    return [f"{n} was {before.get(n)!r}, is {now.get(n)!r}" for n in names if before.get(n) != now.get(n)]


def check_space(folder: Path, needed: int) -> None:
    """Raises OSError with both numbers if the disk of `folder` has less than `needed` bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{paths.shown(folder)} has {free / 1e9:,.1f} GB free, and the checkpoints and the model of this training "
            f"take up to {needed / 1e9:,.1f} GB; free some space, or set BPO_RUNS_DIR to a folder on another disk"
        )


def digest(value: object) -> str:
    """A short hash of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _step(path: Path) -> int:
    return marker(path)["step"]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
