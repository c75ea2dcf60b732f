"""PE2's conversation with the optimizer (arXiv 2311.05661, section 3.2, appendix A): turn by turn, and all of a round's
conversations together, one turn of all in one batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpo_utils.search import evidence, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import mean
from bpo_utils.search.propose import Meta, ask, instruction, said
from bpo_utils.search.state import Search, add, by_id
from bpo_utils.search.task import Row, shown

if TYPE_CHECKING:
    from bpo_utils.search.methods.pe2 import Settings

FREELY = (
    "Go through the examples, and say what is wrong with the prompt and what should be changed in it."  # no questions
)
READ = "Thank you, I have read it and will bear it in mind."
ANSWER = 300  # tokens of a new prompt and of a summary, appendix B


def refined(
    search: Search,
    pairs: Sequence[tuple[Candidate, Sequence[Row]]],
    changes: dict[str, str],
    settings: "Settings",
) -> list[Candidate]:
    """The new prompts of a round: one conversation for each pair of a prompt and its examples.

    `changes`: what was changed to make each prompt, by its id; the summaries of the new ones are put in, if the history
    is on. A conversation in which a turn cannot be read ends without a child.
    """
    first = [examine(search, parent, rows, settings) for parent, rows in pairs]
    examined = ask(search, first, said, temperature=0.0)
    second = [
        (parent, refine(search, parent, after(meta, answers[0][1]), changes, settings))
        for (parent, _), meta, answers in zip(pairs, first, examined, strict=True)
        if answers
    ]
    replies = ask(
        search, [meta for _, meta in second], instruction, temperature=settings.temperature, max_tokens=ANSWER
    )
    born = []
    for (parent, meta), answers in zip(second, replies, strict=True):
        for text, reply in answers:
            one = add(search, text, "refine", (parent,), reply, meta=versions(settings))
            born += [(one, after(meta, reply))] if one else []
    if settings.history:
        summarize(search, born, changes)
    return [one for one, _ in born]


def after(meta: Meta, reply: str) -> tuple[tuple[str, str], ...]:
    """The turns of a conversation after the reply to its last question."""
    return (*meta.earlier, ("user", meta.text), ("assistant", reply))


def opening(settings: "Settings") -> tuple[tuple[str, str], ...]:
    """The turns before the material: a tutorial, the description of the two steps, each with a scripted answer."""
    turns: list[tuple[str, str]] = []
    if settings.tutorial:
        turns += [("user", prompts.text("pe2_tutorial")), ("assistant", READ)]
    if settings.description:
        task = prompts.filled("pe2_task", batch=str(settings.batch))
        turns += [("user", task), ("assistant", prompts.text("pe2_ready"))]
    return tuple(turns)


def examine(search: Search, candidate: Candidate, rows: Sequence[Row], settings: "Settings") -> Meta:
    """The first step: the current prompt, how it is put together with an input, examples, and the questions."""
    context = prompts.filled("pe2_context", template=shown(search.task)) if settings.context else ""
    values = {
        "about": search.task.about,
        "instruction": candidate.text,
        "context": f"\n{context}\n" if context else "",
        "examples": evidence.examples(search, rows, candidate),
        "questions": prompts.text("pe2_questions") if settings.questions else FREELY,
    }
    return Meta("pe2_examine", prompts.filled("pe2_examine", **values), opening(settings))


def refine(
    search: Search,
    candidate: Candidate,
    earlier: tuple[tuple[str, str], ...],
    changes: dict[str, str],
    settings: "Settings",
) -> Meta:
    """The second step: the current prompt again, its history if wanted, and the conditions for the new one."""
    told = history(search, candidate, changes) if settings.history else ""
    step = f"- You may change up to {settings.step_words} words of it.\n" if settings.step_words else ""
    values = {"instruction": candidate.text, "words": str(settings.words), "step": step}
    text = prompts.filled("pe2_refine", history=f"\n{told}\n" if told else "", **values)
    return Meta("pe2_refine", text, earlier)


def history(search: Search, candidate: Candidate, changes: dict[str, str]) -> str:
    """The prompts that led to this one, oldest first, with their dev scores and what was changed; "" for a first."""
    line = [candidate]
    while line[0].parents:
        line.insert(0, by_id(search, line[0].parents[0]))
    if len(line) == 1:
        return ""
    scores = [str(round(100 * mean(search, one, search.task.dev))) for one in line]
    notes = [changes[one.id] for one in line if one.id in changes and not search.blind]
    listed = "\n\n".join(f"{number}. {each}" for number, each in enumerate(notes, 1)) or evidence.NOTHING
    return prompts.filled("pe2_history", trajectory=evidence.trajectory(search, line, scores), changes=listed)


def summarize(
    search: Search, born: Sequence[tuple[Candidate, tuple[tuple[str, str], ...]]], changes: dict[str, str]
) -> None:
    """Have each change summarized at the end of its conversation, and keep the summary."""
    metas = []
    for one, earlier in born:
        values = {"old": by_id(search, one.parents[0]).text, "new": one.text, "step": str(one.step)}
        metas.append(Meta("pe2_summarize", prompts.filled("pe2_summarize", **values), earlier))
    for (one, _), answers in zip(born, ask(search, metas, said, temperature=0.0, max_tokens=ANSWER), strict=True):
        if answers:
            changes[one.id] = answers[0][0]


def versions(settings: "Settings") -> str:
    """Name and hash of every file that a conversation is made of."""
    parts = {"pe2_tutorial": settings.tutorial, "pe2_task": settings.description, "pe2_ready": settings.description}
    parts |= {"pe2_examine": True, "pe2_context": settings.context, "pe2_questions": settings.questions}
    parts |= {"pe2_refine": True, "pe2_history": settings.history, "pe2_summarize": settings.history}
    return " ".join(prompts.version(name) for name, used in parts.items() if used)
