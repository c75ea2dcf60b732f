"""Where prompts come from: the miniature, the recorded BPO files (pinned download or local folder), or the Hub.

The recorded files are BPO's own (Apache-2.0, Dolly CC BY-SA 3.0); none is copied into this repository. They are read
from $BPO_DATA_DIR if that is set, else downloaded once from a pinned commit into the cache folder.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import paths
from bpo_utils.profile import Profile
from bpo_utils.records import REPLY_END, REPLY_MARKER, TEST_SETS, Preference, TestPrompt

UPSTREAM = "https://raw.githubusercontent.com/thu-coai/BPO"
HEAD = "9bf541587d1456fda6ffa46001ab545e892f4a2c"
FIRST = "eef4e1f70b7045c739459888c9e9afa69a71e900"  # only the first commit holds the teacher's comparisons
HUB_DATASET = "THUDM/BPO"
HUB_REVISION = "main"  # not pinned: the authors set no tag, and no commit hash of the dataset could be confirmed
ATTEMPTS = 3  # a dropped connection goes on where it stopped; more tries would only hide a broken network


class Pinned(NamedTuple):
    """One upstream file: commit and path it is downloaded from, bytes and sha256 it must have."""

    commit: str
    path: str
    size: int
    sha256: str


class Published(NamedTuple):
    """What upstream published for one validation row: the parsed reply, and both sides with the context put back."""

    optimized_prompt: str
    final_input: str
    final_output: str


FILES = {
    "bpo_test.json": Pinned(
        HEAD, "data/testset/bpo_test.json", 286433, "232bc4ba002e0df05da7bc3351978ce28856e036eb96053b3eecc93ca6a43e71"
    ),
    "dolly_eval.json": Pinned(
        HEAD, "data/testset/dolly_eval.json", 193937, "7e424485b167e5c0a092a9eb2b8d9d1bd550c34ffcd0352e20938c1cedd7c0ab"
    ),
    "vicuna_eval.jsonl": Pinned(
        HEAD,
        "data/testset/vicuna_eval.jsonl",
        12884,
        "32b519315704d3da88accb0cab4fd44622ff530fe49e450c1553030ce3e0f962",
    ),
    "self_instruct_eval.json": Pinned(
        HEAD,
        "data/testset/self_instruct_eval.json",
        177058,
        "80525efd67f3af6691e960f173c78a4331af3311d0b8ac6b7da80db7a246d629",
    ),
    "val.json": Pinned(
        FIRST, "data/train_data/val.json", 879132, "d320cd45293ab3ebc1b268ff4862db33de46262ceb860d9951b5d05f788da0f6"
    ),
}
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


def load_preferences(profile: Profile) -> list[Preference]:
    """Preference rows of a profile, the first `train_rows` of them.

    `recorded`: the 300 validation rows of BPO with the reply of their teacher (gpt-3.5-turbo). Upstream kept the reply
    in two columns; `reply` is put together again from them (comparison, marker, optimized prompt, end mark), so it is
    the teacher's text but not the raw API answer: what upstream's parser removed before publishing stays removed.
    `hub`: the published training rows, which have neither comparison nor context column; `reply` holds the published
    optimized prompt alone. Raises ValueError, ConnectionError or FileNotFoundError that says what, where, what to do.
    """
    source = profile.data.source
    if source == "miniature":
        from bpo_utils.mini import world

        rows = world.preferences()
    elif source == "recorded":
        rows = [_recorded_row(number, row) for number, row in enumerate(_val_rows(), 1)]
    elif source == "hub":
        rows = [_hub_row(number, row) for number, row in enumerate(_hub_rows(), 1)]
    else:
        raise ValueError(f"data.source is {source!r} in profile {profile.name}; use miniature, recorded or hub")
    rows = _apart(rows, profile)[0]
    limit = profile.data.train_rows
    return rows if limit is None else _first(rows, limit, "data.train_rows", profile.name)


def load_validation(profile: Profile) -> list[Preference]:
    """Preference rows that no training sees, for the loss after each epoch; none if `validation_rows` is 0.

    `hub`: the first of the published validation split (300 rows). `miniature`: as many rows of its preference data,
    evenly spaced. `recorded` has no others to give. Raises as load_preferences.
    """
    wanted = profile.data.validation_rows
    if not wanted:
        return []
    if profile.data.source == "miniature":
        from bpo_utils.mini import world

        return _apart(world.preferences(), profile)[1]
    if profile.data.source != "hub":
        raise ValueError(f"profile {profile.name}: source {profile.data.source} has no validation rows; set them to 0")
    rows = [_hub_row(number, row, "validation") for number, row in enumerate(_hub_rows(file="val.json"), 1)]
    return _first(rows, wanted, "data.validation_rows", profile.name)


def _apart(rows: list[Preference], profile: Profile) -> tuple[list[Preference], list[Preference]]:
    """The rows for training and those for validation; the Hub keeps the latter in a file of their own."""
    wanted = profile.data.validation_rows
    if not wanted or profile.data.source == "hub":
        return rows, []
    held_out = {number * len(rows) // wanted for number in range(wanted)}
    return [row for n, row in enumerate(rows) if n not in held_out], [rows[n] for n in sorted(held_out)]


def load_test_sets(profile: Profile) -> dict[str, list[TestPrompt]]:
    """Test prompts by test set, the first `test_rows[set]` of each; a set that the profile does not name is left out.

    `recorded` and `hub` both read BPO's four files (200, 200, 80 and 252 prompts; paper, section 4.1). Raises as
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
    rows = _val_rows(VAL_COLUMNS + PUBLISHED_COLUMNS)
    return {_id("val", n): Published(*(row[column] for column in PUBLISHED_COLUMNS)) for n, row in enumerate(rows, 1)}


