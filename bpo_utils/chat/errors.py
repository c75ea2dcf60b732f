"""What can go wrong in a call, in four classes, and what is said when a run cannot go on.

`retry`: the network or the server; try again. `slow`: asked too often; try again, less often. `stop`: the key, the
account or the model; no call to this provider will do better. `item`: this question; go on with the others. HTTP 429
alone does not tell: OpenAI's insufficient_quota and Zhipu's 1113 (in arrears) come as 429 and no waiting helps.
"""

import json
from dataclasses import dataclass
from typing import Any

ZHIPU = {  # business codes in the body, docs.bigmodel.cn cn/api/api-code
    **dict.fromkeys(("1302", "1303", "1305", "1312"), "slow"),
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004", "1110", "1111", "1112", "1113"), "stop"),
    **dict.fromkeys(("1211", "1220", "1221", "1304", "1308", "1309", "1310", "1311", "1313"), "stop"),
    **dict.fromkeys(("1210", "1212", "1213", "1214", "1215", "1261", "1300", "1301"), "item"),
}
OPENAI_STOP = {"insufficient_quota", "invalid_api_key", "model_not_found", "account_deactivated", "billing_not_active"}
OPENAI_STOP |= {"billing_hard_limit_reached"}
FILTERED = {"1301", "content_filter", "content_policy_violation"}
TOO_LONG = {"1261", "context_length_exceeded", "string_above_max_length"}
ADVICE = {
    "1000": "the key is wrong",
    "1113": "the account is in arrears, top it up",
    "insufficient_quota": "the quota is used up, add credit or raise the account's limit",
    "invalid_api_key": "the key is wrong",
    "model_not_found": "the model is not served to this key",
    "1211": "there is no such model",
    "1221": "the model is no longer served",
}


@dataclass(frozen=True)
class Failure:
    """One failed call. `kind`: retry, slow, stop or item. `maybe_paid`: the work may have been done and billed."""

    kind: str
    code: str
    message: str
    status: int | None = None
    maybe_paid: bool = False
    retry_after: float | None = None  # seconds that the server asks to wait
    request_id: str = ""

    @property
    def outcome(self) -> str | None:
        """The outcome that this failure is for good: refused, too_long or empty; None for one that may pass."""
        known = dict.fromkeys(FILTERED, "refused") | dict.fromkeys(TOO_LONG, "too_long") | {"empty": "empty"}
        return known.get(self.code)

    def sentence(self) -> str:
        """What happened, in words."""
        where = ", ".join(part for part in (f"HTTP {self.status}" if self.status else "", self.code) if part)
        advice, message = ADVICE.get(self.code, ""), self.message.strip(" .。")
        said = f"{advice} ({message})" if advice and message else advice or message
        return ": ".join(part for part in (where, said) if part)


class CallFailed(Exception):
    """Raised inside the engine for one failed attempt."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence())
        self.failure = failure


class Unfinished(RuntimeError):
    """Some calls have no answer yet. All that was answered is stored; asking again goes on from there."""


class BudgetReached(Unfinished):
    """The next call could have passed the cap. `bpo` turns this into exit code 3."""


class Missing(Unfinished):
    """Replay found calls that were never recorded."""


def of_status(status: int, text: str, headers: Any, request_id: str = "") -> Failure:
    """Class of an HTTP error. A code in the body wins over the status."""
    code, message = _code(text)
    retry_after = seconds(headers)
    kind = ZHIPU.get(code)
    if kind is None:
        kind = "stop" if code in OPENAI_STOP or status in (401, 402, 403, 404) else None
    if kind is None:
        kind = "slow" if status == 429 else "retry" if status in (408, 409) or status >= 500 else "item"
    if status == 404 and not code:
        message = message or "no such address; is base_url right?"
    said = " ".join(message.split())[:300]  # one line, whatever the server sent
    return Failure(kind, code, said, status, retry_after=retry_after, request_id=request_id)


def seconds(headers: Any) -> float | None:
    """Seconds to wait that the server named: retry-after-ms, or Retry-After as seconds or as a date.

    A date is read against the server's own `Date`, so that a wrong clock here does not matter.
    """
    from email.utils import parsedate_to_datetime

    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after")
        if text is None or text.strip().replace(".", "", 1).isdigit():
            return None if text is None else float(text)
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("date", text))
        return max(0.0, wait.total_seconds())
    except (ValueError, TypeError):  # a header that is neither
        return None


def _code(text: str) -> tuple[str, str]:
    """(code, message) of an error body in OpenAI's or Zhipu's form; ("", the text's beginning) for any other."""
    try:
        error = json.loads(text)["error"]
        code = error.get("code") or error.get("type") or ""
        return str(code), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", " ".join(text.split())[:200]
