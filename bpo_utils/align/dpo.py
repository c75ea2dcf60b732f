"""Direct preference optimization of an answer model (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

The loss of a row is -log sigmoid(beta * margin), with margin = (log pi(good) - log ref(good)) - (log pi(bad) - log
ref(bad)): the implicit reward of the good answer less that of the bad one. The reference is the model as it was, and
its log probabilities are computed once, before training. The paper (section 4.3) trained with LLaMA-Factory and gives
no settings; ours are in the profile.
"""

import random
from collections.abc import Callable
from typing import Any

from bpo_utils.align import policy

CHUNK = 8  # rows in one pass, of similar length: little padding


def loss(margins: Any, beta: float) -> Any:
    """The loss of each row from its margin, in nats."""
    import torch

    return -torch.nn.functional.logsigmoid(beta * margins)


def margins(good: Any, bad: Any, reference_good: Any, reference_bad: Any) -> Any:
    """How much more the model has come to prefer the good answer than the reference does, for each row."""
    return (good - reference_good) - (bad - reference_bad)


def train(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    seed: int,
    look: Callable[[int], None],
) -> list[dict[str, float]]:
    """Train on rows {prompt, good, bad}; returns the log, a dict for every step. `look(step)` is called to measure."""
    import torch

    pairs = encoded(tokenizer, rows)
    reference = reference_of(model, tokenizer, pairs)
    rng, size = random.Random(seed), settings["batch"]
    order = [n for _ in range(settings["epochs"]) for n in rng.sample(range(len(pairs)), len(pairs))]
    steps = max(1, len(order) // size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings["learning_rate"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    log = []
    look(0)
    for step in range(1, steps + 1):
        batch = order[(step - 1) * size : step * size]
        total, right = _step(model, tokenizer, pairs, reference, batch, settings["beta"])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        log.append({"step": step, "loss": total / len(batch), "accuracy": right / len(batch)})
        if step in looked_at(steps, settings["looks"]):
            look(step)
    return log


def looked_at(steps: int, looks: int) -> set[int]:
    """The steps after which is measured: `looks` of them, evenly spread, the last one among them."""
    return {max(1, round(steps * number / looks)) for number in range(1, looks + 1)}


def rate(step: int, steps: int) -> float:
    """Part of the learning rate at a step: up over the first tenth, then linearly down to nothing."""
    warmup = max(1, steps // 10)
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def encoded(tokenizer: Any, rows: list[dict[str, str]]) -> list[tuple[policy.Example, policy.Example]]:
    """Each row as (good, bad)."""
    return [tuple(policy.example(tokenizer, row["prompt"], row[side]) for side in ("good", "bad")) for row in rows]


def reference_of(model: Any, tokenizer: Any, pairs: list[tuple[policy.Example, policy.Example]]) -> list[Any]:
    """Log probabilities [2] (good, bad) of each pair under the model as it is now."""
    import torch

    found: dict[int, Any] = {}
    with torch.no_grad():
        for part in _chunks(pairs, list(range(len(pairs))), 4 * CHUNK):
            found.update(zip(part, _both(model, tokenizer, [pairs[n] for n in part]), strict=True))
    return [found[n] for n in range(len(pairs))]


def _step(
    model: Any, tokenizer: Any, pairs: list[Any], reference: list[Any], batch: list[int], beta: float
) -> tuple[float, int]:
    """Gradients of one batch; returns the sum of its losses and how many rows are on the right side."""
    import torch

    total, right = 0.0, 0
    for part in _chunks(pairs, batch, CHUNK):
        now, before = _both(model, tokenizer, [pairs[n] for n in part]), torch.stack([reference[n] for n in part])
        found = margins(now[:, 0], now[:, 1], before[:, 0], before[:, 1])
        (loss(found, beta).sum() / len(batch)).backward()
        total += loss(found.detach(), beta).sum().item()
        right += int((found > 0).sum())
    return total, right


def _both(model: Any, tokenizer: Any, pairs: list[Any]) -> Any:
    flat = [side for pair in pairs for side in pair]
    return policy.log_probabilities(model, flat, tokenizer.eos_token_id).reshape(-1, 2)


def _chunks(pairs: list[Any], places: list[int], size: int) -> list[list[int]]:
    ordered = sorted(places, key=lambda n: (max(len(side["input_ids"]) for side in pairs[n]), n))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
