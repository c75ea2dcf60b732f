"""The other score of a candidate: how likely the target finds each row's gold text (APE, arXiv 2211.01910, 3.2).

The mean log-probability of the gold tokens after the prompt, then the mean over rows. It needs a model that says how
likely a *given* text is: those in this process do, chat APIs do not. What was computed is kept in the search and not in
the store of calls: a search that is taken up again computes it once more, which takes one pass and no generation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bpo_utils.chat import capabilities, local, wire
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import request, wanted
from bpo_utils.search.state import Scored, Search, completed
from bpo_utils.search.task import Row
from bpo_utils.tokens import prompt_ids

READ = "log-probability"  # what a score of this kind says was read out of the answer
DIGITS = 6  # of a log-probability; what lies below is rounding


@dataclass(frozen=True)
class Given(wire.Request):
    """Asks how likely a given text is as the answer. The reply's text is the mean log-probability of its tokens."""

    given: str = ""

    @property
    def texts(self) -> list[str]:
        """Everything the model reads, in order."""
        return [*super().texts, self.given]


def require(model: Model) -> None:
    """Raises ValueError for a model that cannot say how likely a given text is."""
    if model.provider not in capabilities.IN_PROCESS:
        raise ValueError(
            f"{model.name}: {model.provider} gives no log-probabilities of a given text, and `score: logprob` needs "
            f"them; take a target in this process ({' or '.join(capabilities.IN_PROCESS)}), or `score: accuracy`"
        )


def evaluate(search: Search, candidates: Sequence[Candidate], rows: Sequence[Row]) -> list[float]:
    """Mean log-probability (nats for a token, at most 0) of each candidate over exactly these rows.

    Paired, in batches, never computed twice and within the budget, as `evaluate.evaluate`, and raises what that raises;
    every pair is a target call. Also raises ValueError for a target that cannot do it (`require`).
    """
    require(search.roles.target)
    pairs = wanted(search, search.likelihoods, candidates, rows)
    asked = [Given(**vars(request(search, one, row)), given=row.gold) for one, row in pairs]
    for (one, row), reply in zip(pairs, completed(search, "target", asked), strict=True):
        found = Scored(row.id, float(reply.text), row.gold, READ, False)
        search.likelihoods.setdefault(one.id, {})[row.id] = found
    return [math.fsum(search.likelihoods[one.id][row.id].value for row in rows) / len(rows) for one in candidates]


def replies(requests: Sequence[Given]) -> list[Reply]:
    """One reply per request, in order: the mean log-probability as text.

    Raises ValueError as `require` does, and for a given text without a token; OSError if a model cannot be loaded.
    """
    found: dict[int, Reply] = {}
    for model in dict.fromkeys(asked.model for asked in requests):
        require(model)
        network, tokenizer = local.loaded(model)
        places = [place for place, asked in enumerate(requests) if asked.model == model]
        framed = [(local.framed_request(tokenizer, requests[place]), requests[place].given) for place in places]
        for place, value in zip(places, log_probabilities(network, tokenizer, framed), strict=True):
            found[place] = Reply(str(round(value, DIGITS)))
    return [found[place] for place in range(len(requests))]


def log_probabilities(model: Any, tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[float]:
    """Mean log-probability (nats for a token) of each given text after its framed prompt, as (framed prompt, given).

    The given text is tokenized on its own, as in training (`tokens.encode`); the token that ends a text does not
    count. Raises ValueError for a given text without a token.
    """
    encoded = [
        (prompt_ids(tokenizer, asked), tokenizer.encode(text, add_special_tokens=False)) for asked, text in texts
    ]
    if empty := [place for place, (_, given) in enumerate(encoded) if not given]:
        raise ValueError(f"{len(empty)} of {len(texts)} given texts have no token, such as number {empty[0] + 1}")
    found: dict[int, float] = {}
    for places in _batches(encoded):
        values = _batch(model, tokenizer, [encoded[place] for place in places])
        found.update(zip(places, values, strict=True))
    return [found[place] for place in range(len(texts))]


def _batches(encoded: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Places of texts of about one length."""
    ordered = sorted(range(len(encoded)), key=lambda place: (sum(map(len, encoded[place])), place))
    for start in range(0, len(ordered), local.BATCH):
        yield ordered[start : start + local.BATCH]


def _batch(model: Any, tokenizer: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """One pass. Only the places where given text stands become logits: those of a vocabulary are the most memory."""
    import torch

    rows = [asked + given for asked, given in pairs]
    ids, mask = (part.to(model.device) for part in local.left_padded(rows, tokenizer.eos_token_id))
    kept = max(len(given) for _, given in pairs) + 1
    with torch.inference_mode():
        # without positions a model counts the padding, too
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept).logits
    log = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    chosen = log.gather(2, ids[:, 1 - kept :, None])[:, :, 0]
    return [chosen[row, -len(given) :].mean().item() for row, (_, given) in enumerate(pairs)]
