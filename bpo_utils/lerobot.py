"""New wordings for the tasks of a real robot dataset: a LeRobotDataset v3.0 folder, as lerobot 0.4 writes it.

Only its tables are read and written; lerobot is not needed. LeRobot finds a sentence in meta/tasks.parquet, an episode
in meta/episodes and a frame in data/ by its position, files in the order of their names: so additions always come last.
"""

import difflib
import json
import shutil
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bpo_utils import records

INFO, TASKS, FILE = "meta/info.json", "meta/tasks.parquet", "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA, EPISODES = (tuple(f"{kind}/{part}_index" for part in ("chunk", "file")) for kind in ("data", "meta/episodes"))


@dataclass(frozen=True)
class Dataset:
    """What a dataset says: {task_index: sentence}, and per episode {episode_index, tasks, length (frames)}."""

    tasks: dict[int, str]
    episodes: list[dict]


def read(folder: Path) -> Dataset:
    """The task sentences and the episodes of a dataset folder.

    Raises FileNotFoundError for a missing file, ValueError for another version or for tables that do not fit together.
    """
    info, (table, column), episodes = _info(folder), _tasks(folder), _episodes(folder)
    tasks = dict(zip(table["task_index"].to_pylist(), table[column].to_pylist(), strict=True))
    rows = episodes.select(["episode_index", "tasks", "length"]).to_pylist()
    found = [row["episode_index"] for row in rows], sum(row["length"] for row in rows)
    if found != (list(range(info["total_episodes"])), info["total_frames"]):
        raise ValueError(f"{folder}: meta/episodes and the totals of {INFO} differ; download the whole dataset again")
    sentences, named = list(tasks.values()), {task for row in rows for task in row["tasks"]}
    if list(tasks) != list(range(len(table))) or len(set(sentences)) < len(table) or not named <= set(sentences):
        raise ValueError(f"{folder / TASKS}: must number all tasks of the episodes once, 0, 1, 2 ... by row; mend it")
    return Dataset(tasks, rows)


