"""Who answers a call of a search: the programs of this room in process, every model through `chat`.

Two parts are played by programs, and called so: the optimizer of the miniature (`program`), which sees nothing but the
meta-prompt it gets, and the target of the synthetic landscape (`landscape`). They cost nothing and are not stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bpo_utils import chat
from bpo_utils.chat import Calls, wire
from bpo_utils.records import Reply

PROGRAMS = ("program", "landscape")  # providers in this room


def complete(requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
    """One reply per request, in order. Raises what `chat.complete` and `likelihood.replies` raise."""
    from bpo_utils.search import likelihood

    if any(isinstance(asked, likelihood.Given) for asked in requests):
        return likelihood.replies(requests)
    models = [place for place, asked in enumerate(requests) if asked.model.provider not in PROGRAMS]
    said = chat.complete([requests[place] for place in models], calls) if models else []  # no store without a call
    answered = dict(zip(models, said, strict=True))
    return [answered[place] if place in answered else _said(asked) for place, asked in enumerate(requests)]


class Used(NamedTuple):
    """What one call took: tokens read and written (`estimated`: from the letters), US dollars, and whether its answer
    was there already."""

    tokens: int
    usd: float
    estimated: bool
    cached: bool


def used(requests: Sequence[wire.Request], replies: Sequence[Reply], calls: Calls, since: float) -> list[Used]:
    """What each call took; `since`: answers that came before this time were there already."""
    from bpo_utils.chat import session

    stored = [reply for reply in replies if reply.key]
    counted = session.used(stored, calls) if stored else {}
    found = []
    for asked, reply in zip(requests, replies, strict=True):
        read, written, usd, came = counted.get(reply.key, (None, None, 0.0, since))
        estimated = read is None or written is None
        guess = wire.expected_input(asked) + len(reply.text) // 4
        found.append(Used(guess if estimated else read + written, usd, estimated, came < since))
    return found


def _said(asked: wire.Request) -> Reply:
    from bpo_utils.search import landscape, program

    if asked.model.provider == "landscape":
        return Reply(landscape.answer(asked))
    return Reply(program.reply(asked))
