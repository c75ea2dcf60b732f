"""What a model takes, what it costs, and until when it is served: `models.toml`, and what a profile says beside it."""

import datetime
import tomllib
from functools import cache
from typing import Any

from pydantic import ValidationError

from bpo_utils import paths
from bpo_utils.profile import Limits, Model, Price, Section

FILE = paths.PACKAGE / "chat" / "models.toml"
IN_PROCESS = ("mini", "huggingface")  # models in this process: no address, no key, no price


class Tariff(Price):
    """US dollars per million tokens, and where and when that was read."""

    source: str
    read: datetime.date


class Provider(Section):
    address: str = ""
    key: str  # the environment variable that holds the API key
    key_optional: bool = False
    requests_per_minute: int
    tokens_per_minute: int
    concurrency_start: int
    concurrency_most: int
    batch_endpoint: str = ""  # what a batch's lines and its `endpoint` must say; empty: no batches
    batch_discount: float = 1.0
    stored_completions: bool = False  # replies can be looked up afterwards (store=true and metadata)


class Capabilities(Section):
    """What may be sent to one model. The defaults are those of a model that the table does not list."""

    provider: str = ""
    temperature: bool = True
    top_p: bool = True
    seed: bool = True
    logprobs: bool = False
    token_limit: str = "max_tokens"  # the parameter's name; newer OpenAI models want max_completion_tokens
    always: dict[str, Any] = {}  # sent with every call, such as the switch that turns thinking off
    price: Tariff | None = None
    shutdown: datetime.date | None = None
    shutdown_source: str = ""
    successor: str = ""


@cache
def table() -> tuple[dict[str, Provider], dict[str, Capabilities]]:
    """The providers and models of `models.toml`. Raises ValueError that names the faulty entry."""
    values = tomllib.loads(FILE.read_text(encoding="utf-8"))
    try:
        providers = {name: Provider.model_validate(entry) for name, entry in values["providers"].items()}
        return providers, {name: Capabilities.model_validate(entry) for name, entry in values["models"].items()}
    except ValidationError as error:
        raise ValueError(f"{paths.shown(FILE)}: {error}") from None


def provider(name: str) -> Provider:
    """One provider. Raises ValueError with the known ones."""
    providers = table()[0]
    if name not in providers:
        raise ValueError(f"no provider {name!r}; there are {', '.join((*providers, *IN_PROCESS))}")
    return providers[name]


def of(model: Model) -> Capabilities:
    """What the table says of a model; the defaults for one that it does not list, or that another provider serves."""
    found = table()[1].get(model.model)
    served_by = "zhipu" if model.provider == "zhipuai" else model.provider
    return found if found and found.provider == served_by else Capabilities(provider=model.provider)


def price(model: Model) -> Price | None:
    """US dollars per million tokens: what the profile says, else the table; None: unknown. In this process: free."""
    if model.provider in IN_PROCESS:
        return Price(input=0.0, output=0.0)
    return model.price or of(model).price


def address(model: Model) -> str:
    """Where the model is served. Raises ValueError for an OpenAI-compatible model without `base_url`."""
    found = model.base_url or provider(model.provider).address
    if not found:
        raise ValueError(f"{model.name}: provider {model.provider} needs `base_url` in the profile, such as {EXAMPLE}")
    return found.rstrip("/")


EXAMPLE = "http://127.0.0.1:8000/v1"


def limits(model: Model, given: dict[str, Limits]) -> Limits:
    """Requests and tokens per minute and concurrency for a model: the profile's `limits` over the table's."""
    known = provider(model.provider)
    chosen = given.get(model.provider, Limits())
    values = {name: getattr(chosen, name) or getattr(known, name) for name in Limits.model_fields}
    values["concurrency_start"] = min(values["concurrency_start"], values["concurrency_most"])
    return Limits(**values)