def fetch(name: str, base_url: str | None = None) -> Path:
    """Path of one recorded file, checked by size and sha256: in $BPO_DATA_DIR, else in the cache (downloaded once).

    `base_url` (or $BPO_DATA_URL) stands in for upstream in tests. Raises FileNotFoundError (local file missing),
    ValueError (wrong content) or ConnectionError (unreachable, or cut off; the next call goes on from there).
    """
    from filelock import FileLock

    pinned = FILES[name]
    if folder := os.environ.get("BPO_DATA_DIR"):
        path = Path(folder).resolve() / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; put it there or unset BPO_DATA_DIR to download it")
        if problem := _problem(path, pinned):
            raise ValueError(
                f"{path} {problem}; take {pinned.path} of thu-coai/BPO at {pinned.commit}, or unset BPO_DATA_DIR"
            )
        return path
    path = paths.cache_dir() / "thu-coai-BPO" / pinned.commit[:7] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"{(base_url or os.environ.get('BPO_DATA_URL') or UPSTREAM).rstrip('/')}/{pinned.commit}/{pinned.path}"
    with FileLock(f"{path}.lock"):  # two notebooks may ask at once
        if not path.is_file() or _problem(path, pinned):
            part = path.with_name(f"{name}.part")
            _download(url, part, pinned)
            os.replace(part, path)
    return path


def _download(url: str, part: Path, pinned: Pinned) -> None:
    # httpx2 comes with openai and transformers; pooch checks hashes too, but begins a cut-off download again
    import httpx2

    advice = "check the network, or download the files elsewhere and set BPO_DATA_DIR to their folder"
    reason = "the server ended early"
    for _ in range(ATTEMPTS):
        if part.is_file() and part.stat().st_size >= pinned.size:
            break
        try:
            _append(url, part, pinned.size)
        except httpx2.HTTPStatusError as error:
            raise ConnectionError(f"{url} answered HTTP {error.response.status_code}; {advice}") from error
        except httpx2.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
        except OSError as error:
            raise OSError(
                error.errno, f"could not write {part}: {error.strerror}; free some space, then run again"
            ) from error
    have = part.stat().st_size if part.is_file() else 0
    if have == 0:
        raise ConnectionError(f"could not reach {url} ({reason}); {advice}")
    if have < pinned.size:
        raise ConnectionError(
            f"{url} was cut off at {have} of {pinned.size} bytes ({reason}); run again to go on, or {advice}"
        )
    if problem := _problem(part, pinned):
        part.unlink()  # it is complete and wrong: going on from it would never help
        raise ValueError(f"{url} {problem}; the download was removed, run again, or {advice}")


