"""Calls through the Batch API of OpenAI or Zhipu: half the price, an answer within a day.

A batch has a name of ours, written down with its calls before anything is uploaded and sent along as metadata: after a
crash the batch is looked up by that name before another one is made. Both result files are read in every end state: an
expired batch has answers that were paid for, and a completed one may have nothing but errors.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from bpo_utils.chat import capabilities, clients, errors, exchange, wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.chat.store import Store, end_attempt, now, record
from bpo_utils.profile import Model

MOST_CALLS, MOST_BYTES = 10_000, 50 * 2**20  # of one batch; OpenAI takes 50,000 and 200 MB, Zhipu 50,000 and 100 MB
ENDED = ("completed", "failed", "expired", "cancelled")
SEARCHED = 1000  # of the account's newest batches, when one is looked up by name
ID_LETTERS = 48  # of a key: enough to be unique, short enough for every service


def answer(todo: list[Call], store: Store, calls: Calls) -> None:
    """Have calls answered in batches: fetch those of earlier runs, make new ones for the rest, wait until all have
    ended.

    Raises BudgetReached if not all calls fit under the cap (those that do are answered first), Unfinished if a provider
    answered only some, ValueError for a provider without batches. Ctrl-C leaves the batches running; the next run
    fetches them.
    """
    import anyio
    from anyio.from_thread import start_blocking_portal

    for call in todo:
        _endpoint(call.asked.model)
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(_answer, todo, store, calls)
        try:
            future.result()
        except KeyboardInterrupt:
            future.cancel()
            from bpo_utils.chat.session import tell

            tell("the batches go on at the provider; run again to fetch their answers")
            raise
        except anyio.get_cancelled_exc_class():
            raise KeyboardInterrupt from None


async def _answer(todo: list[Call], store: Store, calls: Calls) -> None:
    faults: list[str] = []
    left = 0
    for model in dict.fromkeys(call.asked.model for call in todo):
        mine = {call.key: call for call in todo if call.asked.model == model}
        client = clients.connect(model, calls.timeout_s, 4)
        try:
            waiting = {key for row in _open(store, model) for key in _keys(store, row["id"])}
            new = [call for key, call in mine.items() if key not in waiting]
            fitting = _fitting(new, store, calls.max_usd, model)
            left += len(new) - len(fitting)
            for part in _parts(fitting):
                _prepare(store, model, part)
            for row in _open(store, model):
                faults += await _finish(client, store, row, model, calls)
        finally:
            await client.close()
    if left:
        raise errors.BudgetReached(
            f"{left} calls did not fit under ${calls.max_usd:g}; run again with a higher --max-usd"
        )
    missing = len(todo) - len(store.known(call.key for call in todo))
    if missing:
        told = "; ".join(sorted(set(faults))[:3]) or "the provider left them out"
        raise errors.Unfinished(
            f"{missing} of {len(todo)} calls have no answer: {told}. Run again to ask them once more"
        )


def _endpoint(model: Model) -> str:
    endpoint = capabilities.provider(model.provider).batch_endpoint
    if not endpoint:
        raise ValueError(
            f"{model.name}: no batches through provider {model.provider!r}; use openai or zhipu, or online calls"
        )
    return endpoint


def _fitting(new: list[Call], store: Store, cap: float, model: Model) -> list[Call]:
    """As many calls as fit under the cap at their worst cost."""
    spent, fitting = store.spent(), []
    for call in new:
        spent += call.worst_usd * capabilities.provider(model.provider).batch_discount
        if spent > cap:
            break
        fitting.append(call)
    return fitting


def _parts(todo: list[Call]) -> Iterable[list[Call]]:
    part, size = [], 0
    for call in todo:
        length = len(wire.canonical(call.sent).encode())
        if part and (len(part) == MOST_CALLS or size + length > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(call)
        size += length
    if part:
        yield part


def _prepare(store: Store, model: Model, part: list[Call]) -> None:
    """Write a batch and its calls down, before anything is uploaded."""
    name, share = uuid.uuid4().hex, capabilities.provider(model.provider).batch_discount
    with store.transaction() as db:
        values = (name, model.provider, wire.place(model), model.model, "prepared", now())
        db.execute("INSERT INTO batch(id, provider, address, model, state, created) VALUES (?, ?, ?, ?, ?, ?)", values)
        for call in part:
            record(db, call.row(), now())
            attempt = (call.key, now(), "sent", call.worst_usd * share, name)
            db.execute("INSERT INTO attempt(key, started, state, usd, batch) VALUES (?, ?, ?, ?, ?)", attempt)


async def _finish(client: Any, store: Store, row: dict[str, str], model: Model, calls: Calls) -> list[str]:
    """Bring one batch to its end, from wherever it stands, and store what it brought; returns what went wrong."""
    import anyio

    from bpo_utils.chat.session import tell

    remote = row["remote"] or await _create(client, store, row, model, calls)
    told = ""
    while True:
        batch = await _retrying(client, calls, lambda: client.sdk.batches.retrieve(remote))
        counts = batch.request_counts
        state = f"batch {remote}: {batch.status}" + (f", {counts.completed} of {counts.total}" if counts else "")
        if state != told:
            tell(state)
            told = state
        if batch.status in ENDED:
            break
        await anyio.sleep(calls.poll_s)
    lines = []
    for file in (batch.output_file_id, batch.error_file_id):
        if file:
            reply = await _retrying(client, calls, lambda file=file: client.sdk.files.content(file))
            lines += [json.loads(line) for line in reply.text.splitlines() if line.strip()]
    return _store(store, row, model, lines, batch)


async def _create(client: Any, store: Store, row: dict[str, str], model: Model, calls: Calls) -> str:
    """Upload and create a batch, unless an interrupted run has done so; returns the provider's id."""
    endpoint = _endpoint(model)

    async def make() -> str:
        found = await _named(client, row["id"])
        if found:
            return found
        file = row["file"]
        if not file:
            upload = ("calls.jsonl", _lines(store, row["id"], endpoint).encode())
            file = row["file"] = (await client.sdk.files.create(file=upload, purpose="batch")).id
            with store.transaction() as db:
                db.execute("UPDATE batch SET file = ? WHERE id = ?", (file, row["id"]))
        chosen = {"endpoint": endpoint, "completion_window": "24h", "metadata": {"k": row["id"]}}
        return (await client.sdk.batches.create(input_file_id=file, **chosen)).id

    remote = await _retrying(client, calls, make)
    with store.transaction() as db:
        db.execute("UPDATE batch SET remote = ?, state = 'created' WHERE id = ?", (remote, row["id"]))
    return remote


