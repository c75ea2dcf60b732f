"""What the program replies to each kind of meta-prompt, by its heading."""

import random
import re
from collections import Counter

from bpo_utils.search import prompts
from bpo_utils.search.program import Shown, between, drawn, examples, lacking, needed, spoiled, written

PLAIN = (  # ways to say the same where an instruction names nothing in particular
    "Please give a helpful response.", "Answer in a helpful way.", "Be as helpful as you can.",
    "Respond helpfully.", "Give a useful answer.", "Help me with your answer.", "I want a helpful reply.",
)  # fmt: skip


def infer(shown: Shown) -> str:
    """APE: what instruction gave these outputs? Two to five of the things that they give."""
    return written(shown, drawn(shown, needed(shown), shown.rng.randint(2, 5)))


def vary(shown: Shown) -> str:
    """The same meaning in other words: nothing added, nothing left out."""
    if not shown.ideas:
        return shown.rng.choice(PLAIN)
    return written(shown, shown.rng.sample(shown.ideas, len(shown.ideas)))


def paraphrase(shown: Shown) -> str:
    """ProTeGi: the same meaning in other words, between tags."""
    return between("instruction", [vary(shown)])


def reasons(shown: Shown) -> str:
    """ProTeGi: why did the instruction fail on these examples?"""
    counts, found = lacking(shown), []
    for _ in range(shown.count):
        if spoiled(shown) and shown.ideas and shown.rng.random() < 0.5:
            rarest = min(shown.ideas, key=lambda idea: (needed(shown)[idea], idea))
            found.append(f"The instruction asks for too much. It need not {shown.words.phrases[rarest][0]}.")
        else:
            asks = " and ".join(shown.words.phrases[idea][0] for idea in drawn(shown, counts, shown.rng.randint(1, 2)))
            found.append(f"The instruction does not ask the model to {asks}.")
    return between("reason", found)


def improve(shown: Shown) -> str:
    """ProTeGi: mend what the reason names."""
    (reason,) = prompts.tagged(shown.text, "reason")[:1] or [""]
    named = shown.words.found(reason)
    found = []
    for _ in range(shown.count):
        kept = [idea for idea in shown.ideas if idea not in named] if "too much" in reason else [*shown.ideas, *named]
        found.append(written(shown, shown.rng.sample(kept, len(kept))))
    return between("instruction", found)


def continue_list(shown: Shown) -> str:
    """OPRO: from scored instructions to one that should score higher.

    Starts from one of the last (best) three and exchanges one or two things, by what the scored list says of each and
    by what the shown exemplars need.
    """
    tried = [
        (shown.words.found("".join(prompts.tagged(block, "instruction"))), _score(block))
        for block in prompts.tagged(shown.text, "scored")
    ]
    scores = [score for _, score in tried if score is not None]
    if scores:
        start = shown.rng.choice(sorted(tried, key=lambda pair: pair[1] or 0)[-3:])[0]
    else:
        start = shown.rng.choice(tried)[0] if tried else []
    worth, wanted = _worth(tried), needed(shown)
    average = sum(scores) / len(scores) if scores else 0.0
    more = Counter(
        {
            idea: 1.0 + wanted[idea] + max(0.0, worth.get(idea, average) - average)
            for idea in shown.words.ideas
            if idea not in start and (wanted[idea] or worth.get(idea, 0) > average or not examples(shown))
        }
    )
    new = [*start, *drawn(shown, more, shown.rng.randint(1, 2))]
    poor = [idea for idea in start if worth.get(idea, average) < average]
    if poor and shown.rng.random() < 0.6:
        new.remove(shown.rng.choice(poor))
    return between("instruction", [written(shown, new)])


def examine(shown: Shown) -> str:
    """PE2, first step: yes or no to every question on every example, and what to change."""
    found = []
    for number, one in enumerate(examples(shown), 1):
        lacks = shown.words.missing(one["input"], one["output"], one["reference"])
        asks = "; ".join(shown.words.phrases[idea][0] for idea in lacks)
        told = f"yes, the instruction should also say: {asks}." if lacks else "no."
        if "" in shown.words.given(one["input"], one["output"]):
            told += " The output holds something wrong: the instruction may ask for too much."
        found.append(f"Example {number}. Output right: {'no' if lacks else 'yes'}. Edit needed: {told}")
    return "\n".join(found) or "There is no example to look at."


