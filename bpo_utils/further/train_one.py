"""Train the prepared trials of notebook 07 and rewrite its test prompts with them.

    python -m bpo_utils.further.train_one FOLDER ...        # on this machine, one after the other
    srun python -m bpo_utils.further.train_one FOLDER       # one task per GPU, in a job like slurm/train.sbatch

A FOLDER is 07_iterate/models/<trial> of a run, as the notebook prepared it.
"""

import argparse
import sys
from pathlib import Path

from bpo_utils import records, workers
from bpo_utils.further import trials
from bpo_utils.training import launch, stop


def main() -> int:
    """Make every trial; exit code 0: all are finished, 85: stopped (a file STOP in the folder), can go on."""
    parser = argparse.ArgumentParser(prog=f"python -m {trials.MODULE}", description=main.__doc__)
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.child:
        workers.end_with_parent()
    jobs = [records.read_json(folder / "trial.json") for folder in given.folders]
    print(launch.set_up(deepspeed=any(job["training"]["zero_stage"] is not None for job in jobs)))
    try:
        for folder in given.folders:
            trials.make_one(folder.resolve())
    except stop.Stopped as stopped:
        print(stopped)
        return stop.RESUMABLE
    finally:
        launch.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
