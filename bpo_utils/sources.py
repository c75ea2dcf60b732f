"""The sources of preference data that a profile can name: found, read, turned into rows, sampled; nothing lost unsaid.

From the Hub (the original data sets, pinned) or, where $BPO_PREFERENCES_DIR is set, all from that folder: oasst1,
hh_rlhf, chatbot_arena and alpaca_gpt4, each with one of the endings .jsonl, .json (both also .gz) or .parquet, or the
files that the profile names. `own` and `sharegpt` always come from the folder. What is done with a row of each source
stands in source_forms.py.
"""

import difflib
import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import download
from bpo_utils.profile import Source
from bpo_utils.records import Preference
from bpo_utils.source_forms import COLUMNS, FORMS, candidates

FOLDER = "BPO_PREFERENCES_DIR"
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
OWN_NEEDED, OWN_KNOWN = ("prompt", "good", "bad"), ("prompt", "good", "bad", "context", "source", "id")
SHOWN = 5  # problems of an own file that one error lists


class Repository(NamedTuple):
    """A data set of the Hub: name, commit, the files that are read."""

    name: str
    revision: str
    files: tuple[str, ...]


# Commits and file names as public projects on GitHub pin them (each commit was found in several). The paper does not
# say which splits it sampled; ours are those for training, and of OASST1 both, since its Table 1 names 3,000 prompts.
HUB = {
    "oasst1": Repository(
        "OpenAssistant/oasst1",
        "fdf72ae0827c1cda404aff25b6603abec9e3399b",
        (
            "data/train-00000-of-00001-b42a775f407cee45.parquet",
            "data/validation-00000-of-00001-134b8fd0c89408b6.parquet",
        ),
    ),
    "hh_rlhf": Repository(
        "Anthropic/hh-rlhf",
        "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        tuple(
            f"{part}/train.jsonl.gz"
            for part in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
        ),
    ),
    "chatbot_arena": Repository(
        "lmsys/chatbot_arena_conversations",
        "1b6335d42a1d2c7e34870c905d03ab964f7f2bd8",
        ("data/train-00000-of-00001-cced8514c7ed782a.parquet",),
    ),
}


class Loaded(NamedTuple):
    """One source as loaded. `read` candidates = `usable` rows + `skipped`, by reason; `rows`: those sampled.

    `notes`: how many usable rows had something left out, by what; `origin`: repository and commit, or folder, and the
    files with bytes and sha256.
    """

    rows: list[Preference]
    read: int
    usable: int
    skipped: Counter[str]
    notes: Counter[str]
    origin: dict[str, Any]

    def counts(self) -> dict[str, Any]:
        """All but the rows, ready for JSON."""
        numbers = {"read": self.read, "usable": self.usable, "sampled": len(self.rows)}
        return {**numbers, "skipped": dict(self.skipped), "notes": dict(self.notes), **self.origin}


def load_all(sources: Iterable[Source], seed: int) -> dict[str, Loaded]:
    """Every source, in the profile's order, by label: its name, or name.2 where a name comes a second time.

    Ids begin with the label, so they are the same whatever other sources there are. Raises ValueError for an id that
    two rows share, and as load.
    """
    loaded, times = {}, Counter()
    for source in sources:
        times[source.name] += 1
        label = source.name if times[source.name] == 1 else f"{source.name}.{times[source.name]}"
        loaded[label] = load(source, seed, label)
    ids = Counter(row.id for part in loaded.values() for row in part.rows)
    if shared := [row_id for row_id, count in ids.items() if count > 1]:
        raise ValueError(f"rows share the ids {', '.join(shared[:SHOWN])}; give the rows of your own files other ids")
    return loaded


def load(source: Source, seed: int, label: str = "") -> Loaded:
    """One source: its usable rows, or `rows` of them, drawn with `seed` and in the order of the file.

    Ids are <label>-<number of the row in the file(s)>, so no other source, option or seed changes them. Raises
    ValueError (a row not of the source's form, with file and row; fewer usable rows than asked), FileNotFoundError,
    PermissionError (gated) or ConnectionError, each with what to do.
    """
    label = label or source.name
    rows, origin, where = _read(source)
    found, read, skipped, notes = [], 0, Counter(), Counter()
    for number, row in candidates(source.name, rows):
        read += 1
        try:
            got = FORMS[source.name](row, source.turn)
        except ValueError as error:
            raise ValueError(f"{where}, row {number}: {error}; it is not of the form of {source.name}") from None
        if isinstance(got, str):
            skipped[got] += 1
            continue
        notes.update(got.notes)
        row_id = got.id or f"{label}-{number:05d}"
        found.append(Preference(row_id, got.prompt, got.context, got.good, got.bad, got.source or source.name))
    if len(found) < (source.rows or 1):
        reasons = "; ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "nothing was skipped"
        raise ValueError(
            f"source {label} has {len(found)} usable rows of {read}, {source.rows or 'some'} are wanted ({reasons}); "
            "lower its rows in data.preferences, or give it more files"
        )
    # a generator of its own, so that adding or moving another source changes nothing here
    drawn = sorted(random.Random(seed).sample(range(len(found)), source.rows or len(found)))
    return Loaded([found[number] for number in drawn], read, len(found), skipped, notes, origin)


