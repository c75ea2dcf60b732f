"""Calls with the real SDKs to a server that misbehaves: what is stored, what is counted, what is said."""

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import asking
import fake_api
import pytest
from fake_api import FakeApi

from bpo_utils import chat
from bpo_utils.chat import engine, errors, limits, wire
from bpo_utils.chat.store import Store
from bpo_utils.profile import Limits, Model, Price

FIRST = {"first_per_key": 1}
SHORT = 0.3  # seconds, for calls that are not to be answered


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture
def api(server: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    return asking.prepare(server, monkeypatch)


@pytest.fixture(params=asking.PROVIDERS)
def model(request: pytest.FixtureRequest, api: FakeApi) -> Model:
    return asking.model(api, request.param)


def rows(folder: Path, query: str) -> list[tuple]:
    with Store(folder / "calls.sqlite") as store:
        return store.rows(query)


def states(folder: Path) -> dict[str, int]:
    return dict(rows(folder, "SELECT state, count(*) FROM attempt GROUP BY state"))


def unfinished(asked: list[wire.Request], calls: chat.Calls) -> str:
    """The one sentence that a user sees."""
    with pytest.raises(errors.Unfinished) as caught:
        chat.complete(asked, calls)
    assert type(caught.value) is errors.Unfinished and "\n" not in str(caught.value)
    return str(caught.value)


# What goes well


def test_calls_are_answered_once_and_for_all(api: FakeApi, model: Model, tmp_path: Path):
    asked = asking.questions(model, 12)
    first = chat.complete(asked, asking.calls(tmp_path))
    assert [reply.outcome for reply in first] == ["answered"] * 12
    assert len({reply.text for reply in first}) == 12
    assert [reply.key for reply in first] == asking.keys(asked)
    assert chat.complete(asked[::-1], asking.calls(tmp_path)) == first[::-1]
    stats = api.stats()
    assert (stats["arrived"], stats["answered"]) == (12, 12)
    assert states(tmp_path) == {"answered": 12}
    assert rows(tmp_path, "SELECT sum(usd) FROM attempt")[0][0] == pytest.approx(asking.billed(api))
    assert rows(tmp_path, "SELECT DISTINCT length(request_id) > 0, http FROM attempt") == [(1, 200)]


def test_what_arrives_is_what_was_hashed(api: FakeApi, model: Model, tmp_path: Path):
    """zhipuai's own `create` would send temperature 0.01, do_sample and nulls."""
    asked = wire.Request(model, "hello", temperature=0.0, top_p=1.0, max_tokens=9, seed=1, system="be brief")
    chat.complete([asked], asking.calls(tmp_path))
    (body,) = api.stats()["bodies"]
    kept = {"store": True, "metadata": {"k": asking.keys([asked])[0]}} if model.provider == "openai" else {}
    assert body == wire.body(asked) | kept


def test_replies_are_not_kept_at_the_provider_if_that_is_not_wanted(api: FakeApi, tmp_path: Path):
    asked = asking.questions(asking.model(api), 1)
    chat.complete(asked, asking.calls(tmp_path, recover=False))
    assert api.stats()["bodies"] == [wire.body(asked[0])] and api.stats()["stored"] == 0


def test_equal_requests_are_one_call_and_samples_are_not(api: FakeApi, model: Model, tmp_path: Path):
    asked = asking.questions(model, 1) * 20 + asking.questions(model, 1, sample=1)
    replies = chat.complete(asked, asking.calls(tmp_path))
    assert api.stats()["arrived"] == 2
    assert len(replies) == 21 and len(set(replies[:20])) == 1 and replies[20].key != replies[0].key


def test_two_callers_in_one_process_share_their_calls(api: FakeApi, tmp_path: Path):
    api.script(delay=0.05)
    asked, found = asking.questions(asking.model(api), 8), []
    work = [
        threading.Thread(target=lambda: found.append(chat.complete(asked, asking.calls(tmp_path)))) for _ in range(3)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 3 and found[0] == found[1] == found[2]
    assert api.stats()["arrived"] == 8


def test_calls_work_where_an_event_loop_is_running_already(api: FakeApi, model: Model, tmp_path: Path):
    async def cell() -> list:  # as ipykernel runs a notebook's cell
        return chat.complete(asking.questions(model, 3), asking.calls(tmp_path))

    assert [reply.outcome for reply in asyncio.run(cell())] == ["answered"] * 3


def test_nothing_to_ask_needs_no_key_no_price_and_no_network(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = asking.questions(asking.model(api, price=None, name="priceless"), 2)
    before = chat.complete(asked, asking.calls(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert chat.complete(asked, asking.calls(tmp_path, max_usd=0.0)) == before
    assert chat.complete([], asking.calls(tmp_path)) == []


def test_two_models_at_once_each_with_its_own_limits(api: FakeApi, tmp_path: Path):
    api.script(rules=[{"match": {"api": "zhipu"}, "do": "quota"}])
    asked = [asked for name in asking.PROVIDERS for asked in asking.questions(asking.model(api, name), 5)]
    told = unfinished(asked, asking.calls(tmp_path))
    assert told.startswith(
        "10 of 15 calls have no answer: zhipu glm-4-flash: HTTP 429, 1113: the account is in arrears"
    )
    assert len(rows(tmp_path, "SELECT key FROM answer")) == 5


def test_a_server_of_ones_own_needs_no_key_and_may_name_its_model_as_it_likes(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("BPO_COMPATIBLE_API_KEY", raising=False)
    api.script(rules=[{"do": "wrong_model"}])
    own = Model(name="own", provider="compatible", model="llama", base_url=api.url)
    (reply,) = chat.complete(asking.questions(own, 1), asking.calls(tmp_path))
    assert (reply.outcome, reply.model) == ("answered", "another-model-2026")


# What is refused before anything is sent


@pytest.mark.parametrize(
    "given, unset, told",
    [
        ({"mode": "offline"}, "", "calls 'offline': there are online, batch, replay"),
        (
            {"max_usd": 1.0},
            "",
            "no price is known for openai, so a cap of \\$1 cannot be kept; write it into the profile",
        ),
        ({}, "OPENAI_API_KEY", "openai: set OPENAI_API_KEY to your key of openai, in the shell that starts bpo"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, unset: str, told: str
):
    monkeypatch.delenv(unset, raising=False)
    asked = asking.questions(asking.model(api, price=None, name="priceless"), 2)
    with pytest.raises(ValueError, match=told):
        chat.complete(asked, asking.calls(tmp_path, **given))
    assert api.stats()["arrived"] == 0


# What passes: every first attempt of a call fails, the second one is answered

PASSING = {
    "rate_limit": {"do": "rate_limit"},
    "rate_limit with Retry-After": {"do": "rate_limit", "retry_after": 0.05},
    "rate_limit with retry-after-ms": {"do": "rate_limit", "retry_after_ms": 50},
    "rate_limit with a date that is past": {"do": "rate_limit", "retry_after_date": -5},
    "overload": {"do": "overload"},
    "server_error": {"do": "server_error"},
    "unavailable with Retry-After": {"do": "unavailable", "retry_after": 0.05},
    "drop": {"do": "drop"},
    "cut": {"do": "cut"},
    "reset": {"do": "reset"},
    "invalid_json": {"do": "invalid_json"},
    "no_choices": {"do": "no_choices"},
    "empty": {"do": "empty"},
    "null": {"do": "null"},
    "hang": {"do": "hang"},
    "hang_after_work": {"do": "hang_after_work"},
}
PAID = {"drop", "cut", "reset", "invalid_json", "no_choices", "empty", "null", "hang_after_work"}
UNKNOWN = PAID - {"empty", "null"} | {"hang"}  # what we must take for paid: no usage came


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(api: FakeApi, tmp_path: Path, name: str):
    """Through all three clients at once: each has limits and connections of its own."""
    api.script(rules=[PASSING[name] | {"match": FIRST}])
    asked = [
        each for provider in asking.PROVIDERS for each in asking.questions(asking.model(api, provider), 3, provider)
    ]
    three = Limits(**asking.FREELY.model_dump() | {"concurrency_start": 3})
    replies = chat.complete(asked, asking.calls(tmp_path, three, timeout_s=SHORT if "hang" in name else 5.0))
    assert [reply.outcome for reply in replies] == ["answered"] * 9
    stats = api.stats()
    assert (stats["arrived"], stats["answered"]) == (18, 18 if name in ("empty", "null", "no_choices") else 9)
    assert {tally["arrived"] for tally in stats["by_key"].values()} == {2}
    assert stats["paid"] == (18 if name in PAID else 9)
    assert states(tmp_path) == {"answered": 9, "maybe paid" if name in UNKNOWN else "failed": 9}
    with Store(tmp_path / "calls.sqlite") as store:
        assert asking.billed(api) <= store.spent() + 1e-12
    assert all(text.startswith("reply to") for (text,) in rows(tmp_path, "SELECT text FROM answer"))


def test_connections_that_the_server_closes_are_no_failures(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"do": "slow", "headers": {"Connection": "close"}}])
    chat.complete(asking.questions(model, 20), asking.calls(tmp_path))
    assert states(tmp_path) == {"answered": 20}


def test_a_call_that_may_have_been_paid_for_twice_is_given_up(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"contains": "question 1"}, "do": "reset"}])
    told = unfinished(asking.questions(model, 3), asking.calls(tmp_path))
    assert re.match(r"1 of 3 calls have no answer: \w+Error: the connection broke", told)
    assert told.endswith("The others are stored: run again to go on")
    assert api.stats()["arrived"] == 4 and states(tmp_path) == {"answered": 2, "maybe paid": 2}


def test_an_empty_reply_is_asked_for_once_more_and_then_is_an_outcome(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"contains": "question 1"}, "do": "empty"}])
    asked = asking.questions(model, 3)
    assert [reply.outcome for reply in chat.complete(asked, asking.calls(tmp_path))] == [
        "answered",
        "empty",
        "answered",
    ]
    chat.complete(asked, asking.calls(tmp_path))
    assert api.stats()["arrived"] == 4


