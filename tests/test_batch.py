"""Batches of OpenAI and of Zhipu: both result files in every end state, never a second batch for the same calls."""

import json
import random
import signal
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
from bpo_utils.chat import batch, batch_lines, errors, wire
from bpo_utils.chat.store import Store
from bpo_utils.profile import Model

PROVIDERS = ("openai", "zhipu")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with chat_child.running(OPENAI_API_KEY=asking.KEY, ZHIPUAI_API_KEY=asking.KEY) as made:
        yield made


@pytest.fixture
def api(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    return asking.prepare(server, monkeypatch)


@pytest.fixture(params=PROVIDERS)
def model(request: pytest.FixtureRequest, api: FakeApi) -> Model:
    return asking.model(api, request.param)


def calls(folder: Path, **more: Any) -> chat.Calls:
    return asking.calls(folder, mode="batch", **more)


def ids(asked: list[wire.Request]) -> list[str]:
    """How the calls are named in a batch."""
    return [key[: batch_lines.ID_LETTERS] for key in asking.keys(asked)]


def rows(folder: Path, query: str) -> list[tuple]:
    with Store(folder / "calls.sqlite") as store:
        return store.rows(query)


def spent(folder: Path) -> float:
    return rows(folder, "SELECT total(usd) FROM attempt")[0][0]


def unfinished(asked: list[wire.Request], chosen: chat.Calls) -> str:
    with pytest.raises(errors.Unfinished) as caught:
        chat.complete(asked, chosen)
    assert type(caught.value) is errors.Unfinished and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_batch_answers_at_half_the_price(api: FakeApi, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture):
    asked = asking.questions(model, 7)
    replies = chat.complete(asked, calls(tmp_path))
    assert [reply.outcome for reply in replies] == ["answered"] * 7
    stats = api.stats()
    assert (stats["batched"], stats["arrived"], stats["endpoints"]["create"]) == (7, 0, 1)
    assert spent(tmp_path) == pytest.approx(7 * asking.USED.usd(model.price) / 2)
    said = capsys.readouterr().err
    assert "completed, 7 of 7" in said and "in_progress" in said
    assert rows(tmp_path, "SELECT DISTINCT source FROM answer") == [("batch",)]
    assert chat.complete(asked, asking.calls(tmp_path, mode="replay")) == replies
    assert chat.complete(asked, calls(tmp_path)) == replies and api.stats()["endpoints"]["create"] == 1


def test_what_a_batch_sends_is_what_is_sent_online(api: FakeApi, model: Model, tmp_path: Path):
    chat.complete(asking.questions(model, 3), calls(tmp_path / "batch"))
    batched = api.stats()["by_key"]
    chat.complete(asking.questions(model, 3), asking.calls(tmp_path / "online"))
    assert api.stats()["by_key"].keys() == batched.keys()  # the server's own keys of what arrived


@pytest.mark.parametrize("outcome", ["expired", "cancelled"])
def test_what_a_batch_did_before_it_ended_is_stored_and_the_rest_asked_again(
    api: FakeApi, model: Model, tmp_path: Path, outcome: str
):
    api.script(batch={"outcome": outcome})
    asked = asking.questions(model, 8)
    told = unfinished(asked, calls(tmp_path))
    assert told.startswith(f"4 of 8 calls have no answer: HTTP 500, batch_{outcome}: This request was not executed")
    assert told.endswith("Run again: batches that were made are fetched, what they left is asked once more")
    assert spent(tmp_path) == pytest.approx(4 * asking.USED.usd(model.price) / 2)
    api.script(batch={})
    assert len(chat.complete(asked, calls(tmp_path))) == 8
    assert api.stats()["batched"] == 8 and api.stats()["endpoints"]["create"] == 2


def test_a_batch_that_failed_says_why_and_costs_nothing(api: FakeApi, model: Model, tmp_path: Path):
    api.script(batch={"outcome": "failed"})
    told = unfinished(asking.questions(model, 3), calls(tmp_path))
    assert "token_limit_exceeded: Enqueued token limit reached" in told and told.startswith("3 of 3 calls")
    assert spent(tmp_path) == 0.0 and rows(tmp_path, "SELECT state FROM batch") == [("failed",)]


def test_errors_refusals_and_lines_that_are_missing(api: FakeApi, model: Model, tmp_path: Path):
    asked = asking.questions(model, 8)
    names = ids(asked)
    shapes = {names[1]: {"content": None, "finish_reason": "content_filter"}, names[2]: {"content": ""}}
    shapes[names[3]] = {"model": "another-model"}
    api.script(batch={"errors": {names[4]: 500, names[5]: 400}, "missing": [names[6]], "shapes": shapes})
    told = unfinished(asked, calls(tmp_path))
    assert told.startswith("4 of 8 calls have no answer: ")
    assert dict(rows(tmp_path, "SELECT kind, count(*) FROM outcome GROUP BY kind")) == {"refused": 1, "empty": 1}
    answered = {key for (key,) in rows(tmp_path, "SELECT key FROM answer")}
    assert answered == {asking.keys(asked)[0], asking.keys(asked)[7]}
    missing = wire.worst_usage(asked[6]).usd(model.price)  # paid for, perhaps
    assert spent(tmp_path) == pytest.approx((5 * asking.USED.usd(model.price) + missing) / 2)
    api.script(batch={})
    outcomes = [reply.outcome for reply in chat.complete(asked, calls(tmp_path))]
    assert outcomes == ["answered", "refused", "empty", *["answered"] * 5]
    assert api.stats()["batched"] == 5 + 4  # of the first batch those that cost something, and those asked again


def test_a_completed_batch_with_nothing_but_errors(api: FakeApi, model: Model, tmp_path: Path):
    """Its output file is null, and the error file is all there is."""
    asked = asking.questions(model, 3)
    api.script(batch={"errors": dict.fromkeys(ids(asked), 500)})
    told = unfinished(asked, calls(tmp_path))
    assert told.startswith("3 of 3 calls have no answer: HTTP 500") and "scripted" in told
    assert spent(tmp_path) == 0.0


def test_an_answer_may_hold_every_kind_of_line_end_and_half_an_emoji(api: FakeApi, model: Model, tmp_path: Path):
    text = "one\u2028two\x85three\x0bfour\r\nfive\ud83d"
    asked = asking.questions(model, 2)
    api.script(batch={"shapes": {ids(asked)[0]: {"content": text.replace("\ud83d", "")}}})
    assert chat.complete(asked, calls(tmp_path))[0].text == text[:-1]
    reply = asking.completion(text, model=model.model)
    line = {"custom_id": "k", "response": {"status_code": 200, "body": json.loads(reply)}}
    with Store(tmp_path / "other.sqlite") as store:
        with store.transaction() as db:
            db.execute("INSERT INTO attempt(key, started, state, usd, batch) VALUES ('k', 1, 'sent', 1, 'b')")
        assert batch_lines.settle(store, {"id": "b"}, ["{torn", json.dumps(line)], "completed", model) == [
            "a line of a result file is unreadable; it begins '{torn'"
        ]
        assert store.known(["k"])["k"].text == text[:-1] + "?"


def test_many_calls_are_many_batches_one_after_the_other(
    api: FakeApi, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch, "MOST_CALLS", 3)
    chat.complete(asking.questions(model, 8), calls(tmp_path))
    assert (api.stats()["endpoints"]["create"], api.stats()["batched"]) == (3, 8)


def test_two_models_wait_side_by_side_and_one_that_fails_does_not_keep_the_other(api: FakeApi, tmp_path: Path):
    api.script(rules=[{"match": {"on": "upload", "api": "zhipu"}, "do": "quota"}])
    asked = [each for provider in PROVIDERS for each in asking.questions(asking.model(api, provider), 3)]
    told = unfinished(asked, calls(tmp_path))
    assert told.startswith("3 of 6 calls have no answer: HTTP 429, 1113: the account is in arrears, top it up")
    assert api.stats()["batched"] == 3


def test_one_model_under_two_names_is_one_batch(api: FakeApi, tmp_path: Path):
    model = asking.model(api)
    other = model.model_copy(update={"name": "the judge"})
    asked = asking.questions(model, 3) + asking.questions(other, 3, word="another")
    assert len(chat.complete(asked, calls(tmp_path))) == 6
    assert (api.stats()["endpoints"]["create"], api.stats()["batched"]) == (1, 6)


# What is refused


def test_a_provider_without_batches_is_said_to_have_none(api: FakeApi, tmp_path: Path):
    asked = asking.questions(asking.model(api, "zhipuai"), 1)
    with pytest.raises(ValueError, match="zhipuai: no batches through provider 'zhipuai'; use openai or zhipu"):
        chat.complete(asked, calls(tmp_path))


@pytest.mark.parametrize("on", ["upload", "create"])
@pytest.mark.parametrize("fault, word", [("bad_request", "HTTP 400"), ("quota", "HTTP 429"), ("echo_key", "[key]")])
def test_a_batch_that_is_refused_costs_nothing_and_is_made_anew(
    api: FakeApi, model: Model, tmp_path: Path, on: str, fault: str, word: str
):
    api.script(rules=[{"match": {"on": on}, "do": fault}])
    asked = asking.questions(model, 3)
    told = unfinished(asked, calls(tmp_path))
    assert told.startswith("3 of 3 calls have no answer: HTTP 4") and word in told and asking.KEY not in told
    assert spent(tmp_path) == 0.0
    api.script(rules=[])
    assert len(chat.complete(asked, calls(tmp_path))) == 3
    assert api.stats()["batched"] == 3


def test_only_what_fits_under_the_cap_is_sent(api: FakeApi, model: Model, tmp_path: Path):
    asked = asking.questions(model, 8)
    cap = 5.5 * wire.worst_usage(asked[0]).usd(model.price) / 2
    with pytest.raises(errors.BudgetReached, match=r"3 calls did not fit under \$.*run again with a higher --max-usd"):
        chat.complete(asked, calls(tmp_path, max_usd=cap))
    assert api.stats()["batched"] == 5 and spent(tmp_path) <= cap
    with pytest.raises(errors.BudgetReached):
        chat.complete(asked, calls(tmp_path, max_usd=spent(tmp_path)))
    assert api.stats()["batched"] == 5
    assert len(chat.complete(asked, calls(tmp_path, max_usd=1.0))) == 8
    assert api.stats()["batched"] == 8


# What passes


@pytest.mark.parametrize("fault", ["server_error", "drop", "cut", "reset", "invalid_json", "hang_after_work"])
def test_faults_on_the_way_make_no_second_batch(api: FakeApi, model: Model, tmp_path: Path, fault: str):
    """Each thing that is asked of the service fails once, some after it was done."""
    asked_of = ["batches", "upload", "create", "batch", "content"]
    if fault == "invalid_json":
        asked_of.remove("content")  # a file is no JSON: half of it, as if it were all, cannot be told from a short one
    api.script(rules=[{"match": {"on": on}, "do": fault, "times": 1} for on in asked_of])
    asked = asking.questions(model, 4)
    assert len(chat.complete(asked, calls(tmp_path, timeout_s=0.15 if "hang" in fault else 5.0))) == 4
    stats = api.stats()
    assert stats["batched"] == 4 and stats["faults"][fault] == len(asked_of)
    assert spent(tmp_path) == pytest.approx(4 * asking.USED.usd(model.price) / 2)


def test_a_network_that_stays_away_leaves_the_batch_for_the_next_run(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"on": "batch"}, "do": "server_error"}])
    asked = asking.questions(model, 4)
    told = unfinished(asked, calls(tmp_path, tries=3))
    assert told.startswith("4 of 4 calls have no answer: HTTP 500")
    assert spent(tmp_path) == pytest.approx(4 * wire.worst_usage(asked[0]).usd(model.price) / 2)  # it goes on there
    api.script(rules=[])
    assert len(chat.complete(asked, calls(tmp_path))) == 4
    assert (api.stats()["endpoints"]["create"], api.stats()["batched"]) == (1, 4)


