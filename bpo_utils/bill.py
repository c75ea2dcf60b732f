"""What notebooks 02 and 05 will call and what that costs, before anything is sent. Like them, above the stages."""

import math
from collections.abc import Iterable

from bpo_utils import chat, judge, teacher
from bpo_utils.chat import capabilities, money, wire
from bpo_utils.chat.store import Store
from bpo_utils.profile import Model, Profile
from bpo_utils.records import Answer, Preference, Rewrite, TestPrompt

LETTERS_PER_TOKEN = 4  # of answers that are not there yet, to guess how long the judge's prompts will be


def costs(run: Profile, prompts: list[TestPrompt], rewrites: list[Rewrite], calls: chat.Calls) -> list[money.Cost]:
    """One line per stage and model: calls, those that the store has, those to pay, expected and worst cost.

    Answers that are not there yet are taken to be as long as those seen of that model, or as EXPECTED_SHARE of the
    limit; so the judges' lines are estimates until then, their worst cost too (the cap at run time is exact). Replies
    that have to be asked for again are not foreseen.
    """
    store = Store(calls.store) if calls.store.exists() else None
    try:
        lines, answers = [], []
        for model in run.answer_models:
            unique = list(dict.fromkeys(chat.prompts_of(rewrites).values()))
            asked = [wire.request(model, text, run.answering) for text in unique]
            lines.append(money.cost("answers", model, asked, store, _share(model, calls)))
            answers += _guessed(model, rewrites, dict(zip(unique, asked, strict=True)), store)
        items = [item for item in judge.matches(prompts, answers, run.judging.reference) if not item.decided]
        lines += _judging(run, "judging", items, store, calls)
        if run.judging.hardened:
            plain = run.model_copy(update={"judging": run.judging.model_copy(update={"hardened": False})})
            lines += _judging(plain, "plain prompt", items[: judge.SHIFT_SAMPLE], store, calls)
        return lines
    finally:
        if store:
            store.db.close()


def teaching(run: Profile, passed: list[Preference], model: Model, calls: chat.Calls) -> list[money.Cost]:
    """One line: what it costs to ask the teacher about the rows that the filters let through (`passed`).

    `model`: the teacher, or who takes its place (`served.resolve_teacher`). Replies that have to be asked for again
    are not foreseen; each costs about as much once more, and the cap holds for them too.
    """
    prompts = [teacher.teacher_prompt(row, run.teacher.feedback) for row in passed]
    asked = [wire.request(model, prompt, run.teacher.decoding) for prompt in prompts]
    store = Store(calls.store) if calls.store.exists() else None
    try:
        return [money.cost("teacher", model, asked, store, _share(model, calls))]
    finally:
        if store:
            store.db.close()


def default_cap(lines: Iterable[money.Cost], spent: float) -> float:
    """The cap where none is given: what was spent and the worst that is to come; inf if a price is unknown."""
    worst = money.total(lines, "worst")
    return math.inf if worst is None else spent + worst


def spent(calls: chat.Calls) -> float:
    """US dollars that a run's store has spent so far."""
    if not calls.store.exists():
        return 0.0
    with Store(calls.store) as store:
        return store.spent()


def _judging(
    run: Profile, stage: str, items: list[judge.Match], store: Store | None, calls: chat.Calls
) -> list[money.Cost]:
    texts = [text for item in items for text in judge.order_prompts(item, run.judging)]
    decoding, lines = run.judging.decoding, []
    for model in run.judges:
        asked = [wire.request(model, text, decoding) for text in texts]
        lines.append(money.cost(stage, model, asked, store, _share(model, calls)))
    return lines


def _share(model: Model, calls: chat.Calls) -> float:
    remote = model.provider not in capabilities.IN_PROCESS
    return capabilities.provider(model.provider).batch_discount if remote and calls.mode == "batch" else 1.0


def _guessed(
    model: Model, rewrites: list[Rewrite], asked: dict[str, wire.Request], store: Store | None
) -> list[Answer]:
    """One model's answers: those of the store, and for the others a text of about the length they will have."""
    keys = {text: wire.key(request, wire.body(request)) for text, request in asked.items()}
    known = store.known(keys.values()) if store else {}
    mean, seen = store.output_tokens(model.model) if store else (0.0, 0)
    found = []
    for (name, id, side), text in chat.prompts_of(rewrites).items():
        tokens = mean if seen else money.EXPECTED_SHARE * asked[text].max_tokens
        guess = keys[text][:16].ljust(
            round(tokens) * LETTERS_PER_TOKEN, "."
        )  # unlike any other: equal ones are no call
        stored = known.get(keys[text])
        outcome = stored.outcome if stored else "answered"
        found.append(Answer(id, name, side, model.name, text, stored.text if stored else guess, outcome))
    return found
