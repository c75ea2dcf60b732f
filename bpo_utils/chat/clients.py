"""The two SDKs behind one call: a body goes out, the raw reply comes back, and what fails is a `CallFailed` with its
class.

Their retries are off: after a timeout they would send a call again that may have been paid for, without asking our
budget. The body is handed to the SDK's plain `post`, so what arrives is what was hashed into the key (zhipuai's
`create` turns temperature 0 into 0.01). One client per address and run, on one event loop.
"""

import os
from typing import Any

from bpo_utils.chat import capabilities, errors, wire
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.profile import Model

PATH = "/chat/completions"
CONNECT_S = 10.0


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
        from openai import AsyncOpenAI, DefaultAsyncHttpx2Client

        self.secret, self.response = key, httpx2.Response
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S, pool=None)
        http = DefaultAsyncHttpx2Client(limits=limits, timeout=timeout)
        self.sdk = AsyncOpenAI(api_key=key, base_url=address, max_retries=0, http_client=http)

    async def send(self, body: dict[str, Any], label: str = "") -> tuple[str, str]:
        """One call: (raw reply, request id). `label` asks OpenAI to keep the reply, to be found under this name."""
        kept = {"store": True, "metadata": {"k": label}} if label else {}
        with Failures(self.secret):
            reply = await self.sdk.post(PATH, cast_to=self.response, body=body | kept)
        return _clean(reply.text, self.secret), reply.headers.get("x-request-id", "")

    async def recover(self, label: str) -> str | None:
        """The raw reply that OpenAI kept under a label, if it kept one."""
        with Failures(self.secret):
            page = await self.sdk.chat.completions.list(metadata={"k": label}, limit=1)
        return page.data[0].model_dump_json() if page.data else None

    async def served(self) -> dict[str, str]:
        """The models that the address serves, each with its shutdown date as text, empty if none is announced."""
        with Failures(self.secret):
            page = await self.sdk.models.list()
        return {model.id: str((model.model_extra or {}).get("shutdown_date") or "") for model in page.data}

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
        return _clean(reply.text, self.secret), reply.headers.get("x-request-id", "")

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
        import zhipuai.core._errors as zhipu

        if isinstance(error, openai.APITimeoutError | zhipu.APITimeoutError | openai.APIConnectionError):
            raise CallFailed(self._unheard(error)) from None
        if isinstance(error, openai.APIStatusError | zhipu.APIStatusError):
            reply = error.response
            text = _clean(reply.text, self.secret)
            raise CallFailed(
                errors.of_status(reply.status_code, text, reply.headers, reply.headers.get("x-request-id", ""))
            ) from None
        if isinstance(error, zhipu.APIConnectionError):
            raise CallFailed(self._unheard(error)) from None

    def _unheard(self, error: BaseException) -> Failure:
        """No reply: never sent if no connection came about, else perhaps done and paid."""
        cause = error.__cause__
        name = type(cause).__name__ if cause else type(error).__name__
        unsent = name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
        timed_out = "Timeout" in name
        told = "no connection" if unsent else "no reply in time" if timed_out else "the connection broke"
        return Failure("retry", name, _clean(f"{told} ({cause or error})", self.secret), None, not unsent, timed_out)


def _clean(text: str, secret: str) -> str:
    return text.replace(secret, "[key]") if len(secret) > 4 else text


def parsed(raw: str) -> wire.Parsed:
    """Read a reply. Raises CallFailed for a reply that is no chat completion: paid for, perhaps, and of no use."""
    try:
        return wire.parse(raw)
    except ValueError as error:
        raise CallFailed(Failure("retry", "unreadable", str(error), 200, maybe_paid=True)) from None