def test_tries_are_counted(api: FakeApi, tmp_path: Path):
    api.script(rules=[{"match": {"contains": "question 1"}, "do": "server_error"}])
    told = unfinished(asking.questions(asking.model(api), 3), asking.calls(tmp_path, tries=3))
    assert "1 of 3 calls have no answer: HTTP 500, server_error: server error." in told
    assert api.stats()["arrived"] == 5


def test_a_server_that_is_not_there_is_said_not_to_be(tmp_path: Path, api: FakeApi, model: Model):
    nowhere = model.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    told = unfinished(asking.questions(nowhere, 2), asking.calls(tmp_path, tries=2))
    assert re.match("2 of 2 calls have no answer: (ClientConnectorError|ConnectError): no connection [(]", told)
    assert states(tmp_path) == {"failed": 4} and rows(tmp_path, "SELECT sum(usd) FROM attempt") == [(0.0,)]


# What stops a provider

STOPPING = {
    "quota": (
        {"do": "quota"},
        "HTTP 429, insufficient_quota: the quota is used up, add credit or raise the account's limit (quota)",
        "HTTP 429, 1113: the account is in arrears, top it up (您的账户已欠费，请充值后重试)",
    ),
    "unauthorized": (
        {"do": "unauthorized"},
        "HTTP 401, invalid_api_key: the key is wrong (unauthorized)",
        "HTTP 401, 1000: the key is wrong (身份验证失败)",
    ),
    "echo_key": (
        {"do": "echo_key"},
        "HTTP 401, invalid_api_key: the key is wrong (Incorrect API key provided: Bearer [key])",
        "HTTP 401, 1000: the key is wrong (Incorrect API key provided: Bearer [key])",
    ),
    "no_model": (
        {"do": "no_model"},
        "HTTP 404, model_not_found: the model is not served to this key (no model)",
        "HTTP 400, 1211: there is no such model (模型不存在，请检查模型代码)",
    ),
    "1304": ({"do": "1304"}, "HTTP 429, 1304: API 调用错误", "HTTP 429, 1304: API 调用错误"),
    "wrong_model": (
        {"do": "wrong_model"},
        "HTTP 200, wrong_model: asked for gpt-4o, another-model-2026 answered; nothing of it is stored",
        "HTTP 200, wrong_model: asked for glm-4-flash, another-model-2026 answered; nothing of it is stored",
    ),
    "Retry-After of ten minutes": (
        {"do": "rate_limit", "retry_after": 601},
        "the server asks to wait 10 minutes; run again after that",
        "the server asks to wait 10 minutes; run again after that",
    ),
    "Retry-After as a date in ten minutes": (
        {"do": "unavailable", "retry_after_date": 600},
        "the server asks to wait 10 minutes; run again after that",
        "the server asks to wait 10 minutes; run again after that",
    ),
}


