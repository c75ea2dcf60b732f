"""The store: transactions, damage, and the file to share. What a killed run leaves is in test_calls_crash.py."""

import json
import shutil
import sqlite3
import threading
import time
from collections import namedtuple
from pathlib import Path

import asking
import psutil
import pytest

from bpo_utils import chat
from bpo_utils.chat import exchange, store, wire
from bpo_utils.chat.calls import Call
from bpo_utils.chat.errors import Failure
from bpo_utils.chat.store import Damaged, DiskFull, Store
from bpo_utils.profile import Model

GPT = Model(name="GPT-4o", provider="openai", model="gpt-4o")
LONG = "some words " * 300  # so that a store of a few calls has many pages
PAGE = 4096


def call(question: str, sample: int = 0) -> Call:
    asked = wire.Request(GPT, question, sample=sample)
    return Call.of(wire.key(asked, wire.body(asked)), asked, wire.body(asked))


def fill(opened: Store, count: int, text: str = LONG) -> list[str]:
    """Answers to `count` questions, and one outcome; returns the keys of the answers."""
    made = [call(f"question {number} {LONG}") for number in range(count)]
    with opened.transaction() as db:
        for each in made:
            store.record(db, each.row(), 1.0)
            exchange.save_answer(db, each.key, asking.completion(f"{each.key} {text}"), 0.01, "online")
        refused = call("an evil question")
        store.record(db, refused.row(), 1.0)
        exchange.save_outcome(db, refused.key, "refused", "content_filter")
    return [each.key for each in made]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.sqlite"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store of 60 answers and one outcome, to be copied and damaged."""
    made = tmp_path_factory.mktemp("whole") / "calls.sqlite"
    with Store(made) as opened:
        fill(opened, 60)
    assert made.stat().st_size > 100 * PAGE
    return made


def test_what_was_committed_is_on_the_disk(path: Path):
    with Store(path) as opened:
        assert opened.rows("PRAGMA journal_mode") == [("wal",)]
        assert opened.rows("PRAGMA synchronous") == [(2,)]  # FULL


def test_a_transaction_is_all_or_nothing(path: Path):
    with Store(path) as opened:
        with pytest.raises(KeyboardInterrupt), opened.transaction() as db:
            store.record(db, call("hello").row(), 1.0)
            raise KeyboardInterrupt
        assert opened.rows("SELECT * FROM call") == []
        fill(opened, 1)
    with Store(path) as again:
        assert len(again.rows("SELECT * FROM call")) == 2


@pytest.mark.parametrize("text, finish", [("", "stop"), (None, "content_filter"), ("x", "sensitive"), (" ", "length")])
def test_what_is_no_answer_is_never_stored_as_one(path: Path, text: str | None, finish: str):
    with Store(path) as opened, pytest.raises(ValueError, match="which is not an answer"), opened.transaction() as db:
        exchange.save_answer(db, "key", asking.completion(text, finish), 0.0, "online")
    with Store(path) as opened, pytest.raises(ValueError, match="not a chat completion"), opened.transaction() as db:
        exchange.save_answer(db, "key", '{"error": {"message": "rate limit"}}', 0.0, "online")
    with Store(path) as opened:
        assert opened.known(["key"]) == {}


def test_an_answer_that_came_later_wins_over_an_outcome(path: Path):
    with Store(path) as opened:
        with opened.transaction() as db:
            exchange.save_outcome(db, "key", "empty", "")
            exchange.save_answer(db, "key", asking.completion("late"), 0.0, "batch")
            exchange.save_answer(db, "key", asking.completion("later"), 0.0, "online")  # the first answer stays
        assert (opened.known(["key"])["key"].outcome, opened.known(["key"])["key"].text) == ("answered", "late")


def test_a_call_of_unknown_end_counts_at_its_worst(path: Path):
    with Store(path) as opened:
        made = call("hello")
        with opened.transaction() as db:
            store.record(db, made.row(), 1.0)
            for number, batch in ((1, None), (2, None), (3, "b")):
                values = (number, made.key, 1.0, "sent", 0.5, batch)
                db.execute("INSERT INTO attempt(id, key, started, state, usd, batch) VALUES (?, ?, ?, ?, ?, ?)", values)
        assert opened.spent() == 1.5
        with opened.transaction() as db:
            store.end_attempt(db, 1, "failed", 0.0, Failure("retry", "x", "oops", 500, request_id="r"))
        assert opened.spent() == 1.0
        assert [row["id"] for row in opened.unsettled({made.key})] == [2]
        assert [row["id"] for row in opened.unsettled({made.key}, batched=True)] == [3]
        assert opened.unsettled({"another"}) == []
        assert opened.rows("SELECT state, http, code, request_id FROM attempt WHERE id = 1") == [
            ("failed", 500, "x", "r")
        ]


