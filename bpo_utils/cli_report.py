"""The command `bpo report`: build the report, list its numbers, or say what is stale and what is wrong in its text."""

import argparse
import time

from bpo_utils import paths


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `report`."""
    report = commands.add_parser("report", help="build the report from a finished run, as HTML and PDF")
    report.add_argument("--profile", default="mini", metavar="NAME", help="whose run (default: mini)")
    report.add_argument("--language", choices=("en", "zh", "all"), default="all", help="default: all")
    instead = report.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="build nothing; say what is stale, missing or wrong")
    instead.add_argument(
        "--numbers",
        nargs="?",
        const="",
        metavar="PATTERN",
        help="build nothing; list the numbers that the text may use, those whose name matches",
    )


def report(arguments: argparse.Namespace) -> int:
    """Carry out `bpo report`; returns the exit code: 1 if --check found something stale or wrong."""
    from bpo_utils import profile as profiles
    from bpo_utils import report as reports
    from bpo_utils import report_makers
    from bpo_utils.notebook import WrongUse

    try:
        profile = profiles.load(arguments.profile)
        sources = reports.Sources(profile)
        if arguments.check:
            return _check(sources)
        if arguments.numbers is not None:
            return _numbers(sources, arguments.numbers)
        if profile.data.source != "miniature":  # not an error: make reproduce comes here with every profile
            print(f"no report: its text is about the miniature, and profile {profile.name} is none")
            return 0
        started = time.monotonic()
        languages = reports.LANGUAGES if arguments.language == "all" else (arguments.language,)
        written = reports.build(sources, languages)
    except ValueError as error:  # WrongUse among them
        raise error if isinstance(error, WrongUse) else WrongUse(str(error)) from error
    for path in written:
        print(f"{paths.shown(path)}  {path.stat().st_size / 1e6:.1f} MB")
    print(f"{paths.shown(written[0].parent / report_makers.PAGES)}/  the executed notebooks, where the links lead")
    print(f"built in {time.monotonic() - started:.1f} s")
    return 0


def _check(sources) -> int:
    from bpo_utils import progress, report_check

    rows = report_check.states(sources.profile, sources.notebooks) + report_check.built(sources)
    print(progress.columns([["file", "state", "made by"], *rows]))
    for file in report_check.undeclared(sources.profile, sources.report, sources.notebooks):
        print(f"no notebook declares that it writes the figure {file}")
    problems = report_check.problems(sources.report)
    print(*problems, sep="\n") if problems else print("the texts have no problems")
    good = (report_check.UP_TO_DATE, report_check.NOT_RUN)
    return 1 if problems or any(state not in good for _, state, _ in rows) else 0


def _numbers(sources, pattern: str) -> int:
    from bpo_utils import progress, report
    from bpo_utils.notebook import WrongUse

    rows = report.listed(sources.numbers, pattern)
    if not rows:
        raise WrongUse(f"--numbers {pattern}: no name matches; --numbers alone lists all")
    print(progress.columns([["name", "value", "unit"], *rows]))
    return 0
