"""From a pair to token ids and labels: the loss falls on the optimized prompt only.

Layout (upstream's, thu-coai/BPO src/training): <s> + ids of the framed prompt + ids of the optimized prompt + </s>.
Prompt and optimized prompt are tokenized separately, so that the boundary between them is always a token boundary.
"""

from dataclasses import dataclass
from typing import Any

# The format the released THUDM/BPO model was trained with (its model card); a rewriter trained without it is another
# model.
REWRITER_FRAME = (
    "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and harmless "
    "response:\n{prompt} [/INST]"
)
ANSWER_FRAME = "[INST] {prompt} [/INST]"  # upstream's llama2 script: no system prompt
KEPT = 16  # tokens of a prompt that must stay when it is cut
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
    prompt, answer = (tokenizer.encode(text, add_special_tokens=False) for text in (framed_prompt, target))
    return _labelled(tokenizer, prompt, answer)


@dataclass(frozen=True)
class Encoded:
    """Examples of the pairs `ids`, in order, and what happened to the pairs that were too long."""

    ids: list[str]
    examples: list[dict[str, list[int]]]
    cut: list[str]  # ids of pairs that lost tokens
    left_out: list[str]  # ids of pairs without an example

    def said(self) -> str:
        """One sentence on the pairs that were too long."""
        if not self.cut and not self.left_out:
            return "no pair is too long"
        return (
            f"too long: {len(self.cut)} cut ({_some(self.cut)}), {len(self.left_out)} left out ({_some(self.left_out)})"
        )


def encode_pairs(tokenizer: Any, pairs: list[Any], max_length: int, too_long: str = "keep_frame") -> Encoded:
    """Encode training pairs; those of more than max_length tokens are treated as `too_long` says, and counted.

    leave_out: no example. keep_frame: the prompt loses tokens in its middle, at least KEPT of it stay, else the pair is
    left out; frame and optimized prompt stay whole. upstream: its rule (`cut_like_upstream`). Raises ValueError for
    another rule.
    """
    if too_long not in ("leave_out", "keep_frame", "upstream"):
        raise ValueError(f"too_long {too_long!r}: there are leave_out, keep_frame and upstream")
    found = Encoded([], [], [], [])
    for pair in pairs:
        example: dict[str, list[int]] | None = encode(
            tokenizer, framed(REWRITER_FRAME, pair.prompt), pair.optimized_prompt
        )
        if len(example["input_ids"]) > max_length:
            example = _shortened(tokenizer, pair, max_length, too_long)
            (found.cut if example else found.left_out).append(pair.id)
        if example:
            found.ids.append(pair.id)
            found.examples.append(example)
    return found


def cut_like_upstream(prompt: list[int], target: list[int], room: int) -> tuple[list[int], list[int]]:
    """Framed prompt and target cut to `room` ids together as upstream's code does it (src/training, TokenIdsMaker).

    One id at a time: the last of the target while that is the longer part, else the first of the prompt. So a long
    prompt loses the "[INST]" in front, and a long target loses its end and is taught to stop there.
    """
    prompt, target = list(prompt), list(target)
    while len(prompt) + len(target) > room:
        if len(target) > len(prompt):
            target.pop()
        else:
            prompt.pop(0)
    return prompt, target


def _shortened(tokenizer: Any, pair: Any, max_length: int, too_long: str) -> dict[str, list[int]] | None:
    if too_long == "leave_out":
        return None
    prompt = prompt_ids(tokenizer, framed(REWRITER_FRAME, pair.prompt))[1:]
    target = tokenizer.encode(pair.optimized_prompt, add_special_tokens=False)
    room = max_length - 2  # <s> and </s>
    if too_long == "upstream":
        return _labelled(tokenizer, *cut_like_upstream(prompt, target, room))
    other = prompt_ids(tokenizer, framed(REWRITER_FRAME, "x"))[1:]
    head, tail = _alike(prompt, other), _alike(prompt[::-1], other[::-1])
    kept = room - len(target) - head - tail
    if kept < KEPT:
        return None
    cut = len(prompt) - head - tail - kept
    start = head + kept - kept // 2
    return _labelled(tokenizer, prompt[:start] + prompt[start + cut :], target)


def _alike(first: list[int], second: list[int]) -> int:
    """How many ids two lists begin with in common: found this way because ids depend on what stands beside them."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _labelled(tokenizer: Any, prompt: list[int], target: list[int]) -> dict[str, list[int]]:
    prompt, answer = [tokenizer.bos_token_id, *prompt], [*target, tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "") if ids else "none"


def loss_view(tokenizer: Any, example: dict[str, list[int]]) -> str:
    """One example as HTML: tokens without loss in grey, tokens with loss on green."""
    import html

    spans = []
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        text = html.escape(tokenizer.convert_ids_to_tokens(token).replace("Ġ", "·").replace("▁", "·").replace("Ċ", "⏎"))
        style = "color:#888" if label == IGNORED else "background:#b7e1cd;color:#000"
        spans.append(f'<span style="{style};padding:0 1px;margin:0 1px">{text}</span>')
    return f'<div style="font-family:monospace;line-height:1.7">{" ".join(spans)}</div>'
