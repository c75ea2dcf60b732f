"""The fake API against the real SDKs: what it says is what they expect, each fault is the error it stands for."""

import asyncio
import email.utils
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import fake_api
import openai
import pytest
import zhipuai
from fake_api import FakeApi
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client, OpenAI
from zhipuai import ZhipuAI
from zhipuai.core import _errors as zhipu_errors

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
KEY = "id.secret"
LONG, SHORT = 20.0, 0.3  # seconds; the short one for requests that are not to be answered


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    return server


@pytest.fixture(scope="module")
def client(server: FakeApi) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=LONG) as made:
        yield made


@pytest.fixture(scope="module")
def zhipu(server: FakeApi) -> Iterator[ZhipuAI]:
    with ZhipuAI(base_url=server.zhipu_url, api_key=KEY, max_retries=0, timeout=LONG) as made:
        yield made


def speaker(url: str, timeout: float = LONG) -> AsyncOpenAI:
    plain = DefaultAsyncHttpx2Client(verify=False)  # nothing is encrypted here, and reading the certificates takes long
    return AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=timeout, http_client=plain)


def ask(url: str, count: int = 1, timeout: float = LONG, **more) -> list:
    """The replies or errors that the asynchronous client gives for `count` requests at once."""

    async def main() -> list:
        async with speaker(url, timeout) as client:
            calls = [client.chat.completions.create(**ASK | more) for _ in range(count)]
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


def ask_and_leave(api: FakeApi, url: str, count: int, ends: int) -> list[BaseException | None]:
    """How the `ends` of `count` requests at once end that do so by themselves; once all arrived, we leave the rest."""

    async def main() -> list[BaseException | None]:
        async with speaker(url) as client:
            waiting = {asyncio.create_task(client.chat.completions.create(**ASK)) for _ in range(count)}
            await asyncio.to_thread(api.wait, arrived=count)
            ended = set()
            while len(ended) < ends:
                some, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                ended |= some
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return [task.exception() for task in ended]

    return asyncio.run(main())


def caught(call: Callable, *arguments, **more) -> Exception:
    with pytest.raises(Exception) as raised:
        call(*arguments, **more)
    return raised.value


def test_the_same_request_gets_the_same_reply_and_is_counted_under_the_same_key(api, zhipu):
    (first, second), (third,) = ask(api.url, 2), ask(api.zhipu_url)
    fourth = zhipu.chat.completions.create(**ASK)
    texts = [reply.choices[0].message.content for reply in (first, second, third, fourth)]
    (key, tally), stats = *api.stats()["by_key"].items(), api.stats()
    assert texts == [f"reply to {key[:12]}"] * 4 and first.id != second.id
    assert tally == {"arrived": 4, "paid": 4, "answered": 4, "batched": 0} and stats["arrived"] == 4
    assert (first.model, first.choices[0].finish_reason, first.system_fingerprint) == ("gpt-4o", "stop", "fp_fake")
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens > 0
    assert first._request_id.startswith("req_") and fourth.request_id
    assert len(stats["times"]) == 4 and stats["statuses"] == {"200": 4} and stats["bodies"][0] == ASK


def test_rate_headers_come_from_openai_only(api, client):
    headers = client.chat.completions.with_raw_response.create(**ASK).headers
    assert headers["x-ratelimit-remaining-requests"] == "9999" and headers["x-ratelimit-limit-tokens"] == "2000000"
    with OpenAI(base_url=api.zhipu_url, api_key=KEY) as other:
        assert "x-ratelimit-limit-requests" not in other.chat.completions.with_raw_response.create(**ASK).headers


@pytest.mark.parametrize("mode, ends", [("judge", ("[[A]]", "[[B]]", "[[C]]")), ("first", "[[A]]"), ("text:so", "so")])
def test_other_replies(api, mode, ends):
    api.script(reply=mode, usage={"completion_tokens": 7})
    (reply,) = ask(api.url)
    assert reply.choices[0].message.content.endswith(ends) and reply.usage.completion_tokens == 7


def test_requests_at_once_and_their_connections_are_counted(api):
    api.script(rules=[{"do": "hang"}])
    ask_and_leave(api, api.url, count=8, ends=0)
    api.wait(in_flight=0)
    assert (api.stats()["max_in_flight"], api.stats()["connections"]) == (8, 8)


