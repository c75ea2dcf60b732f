"""Data files of others: downloaded once from a pinned commit, or read from a local folder; read as tables.

None is copied into this repository. Upstream's files (BPO: Apache-2.0, Dolly CC BY-SA 3.0) lie in $BPO_DATA_DIR if that
is set, else they are downloaded into the cache folder; files of the Hub go into the Hub's own cache.
"""

import glob
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import paths

UPSTREAM = "https://raw.githubusercontent.com/thu-coai/BPO"
GPT4_LLM = "https://github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/raw"  # leads to large-file storage too
HEAD = "9bf541587d1456fda6ffa46001ab545e892f4a2c"
FIRST = "eef4e1f70b7045c739459888c9e9afa69a71e900"  # only the first commit holds the teacher's comparisons
ATTEMPTS = 3  # a dropped connection goes on where it stopped; more tries would only hide a broken network


class Pinned(NamedTuple):
    """One file of a repository: commit and path it is downloaded from, bytes and sha256 it must have.

    None: not known here, so not checked; the commit in the address is the pin, and `origin` says what was read.
    """

    commit: str
    path: str
    size: int | None
    sha256: str | None
    url: str = UPSTREAM
    folder: str = "BPO_DATA_DIR"  # environment variable of the local folder that may stand in


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
# Pinned by their commits alone: neither file was at hand when this was written.
UNCHECKED = {
    "train.json": Pinned(FIRST, "data/train_data/train.json", None, None),  # all rows, in the form of val.json
    "comparison_data_v2.json": Pinned(  # commit: as pinned in a public repository on reward models for GPT-4-LLM
        "c242c50660f678f63ab79d7f50e492a30de1b5a6",
        "data/comparison_data_v2.json",
        None,
        None,
        GPT4_LLM,
        "BPO_PREFERENCES_DIR",
    ),
}


def fetch(name: str, base_url: str | None = None, pinned: Pinned | None = None) -> Path:
    """Path of one pinned file, checked by size and sha256: in its local folder, else in the cache (downloaded once).

    `pinned`: for a file that is not listed here. `base_url` (or $BPO_DATA_URL) stands in for upstream in tests. Raises
    FileNotFoundError (local file missing), ValueError (wrong content) or ConnectionError (unreachable, or cut off; the
    next call goes on from there).
    """
    from filelock import FileLock

    pinned = pinned or FILES.get(name) or UNCHECKED[name]
    project = "/".join(pinned.url.removesuffix("/raw").split("/")[-2:])
    if folder := os.environ.get(pinned.folder):
        path = Path(folder).resolve() / name
        take = f"take {pinned.path} of {project} at {pinned.commit}, or unset {pinned.folder}"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; put it there or unset {pinned.folder} to download it ({take})")
        if problem := _problem(path, pinned):
            raise ValueError(f"{path} {problem}; {take}")
        return path
    path = paths.cache_dir() / project.replace("/", "-") / pinned.commit[:7] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"{(base_url or os.environ.get('BPO_DATA_URL') or pinned.url).rstrip('/')}/{pinned.commit}/{pinned.path}"
    with FileLock(f"{path}.lock"):  # two notebooks may ask at once
        if not path.is_file() or _problem(path, pinned):
            part = path.with_name(f"{path.name}.part")
            _download(url, part, pinned)
            os.replace(part, path)
    return path


def _download(url: str, part: Path, pinned: Pinned) -> None:
    # httpx2 comes with openai and transformers; pooch checks hashes too, but begins a cut-off download again
    import httpx2

    advice = f"check the network, or download the files elsewhere and set {pinned.folder} to their folder"
    reason, size = "the server ended early", pinned.size
    if size is None:
        part.unlink(missing_ok=True)  # whether an old part is complete cannot be told
    for _ in range(ATTEMPTS):
        if size is not None and part.is_file() and part.stat().st_size >= size:
            break
        try:
            size = _append(url, part, size)
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
    if size is None or have < size:
        of = "" if size is None else f" of {size}"
        raise ConnectionError(f"{url} was cut off at {have}{of} bytes ({reason}); run again to go on, or {advice}")
    if problem := _problem(part, pinned):
        part.unlink()  # it is complete and wrong: going on from it would never help
        raise ValueError(f"{url} {problem}; the download was removed, run again, or {advice}")