def _read(source: Source) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Rows, where they are from (for the record) and in words (for errors)."""
    files = local_files(source)
    if files is not None:
        seen: dict[str, str] = {}
        rows = []
        for path in files.values():
            rows += own_rows(path, seen) if source.name == "own" else download.table(path, COLUMNS[source.name])
        return rows, {"folder": FOLDER, "files": download.origin(files)}, ", ".join(map(str, files.values()))
    if source.name == "alpaca_gpt4":
        name = "comparison_data_v2.json"
        path, pinned = download.fetch(name), download.UNCHECKED[name]
        where = {"repository": pinned.url.removesuffix("/raw"), "revision": pinned.commit}
        return download.table(path, COLUMNS[source.name]), {**where, "files": download.origin({name: path})}, str(path)
    repository = HUB[source.name]
    instead = f"set {FOLDER} to a folder with {source.name}{ENDINGS[-1]} (or {', '.join(ENDINGS[:-1])})"
    files = download.hub_files(repository.name, repository.revision, repository.files, instead)
    rows = download.splits({"train": list(files.values())})["train"]
    where = f"{repository.name} at {repository.revision}"
    download.check(rows, COLUMNS[source.name], where)
    origin = {"repository": repository.name, "revision": repository.revision, "files": download.origin(files)}
    return rows, origin, where


def local_files(source: Source) -> dict[str, Path] | None:
    """Files of a source in $BPO_PREFERENCES_DIR, by name; None if that is not set and the source can be downloaded.

    Raises ValueError (a name that leaves the folder, no name, or several files) or FileNotFoundError.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        if source.files or source.name not in (*HUB, "alpaca_gpt4"):
            raise ValueError(f"source {source.name} reads local files: set {FOLDER} to the folder that holds them")
        return None
    base = Path(folder).resolve()
    if not source.files and source.name not in (*HUB, "alpaca_gpt4"):
        raise ValueError(f"source {source.name}: name its files in data.preferences (files: [...]), in {base}")
    if outside := [name for name in source.files if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"source {source.name}: {', '.join(outside)} is outside {base}; files must lie in that folder")
    names = source.files or [source.name + end for end in ENDINGS if (base / f"{source.name}{end}").is_file()]
    if len(names) > 1 and not source.files:
        raise ValueError(f"{base} has {' and '.join(names)}; keep one, or name it in files")
    names = names or [f"{source.name}{ENDINGS[0]}"]
    if missing := [name for name in names if not (base / name).is_file()]:
        advice = f"put it there ({', '.join(ENDINGS)} can be read), or unset {FOLDER} to download what the Hub has"
        raise FileNotFoundError(f"source {source.name}: {', '.join(missing)} is not in {base}; {advice}")
    return {name: base / name for name in names}


def own_rows(path: Path, seen: dict[str, str] | None = None) -> list[dict[str, str]]:
    """Rows of your own JSON Lines file (also .gz): prompt, good, bad, and if you like context, source, id; all text.

    UTF-8; a byte-order mark and Windows line ends do no harm. `seen`: ids of files read before, by where. Raises
    ValueError that lists the first problems by line, each with what to do.
    """
    seen = {} if seen is None else seen
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8-sig").rstrip("\r\n").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; save the file as UTF-8 and run again") from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not readable ({error}); write the file again") from error
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        row, problem = _own_row(line)
        if not problem and row.get("id") in seen:
            problem = f"id {row['id']!r} is already that of {seen[row['id']]}; give each row its own, or none"
        if problem:
            problems.append(f"{path}, line {number}: {problem}")
        else:
            rows.append(row)
            if row.get("id"):
                seen[row["id"]] = f"{path.name}, line {number}"
    if problems:
        more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError("\n".join(problems[:SHOWN]) + more)
    return rows


def _own_row(line: str) -> tuple[dict[str, str], str]:
    """The row of one line and, where it is faulty, what is wrong and what to do."""
    if not line.strip():
        return {}, "empty; delete the line"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"not JSON ({error.msg}, character {error.pos + 1}); write one whole object per line"
    if not isinstance(row, dict):
        return {}, f"not an object but {type(row).__name__}; write {{" + '"prompt": ..., "good": ..., "bad": ...}'
    if unknown := sorted(row.keys() - set(OWN_KNOWN)):
        near = difflib.get_close_matches(unknown[0], OWN_KNOWN, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(OWN_KNOWN)}"
        return row, f"unknown key {unknown[0]!r}; {hint}"
    if missing := [key for key in OWN_NEEDED if key not in row]:
        return row, f"no {' and no '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}"
    if other := [key for key, value in row.items() if not isinstance(value, str)]:
        return row, f"{other[0]} is {row[other[0]]!r}, not text; put it in quotes"
    if empty := [key for key in OWN_NEEDED if not row[key].strip()]:
        return row, f"{empty[0]} is empty; fill it or delete the line"
    return row, ""
