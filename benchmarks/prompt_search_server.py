"""The server of prompt_search.py: OpenAI's chat completions with two models, `target` and `optimizer`, and it counts.

    python benchmarks/prompt_search_server.py landscape        # or instruction; prints its port, ends with its stdin

Every run has an address of its own, /<run>/v1/chat/completions, and its counts at /<run>/counts: a client cannot count
wrongly, and two runs cannot be mixed up. The target of `instruction` is the miniature's real tiny model, greedy;
requests that come within a few milliseconds share a batch, and an answer that is known is not computed again, though it
is counted again. The target of `landscape` is the synthetic landscape. The optimizer is a program
(prompt_search_readers.py). Whoever asks the target in another form than task.prompt() gives (a system message, earlier
turns, sampling, another limit) is refused with the reason: every library has to send the same text for the same
instruction.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prompt_search_readers as readers
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
WINDOW_S = 0.005  # how long a request to the target waits for others
ANSWER_TOKENS = 128  # Task.answer_tokens of both tasks
TASKS = {"landscape": "phrases", "instruction": "facets"}  # task: the optimizer's vocabulary
STRENGTH = "middle"  # the miniature's answer model, as in profiles/mini.yaml


@dataclass
class Run:
    """What one run asked for. `target_calls`: every request; `prompts`: how often each text was asked."""

    target_calls: int = 0
    optimizer_calls: int = 0  # completions
    optimizer_requests: int = 0
    prompts: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)  # of the optimizer
    refused: list[str] = field(default_factory=list)

    def said(self) -> dict[str, Any]:
        """The counts as they are told; `target_repeated`: calls that asked what the run had asked before."""
        told = {name: getattr(self, name) for name in ("target_calls", "optimizer_calls", "optimizer_requests")}
        return told | {"target_repeated": self.target_calls - len(self.prompts), "refused": self.refused}


class Target:
    """The target: texts that wait, in batches through `answers` in one thread. Greedy, so an answer holds for good."""

    def __init__(self, answers: Callable[[list[str]], list[str]]) -> None:
        self.answers, self.known, self.waiting = answers, {}, {}
        self.busy, self.thread = False, ThreadPoolExecutor(1)

    async def answer(self, text: str) -> str:
        """The answer to one text."""
        if text not in self.known:
            future = self.waiting.setdefault(text, asyncio.get_running_loop().create_future())
            self._soon()
            await asyncio.shield(future)  # others may wait for the same text
        return self.known[text]

    def _soon(self) -> None:
        if self.waiting and not self.busy:
            self.busy = True
            loop = asyncio.get_running_loop()
            loop.call_later(WINDOW_S, lambda: self._start(loop))

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self.waiting = self.waiting, {}
        work = loop.run_in_executor(self.thread, self.answers, list(batch))
        work.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: dict[str, asyncio.Future], done: asyncio.Future) -> None:
        self.busy = False
        if error := done.exception():
            for future in batch.values():
                future.set_exception(error)
        else:
            self.known.update(zip(batch, done.result(), strict=True))
            for future in batch.values():
                future.set_result(None)
        self._soon()


def answers_of(task: str) -> Callable[[list[str]], list[str]]:
    """What answers many texts at once: the landscape, or the miniature's model."""
    if task == "landscape":
        from bpo_utils.chat import wire
        from bpo_utils.profile import Model
        from bpo_utils.search import landscape

        model = Model(name="landscape", provider="landscape", model="l")
        return lambda texts: [landscape.answer(wire.Request(model, text)) for text in texts]
    from bpo_utils.chat import local
    from bpo_utils.mini import provider
    from bpo_utils.profile import Decoding

    greedy = Decoding(temperature=0, top_p=1, max_new_tokens=ANSWER_TOKENS, batch_size=local.BATCH_MINI, seed=0)
    return lambda texts: provider.ask(STRENGTH, texts, greedy)