def test_a_result_file_that_is_gone_does_not_hold_its_calls_for_ever(
    api: FakeApi, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture
):
    api.script(rules=[{"match": {"on": "content"}, "do": "not_found", "times": 1}])
    asked = asking.questions(model, 4)
    unfinished(asked, calls(tmp_path))
    assert "is gone (HTTP 404" in capsys.readouterr().err
    assert spent(tmp_path) == pytest.approx(4 * wire.worst_usage(asked[0]).usd(model.price) / 2)  # paid, perhaps
    assert len(chat.complete(asked, calls(tmp_path))) == 4


def test_online_calls_say_that_the_same_ones_wait_in_a_batch(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture
):
    api.script(rules=[{"match": {"on": "batch"}, "do": "server_error"}])
    asked = asking.questions(asking.model(api), 4)
    unfinished(asked, calls(tmp_path, tries=1))
    chat.complete(asked[:3], asking.calls(tmp_path))
    assert "3 of these calls wait in a batch; now they are asked, and paid, once more" in capsys.readouterr().err
    api.script(rules=[])
    first = rows(tmp_path, "SELECT key, raw FROM answer ORDER BY key")
    assert len(chat.complete(asked, calls(tmp_path))) == 4
    assert set(first) <= set(rows(tmp_path, "SELECT key, raw FROM answer"))  # the first answer stays
    assert api.stats()["endpoints"]["create"] == 1


