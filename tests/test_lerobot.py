"""The tables of a LeRobotDataset v3.0: read, augmented with wordings, and refused when they do not fit together."""

import json
import shutil

import pandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bpo_utils import lerobot

TASKS = ["pick up the red ball", "open the drawer", "push the button"]
EPISODES = [  # tasks of its frames in order, data file
    ([0, 0, 0], 0),
    ([1, 1], 0),
    ([0, 0, 2, 2], 1),  # two tasks in one episode
    ([2, 2, 2], 1),
]
WORDINGS = {TASKS[0]: ["grab the red ball", "take the red ball"], TASKS[2]: ["press the button"]}
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


@pytest.fixture
def source(tmp_path):
    """A dataset as lerobot 0.4 leaves it: two data files, one video for all episodes, statistics, a hidden cache."""
    root = tmp_path / "source"
    for folder in ("meta/episodes/chunk-000", "data/chunk-000", VIDEO.rpartition("/")[0], ".cache"):
        (root / folder).mkdir(parents=True)
    frames, rows, start = {0: [], 1: []}, [], 0
    for number, (tasks, file) in enumerate(EPISODES):
        frames[file].append(_frames(number, tasks, start))
        rows.append(_row(number, tasks, file, start))
        start += len(tasks)
    for file, tables in frames.items():
        with pq.ParquetWriter(root / f"data/chunk-000/file-{file:03d}.parquet", tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pandas.DataFrame({"task_index": range(3)}, index=TASKS).to_parquet(root / "meta/tasks.parquet")
    shape = {"dtype": "float32", "shape": [2], "names": None}
    counters = {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("index", "episode_index")}
    counters |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "task_index")}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so100",
        "total_episodes": 4,
        "total_frames": 12,
        "total_tasks": 3,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 10,
        "splits": {"train": "0:4"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "action": shape,
            "observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": ["height", "width", "channels"]},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        }
        | counters,
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4, ensure_ascii=False), "utf-8")
    stats = {"action": {"mean": [0.5, 0.5], "std": [0.1, 0.1], "count": [12]}}
    (root / "meta/stats.json").write_text(json.dumps(stats, indent=4), "utf-8")
    (root / VIDEO).write_bytes(b"not a real video")
    (root / ".cache/token").write_text("private", "utf-8")
    return root


def _frames(number, tasks, start):
    count = len(tasks)
    columns = {
        "action": pa.array([[number / 10, step / 10] for step in range(count)], pa.list_(pa.float32(), 2)),
        "timestamp": pa.array([step / 10 for step in range(count)], pa.float32()),
        "frame_index": pa.array(range(count), pa.int64()),
        "episode_index": pa.array([number] * count, pa.int64()),
        "index": pa.array(range(start, start + count), pa.int64()),
        "task_index": pa.array(tasks, pa.int64()),
    }
    features = {"action": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "Sequence"}}
    features |= {name: {"dtype": str(columns[name].type), "_type": "Value"} for name in list(columns)[1:]}
    features = {name: ({**of, "dtype": "float32"} if name == "timestamp" else of) for name, of in features.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata)


