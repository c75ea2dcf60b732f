"""Calls per second, CPU time per call, and how fast a finished run is read back, beside what a user would pick instead.

    python benchmarks/calls.py [--rounds 3] [--calls 1000]

One local server (reply_server.py, a process of its own) answers every call after 100 ms. Each way sends the same calls
to it, in every round, in one run: ours (with the store on: every attempt and every answer durable before it counts,
and a cap), the plain AsyncOpenAI behind a semaphore, threads as alpaca_eval's (5), upstream's one `requests.post`
after another (its first 50 calls, extrapolated), and aiohttp without any SDK, which keeps nothing and checks nothing:
what is missing there to 320 calls/s (32 at once, 100 ms each) is the event loop's timers, the server and the last,
incomplete round; what is missing between it and the others is CPU time of the client. Writes benchmarks/calls.json;
the last line is JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import reply_server
from reply_server import ANSWER

from bpo_utils import chat, paths, progress, records
from bpo_utils.chat import wire
from bpo_utils.profile import Limits, Model, Price

DELAY_S, UPSTREAM_CALLS, ALPACA_THREADS, RESUMED = 0.1, 50, 5, 10_000
HEADERS = {"Authorization": "Bearer none"}
PROMPT = "A question of the length that the judge's prompts have, which is some three thousand letters. " * 32


def requests_for(url: str, number: int, mark: str) -> list[wire.Request]:
    """As many different calls, as long as a judge's."""
    model = Model(name="m", provider="compatible", model="m", base_url=url, price=Price(input=1.0, output=1.0))
    return [wire.Request(model, f"{mark} {n} {PROMPT}", max_tokens=300) for n in range(number)]


def ours(url: str, number: int, concurrency: int, mark: str) -> Callable[[], None]:
    """`chat.complete` on a new store, with a cap."""
    folder = tempfile.TemporaryDirectory()
    limits = Limits(
        requests_per_minute=10**7, tokens_per_minute=10**10, concurrency_start=concurrency, concurrency_most=concurrency
    )
    calls = chat.Calls(Path(folder.name) / "calls.sqlite", max_usd=1000.0, limits={"compatible": limits})

    def run(keep: object = folder) -> None:
        chat.complete(requests_for(url, number, mark), calls)

    return run


def bare(url: str, number: int, concurrency: int, mark: str) -> Callable[[], None]:
    """AsyncOpenAI and a semaphore, as its users write it; nothing is kept."""

    async def everything() -> None:
        from openai import AsyncOpenAI

        client, gate = AsyncOpenAI(api_key="none", base_url=url, max_retries=0), asyncio.Semaphore(concurrency)

        async def one(asked: wire.Request) -> str:
            async with gate:
                messages = [{"role": "user", "content": asked.prompt}]
                reply = await client.chat.completions.create(
                    model="m", messages=messages, max_tokens=300, temperature=0.0
                )
                return reply.choices[0].message.content

        await asyncio.gather(*map(one, requests_for(url, number, mark)))
        await client.close()

    return lambda: asyncio.run(everything())


def threads(url: str, number: int, concurrency: int, mark: str) -> Callable[[], None]:
    """A pool of threads around the synchronous client, as in alpaca_eval."""

    def run() -> None:
        from concurrent.futures import ThreadPoolExecutor

        from openai import OpenAI

        client = OpenAI(api_key="none", base_url=url, max_retries=0)

        def one(asked: wire.Request) -> str:
            messages = [{"role": "user", "content": asked.prompt}]
            return (
                client.chat.completions.create(model="m", messages=messages, max_tokens=300).choices[0].message.content
            )

        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(one, requests_for(url, number, mark)))

    return run


def floor(url: str, number: int, concurrency: int, mark: str) -> Callable[[], None]:
    """aiohttp alone, as many tasks as calls at once."""

    async def everything() -> None:
        import aiohttp

        waiting = iter(requests_for(url, number, mark))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

            async def one() -> None:
                for asked in waiting:
                    body = {"model": "m", "messages": [{"role": "user", "content": asked.prompt}]}
                    async with session.post(f"{url}/chat/completions", json=body, headers=HEADERS) as reply:
                        await reply.read()

            await asyncio.gather(*(one() for _ in range(concurrency)))

    return lambda: asyncio.run(everything())