# Killed and interrupted


def run(folder: Path, model: Model, count: int, **more: Any) -> dict[str, Any]:
    return {"folder": str(folder), "model": model.model_dump(), "count": count, "mode": "batch"} | more


STAGES = {  # where the server holds the run up, and what it has done by then
    "while its name is looked up": {"on": "batches", "do": "slow"},
    "while uploading": {"on": "upload", "do": "slow"},
    "after uploading, before the id came": {"on": "upload", "do": "hang_after_work"},
    "while creating": {"on": "create", "do": "hang"},
    "after creating, before the id came": {"on": "create", "do": "hang_after_work"},
    "while polling": {"on": "batch", "do": "slow"},
    "while fetching": {"on": "content", "do": "hang_after_work"},
}


@pytest.mark.parametrize("name", STAGES)
def test_a_batch_is_resumed_wherever_its_run_was_killed(
    api: FakeApi, child: Child, model: Model, tmp_path: Path, name: str
):
    stage = dict(STAGES[name])
    api.script(rules=[{"match": {"on": stage.pop("on")}, "times": 1, "delay": 30 * (stage["do"] == "slow")} | stage])
    child.start(**run(tmp_path, model, 5))
    held_up(api)
    assert child.end(signal.SIGKILL) == -signal.SIGKILL
    api.wait(in_flight=0)
    assert rows(tmp_path, "SELECT count(*) FROM batch") == [(1,)]
    child.start(**run(tmp_path, model, 5))
    assert child.end() == 0, (tmp_path / "said").read_text()
    stats = api.stats()
    assert stats["batched"] == 5 and rows(tmp_path, "SELECT count(*) FROM batch") == [(1,)]
    assert spent(tmp_path) == pytest.approx(5 * asking.USED.usd(model.price) / 2)