def _row(number, tasks, file, start):
    return {
        "episode_index": number,
        "tasks": [TASKS[task] for task in dict.fromkeys(tasks)],
        "length": len(tasks),
        "data/chunk_index": 0,
        "data/file_index": file,
        "dataset_from_index": start,
        "dataset_to_index": start + len(tasks),
        "videos/observation.images.top/chunk_index": 0,
        "videos/observation.images.top/file_index": 0,
        "videos/observation.images.top/from_timestamp": start / 10,
        "videos/observation.images.top/to_timestamp": (start + len(tasks)) / 10,
        "stats/action/mean": [number / 10, 0.1],
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _load(root, kind):
    return [pq.ParquetFile(path).read() for path in sorted(root.glob(f"{kind}/*/*.parquet"))]


def _info(root):
    return json.loads((root / "meta/info.json").read_text("utf-8"))


def _change(root, **values):
    (root / "meta/info.json").write_text(json.dumps(_info(root) | values), "utf-8")


def test_reading_gives_the_sentences_and_the_episodes(source):
    dataset = lerobot.read(source)
    assert dataset.tasks == dict(enumerate(TASKS))
    assert dataset.episodes[1] == {"episode_index": 1, "tasks": [TASKS[1]], "length": 2}
    assert [(row["length"], row["tasks"]) for row in dataset.episodes][2] == (4, [TASKS[0], TASKS[2]])


def test_each_wording_gives_one_more_copy_of_the_episodes_that_say_it(source, tmp_path):
    assert lerobot.augment(source, tmp_path / "out", WORDINGS) == {"tasks": 3, "episodes": 5, "frames": 17}
    dataset = lerobot.read(tmp_path / "out")
    assert list(dataset.tasks.values()) == [*TASKS, *WORDINGS[TASKS[0]], *WORDINGS[TASKS[2]]]
    assert [row["tasks"] for row in dataset.episodes[4:]] == [
        ["grab the red ball"],
        ["take the red ball"],
        ["grab the red ball", "press the button"],
        ["press the button"],
        ["take the red ball", TASKS[2]],  # no second wording of the button: it stays
    ]
    info = _info(tmp_path / "out")
    assert (info["total_tasks"], info["total_episodes"], info["total_frames"]) == (6, 9, 29)
    assert info["splits"] == {"train": "0:9"}
    changed = {key for key, value in _info(source).items() if info[key] != value}
    assert changed == {"total_tasks", "total_episodes", "total_frames", "splits"} and list(info) == list(_info(source))


def test_every_frame_says_a_sentence_of_its_episode_and_acts_as_in_the_original(source, tmp_path):
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    tasks = pandas.read_parquet(tmp_path / "out/meta/tasks.parquet")
    frames = pa.concat_tables(_load(tmp_path / "out", "data")).to_pandas()
    rows = pa.concat_tables(_load(tmp_path / "out", "meta/episodes")).to_pylist()
    assert frames["index"].tolist() == list(range(29))
    assert [row["episode_index"] for row in rows] == list(range(9))
    assert [row["dataset_from_index"] for row in rows] == [0, *(row["dataset_to_index"] for row in rows[:-1])]
    for row, origin in zip(rows, [0, 1, 2, 3, 0, 0, 2, 3, 2], strict=True):
        own = frames.iloc[row["dataset_from_index"] : row["dataset_to_index"]]
        assert set(own["episode_index"]) == {row["episode_index"]} and len(own) == row["length"]
        assert list(dict.fromkeys(tasks.iloc[index].name for index in own["task_index"])) == row["tasks"]
        recorded = frames.iloc[rows[origin]["dataset_from_index"] : rows[origin]["dataset_to_index"]]
        for name in ("action", "timestamp", "frame_index"):
            assert [str(value) for value in own[name]] == [str(value) for value in recorded[name]]
    said = frames[frames["episode_index"] == 8]["task_index"].tolist()
    assert said == [4, 4, 2, 2]  # only the sentence that has a second wording changes, frame by frame


def test_episode_rows_point_to_the_file_that_holds_their_frames_and_to_the_original_video(source, tmp_path):
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    rows = pa.concat_tables(_load(tmp_path / "out", "meta/episodes")).to_pylist()
    for row in rows:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        frames = pq.ParquetFile(tmp_path / "out" / _info(source)["data_path"].format(**place)).read()
        own = frames.filter(pc.equal(frames["episode_index"], row["episode_index"]))
        assert own["index"].to_pylist() == list(range(row["dataset_from_index"], row["dataset_to_index"]))
        name = f"meta/episodes/chunk-000/file-{row['meta/episodes/file_index']:03d}.parquet"
        assert row["episode_index"] in pq.ParquetFile(tmp_path / "out" / name).read()["episode_index"].to_pylist()
    for copy, origin in zip(rows[4:], [0, 0, 2, 3, 2], strict=True):
        same = [key for key in copy if key.startswith(("videos/", "stats/")) or key == "length"]
        assert [copy[key] for key in same] == [rows[origin][key] for key in same]
    assert [path.as_posix() for path in (tmp_path / "out").rglob("*.mp4")] == [(tmp_path / "out" / VIDEO).as_posix()]
    assert (tmp_path / "out" / VIDEO).read_bytes() == (source / VIDEO).read_bytes()


def test_the_source_and_the_files_copied_from_it_stay_byte_for_byte(source, tmp_path):
    before = _files(source)
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    assert _files(source) == before
    after = _files(tmp_path / "out")
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"meta/info.json", "meta/tasks.parquet", ".cache/token"}
    assert ".cache/token" not in after
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_columns_types_and_metadata_of_all_tables_stay(source, tmp_path):
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    for kind in ("data", "meta/episodes"):
        schemas = [table.schema for table in _load(tmp_path / "out", kind)]
        assert len(schemas) > len(_load(source, kind))
        assert all(schema.equals(_load(source, kind)[0].schema, check_metadata=True) for schema in schemas)
    old, new = (pq.read_schema(root / "meta/tasks.parquet") for root in (source, tmp_path / "out"))
    assert new.equals(old, check_metadata=True)
    copies = pq.ParquetFile(tmp_path / "out/data/chunk-000/file-004.parquet")
    assert copies.metadata.num_row_groups == 2  # one per episode