@pytest.mark.parametrize("name", STOPPING)
def test_what_no_waiting_helps_against_stops_the_provider_at_once(
    api: FakeApi, model: Model, tmp_path: Path, name: str
):
    rule, *sentences = STOPPING[name]
    sentence = sentences[model.provider != "openai"]
    api.script(rules=[rule])
    asked = asking.questions(model, 16)
    told = unfinished(asked, asking.calls(tmp_path, patience_s=500.0))
    assert told == (
        f"16 of 16 calls have no answer: {model.provider} {model.model}: {sentence}. The others are stored: run again "
        "to go on"
    )
    sent = api.stats()["arrived"]
    assert 1 <= sent <= 8  # those in flight at once, and none a second time
    counted = states(tmp_path)
    assert counted.pop("failed") == sent and set(counted) <= {"not sent"}
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM answer) + (SELECT count(*) FROM outcome)") == [(0,)]
    api.script(rules=[])
    assert len(chat.complete(asked, asking.calls(tmp_path))) == 16
    assert api.stats()["arrived"] == sent + 16


def test_what_was_answered_before_a_stop_stays_answered(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"nth": 20}, "do": "quota"}], delay=0.005)
    asked = asking.questions(model, 60)
    told = unfinished(asked, asking.calls(tmp_path))
    stored = len(rows(tmp_path, "SELECT key FROM answer"))
    assert told.startswith(f"{60 - stored} of 60 calls") and 19 <= stored <= 27
    chat.complete(asked, asking.calls(tmp_path))
    assert api.stats()["arrived"] == 61