def test_models(api, client):
    api.script(models={"old": {"shutdown_date": "2026-12-31"}, "new": {}})
    assert [model.id for model in client.models.list()] == ["old", "new"]
    assert client.models.retrieve("old").shutdown_date == "2026-12-31"
    assert client.models.retrieve("new").shutdown_date is None
    assert isinstance(caught(client.models.retrieve, "gone"), openai.NotFoundError)


def test_stored_answers_are_found_by_metadata_and_come_in_pages(api, client):
    made = [client.chat.completions.create(**ASK, store=True, metadata={"k": f"k{i}", "run": "r"}) for i in range(5)]
    client.chat.completions.create(**ASK)
    (found,) = client.chat.completions.list(metadata={"k": "k3"})
    assert found.id == made[3].id and found.metadata == {"k": "k3", "run": "r"}
    assert [item.id for item in client.chat.completions.list(limit=2)] == [reply.id for reply in made]
    page = client.chat.completions.list(limit=2, after=made[3].id)
    assert [item.id for item in page.data] == [made[4].id] and not page.has_more
    assert not client.chat.completions.list(metadata={"k": "k3", "run": "other"}).data
    assert api.stats()["stored"] == 5 and [*api.stats()["by_key"].values()][0]["k"] == "k4"


def input_file(url: str, count: int = 4, **more) -> tuple[str, bytes]:
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": url, "body": ASK | {"seed": i} | more} for i in range(count)
    ]
    return "in.jsonl", "\n".join(map(json.dumps, lines)).encode()


def run_batch(client, url: str = "/v1/chat/completions", **more) -> tuple[list[str], object]:
    """The states a batch goes through, and the batch at the end."""
    batch = client.batches.create(
        input_file_id=client.files.create(file=input_file(url), purpose="batch").id,
        endpoint=url,
        metadata={"uuid": "u1"},
        **{"completion_window": "24h"} | more,
    )
    states = [batch.status]
    while batch.status not in fake_api.ENDS:
        batch = client.batches.retrieve(batch.id)
        states.append(batch.status)
    return states, batch


def read(client, file_id: str | None) -> dict[str, dict]:
    """The lines of a result file by custom_id, in their order."""
    if file_id is None:
        return {}
    lines = map(json.loads, client.files.content(file_id).content.decode().splitlines())
    return {line["custom_id"]: line for line in lines}


ORDINARY = ["validating", "in_progress", "finalizing", "completed"]


@pytest.mark.parametrize("kind", ["openai", "openai on zhipu", "zhipuai"])
def test_a_batch_of_each_service(api, client, zhipu, kind):
    url = "/v1/chat/completions" if kind == "openai" else "/v4/chat/completions"
    other = OpenAI(base_url=api.zhipu_url, api_key=KEY, max_retries=0)
    asked = {"openai": client, "openai on zhipu": other, "zhipuai": zhipu}[kind]
    api.script(batch={"errors": {"c1": 400}, "missing": ["c2"], "shapes": {"c3": {"finish_reason": "length"}}})
    states, batch = run_batch(asked, url)
    output, errors = read(asked, batch.output_file_id), read(asked, batch.error_file_id)
    assert states == ORDINARY and list(output) == ["c3", "c0"] and list(errors) == ["c1"]
    assert errors["c1"]["response"]["status_code"] == 400 and "error" in errors["c1"]["response"]["body"]
    assert output["c3"]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    online = asked.chat.completions.create(**ASK, seed=0).choices[0].message.content
    assert output["c0"]["response"]["body"]["choices"][0]["message"]["content"] == online
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 1) and api.stats()["batched"] == 2
    assert [(found.id, found.metadata) for found in asked.batches.list()] == [(batch.id, {"uuid": "u1"})]
    other.close()


@pytest.mark.parametrize(
    "outcome, done, undone",
    [("completed", 4, 0), ("expired", 2, 2), ("cancelled", 2, 2), ("failed", 0, 0)],
)
def test_the_ends_of_a_batch(api, client, outcome, done, undone):
    api.script(batch={"outcome": outcome, "hold": 1})
    states, batch = run_batch(client)
    assert states == (["validating", "failed"] if outcome == "failed" else [*ORDINARY[:2], *ORDINARY[1:3], outcome])
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert (len(output), len(errors)) == (done, undone)
    assert all(line["response"] is None and line["error"]["code"] == f"batch_{outcome}" for line in errors.values())
    assert (batch.errors is not None) == (outcome == "failed")


