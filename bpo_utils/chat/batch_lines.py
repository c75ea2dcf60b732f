"""The lines of a batch: those that are uploaded, and what those of its result files mean for the calls."""

import json
from typing import Any

from bpo_utils.chat import capabilities, clients, errors, exchange, wire
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.chat.store import Store, end_attempt
from bpo_utils.profile import Model

ID_LETTERS = 48  # of a key: enough to be unique, short enough for every service


def written(store: Store, name: str, endpoint: str) -> str:
    """The file that a batch is made of, a line per call, sorted by key."""
    query = "SELECT call.key, sent FROM call JOIN attempt USING(key) WHERE batch = ? ORDER BY call.key"
    rows = ((key[:ID_LETTERS], json.loads(sent)) for key, sent in store.rows(query, (name,)))
    lines = ({"custom_id": key, "method": "POST", "url": endpoint, "body": sent} for key, sent in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def settle(store: Store, row: dict[str, str], texts: list[str], status: str, model: Model) -> list[str]:
    """Store a batch's answers in one transaction; returns why calls have none."""
    by_id, faults = {}, []
    for line in "\n".join(texts).split("\n"):  # not splitlines: an answer may hold U+2028 or U+0085
        if line.strip():
            try:
                entry = json.loads(line)
                by_id[str(entry["custom_id"])] = entry
            except (ValueError, KeyError, TypeError):
                faults.append(f"a line of a result file is unreadable; it begins {line[:80]!r}")
    with store.transaction() as db:
        for number, key, worst in open_attempts(store, row["id"]):
            failure = _take(db, key, number, worst, by_id.get(key[:ID_LETTERS]), status, model)
            if failure:
                faults.append(failure.sentence())
        db.execute("UPDATE batch SET state = ? WHERE id = ?", (status, row["id"]))
    return faults


def _take(db: Any, key: str, number: int, worst: float, line: Any, status: str, model: Model) -> Failure | None:
    """Store the answer or the outcome in one line of a result file; returns why it is neither.

    A line that a completed batch left out may have been paid for. An empty reply is an outcome at once: to ask again
    would take another day.
    """
    reply = (line or {}).get("response") or {}
    http, usd, failure = reply.get("status_code") or 0, 0.0, None
    raw = wire.utf8(json.dumps(reply.get("body") or {"error": (line or {}).get("error")}, ensure_ascii=False))
    if line is None:
        failure = Failure("retry", status, "not reached", maybe_paid=status == "completed")
    elif http != 200:
        failure = errors.of_status(http or 500, raw, {})
    else:
        try:
            read, price = clients.parsed(raw), capabilities.price(model)
            failure = clients.unusable(model, read, "")
            usd = read.usage.usd(price) * share(model) if price and read.usage else worst
        except CallFailed as error:
            failure = error.failure
    if failure and failure.maybe_paid:
        usd = worst
    if failure is None:
        exchange.save_answer(db, key, raw, usd, "batch")
    elif failure.outcome:
        exchange.save_outcome(db, key, failure.outcome, failure.message)
    state = "maybe paid" if failure and failure.maybe_paid else "failed" if failure else "answered"
    end_attempt(db, number, state, usd, failure)
    return failure if failure and not failure.outcome else None


def open_attempts(store: Store, name: str) -> list[tuple[Any, ...]]:
    """(number, key, worst cost) of a batch's attempts that have not ended."""
    return store.rows("SELECT id, key, usd FROM attempt WHERE batch = ? AND state = 'sent'", (name,))


def share(model: Model) -> float:
    """What a call in a batch costs, of what it costs online."""
    return capabilities.provider(model.provider).batch_discount