async def _named(client: Any, name: str) -> str | None:
    """The provider's id of the batch that carries our name."""
    seen = 0
    async for batch in client.sdk.batches.list(limit=100):
        if (batch.metadata or {}).get("k") == name:
            return batch.id
        seen += 1
        if seen >= SEARCHED:
            break
    return None


def _lines(store: Store, name: str, endpoint: str) -> str:
    query = "SELECT call.key, sent FROM call JOIN attempt USING(key) WHERE batch = ? ORDER BY call.key"
    rows = ((key[:ID_LETTERS], json.loads(sent)) for key, sent in store.db.execute(query, (name,)))
    lines = ({"custom_id": key, "method": "POST", "url": endpoint, "body": sent} for key, sent in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _store(store: Store, row: dict[str, str], model: Model, lines: list[dict[str, Any]], batch: Any) -> list[str]:
    """Store a batch's answers in one transaction; returns why calls have none."""
    faults = []
    if batch.errors and batch.errors.data:
        faults += [f"batch {batch.id}: {fault.code}: {fault.message}" for fault in batch.errors.data[:3]]
    by_id = {str(line.get("custom_id")): line for line in lines}
    with store.transaction() as db:
        query = "SELECT id, key, usd FROM attempt WHERE batch = ? AND state = 'sent'"
        for number, key, worst in db.execute(query, (row["id"],)).fetchall():
            line = by_id.get(key[:ID_LETTERS])
            failure = (
                _take(db, key, number, worst, line, model) if line else Failure("retry", batch.status, "not reached")
            )
            if failure:
                faults.append(failure.sentence())
                paid = worst if failure.maybe_paid else 0.0
                end_attempt(db, number, "maybe paid" if failure.maybe_paid else "failed", paid, failure)
        db.execute("UPDATE batch SET state = ? WHERE id = ?", (batch.status, row["id"]))
    return faults


def _take(db: Any, key: str, number: int, worst: float, line: dict[str, Any], model: Model) -> Failure | None:
    """Store the answer or the outcome in one line of a result file; returns why it is neither."""
    reply = line.get("response") or {}
    status, raw = reply.get("status_code") or 0, wire.canonical(reply.get("body"))
    if status != 200:
        text = raw if reply.get("body") else wire.canonical({"error": line.get("error") or {}})
        failure = errors.of_status(status or 500, text, {})
        if failure.outcome:
            exchange.save_outcome(db, key, failure.outcome, failure.message)
            end_attempt(db, number, "failed", 0.0, failure)
            return None
        return failure
    try:
        read = clients.parsed(raw)
    except CallFailed as error:
        return error.failure
    price, share = capabilities.price(model), capabilities.provider(model.provider).batch_discount
    usd = (read.usage.usd(price) * share if read.usage else worst) if price else 0.0
    if read.outcome == "answered":
        exchange.save_answer(db, key, raw, usd, "batch")
    else:
        exchange.save_outcome(db, key, read.outcome, read.detail)
    end_attempt(db, number, "answered", usd)
    return None


async def _retrying(client: Any, calls: Calls, do: Any) -> Any:
    """Do something with the service, again if the network or the server fails."""
    import tenacity

    def again(error: BaseException) -> bool:
        return isinstance(error, CallFailed) and error.failure.kind in ("retry", "slow")

    async def once() -> Any:
        with clients.Failures(client.secret):
            return await do()

    wait = tenacity.wait_random_exponential(multiplier=min(1.0, calls.poll_s), max=60)
    stop = tenacity.stop_after_attempt(calls.tries)
    return await tenacity.AsyncRetrying(retry=tenacity.retry_if_exception(again), wait=wait, stop=stop, reraise=True)(
        once
    )


def _open(store: Store, model: Model) -> list[dict[str, str]]:
    """Batches of a model that have not ended."""
    query = "SELECT id, file, remote FROM batch WHERE provider = ? AND address = ? AND model = ? AND state IN (?, ?)"
    rows = store.db.execute(query, (model.provider, wire.place(model), model.model, "prepared", "created")).fetchall()
    return [dict(zip(("id", "file", "remote"), row, strict=True)) for row in rows]


def _keys(store: Store, name: str) -> list[str]:
    return [key for (key,) in store.db.execute("SELECT key FROM attempt WHERE batch = ?", (name,))]
