"""The file of a shard: a first line that says what it was made from, then one line for each finished block.

A line is on the disk before the next block is begun. A process that is killed while it writes leaves half a line: it
counts as nothing, and is cut off, with a word, when the shard goes on.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import paths, records


class Content(NamedTuple):
    """What a shard's file holds."""

    header: dict[str, Any]
    blocks: list[list[dict[str, Any]]]

    @property
    def complete(self) -> bool:
        """Whether every block is there."""
        return len(self.blocks) == self.header["blocks"]


def place(folder: Path, kind: str, shard: int, of: int) -> Path:
    """The file of one shard, such as `rewrites-0-of-4.jsonl`."""
    return folder / f"{kind}-{shard}-of-{of}.jsonl"


def found(folder: Path, kind: str) -> dict[int, dict[int, Path]]:
    """The shard files of a kind: {N: {I: file}}."""
    sets: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.glob(f"{kind}-*-of-*.jsonl")):
        if named := re.fullmatch(rf"{kind}-(\d+)-of-(\d+)\.jsonl", path.name):
            sets.setdefault(int(named[2]), {})[int(named[1])] = path
    return sets


def only_set(folder: Path, kind: str, of: int | None = None) -> tuple[int, dict[int, Path]]:
    """(N, {I: file}) of the one set of shards in a folder; (`of` or 0, {}) if there is none.

    Raises ValueError if there are two, or one of another N than `of`: they share the same work in two ways.
    """
    sets = found(folder, kind)
    numbers = sorted(set(sets) | ({of} if of else set()))
    if len(numbers) > 1:
        told = " and ".join(f"{kind}-*-of-{number}.jsonl" for number in numbers)
        raise ValueError(f"{paths.shown(folder)}: {told} are two ways to share the same work; keep and use one of them")
    number = numbers[0] if numbers else 0
    return number, sets.get(number, {})


def held(path: Path) -> contextlib.AbstractContextManager:
    """The shard's lock; the system frees it when its process ends, however that ends. Raises ValueError if it is taken.

    Beside the file, `<name>.lock`.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    try:
        return FileLock(lock, thread_local=False).acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process works on {paths.shown(path)}: it holds {lock.name}; wait for it, or end it"
        ) from None


def begin(path: Path, header: dict[str, Any]) -> tuple[int, int]:
    """(blocks that the file has, bytes of an unfinished last line that were cut off); makes the file if it is missing.

    Raises ValueError if it was made from something else.
    """
    if not path.exists():
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}  # to know, not to compare
        records.write_text(path, line(header | {"made_with": versions}))
        return 0, 0
    content = read(path)
    sizes = [{name: each[name] for name in ("rows", "blocks")} for each in (content.header, header)]
    refuse_other(path, content.header["made_from"] | sizes[0], header["made_from"] | sizes[1])
    return len(content.blocks), cut_half_line(path)


def append(path: Path, number: int, rows: list[dict[str, Any]]) -> None:
    """Write one finished block; it is on the disk when this returns."""
    put(path, line({"block": number, "rows": rows}))


def put(path: Path, text: str) -> None:
    """Append a text; it is on the disk when this returns."""
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def cut_half_line(path: Path) -> int:
    """Cut off what a killed process left behind the last whole line; returns how many bytes that was."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return len(data) - whole


def read(path: Path) -> Content:
    """What a shard's file holds. Raises ValueError if it is damaged elsewhere than in an unfinished last line."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    try:
        header, *blocks = [json.loads(line) for line in data[:whole].split(b"\n")[:-1]]
        if [block["block"] for block in blocks] != list(range(len(blocks))):
            raise ValueError("the blocks are out of order")
        return Content({name: header[name] for name in HEADER}, [block["rows"] for block in blocks])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it, then run the shard again") from error


HEADER = ("kind", "shard", "of", "rows", "blocks", "made_from", "made_with")


def refuse_other(path: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError that names what differs, if a file was made from something else than would be used now."""
    differ = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if differ:
        told = "; ".join(f"{name}: {there.get(name)} there, {now.get(name)} now" for name in differ)
        raise ValueError(f"{path} was made from something else ({told}); delete it, then run the shard again")


def rows_hash(rows: Iterable[Any]) -> str:
    """SHA-256 of dataclass rows and their order."""
    lines = (json.dumps(dataclasses.asdict(row), sort_keys=True).encode() for row in rows)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def model_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that makes a model, as `sha256sum` has it. Raises ValueError if there are no weights."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise ValueError(f"{folder} has no weights; train the rewriter first (notebook 03)")
    found = {}
    for path in (*weights, *sorted(folder.glob("*.json"))):
        with path.open("rb") as file:
            found[f"sha256 of {path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def line(value: dict[str, Any]) -> str:
    """One value as a line of JSON."""
    return json.dumps(value, ensure_ascii=False) + "\n"
