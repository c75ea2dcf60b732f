"""Batches without padding, in an order that is a pure function of seed and epoch, and the loss on what they teach.

A micro batch is one row of all its examples, one after the other. Positions begin at 0 again with every example and no
attention mask is sent: from that Transformers builds attention that keeps the examples apart (masking_utils for sdpa
and eager, cu_seq_lens for flash attention). An all-ones mask beside it would let them see each other.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bpo_utils import tokens

Example = dict[str, list[int]]


def order(count: int, seed: int, epoch: int, global_batch: int, drop_last: bool) -> list[int]:
    """Places of the examples in the order of one epoch: a permutation drawn from seed and epoch alone.

    With `drop_last`, cut to whole global batches. A run that is resumed, or has another number of processes, thus sees
    the same examples in the same step.
    """
    import numpy

    places = numpy.random.default_rng([seed, epoch]).permutation(count).tolist()
    return places[: count - count % global_batch] if drop_last else places


class Sampler:
    """`order` as a sampler of the Trainer, which tells it the epoch.

    Several processes must have the same number of micro batches. Where the last batch of an epoch has too few examples
    for that, accelerate would fill it with some of the first ones, so that another number of processes trained on
    something else; here place `count` stands in, where the data must have an example that teaches nothing (`blank`).
    """

    def __init__(self, count: int, seed: int, global_batch: int, drop_last: bool, at_once: int = 1) -> None:
        """`at_once`: examples that all processes take together in one pass, micro batch x processes."""
        self.settings, self.epoch, self.at_once = (count, seed), 0, at_once
        self.global_batch, self.drop_last = global_batch, drop_last

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        places = order(*self.settings, self.epoch, self.global_batch, self.drop_last)
        return iter(places + [self.settings[0]] * (-len(places) % self.at_once))

    def __len__(self) -> int:
        count = self.settings[0]
        count -= count % self.global_batch if self.drop_last else 0
        return count + -count % self.at_once


def blank(examples: Sequence[Example]) -> Example:
    """An example without any target token: it takes a place in a batch and changes no sum."""
    ids = examples[0]["input_ids"][:2]
    return {"input_ids": ids, "labels": [tokens.IGNORED] * len(ids)}


def collator(batching: str, tokenizer: Any, flash: bool = False) -> Callable[[Sequence[Example]], dict[str, Any]]:
    """What makes one batch of examples: `flat` without padding, or `pad` to the longest, as upstream.

    A flat batch of T tokens: input_ids, labels, position_ids [1, T], and logits_to_keep, the positions whose next token
    has a label: no other position needs to go through the output layer. With `flash`, cu_seq_lens as well, so that no
    layer has to find the borders again.
    """
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    if batching == "pad":
        return DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=tokens.IGNORED)
    flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=flash)

    def flat(examples: Sequence[Example]) -> dict[str, Any]:
        batch = flatten([{name: example[name] for name in ("input_ids", "labels")} for example in examples])
        return batch | {"logits_to_keep": (batch["labels"][0, 1:] != tokens.IGNORED).nonzero()[:, 0]}

    return flat


def summed_loss(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Sum of the cross entropy over the tokens that have a label, and their number.

    `logits` [1, K, V] at the K positions of `logits_to_keep`, or [B, T, V] at all positions.
    """
    import torch

    shifted = labels[:, 1:]
    taught = shifted != tokens.IGNORED
    kept = logits[0] if logits.shape[1] != labels.shape[1] else logits[:, :-1][taught]
    targets = shifted[taught]
    if len(kept) != len(targets):
        raise ValueError(
            f"{len(kept)} positions with logits, {len(targets)} with a label; the collator and loss differ"
        )
    return torch.nn.functional.cross_entropy(kept.float(), targets, reduction="sum"), taught.sum()


def loss_function(loss_mean: str) -> Callable[..., Any]:
    """The loss as the Trainer calls it, with the number of target tokens in the global batch.

    `tokens`: every target token of the global batch counts the same. `micro_batches`: upstream's mean over each micro
    batch, then over micro batches and processes, in which the tokens of short optimized prompts weigh more.
    """

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        total, count = summed_loss(outputs.logits, labels)
        own = count.clamp(min=1)  # a micro batch of blanks has none
        return total / (own if loss_mean == "micro_batches" or num_items_in_batch is None else num_items_in_batch)

    return loss


def computed_tokens(lengths: Sequence[int], micro_batch: int, batching: str) -> int:
    """Tokens that the network computes for examples of these lengths, in this order: with padding, or just the tokens.

    `sum(lengths)` over this is the utilisation: 1.0 without padding.
    """
    if batching == "flat":
        return sum(lengths)
    rows = [lengths[start : start + micro_batch] for start in range(0, len(lengths), micro_batch)]
    return sum(max(row) * len(row) for row in rows)


def token_weights(targets: Sequence[int], micro_batch: int) -> list[dict[str, float]]:
    """What one target token weighs in the loss of a step, in percent, for each of its micro batches, under both means.

    `targets`: target tokens of the examples of a global batch, in order. Under `tokens` every one weighs the same;
    under `micro_batches` (upstream) a token weighs more the fewer there are in its micro batch.
    """
    counts = [sum(targets[start : start + micro_batch]) for start in range(0, len(targets), micro_batch)]
    return [
        {
            "micro batch": number,
            "target tokens": count,
            "weight of a token, tokens": 100 / sum(counts),
            "weight of a token, micro_batches": 100 / (len(counts) * count),
        }
        for number, count in enumerate(counts, 1)
    ]
