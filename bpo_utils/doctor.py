"""What this machine has, what each profile can do on it, and the command that mends what is missing.

No network is used, and of a key only its presence is told.
"""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bpo_utils import paths, profile
from bpo_utils.profile import Profile
from bpo_utils.progress import columns

GIB = 1024**3
PYTHON = (3, 11)  # pyproject.toml asks for the same
NEEDED_MEMORY_GIB = 2  # torch and a kernel with a tiny model take about one
NEEDED_DISK_GIB = 1  # a run of the miniature writes far less; the rest is room for a second one
KEYS = {"openai": "OPENAI_API_KEY", "zhipu": "ZHIPUAI_API_KEY", "zhipuai": "ZHIPUAI_API_KEY"}
INSTALL = "pip install -r requirements.lock"
BUILD = "python -m bpo_utils.mini.build"
TRAINING = "make training"


@dataclass(frozen=True)
class Check:
    """One thing looked at. `ok` is None for what is optional; `advice` is empty unless there is something to do."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


@dataclass(frozen=True)
class ProfileHere:
    """What one profile can do on this machine: the notebooks that it runs, what is missing, and what mends that."""

    name: str
    label: str
    notebooks: list[str]
    missing: list[str]
    mend: list[str]


def examine() -> list[Check]:
    """Everything that is looked at, in the order shown. Keys are reported as present or absent, never their value."""
    gpu = _gpu()
    return [
        _python(),
        _cores(),
        _memory(),
        _disk(),
        gpu,
        _packages(),
        *(_key(name) for name in KEYS.values()),
        *(_program(name) for name in ("srun", "sbatch")),
        _deepspeed(),
    ]


def profiles_here() -> list[ProfileHere]:
    """What each profile that comes with the package can do on this machine."""
    return [_here(profile.load(name)) for name in profile.names()]


def report() -> str:
    """The checks and the profiles as text for the terminal."""
    sign = {True: "ok", False: "MISSING", None: "-"}
    checks = [["check", "", "found", "what to do"]]
    checks += [[check.name, sign[check.ok], check.found, check.advice] for check in examine()]
    lines = [columns(checks), ""]
    for here in profiles_here():
        lines.append(f"profile {here.name} ({here.label}): notebooks {', '.join(here.notebooks)}")
        if not here.missing:
            lines.append(f"  ready: bpo run --profile {here.name}")
        for missing, mend in zip(here.missing, here.mend, strict=True):
            lines.append(f"  missing: {missing}; {mend}")
    return "\n".join(lines)


def _python() -> Check:
    advice = f"install Python {PYTHON[0]}.{PYTHON[1]} or newer, then make again with PYTHON=that one"
    fits = sys.version_info >= PYTHON
    return Check(
        "Python",
        fits,
        f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "" if fits else advice,
    )


def _cores() -> Check:
    # A batch system or a container may allow fewer cores than the machine has.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(
        "cores", count >= 2, str(count), "" if count >= 2 else "expect twice the minutes that the README states"
    )


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    fits = memory.available >= NEEDED_MEMORY_GIB * GIB
    advice = f"close other programs: about {NEEDED_MEMORY_GIB} GiB should be free"
    found = f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB free"
    return Check("memory", fits, found, "" if fits else advice)


def _disk() -> Check:
    folder = paths.runs_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    fits = free >= NEEDED_DISK_GIB * GIB
    advice = f"free {NEEDED_DISK_GIB} GiB, or set BPO_RUNS_DIR to a folder on another disk"
    return Check("disk", fits, f"{free / GIB:.1f} GiB free for {paths.shown(paths.runs_dir())}", "" if fits else advice)


def _gpu() -> Check:
    if not _installed("torch"):
        return Check("GPU", None, "unknown, because torch is not installed", INSTALL)
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        size = torch.cuda.get_device_properties(0).total_memory / GIB
        return Check("GPU", True, f"{count} x {torch.cuda.get_device_name(0)}, {size:.0f} GiB each")
    if torch.backends.mps.is_available():
        return Check("GPU", True, "Apple GPU (mps)")
    return Check("GPU", None, "none; the profile mini does not need one")


def _packages() -> Check:
    lock = paths.ROOT / "requirements.lock"
    if not lock.exists():
        return Check("packages", None, "no requirements.lock to compare with", "run bpo from a clone of the course")
    wrong = differing(lock)
    if not wrong:
        return Check("packages", True, "as in requirements.lock")
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return Check("packages", False, f"{', '.join(wrong[:3])}{more}", INSTALL)


def differing(lock: Path) -> list[str]:
    """Packages that are missing or not in the version that a lock file states, each as one phrase."""
    from packaging.requirements import InvalidRequirement, Requirement

    wrong = []
    for text in lock.read_text(encoding="utf-8").splitlines():
        stated = text.split(" #")[0].split(" --hash")[0].rstrip("\\ ").strip()
        if not stated or stated.startswith(("#", "-")):
            continue
        try:
            wanted = Requirement(stated)
        except InvalidRequirement as error:
            raise ValueError(f"{paths.shown(lock)}: cannot read the line {stated!r} ({error})") from error
        if wanted.marker and not wanted.marker.evaluate():
            continue
        if not (version := _version(wanted.name)):
            wrong.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} instead of {wanted.specifier}")
    return wrong


def _key(name: str) -> Check:
    found = bool(os.environ.get(name))
    return Check(name, None, "present" if found else "absent (optional)")


def _program(name: str) -> Check:
    return Check(name, None, "present" if shutil.which(name) else "absent (for a Slurm cluster only)")


def _deepspeed() -> Check:
    version = _version("deepspeed")
    return Check("deepspeed", None, version or "absent (for training on GPUs only)", "" if version else TRAINING)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _here(chosen: Profile) -> ProfileHere:
    """Derived from the profile itself, so that a new profile needs no line here."""
    models = [*chosen.answer_models, *chosen.judges]
    missing = [*_no_weights(chosen, models), *_no_data(chosen), *_no_keys(chosen, models), *_no_cluster(chosen)]
    return ProfileHere(
        chosen.name, chosen.label, chosen.notebooks, [what for what, _ in missing], [mend for _, mend in missing]
    )


def _no_weights(chosen: Profile, models: list[profile.Model]) -> list[tuple[str, str]]:
    if not any(model.provider == "mini" for model in models):
        return []
    names = ["base", *(model.model for model in chosen.answer_models), "judge"]
    gone = [name for name in names if not (paths.MINI_MODELS / name / "model.safetensors").is_file()]
    return [(f"weights of {', '.join(gone)}", BUILD)] if gone else []


def _no_data(chosen: Profile) -> list[tuple[str, str]]:
    if chosen.data.source == "recorded" and not os.environ.get("BPO_DATA_DIR") and not _cached():
        return [
            ("the recorded files", "they are downloaded at the first run, or set BPO_DATA_DIR to a folder with them")
        ]
    source, here = chosen.data.source, os.environ
    if source == "hub" and not here.get("BPO_HUB_DIR"):
        return [("the data, unless downloaded before", "the first run of notebook 01 downloads it from the Hub")]
    if source == "raw" and not here.get("BPO_DATA_DIR"):
        return [("upstream's train.json, unless downloaded before", "notebook 01 downloads it once (23 MB)")]
    if source == "preferences" and not here.get("BPO_PREFERENCES_DIR"):
        mend = "the first run of notebook 01 downloads them (Chatbot Arena: accept its terms on the Hub, hf auth login)"
        return [("the preference data, unless downloaded before", mend)]
    return []


def _cached() -> bool:
    return any(path.is_file() for path in (paths.cache_dir() / "thu-coai-BPO").glob("*/val.json"))


def _no_keys(chosen: Profile, models: list[profile.Model]) -> list[tuple[str, str]]:
    used = {model.provider for model in models} | {chosen.teacher.provider}
    gone = [KEYS[provider] for provider in KEYS if provider in used and not os.environ.get(KEYS[provider])]
    return [(name, f"export {name}=your key") for name in gone]


def _no_cluster(chosen: Profile) -> list[tuple[str, str]]:
    if chosen.training is None or chosen.training.launch != "slurm":
        return []
    gone = []
    if not shutil.which("sbatch"):
        gone.append(("sbatch", "go to the login node of a Slurm cluster; notebook 03 prints the command to submit"))
    needed = {"deepspeed": chosen.training.zero_stage is not None, "peft": chosen.training.lora is not None}
    gone += [(name, TRAINING) for name, used in needed.items() if used and not _version(name)]
    return gone
