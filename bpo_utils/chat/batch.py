"""Calls through the Batch API of OpenAI or Zhipu: half the price, an answer within a day.

A batch has a name of ours, written down with its calls before anything is uploaded and sent along as metadata: after a
crash the batch is looked up by that name before another one is made. Both result files are read in every end state: an
expired batch has answers that were paid for, and a completed one may have nothing but errors.
"""

import random
import uuid
from collections.abc import Iterable
from typing import Any

from bpo_utils.chat import batch_lines, capabilities, clients, errors, wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.chat.errors import CallFailed
from bpo_utils.chat.session import tell
from bpo_utils.chat.store import Store, end_attempt, now, record
from bpo_utils.profile import Model

MOST_CALLS, MOST_BYTES = 10_000, 50 * 2**20  # of one batch; OpenAI takes 50,000 and 200 MB, Zhipu 50,000 and 100 MB
ENDED = ("completed", "failed", "expired", "cancelled")
SEARCHED = 1000  # of the account's newest batches, when one is looked up by name


def answer(todo: list[Call], store: Store, calls: Calls) -> None:
    """Have calls answered in batches: fetch those of earlier runs, make new ones for the rest, wait until all have
    ended.

    Raises BudgetReached if not all calls fit under the cap (those that do are answered first), Unfinished if a provider
    answered only some, ValueError for a provider without batches. Ctrl-C leaves the batches running; the next run
    fetches them.
    """
    from anyio.from_thread import start_blocking_portal

    for call in todo:
        _endpoint(call.asked.model)
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(_answer, todo, store, calls)
        try:
            future.result()
        except KeyboardInterrupt:
            future.cancel()
            tell("the batches go on at the provider; run again to fetch their answers")
            raise


async def _answer(todo: list[Call], store: Store, calls: Calls) -> None:
    import anyio

    groups: dict[tuple[str, str, str], list[Call]] = {}
    for call in todo:
        model = call.asked.model
        groups.setdefault((model.provider, wire.place(model), model.model), []).append(call)
    models = [mine[0].asked.model for mine in groups.values()]
    connected = {model: clients.connect(model, calls.timeout_s, 4) for model in models}
    faults: list[str] = []
    raised: list[Exception] = []

    async def finish(model: Model) -> None:
        try:
            for row in _open(store, model):  # one after the other: services limit what may wait for one model
                faults.extend(await _finish(connected[model], store, row, calls, model))
        except CallFailed as error:
            faults.append(str(error))
        except Exception as error:  # raised below: out of a task group it would come as an ExceptionGroup
            raised.append(error)

    left = sum(_prepared(store, mine, calls) for mine in groups.values())
    try:
        async with anyio.create_task_group() as tasks:
            for model in connected:
                tasks.start_soon(finish, model)
    finally:
        with anyio.CancelScope(shield=True):
            for client in connected.values():
                await client.close()
    if raised:
        raise raised[0]
    if left:
        raise errors.BudgetReached(
            f"{left} calls did not fit under ${calls.max_usd:g}; run again with a higher --max-usd"
        )
    missing = len(todo) - len(store.known(call.key for call in todo))
    if missing:
        told = "; ".join(sorted(set(faults))[:3]) or "the provider left them out"
        raise errors.Unfinished(
            f"{missing} of {len(todo)} calls have no answer: {told}. Run again: batches that were made are fetched, "
            "what they left is asked once more"
        )


def _prepared(store: Store, mine: list[Call], calls: Calls) -> int:
    """Write batches down for one model's calls that are in none yet; returns how many did not fit under the cap."""
    model = mine[0].asked.model
    waiting = {key for row in _open(store, model) for key in _keys(store, row["id"])}
    new = [call for call in mine if call.key not in waiting]
    fitting = _fitting(new, store, calls.max_usd, model)
    for part in _parts(fitting):
        _prepare(store, model, part)
    return len(new) - len(fitting)


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
        spent += call.worst_usd * batch_lines.share(model)
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
    name, share = uuid.uuid4().hex, batch_lines.share(model)
    with store.transaction() as db:
        values = (name, model.provider, wire.place(model), model.model, "prepared", now())
        db.execute("INSERT INTO batch(id, provider, address, model, state, created) VALUES (?, ?, ?, ?, ?, ?)", values)
        for call in part:
            record(db, call.row(), now())
            attempt = (call.key, now(), "sent", call.worst_usd * share, name)
            db.execute("INSERT INTO attempt(key, started, state, usd, batch) VALUES (?, ?, ?, ?, ?)", attempt)


