"""How calls are made (`Calls`), and one call that has no answer yet (`Call`)."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpo_utils.chat import money, wire
from bpo_utils.profile import Limits


@dataclass(frozen=True)
class Calls:
    """How calls are made. `mode`: online, batch (half price, within a day) or replay (no network at all)."""

    store: Path
    mode: str = "online"
    max_usd: float = math.inf  # for everything this store has ever spent; inf: no cap
    limits: dict[str, Limits] = field(default_factory=dict)
    recover: bool = True  # have OpenAI keep replies (store=true), so that those lost in a crash can be looked up
    timeout_s: float = 120.0
    tries: int = 8  # of one call, of which at most two may have been paid for
    patience_s: float = 900.0  # the longest wait that a server may ask for, and the longest time for one call
    pause_s: float = 60.0  # after ten failures in a row
    poll_s: float = 30.0  # between two looks at a batch


@dataclass
class Call:
    """One call that has no answer yet."""

    key: str
    asked: wire.Request
    sent: dict[str, Any]
    worst_usd: float
    tokens: int
    unheard: int = 0  # attempts that may have been paid for without an answer

    @classmethod
    def of(cls, key: str, asked: wire.Request, sent: dict[str, Any]) -> "Call":
        """A call with its worst cost, and the tokens that the provider will count against the minute."""
        return cls(key, asked, sent, money.worst_usd(asked), wire.expected_input(asked) + asked.max_tokens)

    def row(self) -> dict[str, Any]:
        """The call as the store records it."""
        model = self.asked.model
        names = {"key": self.key, "provider": model.provider, "address": wire.place(model), "model": model.model}
        return names | {"sent": wire.canonical(self.sent), "sample": self.asked.sample}
