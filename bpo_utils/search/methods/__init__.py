"""The methods, one file each. Every file has NAME, PAPER, KNOB (the setting that a budget limits), Settings with every
default and its source, `plan` (worst-case calls) and `run`, which reads like the method's algorithm box."""

import importlib
from types import ModuleType

NAMES = (
    "seed",
    "paraphrases",
    "ape",
    "iterative_ape",
    "protegi",
    "curriculum",
    "opro",
    "pe2",
    "promptagent",
    "abo",
)


def find(name: str) -> ModuleType:
    """The module of a method. Raises ValueError with the known names."""
    import difflib

    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"no method {name!r}{guess}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"bpo_utils.search.methods.{name}")