def test_one_alias_under_two_versions_is_noticed(path: Path):
    with Store(path) as opened:
        for question, served in (("a", "gpt-4o-2024-05-13"), ("b", "gpt-4o-2024-08-06"), ("c", "gpt-4o-2024-08-06")):
            with opened.transaction() as db:
                store.record(db, call(question).row(), 1.0)
                exchange.save_answer(db, call(question).key, asking.completion(model=served), 0.0, "online")
        assert opened.drift() == [("gpt-4o", ["gpt-4o-2024-05-13", "gpt-4o-2024-08-06"])]
        assert opened.output_tokens("gpt-4o") == (7.0, 3)
        assert opened.output_tokens("another") == (0.0, 0)


def test_many_may_make_one_store_at_the_same_time(tmp_path: Path):
    faults = []

    def make(path: Path, together: threading.Barrier) -> None:
        try:
            together.wait()
            with Store(path) as opened, opened.transaction() as db:
                store.record(db, call(threading.current_thread().name).row(), 1.0)
        except Exception as error:
            faults.append(error)

    for attempt in range(5):
        path, together = tmp_path / str(attempt) / "calls.sqlite", threading.Barrier(4)
        threads = [threading.Thread(target=make, args=(path, together), name=f"thread {n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        with Store(path) as opened:
            assert len(opened.rows("SELECT * FROM call")) == 4


def test_making_a_store_does_not_wait_for_the_one_who_sends_calls(path: Path):
    with store.lock(path).acquire(timeout=0):  # whoever made the store a moment earlier has it for a whole run
        started = time.monotonic()
        with Store(path) as opened:
            assert opened.known(["key"]) == {}
        assert time.monotonic() - started < 5


def test_a_store_can_be_read_while_another_process_writes(path: Path):
    with Store(path) as first:
        keys = fill(first, 1)
        with first.transaction() as db:
            exchange.save_answer(db, "half", asking.completion("half"), 0.0, "online")
            started = time.monotonic()
            with Store(path) as second:
                assert list(second.known([*keys, "half"])) == keys
            assert time.monotonic() - started < 5  # it did not wait for the lock


def test_ten_thousand_answered_calls_are_found_in_two_seconds(tmp_path: Path):
    asked = asking.questions(GPT, 10_000, word=f"question {LONG[:300]}")
    raw = asking.completion(LONG[:500])
    chosen = asking.calls(tmp_path)
    with Store(chosen.store) as opened, opened.transaction() as db:
        for key, each in zip(asking.keys(asked), asked, strict=True):
            store.record(db, Call.of(key, each, wire.body(each)).row(), 1.0)
            exchange.save_answer(db, key, raw, 0.0, "online")
    started = time.monotonic()
    assert len(chat.complete(asked, chosen)) == 10_000
    assert time.monotonic() - started < 2


def test_a_network_disk_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    mount = namedtuple("mount", "mountpoint fstype")
    found = [mount("/", "ext4"), mount(str(path.parent), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    with pytest.raises(OSError, match=r"lies on a network disk \(nfs4\).*set BPO_RUNS_DIR to a folder on a local disk"):
        Store(path)
    assert not path.exists()


def test_the_reserve_is_filled_before_and_a_full_disk_said_so(path: Path, monkeypatch: pytest.MonkeyPatch):
    with Store(path) as opened:
        opened.keep_reserve()
        assert opened.reserve.stat().st_size == store.RESERVE_BYTES
        opened.drop_reserve()
        assert not opened.reserve.exists()

        def full(target: Path, content: bytes) -> None:
            target.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFull, match="the disk is full; what was answered is stored. Free some space"):
            opened.keep_reserve()
        assert not opened.reserve.exists()  # half a reserve would take the last room


# Damage


def state(path: Path) -> dict[str, bytes]:
    """All files of a store that hold something; SQLite's -shm holds nothing, and is made again."""
    found = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    return {name: content for name, content in found.items() if content and not name.endswith("-shm")}


def overwritten(place: int, length: int, filler: bytes = b"\xa5"):
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(place if place >= 0 else path.stat().st_size + place)
            file.write(filler * length)

    return damage


def truncated(share: float):
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * share))

    return damage


def everywhere(path: Path) -> None:
    for page in range(5, path.stat().st_size // PAGE, 7):
        overwritten(page * PAGE, 64)(path)


DAMAGES = {  # how, and of 61 calls how many at least are still readable
    "header": (overwritten(0, 16), 61),
    "page size in the header": (overwritten(16, 2, b"\x00"), 61),
    "first page": (overwritten(0, PAGE), 61),
    "first page zeroed": (overwritten(0, PAGE, b"\x00"), 61),
    "a table's root": (overwritten(1 * PAGE, PAGE), 0),
    "a page in the middle": (overwritten(150 * PAGE, 64), 45),
    "many pages in the middle": (overwritten(100 * PAGE, 40 * PAGE, b"\x00"), 10),
    "every seventh page": (everywhere, 1),
    "the last page": (overwritten(-PAGE, PAGE), 50),
    "cut in half": (truncated(0.5), 10),
    "cut by an odd number of bytes": (truncated(0.9013), 40),
    "cut to one page": (truncated(PAGE / 10**9), 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_is_said_to_be_one_left_alone_and_saved_as_far_as_readable(
    name: str, path: Path, whole: Path, tmp_path: Path
):
    damage, least = DAMAGES[name]
    shutil.copyfile(whole, path)
    damage(path)
    before = state(path)
    with pytest.raises(OSError) as caught, Store(path) as opened:
        exchange.export(opened, tmp_path / "never.jsonl")
    assert str(caught.value).count("\n") == 0
    assert "damaged" in str(caught.value) and f"bpo calls salvage {path} FILE.jsonl" in str(caught.value)
    target = tmp_path / "elsewhere" / "saved.jsonl"
    try:
        saved, lost = exchange.salvage(path, target)
    except OSError as error:
        assert least == 0 and "nothing is readable; restore it from an export or a backup" in str(error)
        saved = 0
    else:
        assert least <= saved <= 61 and (saved == 61 or lost > 0), (saved, lost)
        with Store(tmp_path / "elsewhere" / "calls.sqlite") as fresh:
            assert exchange.load(fresh, target) == saved
            answers = fresh.rows("SELECT key, text FROM answer")
            assert all(text == f"{key} {LONG}" for key, text in answers)
            exchange.export(fresh, tmp_path / "elsewhere" / "again.jsonl")
        assert (tmp_path / "elsewhere" / "again.jsonl").read_bytes() == target.read_bytes()
    assert state(path) == before


def test_every_byte_of_damage_is_noticed_or_does_no_harm(path: Path, whole: Path, tmp_path: Path):
    """Whatever single page breaks: an error with advice, or answers that are right. Never a raw SQLite error."""
    with Store(whole) as opened:
        right = dict(opened.rows("SELECT key, text FROM answer"))
    for page in range(0, whole.stat().st_size // PAGE, 9):
        shutil.copyfile(whole, path)
        overwritten(page * PAGE + 8, 24, b"\xff")(path)
        try:
            with Store(path) as opened:
                found = opened.known(right)
                opened.spent()
        except Damaged:
            continue
        assert {key: len(each.text) for key, each in found.items()} == {key: len(right[key]) for key in found}


@pytest.mark.parametrize("content", [b"these are my notes, not a database\n" * 200, b"{}\n"])
def test_another_file_is_not_taken_for_a_store(path: Path, content: bytes, tmp_path: Path):
    path.write_bytes(content)
    with pytest.raises(Damaged, match="file is not a database"):
        Store(path)
    with pytest.raises(OSError, match="nothing is readable"):
        exchange.salvage(path, tmp_path / "saved.jsonl")
    assert state(path) == {path.name: content}


@pytest.mark.parametrize(
    "marks",
    [
        f"PRAGMA application_id={store.APPLICATION}; PRAGMA user_version={store.VERSION + 1}",
        "PRAGMA user_version=1",
        "SELECT 1",  # most programs set neither
    ],
)
def test_the_store_of_a_newer_version_or_of_another_program_is_left_alone(path: Path, marks: str):
    with sqlite3.connect(path) as db:
        db.executescript(f"CREATE TABLE notes(text); {marks};")
    db.close()
    before = state(path)
    with pytest.raises(ValueError, match="is not a store of calls of this version .* move it away"):
        Store(path)
    assert state(path) == before


def test_an_empty_file_becomes_a_store(path: Path):
    path.touch()
    with Store(path) as opened:
        assert len(fill(opened, 1)) == 1


def test_what_is_not_damage_is_not_called_damage(path: Path):
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(OSError, match="; check the folder, then run again") as caught:
        Store(path)
    assert not isinstance(caught.value, Damaged)


def test_the_journal_that_a_kill_left_is_read(path: Path, tmp_path: Path):
    with Store(path) as opened:
        opened.rows("PRAGMA wal_autocheckpoint=0")
        keys = fill(opened, 5)
        left = tmp_path / "left" / "calls.sqlite"
        left.parent.mkdir()
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", f"{left}{end}")  # what the disk has if the process ends here
    assert left.stat().st_size <= PAGE * 20 < Path(f"{left}-wal").stat().st_size
    assert exchange.salvage(left, tmp_path / "saved.jsonl") == (6, 0)
    with Store(left) as again:
        assert set(again.known(keys)) == set(keys)


def test_a_torn_end_of_the_journal_costs_only_what_was_not_committed(path: Path, tmp_path: Path):
    with Store(path) as opened:
        opened.rows("PRAGMA wal_autocheckpoint=0")
        keys = fill(opened, 5)
        left = tmp_path / "left" / "calls.sqlite"
        left.parent.mkdir()
        shutil.copyfile(path, left)
        whole_journal = Path(f"{path}-wal").read_bytes()
        Path(f"{left}-wal").write_bytes(whole_journal + whole_journal[:3000])
    with Store(left) as again:
        assert set(again.known(keys)) == set(keys)


# The file to share


def test_an_export_is_sorted_and_the_same_store_gives_the_same_bytes(path: Path, tmp_path: Path):
    with Store(path) as opened:
        fill(opened, 9)
        assert exchange.export(opened, tmp_path / "a.jsonl") == 10
        assert exchange.export(opened, tmp_path / "b.jsonl") == 10
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["key"] for entry in found] == sorted(entry["key"] for entry in found)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_an_imported_store_has_the_same_answers_for_nothing_and_exports_the_same_bytes(path: Path, tmp_path: Path):
    record, again = tmp_path / "record.jsonl", tmp_path / "again.jsonl"
    with Store(path) as first:
        keys = fill(first, 9, text='\u2028 é 你好 \x85 "quotes" \\ \x00 end')
        exchange.export(first, record)
        before = first.known(keys)
    with Store(tmp_path / "second" / "calls.sqlite") as second:
        assert exchange.load(second, record) == 10
        assert exchange.load(second, record) == 0
        assert second.spent() == 0.0
        assert exchange.export(second, again) == 10
        assert {
            key: (each.text, each.finish, each.outcome, each.model) for key, each in second.known(keys).items()
        } == {key: (each.text, each.finish, each.outcome, each.model) for key, each in before.items()}
        assert {each.source for each in second.known(keys).values()} == {"imported"}
    assert again.read_bytes() == record.read_bytes()


def test_an_import_overwrites_nothing(path: Path, tmp_path: Path):
    record = tmp_path / "record.jsonl"
    with Store(path) as first:
        keys = fill(first, 2, text="theirs")
        exchange.export(first, record)
    with Store(tmp_path / "second" / "calls.sqlite") as second:
        mine = fill(second, 1, text="mine")
        assert exchange.load(second, record) == 1
        assert second.known(mine)[mine[0]].text == f"{mine[0]} mine"
        assert len(second.known(keys)) == 2


def changed(line: str, **parts: object) -> str:
    return wire.canonical(json.loads(line) | parts)


@pytest.mark.parametrize(
    "edit, why",
    [
        (lambda line: line.replace("question 0", "question 9"), "this line was changed"),
        (lambda line: line.replace("some words", "some other", 1), "this line was changed"),
        (lambda line: changed(line, raw=asking.completion("[[A]]")), "this line was changed"),  # the answer
        (lambda line: changed(line, raw=asking.completion("")), "this line was changed"),
        (lambda line: changed(line, sample=1), "this line was changed"),
        (lambda line: changed(line, model="gpt-5"), "this line was changed"),
        (lambda line: changed(line, provider="zhipu"), "this line was changed"),
        (lambda line: changed(line, key="0" * 64), "this line was changed"),
        (lambda line: changed(line, raw="oops"), "this line was changed"),
        (lambda line: changed(line, sent=[]), "this line was changed"),
        (lambda line: line[: len(line) // 2], "not an exported call"),
        (lambda line: "[]", "not an exported call"),
        (lambda line: "null", "not an exported call"),
        (lambda line: "{}", "not an exported call"),
    ],
)
def test_an_edited_line_is_refused_with_its_number_and_nothing_is_imported(path: Path, tmp_path: Path, edit, why: str):
    record = tmp_path / "record.jsonl"
    with Store(path) as first:
        fill(first, 1)
        exchange.export(first, record)
    lines = record.read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if "question 0" in line)
    lines[place] = edit(lines[place])
    record.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with Store(tmp_path / "second" / "calls.sqlite") as second:
        with pytest.raises(ValueError, match=f"record.jsonl, line {place + 1}: {why}"):
            exchange.load(second, record)
        assert second.rows("SELECT count(*) FROM call") == [(0,)]