def upstream(url: str, number: int, concurrency: int, mark: str) -> Callable[[], None]:
    """One request after another, each on a connection of its own."""

    def run() -> None:
        import requests

        for asked in requests_for(url, number, mark):
            body = {"model": "m", "messages": [{"role": "user", "content": asked.prompt}], "temperature": 0}
            reply = requests.post(f"{url}/chat/completions", json=body, headers=HEADERS, timeout=60)
            assert reply.json()["choices"][0]["message"]["content"] == ANSWER

    return run


def measure(run: Callable[[], None], number: int) -> tuple[float, float]:
    """(calls per second, milliseconds of this process's CPU per call)."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return number / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / number


def resume() -> float:
    """Seconds to read back a finished run of 10,000 calls, opening the store included."""
    with reply_server.running(0.0) as url:
        run = ours(url, RESUMED, 64, "resume")
        run()
        started = time.perf_counter()
        run()
        return time.perf_counter() - started


def main() -> None:
    """Measure, print a table, write the file, print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    ways = {
        "ours_32": (ours, 32, arguments.calls),
        "bare_32": (bare, 32, arguments.calls),
        "ours_256": (ours, 256, arguments.calls),
        "bare_256": (bare, 256, arguments.calls),
        "aiohttp_32": (floor, 32, arguments.calls),
        "alpaca_eval": (threads, ALPACA_THREADS, arguments.calls // 5),
        "upstream": (upstream, 1, UPSTREAM_CALLS),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with reply_server.running(DELAY_S) as url:
        for name, (way, concurrency, _) in ways.items():  # imports and first connections are not the question
            way(url, min(50, 2 * concurrency), concurrency, f"warm {name}")()
        for turn in range(arguments.rounds):
            for name, (way, concurrency, number) in ways.items():
                found[name].append(measure(way(url, number, concurrency, f"{turn} {name}"), number))
    report(found, resume())


def report(found: dict[str, list[tuple[float, float]]], resumed: float) -> None:
    """The table, the file and the JSON line."""
    limits = {
        "ours_32": 320,
        "bare_32": 320,
        "ours_256": 2560,
        "bare_256": 2560,
        "aiohttp_32": 320,
        "alpaca_eval": 50,
        "upstream": 10,
    }
    rows = [["way", "calls/s", "least", "most", "of the limit", "CPU ms/call"]]
    rate = {name: statistics.median(one[0] for one in ones) for name, ones in found.items()}
    cpu = {name: statistics.median(one[1] for one in ones) for name, ones in found.items()}
    for name, ones in found.items():
        ends = [f"{end(one[0] for one in ones):.1f}" for end in (min, max)]
        rows.append([name, f"{rate[name]:.1f}", *ends, f"{rate[name] / limits[name]:.0%}", f"{cpu[name]:.2f}"])
    print(progress.columns(rows, right_from=1))
    print(f"\nupstream: {UPSTREAM_CALLS} calls, extrapolated.")
    print(
        f"ours / bare: {rate['ours_32'] / rate['bare_32']:.2f} at 32, {rate['ours_256'] / rate['bare_256']:.2f} at 256;"
    )
    print(f"ours / upstream: {rate['ours_32'] / rate['upstream']:.0f}. Resume of {RESUMED:,} calls: {resumed:.2f} s.\n")
    last = {"limit_32": 320.0} | {name: round(rate[name], 1) for name in ("ours_32", "bare_32", "ours_256", "bare_256")}
    last |= {"upstream": round(rate["upstream"], 2), "cpu_ms_ours": round(cpu["ours_32"], 3)}
    last |= {"cpu_ms_bare": round(cpu["bare_32"], 3), "resume_s": round(resumed, 3)}
    rounds = {name: [[round(value, 3) for value in one] for one in ones] for name, ones in found.items()}
    machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    records.write_json(paths.ROOT / "benchmarks" / "calls.json", last | {"rounds": rounds, "machine": machine})
    print(json.dumps(last))


if __name__ == "__main__":
    main()
