"""Pairwise judging: who is compared, both orders, and how two replies become one verdict.

The protocol is MT-bench's (Zheng et al. 2023, arXiv 2306.05685): every pair is judged twice with the places of the
answers exchanged, and a win needs both orders. The judge sees the original question with its context, never the
optimized prompt, as in the BPO paper's evaluation. This module knows no provider: whoever calls it hands it a function
that sends prompts and returns replies.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from bpo_utils import judge_prompts
from bpo_utils.profile import Judging
from bpo_utils.records import Answer, Reply, TestPrompt, Verdict, joined

SWAPPED = {"A": "B", "B": "A", "C": "C", "invalid": "invalid", "refused": "refused"}
SHIFT_SAMPLE = 100  # pairs judged with the plain prompt too, where the profile wants the hardened one
MOST_ASKED = 3  # an unreadable reply, or one that was cut off, is asked for again at most twice
NO_ANSWER = ("refused", "too_long")
Ask = Callable[..., list[Reply]]  # ask(prompts, sample=0): one reply per prompt, in order


@dataclass(frozen=True)
class Match:
    """Two answers of one answer model to one question: to the original and to the optimized prompt.

    `reference`: a gold answer, if the judge shall see one. `answered`: whether both sides have an answer to judge.
    """

    id: str
    test_set: str
    rewriter: str
    answer_model: str
    question: str
    original: str
    optimized: str
    reference: str = ""
    answered: bool = True

    @property
    def decided(self) -> str:
        """How the verdict comes about without a judge: no_answer, equal_answers; empty if a judge is needed."""
        return "no_answer" if not self.answered else "equal_answers" if self.original == self.optimized else ""


def combine(original_first: str, optimized_first: str) -> tuple[str, str, str]:
    """Verdicts A, B, C as read in each order -> (letter with original first, letter with optimized first, verdict).

    Letters are the course's: A original better, B optimized better, C tie, invalid, refused. The rule is MT-bench's
    conservative one: both orders must name the same winner, else it is a tie. A refused order makes the verdict
    refused, an unreadable one invalid; neither is a tie.
    """
    first, second = original_first, SWAPPED[optimized_first]
    for letter in ("refused", "invalid"):
        if letter in (first, second):
            return first, second, letter
    return first, second, first if first == second else "C"


def matches(prompts: list[TestPrompt], answers: list[Answer], with_reference: bool = False) -> list[Match]:
    """Each answer to a rewritten prompt beside the same model's answer to the original one, in the order of `answers`.

    Raises ValueError for an answer without its original, or without its test prompt.
    """
    questions = {(row.test_set, row.id): row for row in prompts}
    originals = {(row.test_set, row.id, row.model): row for row in answers if row.side == "original"}
    found = []
    for row in (row for row in answers if row.side != "original"):
        question, original = questions.get((row.test_set, row.id)), originals.get((row.test_set, row.id, row.model))
        if question is None or original is None:
            missing = "answer to the original prompt" if question else "test prompt"
            raise ValueError(
                f"{row.test_set} {row.id}, {row.model}, {row.side}: no {missing}; run notebook 04 and 05 again"
            )
        names = (row.id, row.test_set, row.side, row.model, joined(question.prompt, question.context))
        answered = not {row.outcome, original.outcome} & set(NO_ANSWER)
        reference = question.reference if with_reference else ""
        found.append(Match(*names, original.text, row.text, reference, answered))
    return found


def order_prompts(item: Match, judging: Judging) -> tuple[str, str]:
    """The judge's prompts for one pair: original first, optimized first."""
    rest = (item.reference, judging.hardened)
    return (
        judge_prompts.make(judging.style, item.question, item.original, item.optimized, *rest),
        judge_prompts.make(judging.style, item.question, item.optimized, item.original, *rest),
    )


