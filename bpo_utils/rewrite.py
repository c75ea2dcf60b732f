"""Prompts through a rewriter: the trained model, and the controls that tell whether the instrument can be trusted."""

import random
from pathlib import Path
from typing import Any

from bpo_utils import records, tokens
from bpo_utils.profile import Decoding


def rewrite(
    prompts: list[records.TestPrompt], model_folder: Path, decoding: Decoding, on_gpu: bool = False
) -> list[records.Rewrite]:
    """Every prompt through the rewriter in `model_folder`, instruction and context as one text, as upstream feeds it.

    Decoding as in the paper, appendix C: top-p 0.9, temperature 0.6. An empty output stays empty, so that it is
    counted. `on_gpu`: in bfloat16 on a GPU where there is one; the miniature stays on the CPU, so that its numbers are
    the same on every machine.
    """
    from bpo_utils.chat import local

    model, tokenizer = local.load(model_folder, on_gpu)
    outputs = through(model, tokenizer, [records.joined(prompt.prompt, prompt.context) for prompt in prompts], decoding)
    return [_row(prompt, "bpo", output) for prompt, output in zip(prompts, outputs, strict=True)]


def through(model: Any, tokenizer: Any, texts: list[str], decoding: Decoding) -> list[str]:
    """What a loaded rewriter makes of every text, in order; equal texts become one."""
    from bpo_utils.chat import local

    return local.generate(model, tokenizer, [tokens.framed(tokens.REWRITER_FRAME, text) for text in texts], decoding)


def identity(prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """Control: nothing changes, so every verdict must be a tie."""
    return [_row(prompt, "identity", records.joined(prompt.prompt, prompt.context)) for prompt in prompts]


def drop_words(prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """Control: half of the words are lost (which ones depends on the id only), so the original must win."""
    rows = []
    for prompt in prompts:
        words = records.joined(prompt.prompt, prompt.context).split()
        kept = sorted(random.Random(prompt.id).sample(range(len(words)), len(words) // 2))
        rows.append(_row(prompt, "drop_words", " ".join(words[index] for index in kept)))
    return rows


def controls(names: list[str], prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """The rewrites of the named controls: identity, drop_words, and the miniature's reference rewrite (upper bound).

    Raises ValueError for a control that does not exist.
    """
    rows: list[records.Rewrite] = []
    for name in names:
        if name == "identity":
            rows += identity(prompts)
        elif name == "drop_words":
            rows += drop_words(prompts)
        elif name == "reference":
            from bpo_utils.mini import reference

            rows += [_row(prompt, name, reference.rewrite(prompt)) for prompt in prompts]
        else:
            raise ValueError(f"no control {name!r}; there are identity, drop_words and reference")
    return rows


def _row(prompt: records.TestPrompt, rewriter: str, text: str) -> records.Rewrite:
    original = records.joined(prompt.prompt, prompt.context)
    return records.Rewrite(prompt.id, prompt.test_set, rewriter, original, text)
