"""What the calls of notebook 07 will cost, before any is made: the experiments are run with nobody to answer."""

import hashlib
from collections.abc import Sequence

from bpo_utils.chat import capabilities, money, session, wire
from bpo_utils.chat.calls import Calls
from bpo_utils.chat.store import Store
from bpo_utils.further import experiments
from bpo_utils.further.arena import Arena
from bpo_utils.profile import Decoding, Model
from bpo_utils.records import Reply

LETTERS_PER_TOKEN = 4  # of answers that are not there yet, to guess how long the judge's prompts will be


class Nobody:
    """Stands in for `chat.ask`: notes what would be asked; a reply is the stored one, or of about the right length."""

    def __init__(self, judges: Sequence[Model]) -> None:
        self.judges, self.asked = list(judges), {}

    def __call__(
        self, model: Model, prompts: Sequence[str], decoding: Decoding, calls: Calls, sample: int = 0
    ) -> list[Reply]:
        requests = [wire.request(model, text, decoding, sample) for text in prompts]
        self.asked.setdefault(model, []).extend(requests)
        known = session.stored(requests, calls)
        return [reply or self.made_up(model, text, decoding) for text, reply in zip(prompts, known, strict=True)]

    def made_up(self, model: Model, text: str, decoding: Decoding) -> Reply:
        """A tie, or an answer that no other text has."""
        if model in self.judges:
            return Reply("[[C]]")
        length = round(money.EXPECTED_SHARE * decoding.max_new_tokens) * LETTERS_PER_TOKEN
        return Reply(hashlib.sha256(f"{model.name} {text}".encode()).hexdigest().ljust(length, "."))


def planned(arena: Arena, model: Model, groups: experiments.Groups) -> list[money.Cost]:
    """A line per model outside this process: calls, those in the store, expected and worst cost; none in the miniature.

    The judges' lines are estimates until the store has the answers; the cap at run time is exact. The teacher was asked
    before, for the pairs. Raises ValueError for an unknown price under a cap, when the calls are made.
    """
    run, nobody = arena.run, Nobody(arena.run.judges)
    remote = [one for one in (*run.answer_models, *run.judges) if one.provider not in capabilities.IN_PROCESS]
    if not remote:
        return []
    trying = Arena(run, arena.questions, arena.calls, nobody)
    experiments.iterated(trying, model, groups["bpo"])
    experiments.without_feedback(trying, model, groups)
    experiments.scaled(trying, groups["bpo"])
    experiments.curves(trying, model, groups)
    store = Store(arena.calls.store) if arena.calls.store.exists() else None
    try:
        return [
            money.cost("judging" if one in run.judges else "answers", one, nobody.asked[one], store, _share(arena, one))
            for one in dict.fromkeys(remote)
        ]
    finally:
        if store:
            store.db.close()


def _share(arena: Arena, model: Model) -> float:
    return capabilities.provider(model.provider).batch_discount if arena.calls.mode == "batch" else 1.0