def test_types_that_another_writer_chose_stay_too(source, tmp_path):
    for path in source.glob("data/*/*.parquet"):
        table = pq.ParquetFile(path).read()
        fields = [
            pa.field(field.name, pa.int32(), nullable=False, metadata={"unit": "1"}) if "index" in field.name else field
            for field in table.schema
        ]
        pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), path)
    old = _load(source, "data")[0].schema
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    assert all(table.schema.equals(old, check_metadata=True) for table in _load(tmp_path / "out", "data"))


def test_no_wordings_give_an_equal_dataset(source, tmp_path):
    assert lerobot.augment(source, tmp_path / "out", {}) == {"tasks": 0, "episodes": 0, "frames": 0}
    assert _files(tmp_path / "out") == {name: held for name, held in _files(source).items() if "cache" not in name}


def test_a_wording_that_is_a_task_already_gets_its_number(source, tmp_path):
    counts = lerobot.augment(source, tmp_path / "out", {TASKS[0]: [TASKS[2]], TASKS[1]: ["pull it open"]})
    assert counts == {"tasks": 1, "episodes": 3, "frames": 9}
    dataset, frames = lerobot.read(tmp_path / "out"), pa.concat_tables(_load(tmp_path / "out", "data")).to_pandas()
    assert [row["tasks"] for row in dataset.episodes[4:]] == [[TASKS[2]], ["pull it open"], [TASKS[2]]]
    assert frames["task_index"].tolist()[12:] == [2, 2, 2, 3, 3, 2, 2, 2, 2]


def test_an_augmented_dataset_can_be_augmented_again(source, tmp_path):
    lerobot.augment(source, tmp_path / "one", {TASKS[0]: ["grab the red ball"]})
    counts = lerobot.augment(tmp_path / "one", tmp_path / "two", {"grab the red ball": ["fetch it"]})
    assert counts == {"tasks": 1, "episodes": 2, "frames": 7}
    assert pa.concat_tables(_load(tmp_path / "two", "data"))["index"].to_pylist() == list(range(26))
    assert len(_load(tmp_path / "two", "meta/episodes")) == 3


