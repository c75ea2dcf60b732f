"""What DPO and the policy gradient share: the probability of an answer, drawing answers, how far a model has moved.

Log probabilities are natural; of an answer they are the sum over its tokens and the </s> that ends it.
"""

from pathlib import Path
from typing import Any

from bpo_utils import quiet
from bpo_utils.tokens import ANSWER_FRAME, IGNORED, encode, framed, prompt_ids

Example = dict[str, list[int]]  # input_ids, and labels: IGNORED on the prompt


def load(folder: Path | str, freeze_embeddings: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) to be trained, in float32 on the CPU, or on a GPU where there is one.

    The model is in evaluation mode and stays there: a policy and its reference must not differ by dropout.
    """
    from transformers import AutoTokenizer

    from bpo_utils.chat import local

    quiet.transformers()
    model, tokenizer = local.network(folder), AutoTokenizer.from_pretrained(folder)
    if freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
        model.get_output_embeddings().requires_grad_(False)
    return model, tokenizer


def example(tokenizer: Any, question: str, answer: str) -> Example:
    """An answer to a question as ids and labels, in the frame that answer models know."""
    return encode(tokenizer, framed(ANSWER_FRAME, question), answer)


def padded(examples: list[Example], pad: int) -> tuple[Any, Any, Any]:
    """(ids, labels, mask), each [examples, longest], padded on the right."""
    import torch

    width = max(len(row["input_ids"]) for row in examples)
    fill = [width - len(row["input_ids"]) for row in examples]
    ids = [row["input_ids"] + [pad] * more for row, more in zip(examples, fill, strict=True)]
    labels = [row["labels"] + [IGNORED] * more for row, more in zip(examples, fill, strict=True)]
    mask = [[1] * (width - more) + [0] * more for more in fill]
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)


def distributions(model: Any, examples: list[Example], pad: int) -> tuple[Any, Any, Any]:
    """Log probabilities of every next token [answer tokens, vocabulary], the tokens [answer tokens], and their row.

    Only positions of answers go through the output layer.
    """
    import torch

    ids, labels, mask = padded(examples, pad)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    taught = labels[:, 1:] != IGNORED
    logits = model.get_output_embeddings()(hidden[:, :-1][taught])
    return torch.log_softmax(logits.float(), dim=-1), labels[:, 1:][taught], taught.nonzero()[:, 0]


def log_probabilities(model: Any, examples: list[Example], pad: int) -> Any:
    """Log probability of each answer, [examples]."""
    import torch

    every, chosen, row = distributions(model, examples, pad)
    each = every.gather(1, chosen[:, None])[:, 0]
    return torch.zeros(len(examples), dtype=each.dtype).index_add(0, row, each)


def kl(new: Any, old: Any) -> Any:
    """KL(new || old) in nats at each position; `new` and `old` are log probabilities [positions, vocabulary].

    Summed along answers drawn from `new`, it estimates the divergence of the whole answers without bias and with less
    variance than the log ratio of the drawn tokens, since each step is exact (Rao-Blackwell).
    """
    return (new.exp() * (new - old)).sum(dim=-1)


def drawn(
    model: Any, tokenizer: Any, questions: list[str], each: int, most: int, temperature: float = 1.0
) -> list[list[Example]]:
    """`each` sampled answers to every question, as examples whose labels are the tokens drawn.

    An answer that reaches `most` tokens has no </s>. Follows torch's generator, so that a seed repeats it.
    """
    import torch

    prompts = [prompt_ids(tokenizer, framed(ANSWER_FRAME, text)) for text in questions]
    width, end = max(map(len, prompts)), tokenizer.eos_token_id
    ids = torch.tensor([[end] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_return_sequences=each,
            max_new_tokens=most,
            pad_token_id=end,
            **sampling,
        )
    answers = [_until_end(row, end) for row in found[:, width:].tolist()]
    rows = [
        {"input_ids": prompts[n // each] + ids, "labels": [IGNORED] * len(prompts[n // each]) + ids}
        for n, ids in enumerate(answers)
    ]
    return [rows[start : start + each] for start in range(0, len(rows), each)]


def text_of(tokenizer: Any, row: Example) -> str:
    """The answer of an example as text."""
    ids = [label for label in row["labels"] if label != IGNORED]
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
