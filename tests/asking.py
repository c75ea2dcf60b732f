"""What the tests of calls share: models at the local server, questions to them, and calls that do not wait long."""

import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_api import FakeApi

from bpo_utils.chat import Calls, engine, limits, wire
from bpo_utils.profile import Limits, Model, Price

KEY = "sk-planted-0123456789abcdef"  # no other text contains it, so it can be searched for
PRICE = Price(input=2.5, output=10.0)
PROVIDERS = ("openai", "zhipu", "zhipuai")
USED = wire.Usage(20, 30)  # tokens that the server counts for every reply; `question 0` could have used 26 and 64
FREELY = Limits(requests_per_minute=6_000_000, tokens_per_minute=10**9, concurrency_start=8, concurrency_most=8)


def prepare(server: FakeApi, patch: pytest.MonkeyPatch) -> FakeApi:
    """A server without counts, keys for it, and an engine that does not wait long."""
    server.reset()
    server.script(usage={"prompt_tokens": USED.input, "completion_tokens": USED.output})
    for name in ("OPENAI_API_KEY", "ZHIPUAI_API_KEY"):
        patch.setenv(name, KEY)
    patch.setattr(engine.Engine, "jitter", 0.001)
    patch.setattr(limits, "COOLDOWN_S", 0.05)
    # Nothing is encrypted here, and reading the certificates takes half of the time.
    patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    return server


def billed(api: FakeApi) -> float:
    """What the server would charge for the replies it made, whether or not they arrived."""
    return api.stats()["paid"] * USED.usd(PRICE)


def model(api: FakeApi, provider: str = "openai", price: Price | None = PRICE, name: str = "") -> Model:
    """A model that the local server answers for."""
    chinese = provider.startswith("zhipu")
    address = api.zhipu_url if chinese else api.url
    served = name or ("glm-4-flash" if chinese else "gpt-4o")
    return Model(name=provider, provider=provider, model=served, base_url=address, price=price)


def questions(asked: Model, count: int, word: str = "question", **more: Any) -> list[wire.Request]:
    """Different questions to one model: `question 0`, `question 1` ..."""
    return [wire.Request(asked, f"{word} {number}", **{"max_tokens": 64} | more) for number in range(count)]


def calls(folder: Path, allowed: Limits = FREELY, **more: Any) -> Calls:
    """Calls through `folder/calls.sqlite`, with times for a server on this machine."""
    given = dict.fromkeys((*PROVIDERS, "compatible"), allowed)
    chosen = {"timeout_s": 5.0, "pause_s": 0.2, "poll_s": 0.01, "limits": given}
    return Calls(store=folder / "calls.sqlite", **chosen | more)


def keys(asked: Sequence[wire.Request]) -> list[str]:
    """The keys under which a store has these calls."""
    return [wire.key(each, wire.body(each)) for each in asked]


def completion(text: str | None = "an answer", finish: str = "stop", model: str = "gpt-4o", **message: Any) -> str:
    """A reply as a provider sends it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return json.dumps({"model": model, "system_fingerprint": "fp", "choices": [choice], "usage": usage})