def refine(shown: Shown) -> str:
    """PE2, second step: the instruction with what the first step suggested, within the limits of words."""
    lines = shown.earlier.split("\n")
    counts = Counter(idea for line in lines for idea in shown.words.found(line))
    fresh = Counter({idea: count for idea, count in counts.items() if idea not in shown.ideas})
    added = drawn(shown, fresh, shown.rng.randint(1, 3)) if fresh or not counts else []
    step = re.search(r"change up to (\d+) words", shown.text)
    while step and len(added) > 1 and len(written(shown, added).split()) > int(step.group(1)):
        added.pop()
    kept = list(shown.ideas)
    if kept and 2 * sum("too much" in line for line in lines) > sum(line.startswith("Example ") for line in lines):
        kept.remove(shown.rng.choice(kept))
    limit = re.search(r"at most (\d+) words", shown.text)
    room = int(limit.group(1)) if limit else 1000
    new = [*kept, *added]
    while len(new) > 1 and len(written(shown, new).split()) > room:
        new.pop(0)
    return between("instruction", [written(shown, new)])


def criticize(shown: Shown) -> str:
    """PromptAgent: everything that the shown answers lack, the most frequent first."""
    counts = lacking(shown) or Counter(drawn(shown, Counter(), 1))
    lines = [f"- {count} of the answers: {shown.words.phrases[idea][0]}" for idea, count in counts.most_common()]
    too_much = ["- The instruction asks for too much at once."] if spoiled(shown) else []
    return "\n".join(["The instruction should ask for more of this:", *lines, *too_much])


def praise(shown: Shown) -> str:
    """PromptAgent, where the whole batch is right: what the answers give."""
    lines = [f"- {shown.words.phrases[idea][0]}" for idea, _ in needed(shown).most_common()]
    return "\n".join(["The answers are right because they do this:", *lines])


def rewrite(shown: Shown) -> str:
    """PromptAgent: the instruction with up to three things of the feedback, other than all earlier ones."""
    feedback = "\n".join(prompts.tagged(shown.text, "feedback"))
    counted = [(int(m.group(1)), m.group(0)) for m in re.finditer(r"- (\d+) of [^\n]*", feedback)]
    weights = Counter({idea: count for count, line in counted for idea in shown.words.found(line)})
    weights = weights or Counter(shown.words.found(feedback))
    fresh = Counter({idea: count for idea, count in weights.items() if idea not in shown.ideas})
    found = []
    for _ in range(shown.count):
        kept = list(shown.ideas)
        if "too much" in feedback and kept:
            kept.remove(shown.rng.choice(kept))
        found.append(written(shown, [*kept, *(drawn(shown, fresh, shown.rng.randint(1, 3)) if fresh else [])]))
    return between("instruction", found)


def write_steps(shown: Shown) -> str:
    """ABO: a numbered procedure, a step for each of the four things that the shown outputs give most often."""
    ideas = [idea for idea, _ in needed(shown).most_common(4)] or shown.rng.sample(shown.words.ideas, 3)
    steps = [f"{number}. {_sentence(shown, [idea])}" for number, idea in enumerate(ideas, 1)]
    return f"<instruction>\n{chr(10).join(steps)}\n</instruction>"


def demonstrate(shown: Shown) -> str:
    """ABO: one worked example, every step in order, and the right answer at its end."""
    (one,) = examples(shown)[:1] or [{"input": "", "output": "", "reference": ""}]
    steps = [f"Step {number}: {line}" for number, line in _steps(shown.current).items()]
    told = "\n".join([*steps, f"Answer: {one['reference'] or one['output']}"])
    return f"<demonstration>\n{told}\n</demonstration>"