def held_up(api: FakeApi) -> None:
    """Wait until the server has applied its rule, and holds the request."""
    while True:
        stats = api.stats()
        if stats["faults"] and stats["in_flight"]:
            return


def test_killed_at_seeded_moments_there_is_never_a_second_batch(
    api: FakeApi, child: Child, model: Model, tmp_path: Path
):
    draw = random.Random(4)
    api.script(batch={"hold": 30})
    kills = 0
    for _ in range(12):
        before = sum(api.stats()["endpoints"].values())
        child.start(**run(tmp_path, model, 20))
        least = before + draw.randint(0, 6)
        while sum(api.stats()["endpoints"].values()) < least:
            pass
        kills += child.end(signal.SIGKILL) == -signal.SIGKILL
    child.start(**run(tmp_path, model, 20))
    assert child.end() == 0, (tmp_path / "said").read_text()
    assert kills >= 8 and (api.stats()["batched"], api.stats()["endpoints"]["create"]) == (20, 1)


def test_two_processes_make_one_batch(api: FakeApi, child: Child, tmp_path: Path):
    """The second one waits for the lock, and then finds everything answered."""
    api.script(batch={"hold": 20})
    with chat_child.running(OPENAI_API_KEY=asking.KEY) as other:
        other.ready()
        child.start(**run(tmp_path, asking.model(api), 20, poll_s=0.05))
        while not api.stats()["endpoints"].get("create"):
            pass
        other.start(**run(tmp_path, asking.model(api), 20, aloud=True))
        other.heard("another process is sending calls through")
        assert (child.end(), other.end()) == (0, 0)
    assert (api.stats()["batched"], api.stats()["endpoints"]["create"]) == (20, 1)


def test_ctrl_c_leaves_the_batch_to_the_provider(api: FakeApi, child: Child, model: Model, tmp_path: Path):
    api.script(batch={"hold": 10**6})
    child.start(**run(tmp_path, model, 5, aloud=True, poll_s=60.0))
    child.heard("in_progress")
    status = child.end(signal.SIGINT)
    child.heard("the batches go on at the provider; run again to fetch their answers")
    child.heard("KeyboardInterrupt")
    assert status == 130
    api.script(batch={})
    held = api.stats()["endpoints"]["create"]
    child.start(**run(tmp_path, model, 5))
    while api.stats()["endpoints"]["batch"] < 5:
        pass
    child.end(signal.SIGKILL)
    assert api.stats()["endpoints"]["create"] == held == 1
