"""One run = one YAML file in profiles/. An unknown key is an error that names the nearest known one."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bpo_utils import paths
from bpo_utils.sections import (
    Data,
    Decoding,
    Filters,
    Judging,
    Limits,
    Lora,
    Model,
    Price,
    Rewriting,
    Section,
    Source,
    Teacher,
    Training,
)
from bpo_utils.sections_further import (
    Aligning,
    Dpo,
    Embodying,
    Instructions,
    Iterating,
    Policy,
    PolicyGradient,
    Searching,
    SearchRows,
)


class Profile(Section):
    name: str
    label: str  # written into every title, so that no figure is mistaken for another run's
    notebooks: list[str]  # the notebooks that this profile can run, by number
    further: list[str] = []  # further experiments, by number: run by `bpo run --all`, or when asked for by number
    stops_because: str  # what the next stage would need; empty if the profile runs them all
    cell_timeout_s: int
    data: Data
    teacher: Teacher
    filters: Filters
    training: Training | None
    rewriting: Rewriting | None
    answering: Decoding | None
    answer_models: list[Model]
    judges: list[Model]
    judging: Judging = Judging()
    limits: dict[str, Limits] = {}  # by provider, what your account allows
    store_completions: bool = True  # OpenAI keeps replies for a while, so that one lost in a crash can be looked up
    successors: bool = False  # a model no longer served is replaced by its successor, named so; false: an error
    controls: list[str]
    iterating: Iterating | None = None
    aligning: Aligning | None = None
    searching: Searching | None = None
    embodying: Embodying | None = None


def names() -> list[str]:
    """Names of the profiles: those that come with the package, and your own in $BPO_PROFILES_DIR."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    return {path.stem: path for folder in paths.profile_dirs() for path in sorted(folder.glob("*.yaml"))}


def load(name: str) -> Profile:
    """Load a profile by name. Raises ValueError that says which key is wrong, where, and the nearest known name."""
    if name not in names():
        raise ValueError(f"no profile {name!r}{_nearest(name, names())}; there are {', '.join(names())}")
    path = _files()[name]
    return parse(yaml.safe_load(path.read_text(encoding="utf-8")), path)


def parse(values: Any, path: Path) -> Profile:
    """Check the values of one profile. `path` is only for the error message."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise ValueError(f"{paths.shown(path)} is not a valid profile:\n{problems}") from None


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key{_nearest(str(problem['loc'][-1]), _known_keys())}"
    return f"{place}: {problem['msg']}, got {problem.get('input')!r}"[:300]


def _known_keys() -> list[str]:
    sections = (Profile, Source, Data, Teacher, Filters, Training, Lora, Rewriting, Model, Price, Limits, Judging)
    sections += (Iterating, Aligning, Dpo, PolicyGradient, Instructions, Searching, SearchRows, Embodying, Policy)
    return sorted({name for section in sections for name in section.model_fields})


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
