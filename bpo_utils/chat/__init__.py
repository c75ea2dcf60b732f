"""Calls to language models. `ask` sends prompts to one model of a profile, whoever provides it."""

from bpo_utils.profile import Decoding, Model
from bpo_utils.records import Answer, Rewrite


def ask(model: Model, prompts: list[str], decoding: Decoding | None = None) -> list[str]:
    """Ask one model of the profile and return one reply per prompt, in order.

    Raises ValueError for a provider that is not connected: the API clients of the paper profile are not part of this
    version of the kit.
    """
    if model.provider == "mini":
        from bpo_utils.mini import provider

        return provider.ask(model.model, prompts, decoding)
    raise ValueError(
        f"{model.name}: provider {model.provider!r} is not connected; this version answers with 'mini' only"
    )


def answers(model: Model, rewrites: list[Rewrite], decoding: Decoding) -> list[Answer]:
    """One model's answers to the original prompt of every rewrite and to each rewritten one.

    Equal prompts share one answer: a rewriter that changes nothing must come out as a tie, not as a coin flip.
    """
    asked = {(row.test_set, row.id, "original"): row.prompt for row in rewrites}
    asked |= {(row.test_set, row.id, row.rewriter): row.optimized_prompt for row in rewrites}
    unique = list(dict.fromkeys(asked.values()))
    texts = dict(zip(unique, ask(model, unique, decoding), strict=True))
    return [Answer(id, name, side, model.name, text, texts[text]) for (name, id, side), text in asked.items()]