def locate(shown: Shown) -> str:
    """ABO: the first step whose execution the output lacks; where the lack is no step's, the last one."""
    (one,) = examples(shown)[:1] or [{"input": "", "output": "", "reference": ""}]
    lacks = shown.words.missing(one["input"], one["output"], one["reference"])
    steps = {number: shown.words.found(line) for number, line in _steps(shown.current).items()}
    failing = next((number for number, ideas in steps.items() if set(ideas) & set(lacks)), max(steps, default=1))
    asks = " and ".join(shown.words.phrases[idea][0] for idea in lacks) or "carry out the step"
    return f"<step>{failing}</step>\n<correction>The model should {asks}.</correction>"


def decompose(shown: Shown) -> str:
    """ABO: the failing step in smaller parts, with what the corrections name; the other steps as they are."""
    (failing,) = [int(each) for each in prompts.tagged(shown.text, "step")[:1]] or [1]
    named = Counter(idea for text in prompts.tagged(shown.text, "correction") for idea in set(shown.words.found(text)))
    steps = _steps(shown.current)
    have = set(shown.words.found(steps.get(failing, "")))
    parts = [idea for idea in drawn(shown, named, 2) if idea not in have]
    more = _sentence(shown, parts).lower() if parts else "then look whether it was done."
    if more not in steps.get(failing, ""):
        steps[failing] = f"{steps.get(failing, '').rstrip('.')}; {more}"
    lines = [f"{number}. {line}" for number, line in sorted(steps.items())]
    return f"<instruction>\n{chr(10).join(lines)}\n</instruction>"


def renew(shown: Shown) -> str:
    """ABO: the demonstration with the steps of the new procedure, and the old one's answer."""
    old = next(iter(prompts.tagged(shown.text, "demonstration")), "")
    steps = [f"Step {number}: {line}" for number, line in _steps(shown.current).items()]
    told = "\n".join([*steps, f"Answer: {old.rpartition('Answer: ')[2]}"])
    return f"<demonstration>\n{told}\n</demonstration>"


def rate(shown: Shown) -> str:
    """Curriculum: how difficult an input looks, from 1 to 5, by nothing but its length."""
    words = len(next(iter(prompts.tagged(shown.text, "input")), "").split())
    return f"<rating>{min(5, 1 + words // 5)}</rating>"


def summarize(shown: Shown) -> str:
    """PE2's history: what changed between two instructions."""
    both = prompts.tagged(shown.text, "instruction")
    old, new = (shown.words.found(text) for text in (both + ["", ""])[:2])
    added = ", ".join(shown.words.phrases[idea][0] for idea in new if idea not in old) or "nothing"
    return f"Limitation: it did not ask for enough. Change: added {added}."


REPLIES = {
    "Infer the instruction": infer,
    "Vary the instruction": vary,
    "Paraphrase the instruction": paraphrase,
    "Give reasons for the errors": reasons,
    "Improve the instruction": improve,
    "Continue the list": continue_list,
    "Examine the examples": examine,
    "Refine the instruction": refine,
    "Criticize the instruction": criticize,
    "Praise the instruction": praise,
    "Rewrite the instruction": rewrite,
    "Write the steps": write_steps,
    "Demonstrate the steps": demonstrate,
    "Find the failing step": locate,
    "Decompose the step": decompose,
    "Renew the demonstration": renew,
    "Rate the difficulty": rate,
    "Summarize the change": summarize,
}


def _score(block: str) -> float | None:
    found = re.search(r"<score>\s*([\d.]+)", block)
    return float(found.group(1)) if found else None


def _worth(tried: list[tuple[list[str], float | None]]) -> dict[str, float]:
    """Mean score of the shown instructions that ask for each idea."""
    scores: dict[str, list[float]] = {}
    for ideas, score in tried:
        for idea in ideas if score is not None else []:
            scores.setdefault(idea, []).append(score)
    return {idea: sum(found) / len(found) for idea, found in scores.items()}


def _sentence(shown: Shown, ideas: list[str]) -> str:
    return shown.words.instruction(ideas, random.Random(shown.rng.random()))


def _steps(procedure: str) -> dict[int, str]:
    """The numbered lines of a procedure."""
    return {int(m.group(1)): m.group(2).strip() for m in re.finditer(r"^\s*(\d+)\.\s+(.+)$", procedure, re.MULTILINE)}