def test_a_batch_of_errors_only_has_no_output_file(api, client):
    api.script(batch={"errors": dict.fromkeys(("c0", "c1", "c2", "c3"), 500)})
    _, batch = run_batch(client)
    assert batch.output_file_id is None and len(read(client, batch.error_file_id)) == 4


def test_cancelling_before_the_work_began(api, client):
    file = client.files.create(file=input_file("/v1/chat/completions"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "cancelled" and batch.output_file_id is None
    assert isinstance(caught(client.batches.cancel, batch.id), openai.BadRequestError)


def test_batches_that_the_services_refuse(api, client, zhipu):
    assert "1210" in str(caught(run_batch, zhipu, "/v1/chat/completions"))
    file = zhipu.files.create(file=input_file("/v1/chat/completions"), purpose="batch")
    refused = caught(zhipu.batches.create, input_file_id=file.id, endpoint="/v4/chat/completions")
    assert "invalid_url" in str(refused) and "1210" in str(refused)
    twice = input_file("/v1/chat/completions", 1)[1]
    file = client.files.create(file=("in.jsonl", twice + b"\n" + twice), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = client.batches.retrieve(batch.id)
    assert batch.status == "failed" and batch.errors.data[0].code == "duplicate_custom_id"


def test_files_are_deleted_by_the_client_or_by_zhipu(api, client, zhipu):
    file = client.files.create(file=input_file("/v1/chat/completions"), purpose="batch")
    assert isinstance(caught(zhipu.files.content, file.id), zhipuai.APIStatusError)  # the services do not share them
    assert client.files.delete(file.id).deleted
    assert isinstance(caught(client.files.content, file.id), openai.NotFoundError)
    _, batch = run_batch(zhipu, "/v4/chat/completions")
    assert "404" in str(caught(zhipu.files.content, batch.input_file_id))
    _, batch = run_batch(zhipu, "/v4/chat/completions", auto_delete_input_file=False)
    assert zhipu.files.content(batch.input_file_id).content


# name: the openai client's class and code for OpenAI; for Zhipu; zhipuai's class
ERRORS = {
    "rate_limit": ("RateLimitError", "rate_limit_exceeded", "RateLimitError", "1302", "APIReachLimitError"),
    "quota": ("RateLimitError", "insufficient_quota", "RateLimitError", "1113", "APIReachLimitError"),
    "overload": ("InternalServerError", "overloaded", "RateLimitError", "1305", "APIReachLimitError"),
    "server_error": ("InternalServerError", None, "InternalServerError", "500", "APIInternalError"),
    "unavailable": ("InternalServerError", None, "InternalServerError", "503", "APIServerFlowExceedError"),
    "bad_request": ("BadRequestError", "unsupported_parameter", "BadRequestError", "1210", "APIRequestFailedError"),
    "too_long": ("BadRequestError", "context_length_exceeded", "BadRequestError", "1261", "APIRequestFailedError"),
    "no_model": ("NotFoundError", "model_not_found", "BadRequestError", "1211", "APIRequestFailedError"),
    "unauthorized": ("AuthenticationError", "invalid_api_key", "AuthenticationError", "1000", "APIAuthenticationError"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_the_form_of_their_service(api, zhipu, name):
    api.script(rules=[{"do": name, "message": "so it is"}])
    ours, code, theirs, zhipu_code, of_zhipuai = ERRORS[name]
    (error,), (other,) = ask(api.url), ask(api.zhipu_url)
    assert (type(error).__name__, error.code, error.body["message"]) == (ours, code, "so it is")
    assert (type(other).__name__, other.code, other.body) == (
        theirs,
        zhipu_code,
        {"code": zhipu_code, "message": "so it is"},
    )
    third = caught(zhipu.chat.completions.create, **ASK)
    assert type(third) is getattr(zhipu_errors, of_zhipuai)
    assert third.response.json()["error"]["code"] == zhipu_code
    assert api.stats()["faults"] == {name: 3} and api.stats()["paid"] == 0


def test_any_zhipu_code_and_the_content_filter_of_zhipu(api):
    api.script(rules=[{"do": "1304", "times": 1}, {"do": "content_filter"}])
    (quota,), (refused,) = ask(api.zhipu_url), ask(api.zhipu_url)
    assert (quota.status_code, quota.code, refused.status_code, refused.code) == (429, "1304", 400, "1301")


def test_when_to_try_again(api):
    forms = [{"retry_after": 600}, {"retry_after_ms": 250}, {"retry_after_date": 30}, {}]
    api.script(rules=[{"do": "rate_limit", "times": 1} | form for form in forms])
    seconds, milliseconds, date, nothing = (ask(api.url)[0].response.headers for _ in forms)
    assert seconds["retry-after"] == "600" and milliseconds["retry-after-ms"] == "250"
    assert 25 < email.utils.parsedate_to_datetime(date["retry-after"]).timestamp() - time.time() < 35
    assert "retry-after" not in nothing and "retry-after-ms" not in nothing


def test_a_wrong_key_and_an_error_that_repeats_it(api):
    api.script(keys=["another"])
    assert {type(ask(url)[0]) for url in (api.url, api.zhipu_url)} == {openai.AuthenticationError}
    api.script(keys=[KEY], rules=[{"do": "echo_key"}])
    assert all(KEY in str(ask(url)[0]) for url in (api.url, api.zhipu_url))


@pytest.mark.parametrize(
    "name, content, finish, refusal",
    [
        ("empty", "", "stop", False),
        ("null", None, "stop", False),
        ("content_filter", None, "content_filter", False),
        ("refusal", None, "stop", True),
    ],
)
def test_answers_without_text(api, name, content, finish, refusal):
    api.script(rules=[{"do": name}])
    (choice,) = ask(api.url)[0].choices
    assert (choice.message.content, choice.finish_reason, bool(choice.message.refusal)) == (content, finish, refusal)


def test_other_odd_answers(api):
    odd = [{"do": "length"}, {"do": "wrong_model"}, {"do": "no_choices"}]
    odd += [{"do": "reply", "content": "[[B]]", "usage": {"prompt_tokens": 9}, "headers": {"x-odd": "1"}}]
    api.script(rules=[rule | {"times": 1} for rule in odd])
    long, wrong, none, scripted = (ask(api.url)[0] for _ in odd)
    assert long.choices[0].finish_reason == "length" and wrong.model != ASK["model"] and none.choices == []
    assert scripted.choices[0].message.content == "[[B]]" and scripted.usage.prompt_tokens == 9


TROUBLE = {  # the cause of the SDKs' APIConnectionError or APITimeoutError, and whether the request was paid
    "hang": ("ReadTimeout", 0),
    "hang_after_work": ("ReadTimeout", 1),
    "drop": ("RemoteProtocolError", 1),
    "cut": ("RemoteProtocolError", 1),
    "reset": ("ReadError", 1),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_on_the_wire(api, name):
    api.script(rules=[{"do": name}])
    cause, paid = TROUBLE[name]
    timeout = SHORT if "hang" in name else LONG
    (error,) = ask(api.url, timeout=timeout, store=True)
    assert type(error) is (openai.APITimeoutError if "hang" in name else openai.APIConnectionError)
    assert type(error.__cause__).__name__ == cause
    with ZhipuAI(base_url=api.zhipu_url, api_key=KEY, max_retries=0, timeout=timeout) as zhipu:
        other = caught(zhipu.chat.completions.create, **ASK)
    assert type(other) is (zhipuai.APITimeoutError if "hang" in name else zhipu_errors.APIConnectionError)
    assert type(other.__cause__).__name__ == cause
    api.wait(in_flight=0)
    stats = api.stats()
    assert (stats["arrived"], stats["paid"], stats["answered"], stats["stored"]) == (2, 2 * paid, 0, paid)


def test_half_a_json_is_no_api_error(api, zhipu):
    api.script(rules=[{"do": "invalid_json"}])
    assert isinstance(ask(api.url)[0], json.JSONDecodeError)
    assert isinstance(caught(zhipu.chat.completions.create, **ASK), json.JSONDecodeError)
    assert (api.stats()["paid"], api.stats()["answered"]) == (2, 0)


def test_who_leaves_early_has_paid_and_finds_the_answer(api, client):
    api.script(rules=[{"do": "slow", "delay": 60}])
    assert isinstance(ask(api.url, timeout=SHORT, store=True, metadata={"k": "left"})[0], openai.APITimeoutError)
    api.wait(in_flight=0)
    assert [item.metadata for item in client.chat.completions.list(metadata={"k": "left"})] == [{"k": "left"}]
    assert (api.stats()["paid"], api.stats()["answered"]) == (1, 0)


def test_more_at_once_than_allowed(api):
    for url, code in ((api.url, "rate_limit_exceeded"), (api.zhipu_url, "1302")):
        api.script(rules=[{"do": "concurrency", "limit": 3}, {"do": "hang"}])
        refused = ask_and_leave(api, url, count=8, ends=5)
        assert all(isinstance(error, openai.RateLimitError) and error.code == code for error in refused)
        assert all("3 requests" in error.message for error in refused)
        api.wait(in_flight=0)
        api.reset()


@pytest.mark.parametrize(
    "match, fails",
    [
        ({"nth": 3}, [2]),
        ({"every": 2}, [1, 3, 5]),
        ({"first_per_key": 1}, [0, 1]),
        ({"contains": "beta"}, [1, 3, 5]),
        ({"contains": "beta", "nth": 2}, [3]),
        ({"model": "gpt-4o", "api": "openai", "on": "any"}, [0, 1, 2, 3, 4, 5]),
        ({"api": "zhipu"}, []),
        ({"on": "models"}, []),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_requests_a_rule_fits(api, client, match, fails):
    api.script(rules=[{"match": match, "do": "server_error"}])
    for number, text in enumerate(["alpha", "beta"] * 3):
        messages = [{"role": "user", "content": text}]
        if number in fails:
            assert isinstance(caught(client.chat.completions.create, **ASK | {"messages": messages}), openai.APIError)
        else:
            client.chat.completions.create(**ASK | {"messages": messages})


def test_a_seeded_share_does_not_depend_on_the_order(api):
    outcomes = []
    for _ in range(2):
        api.reset()
        api.script(rules=[{"match": {"seeded_share": 0.3, "seed": 1}, "do": "server_error"}])
        ask(api.url, 20, user="same key, 20 arrivals")
        outcomes.append(api.stats()["statuses"])
    assert outcomes[0] == outcomes[1] and 1 <= outcomes[0]["500"] <= 14


def test_the_first_rule_wins_and_stops_after_its_times(api, client):
    api.script(rules=[{"do": "server_error", "times": 1}, {"do": "rate_limit", "times": 2}])
    errors = [type(caught(client.chat.completions.create, **ASK)) for _ in range(3)]
    assert errors == [openai.InternalServerError, openai.RateLimitError, openai.RateLimitError]
    client.chat.completions.create(**ASK)


def test_a_batch_that_was_made_though_nobody_heard_of_it(api, client):
    file = client.files.create(file=input_file("/v1/chat/completions"), purpose="batch")
    api.script(rules=[{"match": {"on": "create"}, "do": "drop"}])
    more = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"uuid": "u2"}}
    assert isinstance(caught(client.batches.create, input_file_id=file.id, **more), openai.APIConnectionError)
    assert [batch.metadata for batch in client.batches.list()] == [{"uuid": "u2"}]


def test_misspelt_commands_are_refused(api):
    for wrong in ({"rules": [{"do": "hangs"}]}, {"rules": [{"do": "hang", "match": {"nht": 1}}]}, {"rule": []}):
        assert isinstance(caught(api.script, **wrong), ValueError)
    assert isinstance(caught(api.wait, timeout=0.01, arrived=1), TimeoutError)


def test_the_server_survives_an_interrupt_and_ends_with_its_stdin():
    command = [sys.executable, fake_api.__file__, "--delay", "0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        api = FakeApi(json.loads(process.stdout.readline())["root"])
        process.send_signal(signal.SIGINT)
        assert api.stats()["arrived"] == 0
        process.stdin.close()
        assert process.wait(timeout=LONG) == 0
    assert isinstance(caught(api.stats), urllib.error.URLError)
