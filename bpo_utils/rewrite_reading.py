"""What is known of each rewrite: what the rules find in it, how far it grew, and in the miniature what is true of it.

The rules are those of `rewrite_rules` and `drift`; they read the two prompts and nothing else. In the miniature the
world itself knows what a prompt asks for and what its author needs. `interpret` counts what is read here.
"""

from collections.abc import Iterable
from typing import NamedTuple

from bpo_utils import drift
from bpo_utils.additions import NONE, NOT_READ
from bpo_utils.records import Rewrite, TestPrompt
from bpo_utils.rewrite_rules import ERRORS, classify

HARMS = (*ERRORS, "topic_lost")
NO_HARM, NO_CATEGORY = "no_harm", "(none given)"
TRUTH_GROUPS = (  # what the miniature's world says
    "needed_only",
    "not_needed",
    "adds_nothing",
    "passage_kept",
    "passage_dropped",
    "asks_other",
    "topic_lost",
    "made_safe",
    "left_unsafe",
)
Question = tuple[str, str]  # test_set, id


class Read(NamedTuple):
    """What is known of one rewrite. `growth` is words after / words before; `truth` is empty outside the miniature.

    `strategies` holds `none` where no rule found one, `harms` likewise `no_harm`; both `not_read` for Chinese text,
    which the rules cannot read (of the harms only `topic_lost` is looked for there).
    """

    key: Question
    category: str
    before: str
    after: str
    strategies: tuple[str, ...]
    harms: tuple[str, ...]
    growth: float
    evidence: dict[str, str]
    passage: str  # with_passage, without_passage: whether the prompt comes with one
    truth: tuple[str, ...] = ()


def read(prompts: Iterable[TestPrompt], rewrites: Iterable[Rewrite], miniature: bool = False) -> list[Read]:
    """One `Read` per rewrite of the rewriter bpo, in their order. `miniature`: ask the world what is true of each.

    Raises ValueError for a rewrite without its test prompt, or if there are no rewrites.
    """
    by_key = {(row.test_set, row.id): row for row in prompts}
    found = []
    for row in rewrites:
        if row.rewriter != "bpo":
            continue
        if (prompt := by_key.get((row.test_set, row.id))) is None:
            raise ValueError(f"{row.test_set} {row.id}: a rewrite, but no test prompt; run notebooks 01 and 04 again")
        truth = world_truth(row.prompt, row.optimized_prompt) if miniature else ()
        found.append(_read(prompt, row.prompt, row.optimized_prompt, truth))
    if not found:
        raise ValueError("no rewrites of bpo to interpret; run notebook 04 first")
    return found


def world_truth(before: str, after: str) -> tuple[str, ...]:
    """What the miniature's world knows of a rewrite, as names of TRUTH_GROUPS.

    needed_only, not_needed or adds_nothing: the facets that only the rewrite names, against what the author needs;
    asks_other: the facet that the words literally ask for is not among those named; passage and topic kept or lost, to
    the letter; an unsafe request made safe or not.
    """
    from bpo_utils.mini import world

    old, new = world.read(before), world.read(after)
    needed = world.needs(old) if old.topic else ()
    added = set(new.asked) - set(old.asked)
    found = ["not_needed" if added - set(needed) else "needed_only" if added else "adds_nothing"]
    if old.passage:
        found.append("passage_kept" if old.passage in after else "passage_dropped")
    found += ["asks_other"] if needed and needed[0] not in new.asked else []
    found += ["topic_lost"] if new.topic != old.topic else []
    if old.unsafe:
        found.append("made_safe" if new.topic == old.topic and not new.unsafe and new.asked else "left_unsafe")
    return tuple(found)


def topic_lost(before: str, after: str) -> str:
    """Why a rewrite may be on another subject: names are gone, or little of the wording is left (chrF); else empty.

    A flag of `drift` in any language, not a reading: a paraphrase raises it too.
    """
    if lost := drift.lost_names(before, after):
        return f"names are gone: {', '.join(lost[:6])}"
    score = drift.chrf(before, after)
    return f"little of the wording is left: chrF {score:.0f}" if score < drift.MIN_CHRF else ""


def _read(prompt: TestPrompt, before: str, after: str, truth: tuple[str, ...]) -> Read:
    found = classify(before, after)
    evidence, harms = dict(found.evidence), list(found.errors)
    # a rewrite that makes an unsafe request safe ought to move far
    if "safety" not in found.strategies and (lost := topic_lost(before, after)):
        harms.append("topic_lost")
        evidence["topic_lost"] = lost
    return Read(
        key=(prompt.test_set, prompt.id),
        category=prompt.category or NO_CATEGORY,
        before=before,
        after=after,
        strategies=found.strategies or (NONE if found.applies else NOT_READ,),
        harms=tuple(harms) or (NO_HARM if found.applies else NOT_READ,),
        growth=drift.growth(before, after),
        evidence=evidence,
        passage="with_passage" if prompt.context else "without_passage",
        truth=truth,
    )
