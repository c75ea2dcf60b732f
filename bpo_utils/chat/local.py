"""A Transformers model in this process: many prompts through it, batched by length."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import quiet
from bpo_utils.profile import Decoding
from bpo_utils.records import Reply
from bpo_utils.tokens import ANSWER_FRAME, framed, prompt_ids

BATCH = 16  # prompts at once; also what a killed run has to do again
BATCH_MINI = 128  # of the miniature's models, which are small


def load(folder: Path | str, on_gpu: bool = False) -> tuple[Any, Any]:
    """Load (model, tokenizer) of a causal language model for generation, in float32 on the CPU.

    With `on_gpu`, in bfloat16 on the GPU where there is one. Raises OSError if the folder has no model.
    """
    quiet.transformers()
    from transformers import AutoTokenizer

    return network(folder, on_gpu), AutoTokenizer.from_pretrained(folder)


def network(folder: Path | str, on_gpu: bool = False, **options: Any) -> Any:
    """The model alone; `options` are from_pretrained's."""
    quiet.transformers()
    import torch
    from transformers import AutoModelForCausalLM

    gpu = on_gpu and torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if gpu else torch.float32, **options)
    return (model.to("cuda") if gpu else model).eval()


def generate(model: Any, tokenizer: Any, framed_prompts: list[str], decoding: Decoding, sample: int = 0) -> list[str]:
    """Continue every framed prompt; returns the new texts only, in the order of the prompts. See `continued`."""
    return [reply.text for reply in continued(model, tokenizer, framed_prompts, decoding, sample)]


def continued(
    model: Any,
    tokenizer: Any,
    framed_prompts: list[str],
    decoding: Decoding,
    sample: int = 0,
    context: int | None = None,
) -> list[Reply]:
    """Continue every framed prompt; one reply per prompt, in order, equal prompts get the same. Batched by length.

    Sampling takes each prompt's own random numbers (`numbers`), so a text depends on the model, the prompt, the seed
    and the number of the sample, and not on the batch, its size, the order or the device's generator. What is left is
    rounding: other padding gives other last digits, which can turn a token that was nearly as likely as the next one.
    With `context` (tokens of prompt and text together) a prompt that leaves no room is `too_long` and not continued,
    and a text ends where the room does; its `finish` is then `length`, as at `max_new_tokens`.
    """
    encoded = {text: prompt_ids(tokenizer, text) for text in dict.fromkeys(framed_prompts)}
    done: dict[str, Reply] = {}
    for texts, room in batches(encoded, decoding, context):
        if room < 1:
            done |= dict.fromkeys(texts, TOO_LONG)
            continue
        drawn = [numbers(text, decoding.seed, sample, room) for text in texts] if decoding.temperature > 0 else None
        rows = [encoded[text] for text in texts]
        done.update(zip(texts, _continued(model, tokenizer, rows, decoding, room, drawn), strict=True))
    return [done[text] for text in framed_prompts]


TOO_LONG = Reply("", "too_long", "")


def batches(encoded: dict[str, list[int]], decoding: Decoding, context: int | None) -> Iterator[tuple[list[str], int]]:
    """(texts, tokens they have room for), shortest first: little padding, and one room for all of a batch."""

    def room(text: str) -> int:
        return (
            decoding.max_new_tokens if context is None else min(decoding.max_new_tokens, context - len(encoded[text]))
        )

    ordered = sorted(encoded, key=lambda text: (len(encoded[text]), text))
    for most, group in itertools.groupby(ordered, key=room):
        texts = list(group)
        for start in range(0, len(texts), decoding.batch_size):
            yield texts[start : start + decoding.batch_size], most


