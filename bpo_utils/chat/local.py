"""A Transformers model in this process: many prompts through it, batched by length."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpo_utils import quiet
from bpo_utils.profile import Decoding
from bpo_utils.tokens import ANSWER_FRAME, framed, prompt_ids

BATCH = 16  # prompts at once; also what a killed run has to do again


def load(folder: Path | str, on_gpu: bool = False) -> tuple[Any, Any]:
    """Load (model, tokenizer) of a causal language model for generation, in float32 on the CPU.

    With `on_gpu`, in bfloat16 on the GPU where there is one. Raises OSError if the folder has no model.
    """
    quiet.transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gpu = on_gpu and torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if gpu else torch.float32)
    return (model.to("cuda") if gpu else model).eval(), AutoTokenizer.from_pretrained(folder)


def generate(model: Any, tokenizer: Any, framed_prompts: list[str], decoding: Decoding) -> list[str]:
    """Continue every framed prompt; returns the new text only, in the order of the prompts.

    Equal prompts get one continuation. Prompts are sorted by length, so that a batch holds little padding; the seed
    is set once, so a run with the same prompts and settings on the same machine gives the same texts.
    """
    import torch

    unique = list(dict.fromkeys(framed_prompts))
    encoded = {text: prompt_ids(tokenizer, text) for text in unique}
    unique.sort(key=lambda text: (len(encoded[text]), text))
    torch.manual_seed(decoding.seed)
    done: dict[str, str] = {}
    for start in range(0, len(unique), decoding.batch_size):
        texts = unique[start : start + decoding.batch_size]
        ids, mask = (
            part.to(model.device) for part in _left_padded([encoded[t] for t in texts], tokenizer.eos_token_id)
        )
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=decoding.max_new_tokens,
                pad_token_id=tokenizer.eos_token_id,
                **(sampling if decoding.temperature > 0 else {"do_sample": False}),
            )
        new = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        done.update(zip(texts, (text.strip() for text in new), strict=True))
    return [done[text] for text in framed_prompts]


def _left_padded(rows: list[list[int]], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def answer_in_batches(asked: list[Any]) -> Iterator[tuple[list[int], list[str]]]:
    """Answer requests to models of the Hub or of a folder, a batch at a time: (places in `asked`, texts).

    Prompts go through the model's chat template; without one, as upstream's Llama 2 script does, between [INST] and
    [/INST]. Runs on a GPU in bfloat16 where there is one, else on the CPU in float32. Raises OSError if a model cannot
    be loaded.
    """
    for model in dict.fromkeys(request.model for request in asked):
        network, tokenizer = load(model.model, on_gpu=True)
        mine = [place for place, request in enumerate(asked) if request.model == model]
        framed_prompts = {place: _framed(tokenizer, asked[place].system, asked[place].prompt) for place in mine}
        mine.sort(key=lambda place: (asked[place].sample, len(framed_prompts[place]), framed_prompts[place]))
        for start in range(0, len(mine), BATCH):
            batch = mine[start : start + BATCH]
            first = asked[batch[0]]
            sampling = {
                "temperature": first.temperature,
                "top_p": first.top_p,
                "seed": (first.seed or 0) + first.sample,
            }
            decoding = Decoding(max_new_tokens=first.max_tokens, batch_size=BATCH, **sampling)
            yield batch, generate(network, tokenizer, [framed_prompts[place] for place in batch], decoding)


def as_completion(asked: Any, text: str) -> str:
    """A text of a local model in the form of a chat completion, which is what a store holds."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"object": "chat.completion", "model": asked.model.model, "choices": [choice]}, ensure_ascii=False
    )


def _framed(tokenizer: Any, system: str, prompt: str) -> str:
    if not tokenizer.chat_template:
        return framed(ANSWER_FRAME, f"{system}\n\n{prompt}" if system else prompt)
    messages = [{"role": "system", "content": system}] if system else []
    text = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return text.removeprefix(tokenizer.bos_token or "")  # `generate` puts it in front of every prompt
