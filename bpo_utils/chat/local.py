"""A Transformers model in this process: many prompts through it, batched by length."""

from pathlib import Path
from typing import Any

from bpo_utils import quiet
from bpo_utils.profile import Decoding
from bpo_utils.tokens import prompt_ids


def load(folder: Path | str) -> tuple[Any, Any]:
    """Load (model, tokenizer) of a causal language model in float32 for generation.

    Raises OSError if the folder has none.
    """
    quiet.transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


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
        ids, mask = _left_padded([encoded[text] for text in texts], tokenizer.eos_token_id)
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
