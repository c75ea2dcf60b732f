"""`bpo rewrite`: prompts of one's own through a profile's rewriter."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpo_utils import paths

if TYPE_CHECKING:  # what they import is not for `bpo --help` to wait for
    from bpo_utils.profile import Profile, Rewriting
    from bpo_utils.rewrite import Rewritten

MODES = ("stable", "aggressive", "greedy", "iterative")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's text must not steer the terminal
PLAIN = {"-": ("[-", "-]"), "+": ("[+", "+]")}
COLOURS = {"-": ("\x1b[31;9m", "\x1b[0m"), "+": ("\x1b[32m", "\x1b[0m")}  # red and struck through, green


def add_commands(commands: Any) -> None:
    """`bpo rewrite`."""
    rewrite = commands.add_parser("rewrite", help="rewrite a prompt, or those of a file, with a profile's rewriter")
    rewrite.add_argument("prompt", nargs="?", help="the prompt; - or nothing: all of standard input is one prompt")
    rewrite.add_argument(
        "--file", metavar="FILE", help="one prompt per line; .jsonl: objects with `prompt`; -: lines of standard input"
    )
    rewrite.add_argument("--profile", default="mini", metavar="NAME", help="whose rewriter (default: mini)")
    rewrite.add_argument("--model", default="", metavar="MODEL", help="another one: a Hub id (THUDM/BPO) or a folder")
    rewrite.add_argument("--base-url", default="", metavar="URL", help="the server that has --model, such as vLLM's")
    rewrite.add_argument("--mode", choices=MODES, help="instead of the profile's")
    rewrite.add_argument("--seed", type=int, metavar="N", help="instead of the profile's; another one, other samples")
    rewrite.add_argument("--json", action="store_true", help="one line of JSON for each prompt instead of the diff")


def rewrite(arguments: argparse.Namespace) -> int:
    """`bpo rewrite`; returns 0, or 1 if a prompt has no rewrite. Raises WrongUse."""
    from bpo_utils import profile
    from bpo_utils.chat import errors
    from bpo_utils.notebook import WrongUse

    named = _prompts(arguments)
    try:
        run = profile.load(arguments.profile)
        made = _made(run, _settings(run, arguments), [text for _, text in named])
    except errors.Unfinished as error:
        print(f"bpo: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        raise WrongUse(str(error)) from error
    return _show(named, made, arguments.json)


def _made(run: Profile, settings: Rewriting, texts: list[str]) -> list[Rewritten]:
    from bpo_utils import chat, rewrite, rewriters

    rewriters.refuse_published(settings)
    trained = paths.run_dir(run.name) / "03_training" / "model"
    if not settings.model and not (trained / "config.json").is_file():
        trains = (
            f"`bpo run --profile {run.name}` trains one (notebook 03); or"
            if run.training
            else "this profile trains none;"
        )
        raise ValueError(f"{paths.shown(trained)} has no rewriter: {trains} name another with --model")
    calls = None
    if settings.backend == "served":
        calls = chat.Calls(paths.stage_dir(run.name, "04_inference") / "calls.sqlite")
    return rewrite.through(rewriters.load(settings, trained, run.data.source != "miniature", calls), texts, settings)


def _settings(run: Profile, arguments: argparse.Namespace) -> Rewriting:
    """The profile's settings with what the command line changes. Raises ValueError if the profile rewrites nothing."""
    if run.rewriting is None:
        raise ValueError(f"profile {run.name} has no section `rewriting`; take another one, such as mini or paper")
    given = {"model": arguments.model, "base_url": arguments.base_url, "mode": arguments.mode, "seed": arguments.seed}
    changed = {name: value for name, value in given.items() if value not in ("", None)}
    if arguments.base_url:
        changed["backend"] = "served"
    elif arguments.model:
        changed["backend"] = "transformers"
    return run.rewriting.model_copy(update=changed)


def _prompts(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(id, text) of every prompt asked for. Raises WrongUse if there is none, or a file's line is no prompt."""
    from bpo_utils.notebook import WrongUse

    if arguments.file is not None:
        if arguments.prompt is not None:
            raise WrongUse("a prompt or --file, not both")
        source = "standard input" if arguments.file == "-" else arguments.file
        text = sys.stdin.read() if arguments.file == "-" else _text(Path(arguments.file))
        lines = text.removesuffix("\n").split("\n") if text else []
        if arguments.file.endswith(".jsonl"):
            found = [_row(f"{source}, line {n}", n, line) for n, line in enumerate(lines, 1) if line.strip()]
        else:
            found = [(str(n), line.strip()) for n, line in enumerate(lines, 1)]
        if not found:
            raise WrongUse(f"{source} has no prompts")
        return found
    if arguments.prompt in (None, "-"):
        if arguments.prompt is None and sys.stdin.isatty():
            raise WrongUse('give a prompt: bpo rewrite "prompt", --file FILE, or something on standard input')
        return [("standard input", sys.stdin.read().strip())]
    return [("1", arguments.prompt.strip())]


def _text(path: Path) -> str:
    from bpo_utils.notebook import WrongUse

    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"--file {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error


def _row(where: str, number: int, line: str) -> tuple[str, str]:
    from bpo_utils import records
    from bpo_utils.notebook import WrongUse

    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise WrongUse(f"{where}: not JSON ({error.msg})") from None
    texts = [row.get("prompt"), row.get("context", "")] if isinstance(row, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise WrongUse(f'{where}: not an object with a text as "prompt"')
    return str(row.get("id", number)), records.joined(*texts)


def _show(named: list[tuple[str, str]], made: list[Rewritten], as_json: bool) -> int:
    from bpo_utils.rewrite import MISSING

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    missing = [(name, row.outcome) for (name, _), row in zip(named, made, strict=True) if row.outcome in MISSING]
    for (name, _), row in zip(named, made, strict=True):
        if as_json:
            print(json.dumps({"id": name} | _public(row), ensure_ascii=False))
        elif row.outcome not in MISSING:
            remark = f"({row.outcome.replace(' ', ', ')})" if row.outcome else ""
            lines = [diff(row.prompt, row.optimized_prompt, coloured), remark]
            print("\n".join(line for line in lines if line) + ("\n" if len(named) > 1 else ""))
    for name, outcome in missing:
        told = "does not fit into the model's context" if outcome == "too_long" else "was refused by the server"
        print(f"bpo: prompt {name} {told}; it has no rewrite and nothing of it was cut", file=sys.stderr)
    return 1 if missing else 0


def _public(row: Rewritten) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("prompt", "optimized_prompt", "outcome", "steps")}


def diff(before: str, after: str, coloured: bool) -> str:
    """The word diff for a terminal: what is gone and what is new, in colours or as [-gone-] and [+new+]."""
    from bpo_utils import describe

    marks, parts = COLOURS if coloured else PLAIN, []
    for kind, old, new in describe.segments(CONTROL.sub("\ufffd", before), CONTROL.sub("\ufffd", after)):
        if kind == "=":
            parts.append(new)
            continue
        for sign, text in (("-", old), ("+", new)):
            word = text.strip()
            if word:  # the white space around a word is no part of the change
                space, behind = text[: text.index(word)], text[text.index(word) + len(word) :]
                parts.append(f"{space}{marks[sign][0]}{word}{marks[sign][1]}{behind}")
            elif sign == "+":
                parts.append(text)
    return "".join(parts).strip()
