"""Four classes of errors, Retry-After, and sentences that say what happened."""

import json

import pytest

from bpo_utils.chat import errors
from bpo_utils.chat.errors import Failure


def openai_body(code: str | None, kind: str = "x", message: str = "it says so") -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def zhipu_body(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": "消息"}})


@pytest.mark.parametrize(
    "status, body, kind, outcome",
    [
        (429, openai_body("rate_limit_exceeded"), "slow", None),
        (429, "", "slow", None),
        (429, openai_body(None, "insufficient_quota"), "stop", None),
        (429, openai_body("insufficient_quota"), "stop", None),
        (429, openai_body("billing_hard_limit_reached"), "stop", None),
        (401, openai_body("invalid_api_key"), "stop", None),
        (402, "Insufficient Balance", "stop", None),
        (403, "", "stop", None),
        (404, openai_body("model_not_found"), "stop", None),
        (404, "<html>nginx</html>", "stop", None),
        (400, openai_body("unsupported_parameter"), "item", None),
        (400, openai_body("context_length_exceeded"), "item", "too_long"),
        (400, openai_body("content_policy_violation"), "item", "refused"),
        (422, "{}", "item", None),
        (408, "", "retry", None),
        (409, "", "retry", None),
        (500, "oops", "retry", None),
        (502, "<html>\n<h1>Bad gateway</h1></html>", "retry", None),
        (503, openai_body("overloaded"), "retry", None),
        *((429, zhipu_body(code), "slow", None) for code in ("1302", "1303", "1305", "1312")),
        (503, zhipu_body("1305"), "slow", None),
        *((429, zhipu_body(code), "stop", None) for code in ("1113", "1304", "1308", "1310")),
        *((401, zhipu_body(code), "stop", None) for code in ("1000", "1001", "1110", "1112")),
        *((400, zhipu_body(code), "stop", None) for code in ("1211", "1220", "1221")),
        *((400, zhipu_body(code), "item", None) for code in ("1210", "1214")),
        (400, zhipu_body("1261"), "item", "too_long"),
        (400, zhipu_body("1301"), "item", "refused"),
        (500, zhipu_body("1301"), "item", "refused"),
        (500, zhipu_body("1234"), "retry", None),
        (500, zhipu_body("500"), "retry", None),
        (400, json.dumps({"error": "plain text"}), "item", None),
        (400, json.dumps([1]), "item", None),
    ],
)
def test_the_code_in_the_body_wins_over_the_status(status: int, body: str, kind: str, outcome: str | None):
    failure = errors.of_status(status, body, {})
    assert (failure.kind, failure.outcome) == (kind, outcome)
    assert "\n" not in failure.sentence() and failure.sentence().startswith(f"HTTP {status}")


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after-ms": "x"}, None),
    ],
)
def test_a_server_names_its_wait_in_three_ways(headers: dict[str, str], seconds: float | None):
    """A date is read against the server's own clock: ours may be wrong."""
    assert errors.seconds(headers) == seconds


@pytest.mark.parametrize(
    "failure, sentence",
    [
        (
            errors.of_status(429, zhipu_body("1113"), {}),
            "HTTP 429, 1113: the account is in arrears, top it up (消息)",
        ),
        (
            errors.of_status(401, openai_body("invalid_api_key", message=""), {}),
            "HTTP 401, invalid_api_key: the key is wrong",
        ),
        (errors.of_status(404, "", {}), "HTTP 404: no such address; is base_url right?"),
        (errors.of_status(500, "Internal\nerror.", {}), "HTTP 500: Internal error"),
        (Failure("retry", "ReadTimeout", "no reply in time"), "ReadTimeout: no reply in time"),
        (Failure("retry", "", "expired"), "expired"),
    ],
)
def test_a_failure_is_one_sentence_with_what_to_do(failure: Failure, sentence: str):
    assert failure.sentence() == sentence


def test_a_long_message_is_cut():
    assert len(errors.of_status(500, openai_body("x", message="word " * 500), {}).message) <= 300
