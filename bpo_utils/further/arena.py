"""Who answers better: two systems (an answer model and the prompt it gets) on the same questions, before both judges.

The protocol is notebook 05's: the judge sees the user's question, both orders, a win needs both. Other than there, the
two answers may come from different models, or from two rewriters. A text that a model has answered is never asked
again, so equal prompts share one answer and are a tie.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bpo_utils import chat, judge, records, seeds
from bpo_utils.profile import Model, Profile
from bpo_utils.records import Reply, TestPrompt, Verdict

NOTHING = Reply("", "refused", "")  # of a prompt without a rewrite: not answered, so there is nothing to judge


@dataclass(frozen=True)
class System:
    """An answer model and one prompt for each question; None where a rewriter could make none."""

    model: Model
    prompts: tuple[str | None, ...]


@dataclass
class Arena:
    """The questions, the judges and how they are asked; what has been answered and judged so far."""

    run: Profile
    questions: list[TestPrompt]
    calls: chat.Calls
    ask: Callable[..., list[Reply]] = chat.ask  # (model, prompts, decoding, calls, sample=0)
    answered: dict[tuple[str, str], Reply] = field(default_factory=dict)

    @property
    def originals(self) -> tuple[str, ...]:
        """The questions as the user asked them, with their context."""
        return tuple(records.joined(row.prompt, row.context) for row in self.questions)


def answers(arena: Arena, system: System) -> list[Reply]:
    """The system's answer to every question; raises what `chat.ask` raises."""
    name = system.model.name
    wanted = [text for text in dict.fromkeys(system.prompts) if text is not None]
    missing = [text for text in wanted if (name, text) not in arena.answered]
    replies = arena.ask(system.model, missing, arena.run.answering, arena.calls) if missing else []
    arena.answered |= {(name, text): reply for text, reply in zip(missing, replies, strict=True)}
    return [NOTHING if text is None else arena.answered[name, text] for text in system.prompts]


def prepare(arena: Arena, systems: Sequence[System]) -> int:
    """Have all texts of several systems answered, a model at a time: fuller batches. Returns how many were new."""
    before = len(arena.answered)
    for model in dict.fromkeys(system.model for system in systems):
        texts = [text for system in systems if system.model == model for text in system.prompts]
        answers(arena, System(model, tuple(texts)))
    return len(arena.answered) - before


def duel(arena: Arena, first: System, second: Sequence[System], judge_model: Model) -> list[list[Verdict]]:
    """Verdicts of one judge, A where `first` is better and B where `second` is: a list per seed of `second`."""
    return duels(arena, [first] * len(second), second, judge_model)


def duels(arena: Arena, first: Sequence[System], second: Sequence[System], judge_model: Model) -> list[list[Verdict]]:
    """As `duel`, with an opponent of its own for every seed. Raises ValueError for lists of unlike length."""
    items: list[judge.Match] = []
    for seed, (one, other) in enumerate(zip(first, second, strict=True)):
        items += _matches(arena, one, other, str(seed))
    ask = partial(arena.ask, judge_model, decoding=arena.run.judging.decoding, calls=arena.calls)
    verdicts = judge.judge_pairs(items, judge_model.name, ask, arena.run.judging)
    size = len(arena.questions)
    return [verdicts[start : start + size] for start in range(0, len(verdicts), size)]


def _matches(arena: Arena, first: System, second: System, seed: str) -> list[judge.Match]:
    found = []
    both = zip(arena.questions, answers(arena, first), answers(arena, second), strict=True)
    for row, one, other in both:
        answered = not {one.outcome, other.outcome} & set(judge.NO_ANSWER)
        reference = row.reference if arena.run.judging.reference else ""
        names = (row.id, row.test_set, seed, second.model.name, records.joined(row.prompt, row.context))
        found.append(judge.Match(*names, one.text, other.text, reference, answered))
    return found


def row(names: dict[str, str], verdicts: Sequence[Sequence[Verdict]], **numbers: float) -> dict[str, Any]:
    """A row of results.json: text fields, then net win with its interval over questions and seeds, and the shares."""
    letters = [[verdict.verdict for verdict in part] for part in verdicts]
    found, counts = seeds.net_win(letters), Counter(letter for part in letters for letter in part)
    total = sum(counts.values())
    shares = {f"share_{letter}": counts[letter] / total for letter in "BCA"}
    rest = {"share_invalid": (counts["invalid"] + counts["refused"]) / total}
    interval = {"net_win": found.mean, "ci_low": max(-1.0, found.low), "ci_high": min(1.0, found.high)}
    return {
        **names,
        **interval,
        "n": found.n,
        "seeds": found.seeds,
        "spread": list(found.spread),
        **shares,
        **rest,
        **numbers,
    }
