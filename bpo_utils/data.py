"""Where prompts come from: the miniature, upstream's own files, the Hub, or the sources of preference data.

Files and addresses stand in download.py, the four sources of the paper and your own data in sources.py.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import download, sources
from bpo_utils.download import FILES, fetch
from bpo_utils.profile import Profile
from bpo_utils.records import REPLY_END, REPLY_MARKER, TEST_SETS, Preference, Rewrite, TestPrompt

HUB_DATASET = "THUDM/BPO"
# "Upload 4 files", which brought all three splits: seen on a stored copy of this commit's page on the Hub. The content
# is pinned besides: the test split must be upstream's bpo_test.json, byte by byte.
HUB_REVISION = "cafa8b3e628f50981df485acee4801fe601264d8"
HUB_FOLDER = "BPO_HUB_DIR"  # environment variable of a folder with the Hub's own three files
HUB_SPLITS = {"train": "train.json", "validation": "val.json", "test": "test.json"}


class Published(NamedTuple):
    """What upstream published for one validation row: the parsed reply, and both sides with the context put back."""

    optimized_prompt: str
    final_input: str
    final_output: str


class Loaded(NamedTuple):
    """Preference rows of a profile: for training, held apart for validation, and where all of it came from."""

    rows: list[Preference]
    validation: list[Preference]
    provenance: dict[str, Any]


# file, column of the prompt, of the context and of the category ("": that file has none) of each test set
TEST_COLUMNS = {
    "bpo_test": ("bpo_test.json", "prompt", "", "", ""),
    "dolly": ("dolly_eval.json", "instruction", "context", "category", "response"),
    "vicuna": ("vicuna_eval.jsonl", "text", "", "category", ""),
    "self_instruct": ("self_instruct_eval.json", "instruction", "context", "category", "output"),
}
VAL_COLUMNS = ("instruction", "good_res", "bad_res", "comparison", "source")
PUBLISHED_COLUMNS = ("optimized_prompt", "final_input", "final_output")
HUB_COLUMNS = ("prompt", "optimized_prompt", "good_res", "bad_res")


def load(profile: Profile) -> Loaded:
    """All preference rows of a profile, and where they came from; the first `train_rows` of those for training.

    `recorded`: the 300 validation rows of BPO with the reply of their teacher (gpt-3.5-turbo). Upstream kept the reply
    in two columns; `reply` is put together again from them (comparison, marker, optimized prompt, end mark), so it is
    the teacher's text but not the raw API answer: what upstream's parser removed before publishing stays removed.
    `raw`: all of upstream's rows of that form, its training file. `hub`: the published training rows, which have
    neither comparison nor context column; `reply` holds the published optimized prompt alone. `preferences`: the
    sources that the profile names, in its order, each sampled with `data.seed`, without replies (sources.py).

    Validation rows: the Hub's validation split, its first `validation_rows`; elsewhere as many rows, evenly spaced.
    Provenance: the source, and by file or source commit, bytes, sha256 and counts, ready for JSON; two runs that read
    the same agree in it. Raises ValueError, ConnectionError, PermissionError or FileNotFoundError that says what,
    where, what to do.
    """
    chosen = profile.data
    validation: list[Preference] = []
    if chosen.source == "miniature":
        from bpo_utils.mini import world

        rows, found = world.preferences(), {}
    elif chosen.source in ("recorded", "raw"):
        rows, found = _upstream_rows(chosen.source)
    elif chosen.source == "hub":
        rows, validation, found = _hub()
    elif chosen.source == "preferences":
        loaded = sources.load_all(_named(profile), chosen.seed)
        rows = [row for part in loaded.values() for row in part.rows]
        found = {"sources": {label: part.counts() for label, part in loaded.items()}}
    else:
        known = "miniature, recorded, hub, raw or preferences"
        raise ValueError(f"data.source is {chosen.source!r} in profile {profile.name}; use {known}")
    wanted = chosen.validation_rows
    if chosen.source == "hub":
        validation = _first(validation, wanted, "data.validation_rows", profile.name) if wanted else []
    else:
        rows, validation = _apart(rows, wanted, profile)
    rows = rows if chosen.train_rows is None else _first(rows, chosen.train_rows, "data.train_rows", profile.name)
    return Loaded(rows, validation, {"source": chosen.source, **found})


def load_preferences(profile: Profile) -> list[Preference]:
    """Preference rows for training, as load."""
    return load(profile).rows


def load_validation(profile: Profile) -> list[Preference]:
    """Preference rows that no training sees, for the loss after each epoch, as load; none if `validation_rows` is 0."""
    return load(profile).validation if profile.data.validation_rows else []


def provenance(profile: Profile) -> dict[str, Any]:
    """Where a profile's rows come from, as load; it reads them."""
    return load(profile).provenance


