"""Runs that are killed, interrupted, doubled, or meet a full disk or a jumping clock: nothing answered is lost, nothing
answered is asked again, the cap holds, and no key is written anywhere.
"""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asking
import chat_child
import fake_api
import pytest
from chat_child import Child
from fake_api import FakeApi

from bpo_utils import chat
from bpo_utils.chat import errors, exchange, wire
from bpo_utils.chat.store import DiskFull, Store
from bpo_utils.profile import Limits, Model

KILLS, CALLS, AT_ONCE = 50, 300, 4
FEW = {"concurrency_start": AT_ONCE, "concurrency_most": AT_ONCE}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with chat_child.running(OPENAI_API_KEY=asking.KEY, ZHIPUAI_API_KEY=asking.KEY) as made:
        yield made


@pytest.fixture(scope="module")
def other() -> Iterator[Child]:
    with chat_child.running(OPENAI_API_KEY=asking.KEY) as made:
        yield made


@pytest.fixture
def api(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    return asking.prepare(server, monkeypatch)


def run(folder: Path, model: Model, count: int = CALLS, **more: Any) -> dict[str, Any]:
    return {"folder": str(folder), "model": model.model_dump(), "count": count, "limits": FEW} | more


def rows(folder: Path, query: str) -> list[tuple]:
    with Store(folder / "calls.sqlite") as store:
        return store.rows(query)


def answers(folder: Path) -> dict[str, str]:
    return dict(rows(folder, "SELECT key, raw FROM answer")) if (folder / "calls.sqlite").exists() else {}


# Killed


@pytest.mark.parametrize("provider, recover", [("openai", True), ("openai", False), ("zhipuai", True)])
def test_killed_at_fifty_moments(api: FakeApi, child: Child, tmp_path: Path, provider: str, recover: bool):
    api.script(delay=0.005)
    model, draw, kept = asking.model(api, provider), random.Random(5), {}
    kills = KILLS if provider == "openai" else 10
    for _ in range(kills):
        moment = {draw.choice(("arrived", "answered")): draw.randint(0, 4)}
        before = api.stats()
        child.start(**run(tmp_path, model, recover=recover))
        api.wait(**{what: before[what] + count for what, count in moment.items()})
        assert child.end(signal.SIGKILL) == -signal.SIGKILL, "the run had ended before it was to be killed"
        api.wait(in_flight=0)
        found = answers(tmp_path)
        assert kept.items() <= found.items(), "an answer was lost or changed"
        kept = found
    child.start(**run(tmp_path, model, recover=recover))
    assert child.end() == 0
    stats, repeats = api.stats(), api.stats()["arrived"] - CALLS
    counts = f"{kills} kills, {len(stats['by_key'])} keys, {stats['arrived']} requests, {repeats} repeats"
    print(f"{provider}, recover={recover}: {counts}")
    assert kept.items() <= answers(tmp_path).items() and len(answers(tmp_path)) == CALLS == len(stats["by_key"]), counts
    if recover and provider == "openai":
        assert repeats == 0, counts
        assert rows(tmp_path, "SELECT count(*) > 50 FROM answer WHERE source = 'recovered'") == [(1,)], counts
    else:
        assert 0 < repeats <= kills * AT_ONCE, counts
    assert asking.billed(api) <= rows(tmp_path, "SELECT sum(usd) FROM attempt")[0][0] + 1e-9, counts
    asking_again = stats["arrived"]
    child.start(**run(tmp_path, model, recover=recover))
    assert child.end() == 0 and api.stats()["arrived"] == asking_again


def test_what_was_answered_is_not_asked_again_by_a_later_run(api: FakeApi, child: Child, tmp_path: Path):
    """The same, seen from each key: after its answer is in the store, no request for it arrives."""
    api.script(delay=0.005)
    draw = random.Random(9)
    model = asking.model(api)
    wanted = asking.questions(model, 60)
    kept: dict[str, int] = {}
    for _ in range(8):
        before = api.stats()["answered"]
        child.start(**run(tmp_path, model, count=60))
        api.wait(answered=before + draw.randint(1, 5))
        child.end(signal.SIGKILL)
        api.wait(in_flight=0)
        arrived = {tally["k"]: tally["arrived"] for tally in api.stats()["by_key"].values()}
        assert all(arrived[key] == count for key, count in kept.items())
        kept |= {key: arrived[key] for key in answers(tmp_path)}
    assert 8 <= len(kept) <= len(wanted)


def test_a_lost_refusal_is_found_again_and_a_wrong_model_is_not_taken(api: FakeApi, child: Child, tmp_path: Path):
    rules = [
        {"match": {"contains": "question 0"}, "do": "refusal", "delay": 30},
        {"match": {"contains": "question 1", "first_per_key": 1}, "do": "wrong_model", "delay": 30},
        {"match": {"contains": "question 2", "first_per_key": 1}, "do": "slow", "delay": 30},
    ]
    api.script(rules=rules)
    model = asking.model(api)
    child.start(**run(tmp_path, model, count=3))
    api.wait(arrived=3)
    child.end(signal.SIGKILL)
    api.wait(paid=3)
    replies = chat.complete(asking.questions(model, 3), asking.calls(tmp_path))
    assert [reply.outcome for reply in replies] == ["refused", "answered", "answered"]
    assert api.stats()["arrived"] == 4 and replies[1].model == "gpt-4o"
    assert rows(tmp_path, "SELECT state, count(*) FROM attempt GROUP BY state") == [
        ("answered", 1),
        ("maybe paid", 1),
        ("recovered", 2),
    ]


def test_lost_replies_of_other_calls_wait_for_the_run_that_wants_them(
    api: FakeApi, child: Child, tmp_path: Path, capsys: pytest.CaptureFixture
):
    api.script(rules=[{"match": {"api": "openai", "first_per_key": 1}, "do": "slow", "delay": 30}])
    child.start(**run(tmp_path, asking.model(api), count=3))
    api.wait(arrived=3)
    child.end(signal.SIGKILL)
    api.wait(paid=3)
    chat.complete(asking.questions(asking.model(api, "zhipu"), 2), asking.calls(tmp_path))
    assert "never heard of" not in capsys.readouterr().err
    chat.complete(asking.questions(asking.model(api), 3), asking.calls(tmp_path))
    assert api.stats()["arrived"] == 5


def test_a_look_up_that_fails_is_said_once_and_the_calls_are_asked_again(
    api: FakeApi, child: Child, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rules = [
        {"match": {"first_per_key": 1}, "do": "slow", "delay": 30},
        {"match": {"on": "stored"}, "do": "invalid_json"},
    ]
    api.script(rules=rules)
    child.start(**run(tmp_path, asking.model(api), count=3))
    api.wait(arrived=3)
    child.end(signal.SIGKILL)
    chat.complete(asking.questions(asking.model(api), 3), asking.calls(tmp_path))
    said = capsys.readouterr().err
    assert said.count("3 lost replies could not be looked up (") == 1
    assert (
        said.count("3 calls of an interrupted run were never heard of again: they may be paid twice, at most $0.00")
        == 1
    )
    assert api.stats()["arrived"] == 6


def test_recovery_of_many_lost_replies_does_not_take_long(api: FakeApi, tmp_path: Path):
    """As many as 32 at once leave behind: looked up side by side, written in one transaction."""
    asked = asking.questions(asking.model(api), 40)
    calls = asking.calls(tmp_path)
    chat.complete(asked, calls)
    with Store(calls.store) as store, store.transaction() as db:
        db.execute("DELETE FROM answer")
        db.execute("UPDATE attempt SET state = 'sent'")
    api.script(rules=[{"match": {"on": "stored"}, "do": "slow", "delay": 0.1}])
    started = time.monotonic()
    chat.complete(asked, calls)
    assert api.stats()["arrived"] == 40 and time.monotonic() - started < 40 * 0.1 / 2


# Two at once


def test_two_processes_do_not_pay_twice(api: FakeApi, child: Child, other: Child, tmp_path: Path):
    api.script(delay=0.02, rules=[{"match": {"nth": 1}, "do": "slow", "delay": 1}])  # the other one comes meanwhile
    model = asking.model(api)
    for each in (other, child):
        each.ready()
    for each in (other, child):
        each.start(**run(tmp_path, model, count=60))
    assert (child.end(), other.end()) == (0, 0)
    assert api.stats()["arrived"] == 60 == len(answers(tmp_path))
    assert api.stats()["max_in_flight"] <= AT_ONCE
    assert "another process is sending calls through" in (tmp_path / "said").read_text()


def test_the_second_process_goes_on_where_the_first_was_killed(
    api: FakeApi, child: Child, other: Child, tmp_path: Path
):
    api.script(delay=0.05)
    model = asking.model(api)
    other.ready()
    child.start(**run(tmp_path, model, count=60))
    api.wait(answered=1)
    other.start(**run(tmp_path, model, count=60, aloud=True))
    other.heard("another process is sending calls through")
    child.end(signal.SIGKILL)
    assert other.end() == 0
    assert api.stats()["arrived"] == 60 == len(answers(tmp_path))


# A full disk


def limited(monkeypatch: pytest.MonkeyPatch, pages: int, reserve: int) -> None:
    """The store may grow to so many pages; giving the reserve up makes room for more."""
    opened = Store.__init__

    def open_small(self: Store, path: Path) -> None:
        opened(self, path)
        self.rows(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Store, "__init__", open_small)
    monkeypatch.setattr(Store, "drop_reserve", lambda self: self.rows(f"PRAGMA max_page_count = {pages + reserve}"))


@pytest.mark.parametrize("provider", asking.PROVIDERS)
def test_a_full_disk_loses_nothing_that_was_paid_for(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
):
    api.script(reply="text:" + "many words " * 1000, delay=0.005)
    asked = asking.questions(asking.model(api, provider), 60)
    with monkeypatch.context() as patch:
        limited(patch, 200, 300)
        with pytest.raises(OSError) as caught:
            chat.complete(asked, asking.calls(tmp_path))
    assert str(caught.value).endswith("the disk is full; what was answered is stored. Free some space, then run again")
    paid, stored = api.stats()["paid"], len(answers(tmp_path))
    assert 10 < paid == stored < 60
    assert len(chat.complete(asked, asking.calls(tmp_path))) == 60
    assert api.stats()["arrived"] == 60


def test_a_disk_without_any_room_is_said_to_be_full_and_in_flight_is_all_that_is_lost(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second commit, after the reserve was given up, fails too."""
    api.script(reply="text:" + "many words " * 1000, delay=0.005)
    asked = asking.questions(asking.model(api), 60)
    with monkeypatch.context() as patch:
        limited(patch, 200, 0)
        with pytest.raises(DiskFull) as caught:
            chat.complete(asked, asking.calls(tmp_path, recover=False))
    assert "the disk is full" in str(caught.value) and "\n" not in str(caught.value)
    lost = api.stats()["paid"] - len(answers(tmp_path))
    assert 0 < lost <= 8
    with Store(tmp_path / "calls.sqlite") as store:
        assert asking.billed(api) <= store.spent() + 1e-12
    assert len(chat.complete(asked, asking.calls(tmp_path, recover=False))) == 60
    assert api.stats()["arrived"] == 60 + lost


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk; the other tests of a full disk limit the store's pages")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(api: FakeApi, small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    api.script(reply="text:" + "many words " * 8000, delay=0.005)
    asked = asking.questions(asking.model(api), 60)
    with pytest.raises(OSError, match="the disk is full; what was answered is stored"):
        chat.complete(asked, asking.calls(small_disk))
    paid = api.stats()["paid"]
    ends = rows(small_disk, "SELECT state, code, count(*) FROM attempt GROUP BY 1, 2")
    assert 10 < paid == len(answers(small_disk)) < 60, ends
    filler = small_disk / "somebody else's"
    with pytest.raises(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(2**16))
            file.flush()
    with pytest.raises(OSError, match="the disk is full"):  # no room for the reserve: nothing is sent at all
        chat.complete(asked, asking.calls(small_disk))
    assert api.stats()["paid"] == paid
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert len(chat.complete(asked, asking.calls(small_disk))) == 60
    assert api.stats()["arrived"] == 60


# A jumping clock


@pytest.mark.parametrize("provider", ["openai", "zhipuai"])
def test_a_clock_that_jumps_changes_nothing(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
):
    rules = [
        {"match": {"nth": 5}, "do": "rate_limit", "retry_after_date": 1},
        {"match": {"nth": 30}, "do": "rate_limit", "retry_after": 0.2},
        {"match": {"every": 7}, "do": "server_error"},
    ]
    api.script(rules=rules)
    draw, right = random.Random(3), time.time
    monkeypatch.setattr(time, "time", lambda: right() + draw.uniform(-1e9, 1e9))
    given = Limits(**asking.FREELY.model_dump() | {"requests_per_minute": 12_000, "tokens_per_minute": 10**6})
    started = time.monotonic()
    replies = chat.complete(asking.questions(asking.model(api, provider), 60), asking.calls(tmp_path, given))
    assert [reply.outcome for reply in replies] == ["answered"] * 60
    assert 0.2 < time.monotonic() - started < 6
    created = [at for (at,) in rows(tmp_path, "SELECT created FROM answer")]
    assert max(created) - min(created) > 1e8  # the clock did jump


# Ctrl-C


@pytest.mark.parametrize("provider", asking.PROVIDERS)
def test_ctrl_c_stores_what_is_in_flight_and_sends_nothing_new(
    api: FakeApi, child: Child, tmp_path: Path, provider: str
):
    api.script(delay=0.3)
    child.start(**run(tmp_path, asking.model(api, provider), count=40, aloud=True))
    api.wait(arrived=AT_ONCE)
    status = child.end(signal.SIGINT)
    child.heard("stopping: 4 running calls are waited for, no new ones sent; Ctrl-C again gives them up")
    child.heard("KeyboardInterrupt")
    assert status == 130
    assert api.stats()["arrived"] == api.stats()["answered"] == AT_ONCE == len(answers(tmp_path))
    assert rows(tmp_path, "SELECT count(*) FROM attempt WHERE state = 'sent'") == [(0,)]
    assert rows(tmp_path, "SELECT count(*) FROM attempt WHERE state = 'not sent' AND usd > 0") == [(0,)]


@pytest.mark.parametrize("provider", asking.PROVIDERS)
def test_a_second_ctrl_c_gives_up_at_once(api: FakeApi, child: Child, tmp_path: Path, provider: str):
    api.script(rules=[{"do": "hang"}])
    child.start(**run(tmp_path, asking.model(api, provider), count=40, aloud=True, timeout_s=60.0))
    api.wait(arrived=AT_ONCE)
    started = time.monotonic()
    chat_child.os.kill(child.pid, signal.SIGINT)
    child.heard("stopping: 4 running calls")
    assert child.end(signal.SIGINT) == 130
    assert time.monotonic() - started < 5
    child.heard("KeyboardInterrupt")
    assert rows(tmp_path, "SELECT count(*) FROM attempt WHERE state = 'sent' AND usd > 0")[0][0] >= AT_ONCE


WAITS = {
    "a pause": {"rules": [{"do": "rate_limit", "retry_after": 600}]},
    "the next try": {"rules": [{"do": "unavailable", "retry_after": 600}]},
    "requests per minute": {"limits": FEW | {"requests_per_minute": 1}},
    "tokens per minute": {"limits": FEW | {"tokens_per_minute": 100}},
}


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_ends_every_wait(api: FakeApi, child: Child, tmp_path: Path, name: str):
    given = dict(WAITS[name])
    api.script(rules=given.pop("rules", []))
    child.start(**run(tmp_path, asking.model(api), count=40, aloud=True, patience_s=900.0, **given))
    api.wait(arrived=1, in_flight=0)
    started = time.monotonic()
    assert child.end(signal.SIGINT) == 130
    assert time.monotonic() - started < 5
    child.heard("KeyboardInterrupt")
    assert api.stats()["arrived"] <= AT_ONCE


# Keys


def test_no_key_is_written_anywhere(api: FakeApi, child: Child, tmp_path: Path):
    """A server that repeats the key in errors, in answers and in headers; logs at DEBUG; tracebacks; an export."""
    said = f"your key is {asking.KEY}, Bearer {asking.KEY}"
    rules = [
        {"match": {"contains": "question 1"}, "do": "reply", "content": said},
        {"match": {"contains": "question 2"}, "do": "content_filter", "message": said},
        {"match": {"contains": "question 3"}, "do": "bad_request", "message": said},
        {"match": {"contains": "question 4"}, "do": "cut", "content": said},
        {"match": {"contains": "question 5"}, "do": "refusal", "refusal": said},
        {"match": {"contains": "question 6", "first_per_key": 1}, "do": "invalid_json", "content": said},
        {"match": {"contains": "question 7"}, "do": "slow", "delay": 30},
    ]
    for provider in asking.PROVIDERS:
        model = asking.model(api, provider)
        api.script(rules=[{"do": "slow", "headers": {"x-request-id": asking.KEY}}])  # the SDKs log these at DEBUG
        child.start(**run(tmp_path, model, count=1))
        assert child.end() == 0
        api.script(rules=rules)
        child.start(**run(tmp_path, model, count=10, debug=True, timeout_s=0.3))
        assert child.end() == chat_child.ENDS["Unfinished"]
        api.script(rules=[{"do": "echo_key"}])
        child.start(**run(tmp_path, model, count=10, debug=True))
        assert child.end() == chat_child.ENDS["Unfinished"]
        child.start(**run(tmp_path, model, count=10, debug=True, mode="replay"))
        child.end()
    with Store(tmp_path / "calls.sqlite") as store:
        assert exchange.export(store, tmp_path / "record.jsonl") > 9
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert written.keys() >= {"calls.sqlite", "said", "record.jsonl", "calls.sqlite.lock", "calls.sqlite.reserve"}
    assert b"DEBUG" in written["said"] and b"Traceback" in written["said"] and b"[key]" in written["said"]
    assert b"[key]" in written["record.jsonl"]
    found = {name: content.count(asking.KEY.encode()) for name, content in written.items()}
    assert not any(found.values()), found


# Money


@pytest.mark.parametrize("seed, recover", [(0, True), (1, False), (2, True)])
def test_a_budget_is_never_passed_whatever_fails(api: FakeApi, child: Child, tmp_path: Path, seed: int, recover: bool):
    faults = ("hang_after_work", "reset", "drop", "cut", "server_error", "rate_limit", "invalid_json", "empty")
    rules = [{"match": {"seeded_share": 0.06, "seed": 100 * seed + n}, "do": do} for n, do in enumerate(faults)]
    api.script(rules=rules, delay=0.003)
    model, draw = asking.model(api), random.Random(seed)
    cap = 100 * wire.worst_usage(asking.questions(model, 1)[0]).usd(asking.PRICE)
    given = run(tmp_path, model, recover=recover, max_usd=cap, timeout_s=0.25, limits={})
    for _ in range(4):
        before = api.stats()["arrived"]
        child.start(**given)
        api.wait(arrived=before + draw.randint(1, 9))
        assert child.end(signal.SIGKILL) == -signal.SIGKILL
    child.start(**given)
    assert child.end() == chat_child.ENDS["BudgetReached"], (tmp_path / "said").read_text()[-3000:]
    with Store(tmp_path / "calls.sqlite") as store:
        spent = store.spent()
    assert asking.billed(api) <= spent + 1e-9 and spent <= cap + 1e-9, (asking.billed(api), spent, cap)
    assert spent > cap / 2 and api.stats()["paid"] > 25


def test_the_cap_message_is_seen_and_not_a_group_of_exceptions(api: FakeApi, tmp_path: Path):
    api.script(delay=0.01)
    asked = asking.questions(asking.model(api), 40)
    cap = 10 * wire.worst_usage(asked[0]).usd(asking.PRICE)
    with pytest.raises(errors.BudgetReached) as caught:
        chat.complete(asked, asking.calls(tmp_path, max_usd=cap))
    assert json.dumps(str(caught.value)).isascii() and caught.value.__context__ is None
