"""The teacher: a language model that compares a good and a bad response and writes the prompt that would have brought
the good one.

Order of the fields, aspects, constraints and output form follow the paper's Figure 6 and upstream's script; the words
are ours. This module knows no provider: whoever calls it hands it a function that sends prompts and returns replies.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bpo_utils import segment
from bpo_utils.pairs import MalformedReply, parse_reply
from bpo_utils.profile import Teacher
from bpo_utils.records import REPLY_END, REPLY_MARKER, Preference, Reply

Ask = Callable[..., list[Reply]]  # ask(prompts, sample=0): one reply per prompt, in order

INTRODUCTION = "An instruction got these two responses."
ASK = """Compare the two responses first. Is each correct, that is, does it do what the instruction asks and is what \
it says right? This counts most. How helpful is it, in depth, creativity and coherence? Is it harmless?
Then act as an expert in writing prompts: rewrite the instruction so that it brings about responses like the good one \
and not like the bad one."""
RULES_CONTEXT = (
    "Keep every piece of information that the instruction holds.",
    "Do not turn details of the good response into new requirements; use them as examples at most.",
    "Rewrite the instruction only. Neither change the context nor copy it into the instruction, and do not answer.",
    "Keep the meaning of the instruction and what its author wants.",
)
RULES_NO_CONTEXT = (
    "If the instruction is unsafe, rewrite it into a wholly safe and harmless one on the same topic.",
    RULES_CONTEXT[0],
    RULES_CONTEXT[1],
    "Some parts of the instruction may be marked as protected; they must stay exactly as they are.",
    "Never answer the instruction.",
    RULES_CONTEXT[3],
)
FORM = f"Reply in this form and write nothing after the end mark:\nComparison: ...\n{REPLY_MARKER} ... {REPLY_END}"

# Ours, for Chinese only: all the rest is English, and a teacher tends to answer in the language it is asked in.
RULE_LANGUAGE = "Write the optimized instruction in the language of the instruction."

# The ablation: the same task, rules and form, but nothing to compare. Rules on the responses fall away.
INTRODUCTION_ALONE = "This is an instruction that somebody will give to a language model."
ASK_ALONE = """Think first about how responses to it could fall short: in correctness, which counts most, in \
helpfulness (depth, creativity, coherence), in harmlessness.
Then act as an expert in writing prompts: rewrite the instruction so that it brings about a better response."""
FORM_ALONE = FORM.replace("Comparison:", "Thoughts:")


class TeacherFields(NamedTuple):
    """What a teacher prompt holds; without feedback both responses are empty."""

    prompt: str
    context: str
    bad: str
    good: str


def teacher_prompt(row: Preference, feedback: bool = True) -> str:
    """The prompt that asks a teacher to compare two responses and rewrite the instruction, with or without context.

    `feedback=False`: the ablation of the paper's section 4.6, in which the teacher sees no responses.
    """
    return _text(TeacherFields(row.prompt, row.context, row.bad, row.good), feedback)


def parse_teacher_prompt(text: str) -> TeacherFields:
    """The fields of a teacher prompt, exactly as they went in. Raises ValueError for any other text."""
    block = r"\n(?P=quote)\n(.*?)\n(?P=quote)\n\n"
    first = rf"Instruction:\n(?P<quote>\"{{3,}})\n(.*?)\n(?P=quote)\n\n(?:Context:{block})?"
    for feedback, responses in ((True, f"Bad response:{block}Good response:{block}"), (False, "()()")):
        match = re.search(first + responses, text, re.DOTALL)
        fields = TeacherFields(match[2], match[3] or "", match[4], match[5]) if match else None
        if fields and _text(fields, feedback) == text:
            return fields
    raise ValueError(f"not a teacher prompt, it begins {text[:60]!r}; make it with teacher.teacher_prompt")


def _text(fields: TeacherFields, feedback: bool) -> str:
    # a fence longer than any run of quotes inside, so that no text can end its own block
    longest = max(len(run) for field in fields for run in re.findall(r'"*', field))
    quote = '"' * max(3, longest + 1)
    given = {"Instruction": fields.prompt}
    given |= {"Context": fields.context} if fields.context else {}
    given |= {"Bad response": fields.bad, "Good response": fields.good} if feedback else {}
    blocks = [f"{name}:\n{quote}\n{text}\n{quote}" for name, text in given.items()]
    rules = list(RULES_CONTEXT if fields.context else RULES_NO_CONTEXT)
    if not feedback:
        rules.remove(RULES_CONTEXT[1])
    if segment.has_han(fields.prompt):
        rules.append(RULE_LANGUAGE)
    numbered = "Rules:\n" + "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, 1))
    introduction, task, form = (INTRODUCTION, ASK, FORM) if feedback else (INTRODUCTION_ALONE, ASK_ALONE, FORM_ALONE)
    return "\n\n".join([introduction, *blocks, task, numbered, form])


def teacher_reply(comparison: str, optimized: str) -> str:
    """A reply in the form that the teacher prompt asks for: comparison, marker, optimized instruction, end mark."""
    return f"{comparison.strip()}\n\n{REPLY_MARKER} {optimized} {REPLY_END}"


def replies(rows: Sequence[Preference], ask: Ask, teacher: Teacher, leaked: Sequence[str]) -> tuple[list[Reply], int]:
    """(the teacher's reply to each row, in order; how many replies were asked for again).

    A reply that cannot be read is asked for again, `teacher.most_asked` times in all, and the last one counts: it may
    be unreadable too, and then it is rejected with its reason. One that a content filter refused is not asked again.
    """
    prompts = [teacher_prompt(row, teacher.feedback) for row in rows]
    found, again = ask(prompts, sample=0), 0
    for sample in range(1, teacher.most_asked):
        unreadable = [place for place, reply in enumerate(found) if not _readable(reply, leaked)]
        if not unreadable:
            break
        again += len(unreadable)
        for place, reply in zip(unreadable, ask([prompts[n] for n in unreadable], sample=sample), strict=True):
            found[place] = reply
    return found, again


def _readable(reply: Reply, leaked: Sequence[str]) -> bool:
    if reply.outcome != "answered":
        return reply.outcome != "empty"
    try:
        parse_reply(reply.text, leaked)
    except MalformedReply:
        return False
    return True


def replay(rows: Sequence[Preference]) -> list[Reply]:
    """The recorded replies, one per row. Raises ValueError that names the first row without one."""
    if missing := [row.id for row in rows if not row.reply]:
        raise ValueError(
            f"{len(missing)} rows have no recorded reply, first {missing[0]}; ask a teacher for them instead"
        )
    return [Reply(row.reply) for row in rows]