# What is wrong with one question


@pytest.mark.parametrize(
    "fault, outcome",
    [("too_long", "too_long"), ("content_filter", "refused")],
)
def test_a_refusal_is_an_outcome_of_its_own_and_not_asked_again(
    api: FakeApi, model: Model, tmp_path: Path, fault: str, outcome: str
):
    api.script(rules=[{"match": {"contains": "question 1"}, "do": fault}])
    asked = asking.questions(model, 3)
    for _ in range(2):
        replies = chat.complete(asked, asking.calls(tmp_path))
        assert [reply.outcome for reply in replies] == ["answered", outcome, "answered"]
    assert replies[1].text == ""
    assert api.stats()["arrived"] == 3
    with Store(tmp_path / "calls.sqlite") as store:
        assert store.spent() <= asking.billed(api) + 1e-12  # what was billed for a refusal, and not more


@pytest.mark.parametrize("provider, shape", [("openai", "refusal"), ("zhipu", "sensitive"), ("zhipuai", "sensitive")])
def test_a_model_that_declines_refuses(api: FakeApi, tmp_path: Path, provider: str, shape: str):
    half = {"do": "reply", "content": "half of", "finish_reason": shape}  # Zhipu's filter on its own output
    api.script(rules=[{"do": shape} if shape == "refusal" else half])
    for _ in range(2):
        (reply,) = chat.complete(asking.questions(asking.model(api, provider), 1), asking.calls(tmp_path))
        assert (reply.outcome, reply.text) == ("refused", "")
    assert api.stats()["arrived"] == 1


def test_a_cut_answer_is_an_answer_that_says_so(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"do": "length"}])
    (reply,) = chat.complete(asking.questions(model, 1), asking.calls(tmp_path))
    assert (reply.outcome, reply.finish) == ("answered", "length")


def test_a_faulty_question_does_not_keep_the_others(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"contains": "question 1"}, "do": "bad_request"}])
    told = unfinished(asking.questions(model, 9), asking.calls(tmp_path))
    assert told.startswith("1 of 9 calls have no answer: HTTP 400, ")
    assert api.stats()["arrived"] == 9 and len(rows(tmp_path, "SELECT key FROM answer")) == 8


# How fast


def test_concurrency_grows_while_the_server_bears_it_and_no_further_than_allowed(api: FakeApi, tmp_path: Path):
    api.script(delay=0.1)  # long enough for a busy machine to send 13 calls before the first reply
    given = Limits(**asking.FREELY.model_dump() | {"concurrency_start": 2, "concurrency_most": 13})
    chat.complete(asking.questions(asking.model(api), 100), asking.calls(tmp_path, given))
    assert api.stats()["max_in_flight"] == 13


