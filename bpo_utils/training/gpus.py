"""What is known of GPUs: `gpus.toml`, each figure with its source. What is not listed is unknown, never guessed."""

import difflib
import tomllib
from functools import cache
from typing import Literal

from pydantic import ValidationError

from bpo_utils import paths
from bpo_utils.profile import Section

FILE = paths.PACKAGE / "training" / "gpus.toml"


class Gpu(Section):
    """One kind of GPU; the units are those that gpus.toml explains."""

    name: str  # on the command line
    label: str
    names: list[str]
    tflops: float
    memory_gib: float
    memory_gb_s: float
    link: Literal["NVLink", "PCIe"]
    link_gb_s: float
    host_gb_s: float
    mfu: bool = False


@cache
def table() -> dict[str, Gpu]:
    """All GPUs of gpus.toml by their name on the command line. Raises ValueError that names the faulty entry."""
    entries = tomllib.loads(FILE.read_text(encoding="utf-8"))
    try:
        return {name: Gpu.model_validate({"name": name, **entry}) for name, entry in entries.items()}
    except ValidationError as error:
        raise ValueError(f"{paths.shown(FILE)}: {error}") from None


def find(device_name: str) -> Gpu | None:
    """The GPU that torch.cuda.get_device_name calls `device_name`; None if it is not listed.

    The whole name must match: an A100 of 40 GB is no A100 of 80 GB, an H100 PCIe has another peak than the SXM, an H20
    is no H200, and a MIG slice is a part of its GPU.
    """
    wanted = device_name.strip().removeprefix("NVIDIA ")
    for gpu in table().values():
        if wanted in (name.removeprefix("NVIDIA ") for name in gpu.names):
            return gpu
    return None


def named(name: str) -> Gpu:
    """The GPU with this name on the command line, such as a800-80. Raises ValueError with the nearest and all names."""
    known = table()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        nearest = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no GPU {name!r}{nearest}; there are {', '.join(known)}")
    return known[name]


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 operations per second to divide by for the MFU; None if the GPU is unknown or has no fixed clock.

    The MFU is the paper's of PaLM (arXiv 2204.02311, appendix B): model operations per second over this peak.
    """
    gpu = find(device_name)
    return gpu.tflops * 1e12 if gpu and gpu.mfu else None