def judge_pairs(items: list[Match], judge: str, ask: Ask, judging: Judging | None = None) -> list[Verdict]:
    """Judge every match in both orders (or as upstream, if the profile's `judging` says so).

    `ask` gets all prompts at once and returns one reply for each, in order.

    Equal answers are a tie without a call. A reply that cannot be read, or was cut off, is asked for again at most
    twice, as another sample; what stays unreadable is invalid, and stays in the denominator. Verdicts are read out of
    the replies here, each time: they are stored nowhere as truth. Raises ValueError if `ask` returns another number of
    replies, and what `ask` raises.
    """
    judging = judging or Judging()
    if judging.orders not in ("both", "upstream"):
        raise ValueError(f"judging.orders {judging.orders!r}: there are both and upstream")
    if judging.orders == "upstream":
        return judge_like_upstream(items, judge, ask, judging)
    prompts = [text for item in items if not item.decided for text in order_prompts(item, judging)]
    replies = _readable(prompts, judge, ask, judging.style)
    verdicts = []
    for item in items:
        key = (item.id, item.test_set, item.rewriter, item.answer_model, judge)
        if item.decided:
            letter = "C" if item.decided == "equal_answers" else "refused"
            verdicts.append(Verdict(*key, letter, letter, letter, "", "", item.decided))
            continue
        first, second = (replies[text] for text in order_prompts(item, judging))
        letters = combine(_letter(first, judging.style), _letter(second, judging.style))
        verdicts.append(Verdict(*key, *letters, first.text, second.text))
    return verdicts


def judge_like_upstream(items: list[Match], judge: str, ask: Ask, judging: Judging | None = None) -> list[Verdict]:
    """One seeded order per pair and one reading, as upstream counts: to compare with the paper, not to conclude from.

    As in thu-coai/BPO src/evaluation (commit 9bf5415): one order by chance; the verdict stands in the last paragraph,
    where A is looked for before B before C; what has none is in the denominator only (here: invalid). Not inherited:
    that the script cannot start (a missing argument, a wrong key, JSON read from JSON Lines); that on BPO-test it
    counts which place won, whoever stood there; the unseeded coin; the resume by id alone, which takes another model's
    answers; errors printed and skipped; wins and losses told from the original's side; answers cut at `[/INST]`;
    and placeholders replaced inside the texts.
    """
    judging = judging or Judging(orders="upstream")
    swapped = {(item.test_set, item.id, item.answer_model): _coin(item, judging.seed) for item in items}
    asked = [(item, swapped[item.test_set, item.id, item.answer_model]) for item in items if not item.decided]
    prompts = [order_prompts(item, judging)[swap] for item, swap in asked]
    replies = dict(zip(prompts, _asked(prompts, judge, ask, 0), strict=True))
    verdicts = []
    for item in items:
        key = (item.id, item.test_set, item.rewriter, item.answer_model, judge)
        if item.decided:
            letter = "C" if item.decided == "equal_answers" else "refused"
            verdicts.append(Verdict(*key, letter, letter, letter, "", "", item.decided))
            continue
        swap = swapped[item.test_set, item.id, item.answer_model]
        reply = replies[order_prompts(item, judging)[swap]]
        last = reply.text.rstrip().split("\n\n")[-1]
        found = next((letter for letter in "ABC" if f"[[{letter}]]" in last), "invalid")
        letter = "refused" if reply.outcome == "refused" else SWAPPED[found] if swap else found
        sides = ("", letter, letter, "", reply.text) if swap else (letter, "", letter, reply.text, "")
        verdicts.append(Verdict(*key, *sides, "one_order"))
    return verdicts


def flagged(answers: list[Answer]) -> list[Answer]:
    """The answers that seem to talk to the judge; to be read by a person (see `judge_prompts.talks_to_judge`)."""
    return [row for row in answers if judge_prompts.talks_to_judge(row.text)]


def _readable(prompts: list[str], judge: str, ask: Ask, style: str) -> dict[str, Reply]:
    """One reply per prompt; unreadable ones asked again, the last try kept."""
    replies: dict[str, Reply] = {}
    waiting = list(dict.fromkeys(prompts))
    for sample in range(MOST_ASKED):
        if waiting:
            replies.update(zip(waiting, _asked(waiting, judge, ask, sample), strict=True))
            waiting = [text for text in waiting if _letter(replies[text], style) == "invalid"]
    return replies


def _asked(prompts: list[str], judge: str, ask: Ask, sample: int) -> list[Reply]:
    replies = ask(prompts, sample=sample) if prompts else []
    if len(replies) != len(prompts):
        raise ValueError(f"judge {judge}: {len(prompts)} prompts sent, {len(replies)} replies came back")
    return replies


def _letter(reply: Reply, style: str) -> str:
    """A, B, C as the judge named the places; refused by a content filter; else invalid, also if it was cut off."""
    if reply.outcome == "refused":
        return "refused"
    return "invalid" if reply.finish == "length" else judge_prompts.read(style, reply.text)


def _coin(item: Match, seed: int) -> bool:
    return random.Random(f"{seed} {item.test_set} {item.id} {item.answer_model} {item.rewriter}").random() < 0.5
