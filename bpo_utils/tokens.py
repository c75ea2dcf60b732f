"""From a pair to token ids and labels: the loss falls on the optimized prompt only.

Layout (upstream's, thu-coai/BPO src/training): <s> + ids of the framed prompt + ids of the optimized prompt + </s>.
Prompt and optimized prompt are tokenized separately, so that the boundary between them is always a token boundary.
"""

from typing import Any

# The format the released THUDM/BPO model was trained with (its model card); a rewriter trained without it is another
# model.
REWRITER_FRAME = (
    "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and harmless "
    "response:\n{prompt} [/INST]"
)
ANSWER_FRAME = "[INST] {prompt} [/INST]"  # upstream's llama2 script: no system prompt
IGNORED = -100  # label of a token that carries no loss (torch's cross_entropy ignores it)


def framed(frame: str, prompt: str) -> str:
    """The frame with the prompt in it. A plain replace: a prompt may contain braces."""
    return frame.replace("{prompt}", prompt)


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a framed prompt, <s> in front: what a model is given to continue."""
    return [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]


def encode(tokenizer: Any, framed_prompt: str, target: str) -> dict[str, list[int]]:
    """Ids and labels of one example, equally long.

    Labels are IGNORED on the prompt, the ids themselves on target and </s>.
    """
    prompt = prompt_ids(tokenizer, framed_prompt)
    answer = [*tokenizer.encode(target, add_special_tokens=False), tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def encode_pairs(tokenizer: Any, pairs: list[Any], max_length: int) -> tuple[list[dict[str, list[int]]], list[str]]:
    """Encode training pairs: the examples, and the ids of the pairs left out because they exceed max_length tokens.

    Upstream cuts over-long pairs, which can cut off the frame itself; here they are left out and named.
    """
    examples, too_long = [], []
    for pair in pairs:
        example = encode(tokenizer, framed(REWRITER_FRAME, pair.prompt), pair.optimized_prompt)
        if len(example["input_ids"]) > max_length:
            too_long.append(pair.id)
        else:
            examples.append(example)
    return examples, too_long


def loss_view(tokenizer: Any, example: dict[str, list[int]]) -> str:
    """One example as HTML: tokens without loss in grey, tokens with loss on green."""
    import html

    spans = []
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        text = html.escape(tokenizer.convert_ids_to_tokens(token).replace("Ġ", "·").replace("▁", "·").replace("Ċ", "⏎"))
        style = "color:#888" if label == IGNORED else "background:#b7e1cd;color:#000"
        spans.append(f'<span style="{style};padding:0 1px;margin:0 1px">{text}</span>')
    return f'<div style="font-family:monospace;line-height:1.7">{" ".join(spans)}</div>'
