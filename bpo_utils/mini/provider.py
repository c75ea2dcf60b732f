"""The miniature as a provider: its answer models, its teacher and its judges behind the same call as an API."""

from functools import cache
from typing import Any

from bpo_utils import judge_prompts, quiet
from bpo_utils.mini import models, preference, rubric, teacher
from bpo_utils.mini.lessons import STRENGTHS
from bpo_utils.profile import Decoding
from bpo_utils.tokens import ANSWER_FRAME, framed


def ask(name: str, prompts: list[str], decoding: Decoding | None) -> list[str]:
    """One reply per prompt from weak, middle, strong, teacher, rubric or preference.

    Raises ValueError for another name.
    """
    if name in STRENGTHS:
        if decoding is None:
            raise ValueError(f"{name} is a language model: say how to decode (the profile's `answering` section)")
        return _answers(name, prompts, decoding)
    if name == "teacher":
        return [teacher.reply(prompt) for prompt in prompts]
    if name == "rubric":
        return [_rubric(*judge_prompts.parse_prompt(prompt)) for prompt in prompts]
    if name == "preference":
        return _preferences([judge_prompts.parse_prompt(prompt) for prompt in prompts])
    known = ", ".join((*STRENGTHS, "teacher", "rubric", "preference"))
    raise ValueError(f"the miniature has no model {name!r}; it has {known}")


def _answers(name: str, prompts: list[str], decoding: Decoding) -> list[str]:
    from bpo_utils.chat import local

    model, tokenizer = models.load(name)
    return local.generate(model, tokenizer, [framed(ANSWER_FRAME, prompt) for prompt in prompts], decoding)


def _rubric(question: str, first: str, second: str) -> str:
    return rubric.explain(rubric.score(question, first), rubric.score(question, second))


def _preferences(asked: list[tuple[str, str, str]]) -> list[str]:
    both = [(question, answer) for question, first, second in asked for answer in (first, second)]
    scores = preference.scores(*_judge(), both)
    return [preference.verdict(scores[i], scores[i + 1]) for i in range(0, len(scores), 2)]


@cache
def _judge() -> tuple[Any, Any]:
    quiet.transformers()
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = models.folder("judge")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)