@pytest.mark.parametrize("provider", asking.PROVIDERS)
def test_concurrency_backs_off_to_what_the_server_bears(
    api: FakeApi, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limits, "COOLDOWN_S", 0.3)  # longer than a busy machine needs to be done with the burst before
    # Replies take so long that a busy machine sends a whole burst, and hears the first complaint, while they are made.
    api.script(delay=0.1, rules=[{"do": "concurrency", "limit": 4}])
    given = Limits(**asking.FREELY.model_dump() | {"concurrency_start": 2, "concurrency_most": 32})
    asked = asking.questions(asking.model(api, provider), 80)
    assert len(chat.complete(asked, asking.calls(tmp_path, given))) == 80
    stats = api.stats()
    assert 4 < stats["max_in_flight"] <= 8  # doubled from 2 to 4 and 8, and no further
    assert stats["faults"]["concurrency"] <= 8  # those of one burst, or of two; not one for every other call


def test_everyone_waits_for_as_long_as_the_server_says(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"match": {"nth": 3}, "do": "rate_limit", "retry_after": 0.4}], delay=0.05)
    chat.complete(asking.questions(model, 20), asking.calls(tmp_path))
    times = api.stats()["times"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len([gap for gap in gaps if gap > 0.25]) == 1
    assert max(gaps) >= 0.4 - 0.06  # from when the refusal was on its way


def test_requests_per_minute_are_kept(api: FakeApi, tmp_path: Path):
    given = Limits(**asking.FREELY.model_dump() | {"requests_per_minute": 240})  # 20 at once, then 221 in a minute
    chat.complete(asking.questions(asking.model(api), 24), asking.calls(tmp_path, given))
    times = [at - api.stats()["times"][0] for at in api.stats()["times"]]
    slack = 0.15  # the first one, from which we count, may have been on its way for so long
    assert times[19] < 0.7
    assert all(times[20 + n] >= (n + 1) * 60 / 221 - slack for n in range(4)), times[19:]
    assert times[23] < 2.5


def test_tokens_per_minute_are_kept_and_what_was_not_used_is_given_back(api: FakeApi, tmp_path: Path):
    given = Limits(**asking.FREELY.model_dump() | {"tokens_per_minute": 60_000})  # 5000 at once, then 917 a second
    asked = asking.questions(asking.model(api), 12, max_tokens=1000)  # 12,000 are reserved, about 200 used
    chat.complete(asked, asking.calls(tmp_path, given))
    times = api.stats()["times"]
    assert times[-1] - times[0] < 3  # without the refund: 8 s


def test_ten_failures_in_a_row_pause_with_one_clear_sentence(
    api: FakeApi, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture
):
    api.script(rules=[{"do": "server_error", "times": 10}])
    asked = asking.questions(model, 12)
    one = Limits(
        **asking.FREELY.model_dump() | {"concurrency_start": 1, "concurrency_most": 1}
    )  # so that replies keep order
    chat.complete(asked, asking.calls(tmp_path, one))
    told = [line for line in capsys.readouterr().err.splitlines() if "in a row" in line]
    assert len(told) == 1
    assert told[0].endswith("; pausing 0.2 s, then one call will tell")
    assert told[0].startswith(f"{model.provider} {model.model}: 10 failures in a row, the last HTTP 500")
    times = api.stats()["times"]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.15


def test_still_failing_after_the_pause_ends_the_run(api: FakeApi, model: Model, tmp_path: Path):
    api.script(rules=[{"do": "server_error"}])
    told = unfinished(asking.questions(model, 50), asking.calls(tmp_path))
    assert told.startswith(
        f"50 of 50 calls have no answer: {model.provider} {model.model}: still failing after a pause ("
    )
    assert api.stats()["arrived"] <= 10 + 8 + 1


# Money


def test_the_cap_is_never_passed_and_what_it_leaves_goes_on_with_a_higher_one(
    api: FakeApi, model: Model, tmp_path: Path
):
    asked = asking.questions(model, 20)
    cap = 3.5 * wire.worst_usage(asked[0]).usd(model.price)
    with pytest.raises(errors.BudgetReached) as caught:
        chat.complete(asked, asking.calls(tmp_path, max_usd=cap))
    stored = len(rows(tmp_path, "SELECT key FROM answer"))
    assert 3 < stored < 20
    assert str(caught.value).startswith(f"{stored} of 20 calls are answered now. $")
    assert "run again with a higher --max-usd to go on" in str(caught.value) and "\n" not in str(caught.value)
    with Store(tmp_path / "calls.sqlite") as store:
        assert asking.billed(api) <= store.spent() + 1e-12 <= cap
        assert set(states(tmp_path)) <= {"answered"}
    with pytest.raises(errors.BudgetReached):  # the cap holds for the store, not for each run
        chat.complete(asked, asking.calls(tmp_path, max_usd=cap))
    assert api.stats()["arrived"] == stored
    chat.complete(asked, asking.calls(tmp_path, max_usd=10.0))
    assert api.stats()["arrived"] == 20


def test_a_cap_below_the_first_call_sends_nothing(api: FakeApi, model: Model, tmp_path: Path):
    with pytest.raises(errors.BudgetReached, match="0 of 2 calls are answered now"):
        chat.complete(asking.questions(model, 2), asking.calls(tmp_path, max_usd=1e-9))
    assert api.stats()["arrived"] == 0


def test_what_is_free_needs_no_budget(api: FakeApi, tmp_path: Path):
    free = asking.model(api, "zhipu", price=Price(input=0.0, output=0.0))
    assert len(chat.complete(asking.questions(free, 5), asking.calls(tmp_path, max_usd=0.0))) == 5


def test_a_reply_without_usage_counts_at_its_worst(api: FakeApi, tmp_path: Path):
    api.script(usage={"prompt_tokens": "?", "completion_tokens": "?"})
    asked = asking.questions(asking.model(api), 1)
    chat.complete(asked, asking.calls(tmp_path))
    assert rows(tmp_path, "SELECT usd FROM attempt") == [(wire.worst_usage(asked[0]).usd(asking.PRICE),)]


# Replay


def test_replay_needs_neither_network_nor_key(
    api: FakeApi, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = asking.questions(model, 4)
    before = chat.complete(asked, asking.calls(tmp_path))
    for name in ("OPENAI_API_KEY", "ZHIPUAI_API_KEY"):
        monkeypatch.delenv(name)
    seen = sum(api.stats()["endpoints"].values())
    assert chat.complete(asked, asking.calls(tmp_path, mode="replay")) == before
    assert sum(api.stats()["endpoints"].values()) == seen


def test_replay_says_which_calls_are_missing(api: FakeApi, model: Model, tmp_path: Path):
    chat.complete(asking.questions(model, 4), asking.calls(tmp_path))
    seen = sum(api.stats()["endpoints"].values())
    asked = asking.questions(model, 30)
    with pytest.raises(errors.Missing) as caught:
        chat.complete(asked, asking.calls(tmp_path, mode="replay"))
    told = str(caught.value).splitlines()
    assert told[0].startswith(f"replay: 26 of 30 calls ({model.name}) are not in ")
    assert told[1:] == [
        *(f"  {key[:16]}  'question {number}'" for number, key in list(enumerate(asking.keys(asked)))[4:14]),
        "  and 16 more",
    ]
    assert sum(api.stats()["endpoints"].values()) == seen


def test_replay_without_a_store_makes_none(tmp_path: Path):
    model = Model(name="GPT", provider="openai", model="gpt-4o")
    with pytest.raises(errors.Missing, match="does not exist; import a record first: bpo calls import FILE.jsonl"):
        chat.complete(asking.questions(model, 1), asking.calls(tmp_path, mode="replay"))
    assert list(tmp_path.iterdir()) == []


# Faults of our own


def test_a_fault_of_ours_is_seen_as_it_is_and_what_was_in_flight_is_stored(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Never an ExceptionGroup; and paid replies are not lost to somebody else's fault."""
    api.script(delay=0.05)
    usual = engine.Engine._usd

    def faulty(self: engine.Engine, call: engine.Call, read: wire.Parsed) -> float:
        if call.asked.prompt == "question 3":
            raise ZeroDivisionError("a fault of ours")
        return usual(self, call, read)

    monkeypatch.setattr(engine.Engine, "_usd", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        chat.complete(asking.questions(asking.model(api), 30), asking.calls(tmp_path))
    assert 7 <= len(rows(tmp_path, "SELECT key FROM answer")) == api.stats()["arrived"] - 1
    assert states(tmp_path)["sent"] == 1  # counted at its worst


def test_a_change_that_cannot_be_written_does_not_take_others_with_it(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    api.script(delay=0.05)
    usual = engine.exchange.save_answer

    def faulty(db: object, key: str, raw: str, usd: float, source: str) -> None:
        if key == broken:
            raise ZeroDivisionError("a fault of ours")
        usual(db, key, raw, usd, source)

    asked = asking.questions(asking.model(api), 8)
    broken = asking.keys(asked)[3]
    monkeypatch.setattr(engine.exchange, "save_answer", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        chat.complete(asked, asking.calls(tmp_path))
    assert len(rows(tmp_path, "SELECT key FROM answer")) == 7