def numbers(text: str, seed: int, sample: int, count: int) -> list[float]:
    """The random numbers in [0, 1) that one sample of one framed prompt is drawn with, one for each token."""
    import torch

    name = hashlib.sha256(f"{seed}, {sample}, {text}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(name[:8]) >> 1)  # on the CPU, whatever the device is
    return torch.rand(count, generator=generator).tolist()


class Draw:
    """Leaves of each row's scores the token that its random number falls on: an exact sample, by the inverse of the
    cumulative distribution. `drawn`: one row of numbers for each row of scores; `width`: tokens before the first draw.
    """

    def __init__(self, drawn: Any, width: int) -> None:
        self.drawn, self.width = drawn, width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        # float64: a number of 24 bits times the sum stays below the sum, so that no token beyond the last one is drawn
        below = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        drawn = self.drawn[:, input_ids.shape[1] - self.width, None] * below[:, -1:]
        # never a token of probability 0: the sum up to it is the sum up to the one before
        token = torch.searchsorted(below, drawn, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class Thinned:
    """Ends `generate` once a quarter of the rows are finished, so that the others go on without them."""

    def __init__(self, ends: Any) -> None:
        self.ends = ends

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        finished = torch.isin(input_ids[:, -1], self.ends).sum()
        return (4 * finished >= len(input_ids)).expand(len(input_ids))


def _continued(
    model: Any, tokenizer: Any, rows: list[list[int]], decoding: Decoding, room: int, drawn: list[list[float]] | None
) -> list[Reply]:
    """One batch: finished rows leave it, with their part of the cache, as soon as they are a quarter of it."""
    import torch

    ids, mask = (part.to(model.device) for part in left_padded(rows, tokenizer.eos_token_id))
    ends = torch.tensor(ends_of(model, tokenizer), device=model.device)
    uniform = None if drawn is None else torch.tensor(drawn, dtype=torch.float64, device=model.device)
    width, waiting, cache, replies = ids.shape[1], torch.arange(len(rows), device=model.device), None, {}
    while len(waiting):
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=room - (ids.shape[1] - width),
                do_sample=False,  # Draw leaves one token to choose from
                logits_processor=[] if drawn is None else [*_warpers(decoding), Draw(uniform[waiting], width)],
                stopping_criteria=[Thinned(ends)],
                pad_token_id=tokenizer.eos_token_id,
                return_dict_in_generate=True,
            )
        ids, cache = output.sequences, output.past_key_values
        stopped = torch.isin(ids[:, width:], ends).any(dim=1)
        gone = stopped | (ids.shape[1] - width >= room)
        texts = tokenizer.batch_decode(ids[gone, width:], skip_special_tokens=True)
        for row, text, stop in zip(waiting[gone].tolist(), texts, stopped[gone].tolist(), strict=True):
            replies[row] = Reply(text.strip(), "answered" if text.strip() else "empty", "stop" if stop else "length")
        left = (~gone).nonzero().flatten()
        if len(left):
            cache.batch_select_indices(left)
        more = torch.ones(len(left), ids.shape[1] - mask.shape[1], dtype=mask.dtype, device=mask.device)
        ids, mask, waiting = ids[left], torch.cat([mask[left], more], dim=1), waiting[left]
    return [replies[row] for row in range(len(rows))]


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that end a text, as the model's generation config has them."""
    known = model.generation_config.eos_token_id
    known = tokenizer.eos_token_id if known is None else known
    return known if isinstance(known, list) else [known]


def _warpers(decoding: Decoding) -> list[Any]:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    narrowed = [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []
    return [TemperatureLogitsWarper(float(decoding.temperature)), *narrowed]


def left_padded(rows: list[list[int]], pad: int) -> tuple[Any, Any]:
    """(ids, attention mask) of one batch, both [rows, longest]."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


class Said(NamedTuple):
    """What a model of this process said, and the tokens that it read and wrote."""

    text: str
    read: int
    written: int


def answer_in_batches(asked: list[Any]) -> Iterator[tuple[list[int], list[Said]]]:
    """Answer requests to models of the miniature, the Hub or a folder, a batch at a time: (places in `asked`, replies).

    Prompts go through the model's chat template; without one, as upstream's Llama 2 script does, between [INST] and
    [/INST]. Runs on a GPU in bfloat16 where there is one, else on the CPU in float32. Raises OSError if a model cannot
    be loaded.
    """
    for model in dict.fromkeys(request.model for request in asked):
        network, tokenizer = loaded(model)
        mine = [place for place, request in enumerate(asked) if request.model == model]
        framed_prompts = {place: framed_request(tokenizer, asked[place]) for place in mine}
        size = BATCH_MINI if model.provider == "mini" else BATCH
        for first, batch in _alike(asked, mine, framed_prompts, size):
            sampling = {
                "temperature": first.temperature,
                "top_p": first.top_p,
                "seed": (first.seed or 0) + first.sample,
            }
            decoding = Decoding(max_new_tokens=first.max_tokens, batch_size=size, **sampling)
            texts = generate(network, tokenizer, [framed_prompts[place] for place in batch], decoding)
            read = [len(prompt_ids(tokenizer, framed_prompts[place])) for place in batch]
            written = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
            yield batch, [Said(*said) for said in zip(texts, read, written, strict=True)]


def loaded(model: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of the miniature, the Hub or a folder."""
    if model.provider == "mini":
        from bpo_utils.mini import models

        return models.load(model.model)
    return load(model.model, on_gpu=True)


def _alike(
    asked: list[Any], places: list[int], framed_prompts: dict[int, str], size: int
) -> Iterator[tuple[Any, list[int]]]:
    """(a request, places of up to `size` that are decoded like it), shortest first."""

    def decoded(place: int) -> tuple[Any, ...]:
        one = asked[place]
        return one.sample, one.seed or 0, one.temperature, one.top_p, one.max_tokens

    ordered = sorted(places, key=lambda place: (decoded(place), len(framed_prompts[place]), framed_prompts[place]))
    for _, group in itertools.groupby(ordered, key=decoded):
        same = list(group)
        for start in range(0, len(same), size):
            yield asked[same[start]], same[start : start + size]


def as_completion(asked: Any, said: Said) -> str:
    """What a local model said in the form of a chat completion, which is what a store holds."""
    choice = {"index": 0, "message": {"role": "assistant", "content": said.text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": said.read, "completion_tokens": said.written, "total_tokens": said.read + said.written}
    completion = {"object": "chat.completion", "model": asked.model.model, "choices": [choice], "usage": usage}
    return json.dumps(completion, ensure_ascii=False)


def framed_request(tokenizer: Any, asked: Any) -> str:
    """A request as the text that a model continues; without a chat template between [INST] and [/INST]."""
    return _framed(tokenizer, asked.system, asked.prompt, asked.earlier, asked.answer_start)


def _framed(
    tokenizer: Any, system: str, prompt: str, earlier: Sequence[tuple[str, str]] = (), answer_start: str = ""
) -> str:
    """A request as the text that a model continues. Raises ValueError for several turns without a chat template."""
    if not tokenizer.chat_template:
        if earlier:
            raise ValueError("a model without a chat template cannot be given a conversation of several turns")
        text = framed(ANSWER_FRAME, f"{system}\n\n{prompt}" if system else prompt)
        return f"{text} {answer_start}" if answer_start else text
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in (*earlier, ("user", prompt))]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # `generate` puts the first token in front of every prompt
    return text.removeprefix(tokenizer.bos_token or "") + answer_start
