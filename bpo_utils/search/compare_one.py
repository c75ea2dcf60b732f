"""The process entry of notebook 09: makes the searches of a prepared file.

    python -m bpo_utils.search.compare_one JOB.json

A JOB.json lies in 09_search of a run, as the notebook prepared it.
"""

import argparse
import sys
from pathlib import Path

from bpo_utils import records, workers
from bpo_utils.chat import Calls
from bpo_utils.profile import Searching
from bpo_utils.search import compare


def main() -> int:
    """Make every search of the file; exit code 0."""
    parser = argparse.ArgumentParser(prog=f"python -m {compare.MODULE}", description=main.__doc__)
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    parser.add_argument("job", type=Path, metavar="JOB.json")
    given = parser.parse_args()
    if given.child:
        workers.end_with_parent()
    job = records.read_json(given.job)
    todo = [compare.One(**one) for one in job["searches"]]
    calls = Calls(given.job.with_name(job["store"]))
    compare.make(job["profile"], Searching.model_validate(job["searching"]), todo, calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
