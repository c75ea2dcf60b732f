"""What one call is: the body that goes over the wire, the key that names it, and what came back.

The key is a hash of everything that decides the answer: provider, address, the body exactly as sent, and the number of
the sample. The API key, timeouts, retries, limits and the budget are not in it: they do not change what was asked.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bpo_utils.chat import capabilities
from bpo_utils.profile import Decoding, Model, Price

MESSAGE_TOKENS = 64  # more than any chat format adds around one message


@dataclass(frozen=True)
class Request:
    """One question to one model. `sample` tells repeats apart: 0, 1, 2 ... are different draws.

    `earlier`: the turns before the prompt, as (role, text), role user or assistant. `answer_start`: words that the
    answer begins with; the model goes on from there, and they are not part of the reply.
    """

    model: Model
    prompt: str
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None
    system: str = ""
    sample: int = 0
    earlier: tuple[tuple[str, str], ...] = ()
    answer_start: str = ""

    @property
    def texts(self) -> list[str]:
        """Everything the model reads, in order."""
        turns = [text for _, text in self.earlier]
        return [text for text in (self.system, *turns, self.prompt, self.answer_start) if text]


@dataclass(frozen=True)
class Usage:
    """Tokens that the provider counted; `cached` are those of `input` that it had in its cache."""

    input: int
    output: int
    cached: int = 0

    def usd(self, price: Price) -> float:
        """What these tokens cost in US dollars."""
        fresh = self.input - self.cached
        cached = price.input if price.cached is None else price.cached
        return (fresh * price.input + self.cached * cached + self.output * price.output) / 1e6


@dataclass(frozen=True)
class Parsed:
    """A reply as it was read. `outcome`: answered, empty or refused."""

    text: str
    finish: str
    outcome: str
    detail: str
    model: str
    fingerprint: str
    usage: Usage | None


def request(model: Model, prompt: str, decoding: Decoding, sample: int = 0) -> Request:
    """One question, decoded as the profile says."""
    chosen = {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed}
    return Request(model, prompt, max_tokens=decoding.max_new_tokens, sample=sample, **chosen)


def body(asked: Request) -> dict[str, Any]:
    """The JSON body as it is sent. What the model refuses (see `models.toml`) is left out, never changed silently.

    A `seed` moves with the sample: the same seed would ask for the same draw again. Raises ValueError for an
    `answer_start` where the provider has no way to send one.
    """
    can = capabilities.of(asked.model)
    messages = [{"role": "system", "content": asked.system}] if asked.system else []
    messages += [{"role": role, "content": text} for role, text in (*asked.earlier, ("user", asked.prompt))]
    sent: dict[str, Any] = {"model": asked.model.model, "messages": messages}
    if asked.answer_start:
        sent["messages"] = [*messages, {"role": "assistant", "content": asked.answer_start}]
        sent |= _continuing(asked.model)
    sent[can.token_limit] = asked.max_tokens
    if can.temperature:
        sent["temperature"] = asked.temperature
    if can.top_p and asked.temperature > 0:
        sent["top_p"] = asked.top_p
    if can.seed and asked.seed is not None:
        sent["seed"] = asked.seed + asked.sample
    return sent | can.always


def _continuing(model: Model) -> dict[str, bool]:
    """What makes a server go on with the last message: vLLM's two switches; models in this process need none."""
    if model.provider in capabilities.IN_PROCESS:
        return {}
    if model.provider == "compatible":
        return {"add_generation_prompt": False, "continue_final_message": True}
    raise ValueError(
        f"{model.name}: {model.provider} cannot be given the start of an answer; use a model in this process or one "
        "behind vLLM (provider: compatible), or put the instruction before or after the input"
    )


def canonical(value: Any) -> str:
    """One JSON text for one value: keys sorted, no spaces, every character itself."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key(asked: Request, sent: dict[str, Any]) -> str:
    """The name of a call: sha256 of provider, address, body as sent, and sample."""
    return name(asked.model.provider, place(asked.model), sent, asked.sample)


def place(model: Model) -> str:
    """Host and path of the address that serves a model; empty for a model in this process."""
    served = "" if model.provider in capabilities.IN_PROCESS else capabilities.address(model)
    return served.removeprefix(f"{urlsplit(served).scheme}://")


def name(provider: str, address: str, sent: dict[str, Any], sample: int) -> str:
    """The key of a call from its parts, as `export` writes them."""
    parts = {"v": 1, "provider": provider, "address": address, "sent": sent, "sample": sample}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def worst_usage(asked: Request) -> Usage:
    """More tokens than the call can use: every token of a byte-level vocabulary holds at least one byte of the text."""
    return Usage(sum(len(text.encode()) + MESSAGE_TOKENS for text in asked.texts), asked.max_tokens)


def expected_input(asked: Request) -> int:
    """About how many tokens the prompt has: four letters a token, 1.6 Chinese ones. An estimate, not a bound."""
    text = "".join(asked.texts)
    wide = 0 if text.isascii() else sum(ord(letter) > 0x2E80 for letter in text)
    return round((len(text) - wide) / 4 + wide / 1.6) + 8


def parse(raw: str) -> Parsed:
    """Read a chat completion. Raises ValueError if it is none: then it was paid for, perhaps, and is no answer.

    A content filter is `refused`; so is a message that holds a `refusal` in place of content.
    """
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or ""
        text, refusal = message.get("content") or "", message.get("refusal") or ""
        text, refusal, finish = (utf8(part) for part in (text, refusal, finish))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion ({type(error).__name__}: {error}); it begins {raw[:80]!r}") from error
    filtered = finish in ("content_filter", "sensitive")  # OpenAI's word and Zhipu's
    outcome = "refused" if filtered or (refusal and not text) else "answered" if text.strip() else "empty"
    fingerprint, served = str(value.get("system_fingerprint") or ""), str(value.get("model") or "")
    detail = refusal or (finish if filtered else "")
    return Parsed(text, finish, outcome, detail, utf8(served), utf8(fingerprint), _usage(value.get("usage")))


def _usage(counted: Any) -> Usage | None:
    """Tokens as they were counted; None if they were not, or not in a form we know: the answer is no worse for it."""
    try:
        cached = (counted.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Usage(int(counted["prompt_tokens"]), int(counted["completion_tokens"]), int(cached))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def utf8(text: str) -> str:
    """Half of a surrogate pair, which a token limit can leave of an emoji, becomes `?`: no UTF-8 file can hold it.
    Raises AttributeError for what is not text."""
    return text.encode("utf-8", "replace").decode()