def augment(source: Path, target: Path, wordings: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Write `target`: every episode of `source` as it was, then one copy of it per new wording, {sentence: wordings}.

    Copy n of an episode with several tasks says each of them by its n-th wording, or as it was where it has none.
    Copies use the same videos. All statistics stay those of the recorded episodes, so that what a policy normalises by
    does not depend on the number of wordings; those of index, episode_index and task_index do not cover the copies.
    Returns how many tasks, episodes and frames were added. Raises as `read` does, FileExistsError for a target that is
    not empty, ValueError for wordings that do not fit; then nothing is left behind.
    """
    source, target = source.resolve(), target.resolve()
    _check(source, target, wordings)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(".*"))
        if wordings:
            _add(source, temporary, wordings)
        if target.exists():
            target.rmdir()  # _check found it empty
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    before, after = _info(source), _info(target)
    return {name: after[f"total_{name}"] - before[f"total_{name}"] for name in ("tasks", "episodes", "frames")}


def _check(source: Path, target: Path, wordings: Mapping[str, Sequence[str]]) -> None:
    known, info = sorted({task for row in read(source).episodes for task in row["tasks"]}), _info(source)
    if source in target.parents or target.is_file() or (target.exists() and any(target.iterdir())):
        raise FileExistsError(f"{target} is not empty, or in the source dataset; name a new folder elsewhere")
    if wordings and list(info["splits"].values()) != [f"0:{info['total_episodes']}"]:
        raise ValueError(f"{source}: splits {info['splits']}; augment each alone, so that no copy lands in another")
    for task, said in wordings.items():
        if task not in known:
            near = "".join(difflib.get_close_matches(task, known, n=1, cutoff=0))
            raise ValueError(f"{source}: no episode has the task {task!r}; the nearest is {near!r}")
        text = not isinstance(said, str) and all(isinstance(one, str) and one.strip() for one in said)
        if not (text and said and len({task, *said}) == len(said) + 1):
            raise ValueError(f"wordings of {task!r}: give a list of new sentences, none twice or blank; got {said!r}")


def _add(source: Path, root: Path, wordings: Mapping[str, Sequence[str]]) -> None:
    """Add tasks, frames and episodes to `root`, which is a copy of `source`."""
    info, (tasks, column), episodes = _info(source), _tasks(source), _episodes(source)
    known = {task: index for index, task in enumerate(tasks[column].to_pylist())}
    for wording in [one for said in wordings.values() for one in said]:
        known.setdefault(wording, len(known))
    new = [{column: task, "task_index": index} for task, index in known.items() if index >= len(tasks)]
    pq.write_table(pa.concat_tables([tasks, pa.Table.from_pylist(new, tasks.schema)]), root / TASKS)
    rows = _write_frames(source, root, episodes, known, wordings)
    path, place = _new_file(root, "meta/episodes/" + FILE, _last(episodes, EPISODES), info["chunks_size"])
    added = episodes.take([row.pop("copy_of") for row in rows])  # keeps videos/... and columns that are unknown here
    for name in rows[0]:
        added = _with(added, name, [row[name] for row in rows])
    for name, number in zip(EPISODES, place, strict=True):
        added = _with(added, name, [number] * len(rows))
    pq.write_table(added, path)
    total = info["total_episodes"] + len(rows)
    info |= {"total_episodes": total, "total_frames": rows[-1]["dataset_to_index"], "total_tasks": len(known)}
    info["splits"] = {name: f"0:{total}" for name in info["splits"]}
    records.write_text(root / INFO, json.dumps(info, indent=4, ensure_ascii=False))


def _write_frames(source: Path, root: Path, episodes: pa.Table, known: dict, wordings: Mapping) -> list[dict]:
    """Write the n-th copies of a data file's episodes to a data file of their own; returns their new row values."""
    info, plan, rows, place = _info(source), defaultdict(list), [], _last(episodes, DATA)
    for episode in episodes.select(["episode_index", "tasks", "length", *DATA]).to_pylist():
        for n in range(max((len(wordings.get(task, ())) for task in episode["tasks"]), default=0)):
            said = {task: wordings[task][n] for task in episode["tasks"] if n < len(wordings.get(task, ()))}
            plan[tuple(episode[name] for name in DATA), n].append((episode, said))
    for (origin, _), copies in sorted(plan.items(), key=lambda item: item[0]):
        frames = _table(source / info["data_path"].format(chunk_index=origin[0], file_index=origin[1]))
        path, place = _new_file(root, info["data_path"], place, info["chunks_size"])
        with pq.ParquetWriter(path, frames.schema) as writer:
            for episode, said in copies:
                part = _frames_of(source, frames, episode, known)
                start = rows[-1]["dataset_to_index"] if rows else info["total_frames"]
                row = {"copy_of": episode["episode_index"], "episode_index": info["total_episodes"] + len(rows)}
                row |= {"dataset_from_index": start, "dataset_to_index": start + len(part)}
                row |= {"tasks": list(dict.fromkeys(said.get(task, task) for task in episode["tasks"]))}
                rows.append(row | dict(zip(DATA, place, strict=True)))
                swap = {known[task]: known[wording] for task, wording in said.items()}
                part = _with(part, "task_index", [swap.get(index, index) for index in part["task_index"].to_pylist()])
                part = _with(part, "episode_index", [row["episode_index"]] * len(part))
                part = _with(part, "index", range(start, start + len(part)))
                writer.write_table(part)  # one row group per episode, as LeRobot writes
    return rows


def _frames_of(source: Path, frames: pa.Table, episode: dict, known: Mapping[str, int]) -> pa.Table:
    number, length, tasks = episode["episode_index"], episode["length"], {known[task] for task in episode["tasks"]}
    part = frames.slice(max(0, pc.index(frames["episode_index"], number).as_py()), length)
    if part["episode_index"].to_pylist() != [number] * length or not tasks >= {*part["task_index"].to_pylist()}:
        raise ValueError(
            f"{source}: episode {number} has other frames or tasks in data/ than in meta/episodes; mend it"
        )
    return part


def _info(folder: Path) -> dict:
    if not (folder / INFO).is_file():
        raise FileNotFoundError(f"{folder / INFO} is missing; name the folder of a LeRobot dataset, which holds meta/")
    info = records.read_json(folder / INFO)
    if (version := info.get("codebase_version")) != "v3.0":
        advice = "this reads v3.0 only; convert an older one with lerobot's convert_dataset_v21_to_v30"
        raise ValueError(f"{folder / INFO}: codebase_version is {version!r}; {advice}")
    return info


def _tasks(folder: Path) -> tuple[pa.Table, str]:
    """The table of tasks and the name of the sentences' column, which is the index of the pandas table."""
    table = _table(folder / TASKS)
    column = (table.schema.pandas_metadata or {}).get("index_columns") or [None]
    if not isinstance(column[0], str):
        raise ValueError(f"{folder / TASKS}: its pandas index must be the sentences; write it as lerobot does")
    return table, column[0]


def _episodes(folder: Path) -> pa.Table:
    paths = sorted(folder.glob("meta/episodes/*/*.parquet"))
    return pa.concat_tables(map(_table, paths or [folder / "meta/episodes" / FILE.format(chunk_index=0, file_index=0)]))


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download the whole dataset again")
    return pq.ParquetFile(path).read()


def _with(table: pa.Table, name: str, values: Sequence) -> pa.Table:
    """The table with other values in one column, whose type and place stay."""
    number = table.schema.get_field_index(name)
    return table.set_column(number, table.schema.field(number), pa.array(values, table.schema.field(number).type))


def _last(episodes: pa.Table, names: Sequence[str]) -> tuple[int, int]:
    return max(zip(*(episodes[name].to_pylist() for name in names), strict=True))


def _new_file(root: Path, pattern: str, place: tuple[int, int], chunks_size: int) -> tuple[Path, tuple[int, int]]:
    """The first free file name after `place`, (chunk, file), and its place."""
    chunk, file = place
    chunk, file = (chunk, file + 1) if file + 1 < chunks_size else (chunk + 1, 0)
    path = root / pattern.format(chunk_index=chunk, file_index=file)
    path.parent.mkdir(exist_ok=True)
    return _new_file(root, pattern, (chunk, file), chunks_size) if path.exists() else (path, (chunk, file))
