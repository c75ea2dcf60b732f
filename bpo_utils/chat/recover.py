"""Replies that an earlier run paid for and never received: looked up where the provider keeps them."""

from collections.abc import Callable
from typing import Any

from bpo_utils.chat import capabilities, exchange, wire
from bpo_utils.chat.errors import CallFailed
from bpo_utils.chat.store import Store, end_attempt


async def lost_replies(
    store: Store, clients: dict[tuple[str, str], Any], look: bool, say: Callable[[str], None]
) -> None:
    """Settle the attempts that were sent and never heard of, and say in one sentence what may be paid twice.

    `clients` by (provider, address). How long OpenAI keeps replies, and whether its list shows them at once, is not
    known to us; what is not found is asked again, and stays counted at its worst cost.
    """
    lost = usd = 0
    for row in store.unsettled():
        client = clients.get((row["provider"], row["address"]))
        able = client and look and capabilities.provider(row["provider"]).stored_completions
        raw = await _look_up(client, row["key"], say) if able else None
        with store.transaction() as db:
            if raw:
                exchange.save_answer(db, row["key"], raw, _usd(row, raw), "recovered")
                end_attempt(db, row["id"], "recovered", _usd(row, raw))
            else:
                end_attempt(db, row["id"], "maybe paid", row["usd"])
        lost, usd = lost + (not raw), usd + (0.0 if raw else row["usd"])
    if lost:
        say(f"{lost} calls of an interrupted run were never heard of again: they may be paid twice, at most ${usd:.4f}")


async def _look_up(client: Any, key: str, say: Callable[[str], None]) -> str | None:
    try:
        raw = await client.recover(key)
        return raw if raw and wire.parse(raw).outcome == "answered" else None
    except (CallFailed, ValueError) as error:
        say(f"could not look up a lost reply ({error}); its call is asked again")
        return None


def _usd(row: dict[str, Any], raw: str) -> float:
    """What a recovered reply cost by the table's price; its worst case if price or usage is not known."""
    usage, known = wire.parse(raw).usage, capabilities.table()[1].get(row["model"])
    return usage.usd(known.price) if usage and known and known.price else row["usd"]