async def _finish(client: Any, store: Store, row: dict[str, str], calls: Calls, model: Model) -> list[str]:
    """Bring one batch to its end, from wherever it stands, and store what it brought; returns what went wrong."""
    import anyio

    remote = row["remote"] or await _create(client, store, row, calls, model)
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
    texts = [await _content(client, calls, file) for file in (batch.output_file_id, batch.error_file_id) if file]
    faults = [
        f"batch {remote}: {fault.code}: {clients.clean(fault.message or '', client.secret)}"
        for fault in (batch.errors.data if batch.errors else None) or []
    ]
    return faults[:3] + batch_lines.settle(store, row, texts, batch.status, model)


async def _content(client: Any, calls: Calls, file: str) -> str:
    """The text of a result file; empty if the provider has deleted it, as it does after some weeks."""
    try:
        reply = await _retrying(client, calls, lambda: client.sdk.files.content(file))
    except CallFailed as error:
        if error.failure.status != 404:
            raise
        tell(f"result file {file} is gone ({error}); its calls count as paid, and are asked again")
        return ""
    return clients.clean(reply.text, client.secret)


async def _create(client: Any, store: Store, row: dict[str, str], calls: Calls, model: Model) -> str:
    """Upload and create a batch, unless an interrupted run has done so; returns the provider's id."""
    endpoint, absent = _endpoint(model), False

    async def make() -> str:
        nonlocal absent
        absent = False
        found = await _named(client, row)
        if found:
            return found
        absent = True
        if not row["file"]:
            upload = ("calls.jsonl", batch_lines.written(store, row["id"], endpoint).encode())
            row["file"] = (await client.sdk.files.create(file=upload, purpose="batch")).id
            with store.transaction() as db:
                db.execute("UPDATE batch SET file = ? WHERE id = ?", (row["file"], row["id"]))
        chosen = {"endpoint": endpoint, "completion_window": "24h", "metadata": {"k": row["id"]}}
        return (await client.sdk.batches.create(input_file_id=row["file"], **chosen)).id

    try:
        remote = await _retrying(client, calls, make)
    except CallFailed as error:
        if absent and error.failure.kind in ("item", "stop"):  # refused in so many words: there is no such batch
            with store.transaction() as db:
                for number, *_ in batch_lines.open_attempts(store, row["id"]):
                    end_attempt(db, number, "failed", 0.0, error.failure)
                db.execute("UPDATE batch SET state = 'refused' WHERE id = ?", (row["id"],))
        raise
    with store.transaction() as db:
        db.execute("UPDATE batch SET remote = ?, state = 'created' WHERE id = ?", (remote, row["id"]))
    return remote


async def _named(client: Any, row: dict[str, str]) -> str | None:
    """The provider's id of the batch that carries our name, or was made of the file that we uploaded for it."""
    seen = 0
    async for batch in client.sdk.batches.list(limit=100):
        if (batch.metadata or {}).get("k") == row["id"] or (row["file"] and batch.input_file_id == row["file"]):
            return batch.id
        seen += 1
        if seen >= SEARCHED:
            break
    return None


async def _retrying(client: Any, calls: Calls, do: Any) -> Any:
    """Do something with the service, again if the network or the server fails."""
    import tenacity

    def again(error: BaseException) -> bool:
        failure = error.failure if isinstance(error, CallFailed) else None
        return failure and failure.kind in ("retry", "slow") and (failure.retry_after or 0.0) <= calls.patience_s

    def wait(state: tenacity.RetryCallState) -> float:
        asked = state.outcome.exception().failure.retry_after or 0.0
        return max(asked, random.uniform(0, min(60.0, 2.0**state.attempt_number)) * min(1.0, calls.poll_s))

    async def once() -> Any:
        with clients.Failures(client.secret):
            return await do()

    stop = tenacity.stop_after_attempt(calls.tries)
    return await tenacity.AsyncRetrying(retry=tenacity.retry_if_exception(again), wait=wait, stop=stop, reraise=True)(
        once
    )


def _open(store: Store, model: Model) -> list[dict[str, str]]:
    """Batches of a model that have not ended."""
    query = "SELECT id, file, remote FROM batch WHERE provider = ? AND address = ? AND model = ? AND state IN (?, ?)"
    rows = store.rows(query, (model.provider, wire.place(model), model.model, "prepared", "created"))
    return [dict(zip(("id", "file", "remote"), row, strict=True)) for row in rows]


def _keys(store: Store, name: str) -> list[str]:
    return [key for (key,) in store.rows("SELECT key FROM attempt WHERE batch = ?", (name,))]
