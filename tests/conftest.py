"""What every test gets: no network but this machine itself, no Hub, and a run folder of its own on request."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; kernels and other processes inherit it
# A shell that starts tests in the background makes them, and all they start, deaf to Ctrl-C; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
LOOPBACK = ("127.", "::1", "localhost")


class NetworkRefused(AssertionError):
    """A test reached for the network. No OSError: code that expects network errors must not swallow it."""


def _refuse_outside(host: object) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name and not str(name).startswith(LOOPBACK):
        raise NetworkRefused(f"a test tried to reach {name}; tests talk to 127.0.0.1 only")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse to look up or to connect to any host but this one."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(original):
        def call(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _refuse_outside(address[0])
            return original(self, address)

        return call

    def guarded_look_up(host, *rest, **options):
        _refuse_outside(host)
        return look_up(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs, in which the package works while the test lasts; figures go beside it."""
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("BPO_FIGURES_DIR", str(tmp_path / "figures"))
    monkeypatch.delenv("BPO_RUN_DIR", raising=False)
    return tmp_path / "runs"
