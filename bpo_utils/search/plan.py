"""What a search will cost at most, before it starts. Every method has a formula (`plan`), and a test holds it to it."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

REPEATED = ("rounds", "expansions")  # knobs that count what a search does again and again
MORE_ROUNDS = 2  # of those that fit at their worst: repeated proposals cost nothing, and leave calls for more


@dataclass(frozen=True)
class Sizes:
    """Rows of the task that a formula needs."""

    train: int
    dev: int


@dataclass(frozen=True)
class Plan:
    """Calls at most: of the target, and of the optimizer if every reply can be read."""

    target: int
    optimizer: int

    def said(self, budget: int | None, tries: int) -> str:
        """One sentence for before the start."""
        target = self.target if budget is None else min(self.target, budget)
        again = f" (at most {self.optimizer * tries:,} if replies must be asked for again)" if tries > 1 else ""
        return f"planned: at most {target:,} target calls and {self.optimizer:,} optimizer calls{again}"


def fitted(method: ModuleType, settings: Any, sizes: Sizes, budget: int | None) -> Any:
    """The method's settings for a budget of target calls; its knob (`KNOB`, such as rounds) is set to what fits.

    Where the knob counts rounds (REPEATED), twice as many as fit at their worst are allowed; the search itself stops
    before a round that could pass the budget. Without a budget: the settings as they are. Raises ValueError with the
    least budget if not even one round fits.
    """
    if budget is None:
        return settings
    most = getattr(settings, method.KNOB)

    def tried(knob: int) -> Any:
        return settings.model_copy(update={method.KNOB: knob})

    least = method.plan(tried(1), sizes).target
    if least > budget:
        raise ValueError(
            f"{method.NAME}: a budget of {budget} target calls is too small; {method.KNOB}: 1 can take {least}"
        )
    fits = max(knob for knob in range(1, most + 1) if method.plan(tried(knob), sizes).target <= budget)
    return tried(min(most, MORE_ROUNDS * fits) if method.KNOB in REPEATED else fits)
