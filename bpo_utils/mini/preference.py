"""The learned judge: a tiny Llama with a scalar head, trained on preference rows with the Bradley-Terry loss.

Each row gives two comparisons: its good response against its bad one, and against the good response of another row. The
second teaches what two answers to one prompt cannot: that an answer must be about the question.

Bradley-Terry: P(good preferred) = sigmoid(score(good) - score(bad)); the loss is its negative logarithm, the
reward-model loss of InstructGPT and the papers after it.
"""

import dataclasses
import math
import random
from typing import Any

from bpo_utils import records
from bpo_utils.tokens import ANSWER_FRAME, framed, prompt_ids

MARGIN = math.log(0.6 / 0.4)  # a tie while neither answer is preferred with a probability of 60 % or more


def new(base: Any) -> Any:
    """A judge whose body is the base model's and whose scalar head is fresh."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    settings = base.config.to_dict() | {"num_labels": 1}
    judge = LlamaForSequenceClassification(LlamaConfig(**settings))
    judge.model.load_state_dict(base.model.state_dict())
    return judge


def scores(judge: Any, tokenizer: Any, asked: list[tuple[str, str]], batch_size: int = 128) -> list[float]:
    """One score for every (question, answer), in order.

    Equal pairs are scored once. Higher is better, the scale is logits.
    """
    import torch

    unique = sorted(set(asked), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    found: dict[tuple[str, str], float] = {}
    with torch.inference_mode():
        for start in range(0, len(unique), batch_size):
            part = unique[start : start + batch_size]
            found.update(zip(part, _forward(judge, tokenizer, part).tolist(), strict=True))
    return [found[pair] for pair in asked]


def train(
    judge: Any, tokenizer: Any, rows: list[records.Preference], epochs: int, learning_rate: float, seed: int
) -> Any:
    """Train on preference rows; yields one log entry per epoch.

    Loss, and accuracy on the tenth of the rows kept aside.
    """
    import torch

    rng = random.Random(seed)
    rows, held_out = kept_apart(rng.sample(rows, len(rows)))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.01)
    for epoch in range(1, epochs + 1):
        judge.train()
        losses = []
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            foreign = [
                dataclasses.replace(row, bad=other.good)
                for row, other in zip(batch, batch[1:] + batch[:1], strict=True)
            ]
            loss = -torch.nn.functional.logsigmoid(_margins(judge, tokenizer, batch + foreign)).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        rows = rng.sample(rows, len(rows))
        judge.eval()
        with torch.inference_mode():
            right = (_margins(judge, tokenizer, held_out) > 0).float().mean().item()
        yield {
            "epoch": epoch,
            "loss": sum(losses) / len(losses),
            "held_out_accuracy": right,
            "held_out_n": len(held_out),
        }


def kept_apart(rows: list[records.Preference]) -> tuple[list[records.Preference], list[records.Preference]]:
    """Rows to train on, and the first tenth held out.

    A prompt may stand in several rows but never on both sides, so fewer than nine tenths may remain to train on.
    """
    held_out = rows[: len(rows) // 10]
    asked = {(row.prompt, row.context) for row in held_out}
    return [row for row in rows[len(held_out) :] if (row.prompt, row.context) not in asked], held_out


def verdict(first: float, second: float) -> str:
    """The learned judge's words for two scores: a short explanation, then [[A]], [[B]] or [[C]]."""
    letter = "C" if abs(first - second) < MARGIN else "A" if first > second else "B"
    chance = 1 / (1 + math.exp(second - first))
    return f"I would prefer response A over response B with probability {chance:.2f}.\n\n[[{letter}]]"


def _margins(judge: Any, tokenizer: Any, rows: list[records.Preference]) -> Any:
    asked = [(records.joined(row.prompt, row.context), answer) for row in rows for answer in (row.good, row.bad)]
    both = _forward(judge, tokenizer, asked).reshape(-1, 2)
    return both[:, 0] - both[:, 1]


def _forward(judge: Any, tokenizer: Any, asked: list[tuple[str, str]]) -> Any:
    import torch

    rows = []
    for question, answer in asked:
        ids = prompt_ids(tokenizer, framed(ANSWER_FRAME, question))
        rows.append((ids + tokenizer.encode(answer, add_special_tokens=False))[: judge.config.max_position_embeddings])
    width, pad = max(map(len, rows)), tokenizer.eos_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return judge(input_ids=ids, attention_mask=mask).logits[:, 0]
