"""Calls to language models, whoever provides them: `complete` answers requests, `ask` and `answers` put them together.

API calls and models of this process on a GPU go through a store, so that nothing is asked or paid twice. The miniature
does not: its answers come again from the seed within minutes, and a store of them would be larger than its models.
"""

from collections.abc import Sequence

from bpo_utils.chat import wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.profile import Decoding, Model
from bpo_utils.records import Answer, Reply, Rewrite

__all__ = ["Call", "Calls", "answers", "ask", "complete", "texts", "versions"]


def complete(requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
    """Answer every request, from the store or from its model; returns one reply per request, in order.

    Equal requests are one call. Works in a script and in a notebook, whose event loop is already running. Ctrl-C starts
    nothing new and waits for what is in flight. Raises errors.Missing (replay, not recorded), BudgetReached (the cap),
    Unfinished (some calls failed or a provider stopped); all answers that came are stored, and asking again goes on.
    Raises ValueError for a missing key, an unknown price under a cap, or an unknown provider, before anything is sent.
    """
    from bpo_utils.chat import session

    return session.complete(requests, calls)


def ask(
    model: Model, prompts: Sequence[str], decoding: Decoding | None = None, calls: Calls | None = None, sample: int = 0
) -> list[Reply]:
    """Ask one model of a profile: one reply per prompt, in order. `sample` asks again: another draw, kept apart.

    Raises what `complete` raises, and ValueError if `decoding` or `calls` is missing for a model that is not the
    miniature's.
    """
    if model.provider == "mini":
        from bpo_utils.mini import provider

        return [Reply(text) for text in provider.ask(model.model, list(prompts), decoding)]
    if calls is None or decoding is None:
        raise ValueError(
            f"{model.name}: calls to {model.provider} need `decoding`, and chat.Calls(store=...) as `calls`"
        )
    return complete([wire.request(model, prompt, decoding, sample) for prompt in prompts], calls)


def texts(replies: Sequence[Reply], name: str) -> list[str]:
    """The texts of replies that must all be answers. Raises ValueError that counts those without one."""
    if other := [reply.outcome for reply in replies if reply.outcome != "answered"]:
        raise ValueError(
            f"{name}: {len(other)} of {len(replies)} replies are no answer ({', '.join(sorted(set(other)))})"
        )
    return [reply.text for reply in replies]


def answers(model: Model, rewrites: list[Rewrite], decoding: Decoding, calls: Calls | None = None) -> list[Answer]:
    """One model's answers to the original prompt of every rewrite and to each rewritten one.

    Equal prompts share one answer: a rewriter that changes nothing must come out as a tie, not as a coin flip. Raises
    what `ask` raises.
    """
    asked = prompts_of(rewrites)
    unique = list(dict.fromkeys(asked.values()))
    found = dict(zip(unique, ask(model, unique, decoding, calls), strict=True))
    return [
        Answer(id, name, side, model.name, text, found[text].text, found[text].outcome)
        for (name, id, side), text in asked.items()
    ]


def versions(calls: Calls) -> list[str]:
    """One sentence for each model whose answers in the store came from more than one version of it."""
    from bpo_utils.chat.store import Store

    if not calls.store.exists():
        return []
    with Store(calls.store) as store:
        drift = store.drift()
    return [f"{asked} answered under {len(served)} versions: {', '.join(served)}" for asked, served in drift]


def prompts_of(rewrites: list[Rewrite]) -> dict[tuple[str, str, str], str]:
    """Every prompt that an answer model gets, by (test set, id, side); the originals first."""
    asked = {(row.test_set, row.id, "original"): row.prompt for row in rewrites}
    return asked | {(row.test_set, row.id, row.rewriter): row.optimized_prompt for row in rewrites}