def _append(url: str, part: Path, size: int | None) -> int:
    """Go on with a download; returns the bytes that the whole file has: `size`, or where that is None what came."""
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
                if size is not None and file.tell() > size:  # not the pinned file; do not fill the disk with it
                    break
            return file.tell() if size is None else size


def _problem(path: Path, pinned: Pinned) -> str:
    size = path.stat().st_size
    if pinned.size is not None and size < pinned.size:
        return f"is truncated: {size} of {pinned.size} bytes"
    if pinned.sha256 is None or (digest := sha256(path)) == pinned.sha256:
        return ""
    return f"has the wrong checksum: sha256 {digest}, expected {pinned.sha256}"


def sha256(path: Path) -> str:
    """Checksum of one file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def origin(files: Mapping[str, Path]) -> dict[str, dict[str, int | str]]:
    """Bytes and sha256 of files by name, so that two runs can be compared by what they read."""
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}


def hub_files(repository: str, revision: str, names: Sequence[str], instead: str) -> dict[str, Path]:
    """Files of one data set of the Hub at one commit, by name: downloaded once, resumed, in the Hub's cache.

    `instead`: what else one can do without the Hub, for the errors: PermissionError (gated, terms not accepted) and
    ConnectionError (everything else). $HF_ENDPOINT names another Hub.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    found = {}
    for name in names:
        where = f"{repository}, revision {revision}, file {name}"
        try:
            found[name] = Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))
        except GatedRepoError as error:
            raise PermissionError(
                f"{where}: the Hub gives this data set only to those who accepted its terms; open "
                f"https://huggingface.co/datasets/{repository}, accept them, run `hf auth login`, then run again; "
                f"or {instead}"
            ) from error
        except OSError as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise ConnectionError(
                f"could not get {where} from the Hub ({reason}); check the network, or {instead}"
            ) from error
    return found


def splits(files: Mapping[str, Sequence[Path]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split, read by `datasets` from JSON, JSON Lines (gzip too) or Parquet files.

    Raises ValueError with the files and the reason if one cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    # `datasets` takes names for patterns, so a folder called data[1] has to be escaped
    names = {split: [glob.escape(str(path)) for path in part] for split, part in files.items()}
    kind = "parquet" if names and all(name.endswith(".parquet") for part in names.values() for name in part) else "json"
    try:
        read = datasets.load_dataset(kind, data_files=names, cache_dir=str(paths.cache_dir() / "datasets"))
    except (datasets.exceptions.DatasetsError, ValueError) as error:
        listed = ", ".join(str(path) for part in files.values() for path in part)
        reason = f"{type(error).__name__}: {error.__cause__ or error}"
        raise ValueError(f"{listed}: not readable as {kind} ({reason}); remove the file and take it again") from error
    return {split: read[split].to_list() for split in names}


def table(path: Path, columns: Mapping[str, type] | Iterable[str] = ()) -> list[dict[str, Any]]:
    """Rows of one local file (.json, .jsonl, each also .gz, or .parquet), checked for columns of text or of a type.

    Raises ValueError with file and line (not JSON) or row (a column is missing or of another type).
    """
    wanted = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, str)
    rows = splits({"train": [path]})["train"] if path.suffix == ".parquet" else _json_rows(path)
    check(rows, wanted, str(path))
    return rows


def _json_rows(path: Path) -> list[Any]:
    raw = path.read_bytes()
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable ({error}); take the file again") from error
    # one JSON value per line, or one for the whole file; a line of JSON Lines ends at \n and nothing else
    rows = []
    for number, part in enumerate(text.split("\n") if lines else [text]):
        try:
            value = json.loads(part) if part.strip() else []
        except json.JSONDecodeError as error:
            line = number + error.lineno
            raise ValueError(f"{path}, line {line}: not JSON ({error.msg}); remove the file and run again") from error
        rows += value if isinstance(value, list) else [value]
    return rows


def check(rows: Sequence[Any], columns: Mapping[str, type], where: str) -> None:
    """Raises ValueError with the row and its columns if one is missing or of another type."""
    kinds = {str: "text", list: "list", dict: "object", int: "number"}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{where}, row {number}: not an object but {type(row).__name__}; take the file again")
        wrong = [column for column, kind in columns.items() if not isinstance(row.get(column), kind)]
        if wrong:
            named = ", ".join(f"no {kinds[columns[column]]} in column {column}" for column in wrong)
            raise ValueError(
                f"{where}, row {number}: {named}; it has {', '.join(row)}; take the file of the pinned commit"
            )