def _append(url: str, part: Path, size: int) -> None:
    import httpx2

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        response.raise_for_status()
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise httpx2.RemoteProtocolError("the server sent another range than the one asked for")
        with part.open("ab" if resumed else "wb") as file:  # 200: the server ignores ranges and sends everything
            for chunk in response.iter_bytes():
                file.write(chunk)
                if file.tell() > size:  # not the pinned file; do not fill the disk with it
                    break


def _problem(path: Path, pinned: Pinned) -> str:
    size = path.stat().st_size
    if size < pinned.size:
        return f"is truncated: {size} of {pinned.size} bytes"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return "" if digest == pinned.sha256 else f"has the wrong checksum: sha256 {digest}, expected {pinned.sha256}"


def _table(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    # one JSON value per line, or one for the whole file; a line of JSON Lines ends at \n and nothing else
    texts = text.split("\n") if path.suffix == ".jsonl" else [text]
    rows = []
    for number, part in enumerate(texts):
        try:
            value = json.loads(part) if part.strip() else []
        except json.JSONDecodeError as error:
            line = number + error.lineno
            raise ValueError(f"{path}, line {line}: not JSON ({error.msg}); remove the file and run again") from error
        rows += value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if not isinstance(row.get(column), str)]:
            raise ValueError(
                f"{path}, row {number}: no text in column {', '.join(missing)}; it has {', '.join(row)}; "
                "take the file of the pinned commit"
            )
    return rows


def _val_rows(columns: Sequence[str] = (*VAL_COLUMNS, "optimized_prompt")) -> list[dict[str, Any]]:
    return _table(fetch("val.json"), columns)


def _recorded_row(number: int, row: dict[str, Any]) -> Preference:
    reply = f"{row['comparison']}{REPLY_MARKER} {row['optimized_prompt']} {REPLY_END}"
    # only the Alpaca rows have a context column
    context = row.get("context") or ""
    return Preference(
        _id("val", number), row["instruction"], context, row["good_res"], row["bad_res"], row["source"], reply
    )


def _recorded_test_set(name: str) -> list[TestPrompt]:
    file, prompt, *others = TEST_COLUMNS[name]
    rows = _table(fetch(file), [column for column in (prompt, *others) if column])
    return [
        TestPrompt(_id(name, n), name, row[prompt], *(row[column] if column else "" for column in others))
        for n, row in enumerate(rows, 1)
    ]


def _hub_rows(endpoint: str | None = None, file: str = "train.json") -> list[dict[str, Any]]:
    # huggingface_hub comes with transformers and resumes downloads; `datasets` would add pyarrow for one JSON file
    from huggingface_hub import hf_hub_download

    where = f"{HUB_DATASET}, revision {HUB_REVISION}, file {file}"
    try:
        path = hf_hub_download(HUB_DATASET, file, repo_type="dataset", revision=HUB_REVISION, endpoint=endpoint)
    except OSError as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        advice = "check the network, or use the profile recorded with BPO_DATA_DIR"
        raise ConnectionError(f"could not get {where} from the Hub ({reason}); {advice}") from error
    return _table(Path(path), HUB_COLUMNS)


def _hub_row(number: int, row: dict[str, Any], split: str = "train") -> Preference:
    reply = f"{REPLY_MARKER} {row['optimized_prompt']} {REPLY_END}"
    return Preference(f"{split}-{number:05d}", row["prompt"], "", row["good_res"], row["bad_res"], HUB_DATASET, reply)


def _id(prefix: str, number: int) -> str:
    return f"{prefix}-{number:04d}"


def _first(rows: list, limit: int, key: str, profile: str) -> list:
    if not 0 < limit <= len(rows):
        raise ValueError(f"{key} of profile {profile} is {limit}; choose a number from 1 to {len(rows)}")
    return rows[:limit]
