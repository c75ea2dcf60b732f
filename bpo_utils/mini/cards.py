"""The model cards of the shipped models, written by mini.build from what was trained and measured."""

from dataclasses import asdict
from typing import Any

from bpo_utils.mini import lessons, models, preference

CARD = """# {title}

{about}

- Architecture: Llama (Transformers' {architecture}), {parameters:,} parameters, weights in half precision; loads with
  plain Transformers.
- Tokenizer: byte-level BPE, {vocabulary:,} entries, trained on the miniature's corpus; prompts as `[INST] ... [/INST]`.
- Training: {training}
- Made by: `python -m bpo_utils.mini.build` (seed {seed}); the training log lies beside this card.
- Use: teaching only. It knows the 72 topics of `bpo_utils/mini/world` and nothing else; its numbers say nothing about
  real models.
- Licence: Apache-2.0, as the rest of the repository.
"""
STANDS_FOR = {"weak": "Llama-2-7b", "middle": "gpt-3.5-turbo", "strong": "gpt-4o"}


def base(model: Any, log: list[dict[str, Any]], seed: int) -> str:
    """Card of the base model."""
    about = (
        "The base of the miniature: it can copy, put the subject of a request into a given form, and give the one\n"
        "fact that a request literally asks for. It has never seen an optimized prompt. The rewriter of notebook 03\n"
        "is this model, fine-tuned."
    )
    return _card("base", about, model, _trained(log), seed)


def answer_model(name: str, model: Any, log: list[dict[str, Any]], seed: int) -> str:
    """Card of an answer model: its strength is what it was taught to do by itself."""
    taught = asdict(lessons.STRENGTHS[name])
    about = (
        f"An answer model of the miniature, standing where the report has {STANDS_FOR[name]}: the base, taught to\n"
        "answer.\n\n"
        "Its strength is a matter of design, not of size. In its lessons it\n\n"
        f"- supplied a needed facet that the prompt did not name in {taught['unsaid']:.0%} of the cases,\n"
        f"- used a passage that nobody told it to use in {taught['passage']:.0%},\n"
        f"- agreed to an unsafe request in {taught['harm']:.0%} (an empty phrase; this world holds no harmful\n"
        "  instruction),\n"
        f"- left out a facet that was named in {taught['drop']:.0%}."
    )
    return _card(name, about, model, _trained(log), seed)


def judge(model: Any, log: list[dict[str, Any]], seed: int) -> str:
    """Card of the learned judge."""
    last = log[-1]
    about = (
        "The learned judge of the miniature: the base with a scalar head, trained on the preference rows with the\n"
        "Bradley-Terry loss: the good response against the bad one, and against the good response of another row, so\n"
        "that it looks at the subject. Two answers tie while neither is preferred with 60 % or more "
        f"(margin {preference.MARGIN:.3f})."
    )
    training = (
        f"{last['epoch']} epochs over the preference rows less a tenth and less the rows that share a prompt with it;\n"
        f"  on that tenth ({last['held_out_n']} rows, one label in ten wrong on purpose) it prefers the labelled\n"
        f"  answer in {last['held_out_accuracy']:.1%}."
    )
    return _card("judge", about, model, training, seed)


def _trained(log: list[dict[str, Any]]) -> str:
    courses = list(dict.fromkeys(entry["course"] for entry in log))
    steps = sum(max(entry["step"] for entry in log if entry["course"] == course) for course in courses)
    minutes = sum(entry["seconds"] for entry in log) / 60
    in_turn = f" in the courses {', '.join(courses)}" if len(courses) > 1 else ""
    return (
        f"{steps:,} steps of 32 lessons{in_turn}, final loss {log[-1]['loss']:.3f},\n"
        f"  {minutes:.0f} minutes on two cores."
    )


def _card(name: str, about: str, model: Any, training: str, seed: int) -> str:
    return CARD.format(
        title=f"mini-{name}",
        about=about,
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        vocabulary=models.VOCABULARY,
        training=training,
        seed=seed,
    )
