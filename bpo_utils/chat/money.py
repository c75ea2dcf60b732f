"""Money: what a run will cost, a question before it, and a cap that no call can pass.

Before a call is sent its worst case is reserved: one token for every byte of the prompt, and the whole token limit of
the answer. No call starts if what is spent, what is reserved and its own worst case exceed the cap. A call of unknown
end (timed out, connection lost, process killed) stays counted at its worst case. The cap is on everything that a store
has ever spent, so that a run which is killed and started again cannot pass it either.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bpo_utils.chat import capabilities, wire
from bpo_utils.chat.errors import BudgetReached
from bpo_utils.chat.store import Store
from bpo_utils.profile import Model
from bpo_utils.progress import columns

EXPECTED_SHARE = 0.4  # of the token limit, until answers of this model have been seen; an assumption of ours


class Budget:
    """Dollars spent and reserved, against a cap (math.inf: none). All amounts in US dollars."""

    def __init__(self, cap: float, spent: float) -> None:
        import anyio

        self.cap, self.spent, self.reserved = cap, spent, 0.0
        self.changed = anyio.Condition()

    async def reserve(self, worst: float) -> None:
        """Set the worst case aside, waiting for running calls to settle if need be. Raises BudgetReached."""
        if worst <= 0:
            return
        async with self.changed:
            while self.spent + self.reserved + worst > self.cap:
                if self.reserved <= 0:
                    raise BudgetReached(
                        f"${self.spent:.4f} of ${self.cap:.4f} are spent or may have been; the next call could cost "
                        f"${worst:.4f}; everything answered is stored: run again with a higher --max-usd to go on"
                    )
                await self.changed.wait()
            self.reserved += worst

    async def settle(self, worst: float, usd: float) -> None:
        """Replace a reservation by what the call cost."""
        async with self.changed:
            self.reserved = max(0.0, self.reserved - worst) if self.reserved - worst > 1e-12 else 0.0
            self.spent += usd
            self.changed.notify_all()


@dataclass(frozen=True)
class Cost:
    """One line of the plan. `expected` and `worst` in US dollars; None: the price is not known."""

    stage: str
    model: str
    calls: int
    cached: int
    to_pay: int
    expected: float | None
    worst: float | None


def worst_usd(asked: wire.Request) -> float:
    """The most that a call can cost; 0 for an unknown price (a cap refuses those before anything is sent)."""
    price = capabilities.price(asked.model)
    return wire.worst_usage(asked).usd(price) if price else 0.0


def cost(stage: str, model: Model, asked: Sequence[wire.Request], store: Store | None, discount: float = 1.0) -> Cost:
    """What the calls of one model will cost; those that the store has already are free."""
    unique = {wire.key(each, wire.body(each)): each for each in asked}
    known = store.known(unique) if store else {}
    left = [each for key, each in unique.items() if key not in known]
    price = capabilities.price(model)
    if price is None:
        return Cost(stage, model.name, len(unique), len(known), len(left), None, None)
    mean, seen = store.output_tokens(model.model) if store else (0.0, 0)
    expected = 0.0
    for each in left:
        output = mean if seen else EXPECTED_SHARE * each.max_tokens
        expected += wire.Usage(wire.expected_input(each), round(output)).usd(price)
    worst = sum(wire.worst_usage(each).usd(price) for each in left)
    return Cost(stage, model.name, len(unique), len(known), len(left), expected * discount, worst * discount)


def table(costs: Iterable[Cost]) -> str:
    """The plan as a table in plain text, the sum below."""
    costs = list(costs)
    rows = [["stage", "model", "calls", "cached", "to pay", "expected $", "worst $"]]
    rows += [
        [c.stage, c.model, *map(str, (c.calls, c.cached, c.to_pay)), _usd(c.expected), _usd(c.worst)] for c in costs
    ]
    sums = [str(sum(getattr(c, name) for c in costs)) for name in ("calls", "cached", "to_pay")]
    rows.append(["all", "", *sums, _usd(total(costs, "expected")), _usd(total(costs, "worst"))])
    return columns(rows, right_from=2)


def total(costs: Iterable[Cost], name: str) -> float | None:
    """Sum of the expected or worst costs; None if a price is unknown and there is something to pay."""
    amounts = [getattr(each, name) for each in costs if each.to_pay]
    return None if None in amounts else math.fsum(amounts)


def refuse_unknown(models: Iterable[Model], cap: float) -> None:
    """With a cap, every model that is called needs a price. Raises ValueError that names those without."""
    unknown = sorted({model.name for model in models if capabilities.price(model) is None})
    if unknown and not math.isinf(cap):
        raise ValueError(
            f"no price is known for {', '.join(unknown)}, so a cap of ${cap:g} cannot be kept; write it into the "
            "profile (`price: {input: ..., output: ...}`, US dollars per million tokens; 0 for a server of your own)"
        )


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:.4f}" if amount < 1 else f"{amount:.2f}"
