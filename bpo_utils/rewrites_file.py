"""Finished rewrites as JSON Lines, one for each prompt, named by a hash of the prompt and all that decides the result.

Lines are only ever appended, a block at a time, and are on the disk before the next block begins. A run that goes on
does what is missing; other settings or weights have other names, so they find nothing of each other.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bpo_utils import paths, shard_files


class Opened:
    """`known`: {prompt: its line without the name} of what was made with the same settings and weights."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.known: dict[str, dict[str, Any]] = {}

    def append(self, rows: list[Any]) -> None:
        """Write finished rows (dataclasses with a `prompt`); they are on the disk when this returns."""
        lines = [{"key": key(row.prompt, self.facts)} | dataclasses.asdict(row) for row in rows]
        shard_files.put(self.path, "".join(shard_files.line(each) for each in lines))


@contextlib.contextmanager
def opened(path: Path, facts: dict[str, Any], tell: Callable[[str], None]) -> Iterator[Opened]:
    """The file, held against other processes; made if it is missing. Half of a last line is cut off, and `tell` hears.

    `facts`: what a rewrite depends on beside its prompt. Raises ValueError if another process holds the file, or if it
    is damaged elsewhere.
    """
    with shard_files.held(path):
        path.touch()
        file, whole = Opened(path, facts), path.read_bytes()
        if dropped := shard_files.cut_half_line(path):
            tell(f"{paths.shown(path)}: dropped {dropped} bytes of an unfinished last line; its prompt is done again")
            whole = whole[:-dropped]
        for number, text in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                row = json.loads(text)
                name, prompt = row.pop("key"), row["prompt"]
                row["steps"] = tuple(row["steps"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is damaged ({error!r}); delete it, then run again") from error
            if name == key(prompt, facts):
                file.known[prompt] = row
        yield file


def key(prompt: str, facts: dict[str, Any]) -> str:
    """The name of a prompt's line: SHA-256 of the prompt and the facts."""
    return hashlib.sha256(json.dumps([prompt, facts], sort_keys=True).encode()).hexdigest()
