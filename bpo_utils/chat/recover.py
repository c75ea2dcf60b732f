"""Replies that an earlier run paid for and never received: looked up where the provider keeps them."""

from collections.abc import Callable
from typing import Any

from bpo_utils.chat import capabilities, clients, exchange
from bpo_utils.chat.calls import Call
from bpo_utils.chat.errors import CallFailed
from bpo_utils.chat.store import Store, end_attempt
from bpo_utils.profile import Model

AT_ONCE = 8  # look-ups


async def lost_replies(
    store: Store, todo: dict[str, Call], client: Callable[[Model], Any], look: bool, say: Callable[[str], None]
) -> None:
    """Settle the attempts at these calls that were sent and never heard of, and say what may be paid twice.

    Attempts at other calls stay as they are, for the run that asks for those. How long OpenAI keeps replies, and
    whether its list shows them at once, is not known to us; what is not found is asked again, and stays counted at its
    worst cost.
    """
    import anyio

    rows = store.unsettled(todo)
    found: dict[int, str] = {}
    faults: list[str] = []
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def look_up(row: dict[str, Any]) -> None:
        async with limiter:
            try:
                found[row["id"]] = await client(todo[row["key"]].asked.model).recover(row["key"]) or ""
            except CallFailed as error:
                faults.append(str(error))

    async with anyio.create_task_group() as tasks:
        for row in rows:
            if look and capabilities.provider(todo[row["key"]].asked.model.provider).stored_completions:
                tasks.start_soon(look_up, row)
    with store.transaction() as db:
        lost = [row["usd"] for row in rows if not _settle(db, row, found.get(row["id"], ""), todo[row["key"]])]
    if faults:
        say(f"{len(faults)} lost replies could not be looked up ({faults[0]}); their calls are asked again")
    if lost:
        say(
            f"{len(lost)} calls of an interrupted run were never heard of again: they may be paid twice, at most "
            f"${sum(lost):.4f}"
        )


def _settle(db: Any, row: dict[str, Any], raw: str, call: Call) -> bool:
    """Store what a lost attempt brought; False if that is nothing, and the call must be asked again."""
    try:
        read = clients.parsed(raw) if raw else None
    except CallFailed:
        read = None
    failure = clients.unusable(call.asked.model, read, "") if read else None
    if not read or (failure and failure.kind != "item"):
        end_attempt(db, row["id"], "maybe paid", row["usd"])
        return False
    price = capabilities.price(call.asked.model)
    usd = read.usage.usd(price) if read.usage and price else row["usd"]
    if failure:
        exchange.save_outcome(db, row["key"], failure.outcome, failure.message)
    else:
        exchange.save_answer(db, row["key"], raw, usd, "recovered")
    end_attempt(db, row["id"], "recovered", usd)
    return True