def target_text(body: dict[str, Any]) -> str:
    """The one text that a request shows the target. Raises ValueError for another form than every library must use."""
    messages = [one for one in body["messages"] if not (one["role"] == "system" and not one["content"])]
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    if [one["role"] for one in messages] != ["user"] or not isinstance(messages[0]["content"], str):
        raise ValueError(f"the target reads one user message, and got {[one['role'] for one in body['messages']]}")
    if body.get("temperature") != 0 or limit != ANSWER_TOKENS or (body.get("n") or 1) != 1:
        asked = {name: body.get(name) for name in ("temperature", "n")} | {"max_tokens": limit}
        raise ValueError(f"the target is asked with temperature 0, n 1, max_tokens {ANSWER_TOKENS}, and got {asked}")
    return messages[0]["content"]


def optimizer_texts(body: dict[str, Any], run: str, counts: Run, words: str) -> list[str]:
    """The optimizer's completions, n of them. A `seed` names the draw, as with our methods; without one it is the how
    manyth time that the run asks this. Raises ValueError for a request that the optimizer cannot read."""
    messages = [(one["role"], one["content"]) for one in body["messages"]]
    name, found = json.dumps(messages, ensure_ascii=False), []
    for _ in range(body.get("n") or 1):
        draw = f"{run} {counts.asked[name]}" if body.get("seed") is None else body["seed"] + len(found)
        found.append(readers.reply(messages, draw, words))
        counts.asked[name] += 1
    return found


def completion(model: str, texts: list[str], asked: str) -> web.Response:
    """A chat completion with its usage, four letters a token."""
    choices = [
        {"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for place, text in enumerate(texts)
    ]
    read, written = len(asked) // 4 + 1, sum(len(text) // 4 + 1 for text in texts)
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    head = {"id": "c", "object": "chat.completion", "created": 0, "model": model}
    return web.json_response(head | {"choices": choices, "usage": usage})


def application(task: str) -> web.Application:
    """The server's routes."""
    target, words = Target(answers_of(task)), TASKS[task]
    runs: dict[str, Run] = {}

    async def chat(request: web.Request) -> web.Response:
        name, body = request.match_info["run"], await request.json()
        counts = runs.setdefault(name, Run())
        try:
            if body["model"] == "target":
                text = target_text(body)
                counts.target_calls += 1
                counts.prompts[text] += 1
                return completion("target", [await target.answer(text)], text)
            if body["model"] != "optimizer":
                raise ValueError(f"no model {body['model']!r}; there are target and optimizer")
            texts = optimizer_texts(body, name, counts, words)
            counts.optimizer_calls += len(texts)
            counts.optimizer_requests += 1
            return completion("optimizer", texts, "".join(str(one["content"]) for one in body["messages"]))
        except ValueError as error:
            counts.refused.append(str(error)[:300])
            told = {"message": str(error), "type": "invalid_request_error", "code": "unreadable"}
            return web.json_response({"error": told}, status=400)

    async def counted(request: web.Request) -> web.Response:
        return web.json_response(runs.get(request.match_info["run"], Run()).said())

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/{run}/v1/chat/completions", chat)
    app.router.add_get("/{run}/counts", counted)
    return app


async def serve(task: str) -> None:
    """Serve until stdin closes."""
    runner = web.AppRunner(application(task), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


@contextmanager
def running(task: str) -> Iterator[str]:
    """The server in a process of its own; gives its address. Raises RuntimeError if it does not start."""
    command = [sys.executable, str(Path(__file__)), task]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"{' '.join(command)} ended before it served anything; what it wrote stands above")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()


def counts(url: str, run: str) -> dict[str, Any]:
    """What a run has asked for by now."""
    with urllib.request.urlopen(f"{url}/{run}/counts", timeout=60) as reply:
        return json.load(reply)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(TASKS))
    asyncio.run(serve(parser.parse_args().task))
