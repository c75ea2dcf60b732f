"""The two SDKs behind one call: a body goes out, the raw reply comes back, and what fails is a `CallFailed` with its
class.

Their retries are off: after a timeout they would send a call again that may have been paid for, without asking our
budget. The body is handed to the SDK's plain `post`, so what arrives is what was hashed into the key (zhipuai's
`create` turns temperature 0 into 0.01). One client per address and run, on one event loop.
"""

import json
import os
import re
from typing import Any

from bpo_utils.chat import capabilities, errors, wire
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.profile import Model

PATH = "/chat/completions"
ALIAS_PROVIDERS = ("openai", "zhipu", "zhipuai")  # a server of one's own may name its models as it likes
CONNECT_S = 10.0
NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}  # of httpx
NEVER_SENT |= {"ClientConnectorError", "ConnectionTimeoutError", "InvalidURL"}  # of aiohttp


def api_key(model: Model) -> str:
    """The key from the provider's environment variable. Raises ValueError that names the variable."""
    known = capabilities.provider(model.provider)
    found = os.environ.get(known.key, "").strip()
    if not found and not known.key_optional:
        raise ValueError(f"{model.name}: set {known.key} to your key of {model.provider}, in the shell that starts bpo")
    return found or "none"


def connect(model: Model, timeout_s: float, connections: int) -> "OpenAIClient | ZhipuClient":
    """The client for a model's address. Raises ValueError if its key is not set."""
    kind = ZhipuClient if model.provider == "zhipuai" else OpenAIClient
    return kind(capabilities.address(model), api_key(model), timeout_s, connections)


class OpenAIClient:
    """OpenAI, Zhipu and every other address that speaks OpenAI's protocol, through the package `openai`."""

    def __init__(self, address: str, key: str, timeout_s: float, connections: int) -> None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient

        self.secret, self.response = key, httpx2.Response
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S, pool=None)
        # aiohttp's transport: httpx2's own looks at every idle connection for every request (benchmarks/calls.py)
        # no certificates are read for a plain address; a redirect would make a GET of a POST, so none is followed
        tls = address.startswith("https:")
        http = DefaultAioHttpClient(limits=limits, timeout=timeout, verify=tls, follow_redirects=False)
        self.sdk = AsyncOpenAI(api_key=key, base_url=address, max_retries=0, http_client=http)

    async def send(self, body: dict[str, Any], label: str = "") -> tuple[str, str]:
        """One call: (raw reply, request id). `label` asks OpenAI to keep the reply, to be found under this name."""
        kept = {"store": True, "metadata": {"k": label}} if label else {}
        with Failures(self.secret):
            reply = await self.sdk.post(PATH, cast_to=self.response, body=body | kept)
        return clean(reply.text, self.secret), _request_id(reply, self.secret)

    async def recover(self, label: str) -> str | None:
        """The raw reply that OpenAI kept under a label, if it kept one."""
        with Failures(self.secret):
            page = await self.sdk.chat.completions.list(metadata={"k": label}, limit=1)
        return clean(page.data[0].model_dump_json(), self.secret) if page.data else None

    async def served(self) -> dict[str, str]:
        """The models that the address serves, each with its shutdown date as text, empty if none is announced."""
        with Failures(self.secret):
            page = await self.sdk.models.list()
        return {model.id: str(getattr(model, "shutdown_date", None) or "") for model in page.data}

    async def close(self) -> None:
        """Close the connections."""
        await self.sdk.close()