def test_new_files_go_to_the_next_chunk_when_one_is_full(source, tmp_path):
    _change(source, chunks_size=2)
    lerobot.augment(source, tmp_path / "out", {TASKS[1]: ["pull it open"]})
    assert (tmp_path / "out/data/chunk-001/file-000.parquet").is_file()
    assert pa.concat_tables(_load(tmp_path / "out", "data"))["index"].to_pylist() == list(range(14))


def test_an_empty_target_folder_is_used_and_a_filled_one_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    lerobot.augment(source, tmp_path / "out", WORDINGS)
    before = _files(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out is not empty"):
        lerobot.augment(source, tmp_path / "out", WORDINGS)
    assert _files(tmp_path / "out") == before
    with pytest.raises(FileExistsError, match="in the source dataset"):
        lerobot.augment(source, source / "more", WORDINGS)


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        (
            {"open the drawers": ["pull it"]},
            "no episode has the task 'open the drawers'; the nearest is 'open the drawer'",
        ),
        ({TASKS[1]: []}, r"wordings of 'open the drawer'.*got \[\]"),
        ({TASKS[1]: ["pull it", " "]}, "none twice or blank"),
        ({TASKS[1]: ["pull it", "pull it"]}, "none twice or blank"),
        ({TASKS[1]: [TASKS[1]]}, "list of new sentences"),
        ({TASKS[1]: "pull it"}, "got 'pull it'"),
    ],
)
def test_wordings_that_do_not_fit_are_refused_and_leave_nothing(source, tmp_path, wordings, message):
    with pytest.raises(ValueError, match=message):
        lerobot.augment(source, tmp_path / "out", wordings)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_another_version_is_refused_with_the_way_to_convert(source):
    _change(source, codebase_version="v2.1")
    with pytest.raises(ValueError, match="codebase_version is 'v2.1'.*v3.0 only.*convert_dataset_v21_to_v30"):
        lerobot.read(source)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", "meta/episodes", "data/chunk-000"])
def test_a_missing_file_is_named_and_nothing_is_left(source, tmp_path, name):
    shutil.rmtree(source / name) if (source / name).is_dir() else (source / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"source/{name}.*is missing; "):
        lerobot.augment(source, tmp_path / "out", WORDINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_several_splits_are_refused(source, tmp_path):
    _change(source, splits={"train": "0:3", "test": "3:4"})
    with pytest.raises(ValueError, match="splits .*'test': '3:4'.*augment each alone"):
        lerobot.augment(source, tmp_path / "out", WORDINGS)


def test_tables_that_contradict_each_other_are_refused(source, tmp_path):
    _change(source, total_frames=11)
    with pytest.raises(ValueError, match="meta/episodes and the totals of meta/info.json differ"):
        lerobot.read(source)
    _change(source, total_frames=12)
    for table in (
        pandas.DataFrame({"task_index": [2, 1, 0]}, index=TASKS),
        pandas.DataFrame({"task_index": [0, 1]}, index=TASKS[:2]),
        pandas.DataFrame({"task_index": range(4)}, index=[*TASKS, TASKS[0]]),
    ):
        table.to_parquet(source / "meta/tasks.parquet")
        with pytest.raises(ValueError, match="must number all tasks of the episodes once"):
            lerobot.read(source)
    pandas.DataFrame({"task": TASKS, "task_index": range(3)}).to_parquet(source / "meta/tasks.parquet")
    with pytest.raises(ValueError, match="pandas index must be the sentences"):
        lerobot.read(source)


def test_frames_of_another_task_than_the_episode_says_are_refused(source, tmp_path):
    path = source / "data/chunk-000/file-001.parquet"
    frames = pq.ParquetFile(path).read()
    number = frames.schema.get_field_index("task_index")
    pq.write_table(frames.set_column(number, frames.schema.field(number), pa.array([1] * len(frames))), path)
    with pytest.raises(ValueError, match="source: episode 2 has other frames or tasks in data/"):
        lerobot.augment(source, tmp_path / "out", WORDINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
