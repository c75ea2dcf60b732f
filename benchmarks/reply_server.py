"""A server that does as little as possible: it reads a POST, waits, and writes the same chat completion every time.

    python benchmarks/reply_server.py DELAY_S     # prints its port, ends when its stdin closes

tests/fake_api.py does more for every call (0.3 to 0.4 ms of CPU), which a burst of 32 calls would wait for: its replies
come after 106 ms instead of 100. Here it is about a tenth of that, so that the clients are measured and not the server.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANSWER = "A sentence of the length that answers have. " * 20
CHOICE = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 700, "completion_tokens": 180, "total_tokens": 880}
REPLY = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [CHOICE], "usage": USAGE}
BODY = json.dumps(REPLY).encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


class Reply(asyncio.Protocol):
    """One connection. A client sends its next request only after the reply, so one buffer is enough."""

    def __init__(self, delay: float) -> None:
        self.delay, self.buffer, self.length = delay, bytearray(), -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to reply."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect a request; when it is complete, reply after the delay."""
        self.buffer += data
        if self.length < 0 and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            self.length = end + 4 + int(length or 0)
        if 0 <= self.length <= len(self.buffer):
            self.buffer.clear()
            self.length = -1
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, HEAD + BODY)


async def serve(delay: float) -> None:
    """Serve until stdin closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Reply(delay), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def running(delay: float) -> Iterator[str]:
    """The server in a process of its own; gives the address of its API."""
    command = [sys.executable, str(Path(__file__)), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