def _named(profile: Profile) -> list[sources.Source]:
    if not profile.data.preferences:
        raise ValueError(f"profile {profile.name}: data.source is preferences, so data.preferences must name a source")
    return profile.data.preferences


def _apart(rows: list[Preference], wanted: int, profile: Profile) -> tuple[list[Preference], list[Preference]]:
    """The rows for training and those for validation, evenly spaced."""
    if wanted == 0:
        return rows, []
    if profile.data.source == "recorded":
        raise ValueError(f"profile {profile.name}: source recorded has no validation rows; set them to 0")
    if not 0 < wanted < len(rows):
        there = f"there are {len(rows)} rows in all"
        raise ValueError(f"data.validation_rows of profile {profile.name} is {wanted}; {there}, and some must train")
    held_out = {number * len(rows) // wanted for number in range(wanted)}
    return [row for n, row in enumerate(rows) if n not in held_out], [rows[n] for n in sorted(held_out)]


def load_test_sets(profile: Profile) -> dict[str, list[TestPrompt]]:
    """Test prompts by test set, the first `test_rows[set]` of each; a set that the profile does not name is left out.

    All but the miniature read BPO's four files (200, 200, 80 and 252 prompts; paper, section 4.1). Raises as
    load_preferences, and ValueError for a test set that does not exist or is smaller than the profile asks.
    """
    if unknown := sorted(profile.data.test_rows.keys() - TEST_SETS.keys()):
        raise ValueError(
            f"data.test_rows of profile {profile.name}: no test set {unknown}; there are {list(TEST_SETS)}"
        )
    if profile.data.source == "miniature":
        from bpo_utils.mini import world

        sets = world.test_sets()
    else:
        sets = {name: _recorded_test_set(name) for name in profile.data.test_rows}
    return {
        name: _first(sets[name], limit, f"data.test_rows.{name}", profile.name)
        for name, limit in profile.data.test_rows.items()
    }


def load_published() -> dict[str, Published]:
    """Upstream's own results for the 300 validation rows, by the same ids as load_preferences under `recorded`."""
    rows = download.table(fetch("val.json"), VAL_COLUMNS + PUBLISHED_COLUMNS)
    return {_id("val", n): Published(*(row[column] for column in PUBLISHED_COLUMNS)) for n, row in enumerate(rows, 1)}


def load_published_rewrites(prompts: Sequence[TestPrompt]) -> list[Rewrite]:
    """The optimized prompts that BPO's test split was published with, for those of `prompts` that are of it.

    They are the teacher's (gpt-3.5-turbo), which saw the responses too; so they are no rewrites of a rewriter, and are
    named `published`. Raises as load.
    """
    file, column, *_ = TEST_COLUMNS["bpo_test"]
    rows = download.table(fetch(file), [column, "optimized_prompt"])
    found = {_id("bpo_test", n): row["optimized_prompt"] for n, row in enumerate(rows, 1)}
    mine = [each for each in prompts if each.test_set == "bpo_test"]
    return [Rewrite(each.id, each.test_set, "published", each.prompt, found[each.id]) for each in mine]


def _upstream_rows(source: str) -> tuple[list[Preference], dict[str, Any]]:
    name, split, width = ("val.json", "val", 4) if source == "recorded" else ("train.json", "train", 5)
    path = fetch(name)
    table = download.table(path, (*VAL_COLUMNS, "optimized_prompt"))
    rows = []
    for number, row in enumerate(table, 1):
        reply = f"{row['comparison']}{REPLY_MARKER} {row['optimized_prompt']} {REPLY_END}"
        # only the Alpaca rows have a context column
        fields = (row["instruction"], row.get("context") or "", row["good_res"], row["bad_res"], row["source"], reply)
        rows.append(Preference(_id(split, number, width), *fields))
    return rows, {"commit": download.FIRST, "files": download.origin({name: path})}


def _recorded_test_set(name: str) -> list[TestPrompt]:
    file, prompt, *others = TEST_COLUMNS[name]
    rows = download.table(fetch(file), [column for column in (prompt, *others) if column])
    return [
        TestPrompt(_id(name, n), name, row[prompt], *(row[column] if column else "" for column in others))
        for n, row in enumerate(rows, 1)
    ]


def _hub() -> tuple[list[Preference], list[Preference], dict[str, Any]]:
    """Training rows, validation rows and provenance of the Hub's data set, or of a folder with its files."""
    files, found = _hub_files()
    digests = download.origin(files)
    test, upstream = digests[HUB_SPLITS["test"]]["sha256"], FILES["bpo_test.json"].sha256
    if test != upstream:
        raise ValueError(
            f"{files[HUB_SPLITS['test']]} is not the test split that this course knows: sha256 {test}, expected "
            f"{upstream}; take {HUB_DATASET} at revision {HUB_REVISION}"
        )
    read = download.splits({split: [files[name]] for split, name in HUB_SPLITS.items()})
    for split, name in HUB_SPLITS.items():
        download.check(read[split], dict.fromkeys(HUB_COLUMNS, str), str(files[name]))
    train, validation = ([_hub_row(n, row, split) for n, row in enumerate(read[split], 1)] for split in list(read)[:2])
    counts = {split: len(rows) for split, rows in read.items()}
    return train, validation, {**found, "rows": counts, "files": digests}


def _hub_files() -> tuple[dict[str, Path], dict[str, Any]]:
    if not (folder := os.environ.get(HUB_FOLDER)):
        instead = f"set {HUB_FOLDER} to a folder with its files, or use the profile recorded with BPO_DATA_DIR"
        files = download.hub_files(HUB_DATASET, HUB_REVISION, tuple(HUB_SPLITS.values()), instead)
        return files, {"repository": HUB_DATASET, "revision": HUB_REVISION}
    files = {name: Path(folder).resolve() / name for name in HUB_SPLITS.values()}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        take = f"put it there (files of the data set {HUB_DATASET} on the Hub), or unset {HUB_FOLDER} to download them"
        raise FileNotFoundError(f"{', '.join(missing)} is not in {Path(folder).resolve()}; {take}")
    return files, {"folder": HUB_FOLDER}


def _hub_row(number: int, row: dict[str, Any], split: str) -> Preference:
    reply = f"{REPLY_MARKER} {row['optimized_prompt']} {REPLY_END}"
    return Preference(_id(split, number, 5), row["prompt"], "", row["good_res"], row["bad_res"], HUB_DATASET, reply)


def _id(prefix: str, number: int, width: int = 4) -> str:
    return f"{prefix}-{number:0{width}d}"


def _first(rows: list, limit: int, key: str, profile: str) -> list:
    if not 0 < limit <= len(rows):
        raise ValueError(f"{key} of profile {profile} is {limit}; choose a number from 1 to {len(rows)}")
    return rows[:limit]