class ZhipuClient:
    """Zhipu through the package `zhipuai`: synchronous, so every call takes a thread."""

    def __init__(self, address: str, key: str, timeout_s: float, connections: int) -> None:
        import anyio
        import httpx
        from zhipuai import ZhipuAI

        self.secret, self.response = key, httpx.Response
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        self.sdk = ZhipuAI(api_key=key, base_url=address, max_retries=0, timeout=timeout)
        self.threads = anyio.CapacityLimiter(connections)

    async def send(self, body: dict[str, Any], label: str = "") -> tuple[str, str]:
        """One call: (raw reply, request id). Zhipu keeps no replies, so there is nothing to label."""
        import anyio

        def post() -> Any:
            return self.sdk.post(PATH, body=body, cast_type=self.response)

        with Failures(self.secret):
            reply = await anyio.to_thread.run_sync(post, limiter=self.threads, abandon_on_cancel=True)
        return clean(reply.text, self.secret), _request_id(reply, self.secret)

    async def close(self) -> None:
        """Close the connections."""
        self.sdk.close()


class Failures:
    """Turns the exceptions of both SDKs into CallFailed. The key is taken out of every text: some servers echo it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import openai
        import pydantic
        import zhipuai.core._errors as zhipu

        if isinstance(error, openai.APIStatusError | zhipu.APIStatusError):
            reply = error.response
            text, request_id = clean(reply.text, self.secret), _request_id(reply, self.secret)
            raise CallFailed(errors.of_status(reply.status_code, text, reply.headers, request_id)) from None
        unreadable = openai.APIResponseValidationError | zhipu.APIResponseValidationError | pydantic.ValidationError
        if isinstance(error, unreadable | json.JSONDecodeError | UnicodeError):
            told = clean(f"the reply is not what was expected ({error})", self.secret)
            raise CallFailed(Failure("retry", "unreadable", told, 200, maybe_paid=True)) from None
        if isinstance(error, openai.OpenAIError | zhipu.ZhipuAIError):
            raise CallFailed(self._unheard(error)) from None

    def _unheard(self, error: BaseException) -> Failure:
        """No reply: never sent if no connection came about, else perhaps done and paid."""
        cause = error.__cause__ or error
        if type(cause.__cause__).__module__.startswith("aiohttp"):
            cause = cause.__cause__  # openai makes a ConnectTimeout of its ServerDisconnectedError, which was sent
        name, unsent = type(cause).__name__, any(kind.__name__ in NEVER_SENT for kind in type(cause).__mro__)
        told = "no connection" if unsent else "no reply in time" if "Timeout" in name else "the connection broke"
        why = clean(f"{told} ({cause})" if str(cause) else told, self.secret)
        return Failure("retry", name, why, maybe_paid=not unsent)


def clean(text: str, secret: str) -> str:
    """A text without the key, should it hold it."""
    return text.replace(secret, "[key]") if len(secret) > 4 else text


def _request_id(reply: Any, secret: str) -> str:
    return clean(reply.headers.get("x-request-id", ""), secret)


def parsed(raw: str) -> wire.Parsed:
    """Read a reply. Raises CallFailed for a reply that is no chat completion: paid for, perhaps, and of no use."""
    try:
        return wire.parse(raw)
    except ValueError as error:
        raise CallFailed(Failure("retry", "unreadable", str(error), 200, maybe_paid=True)) from None


def unusable(model: Model, read: wire.Parsed, request_id: str) -> Failure | None:
    """Why a reply that came, and was paid for, is no answer; None if it is one.

    An alias answers under its own name or a dated one: gpt-4o as gpt-4o-2024-08-06, but never as gpt-4o-mini.
    """
    asked = re.sub("-(latest|preview)$", "", model.model)
    known = re.fullmatch(re.escape(asked) + r"(-(\d|latest|preview)[\w-]*)?", read.model, re.IGNORECASE)
    if model.provider in ALIAS_PROVIDERS and read.model and not known:
        told = f"asked for {model.model}, {read.model} answered; nothing of it is stored"
        return Failure("stop", "wrong_model", told, 200, request_id=request_id)
    if read.outcome == "refused":
        return Failure("item", "content_filter", read.detail, 200, request_id=request_id)
    if read.outcome == "empty":
        return Failure("retry", "empty", f"a reply without text (finish {read.finish!r})", 200, request_id=request_id)
    return None
