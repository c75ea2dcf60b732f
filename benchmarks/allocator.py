"""Does glibc's allocator setting of the runner's kernels pay? The same answering and training with and without it.

    python benchmarks/allocator.py            # 80 seconds on two cores

A user would pick "without": a kernel as Jupyter starts it. Each measurement is a process of its own, the two kinds take
turns, and the replies must be the same. Writes benchmarks/allocator.json.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bpo_utils import chat, kernel, paths, profile, records, train
from bpo_utils.mini import world

ROUNDS = 3
PROMPTS = 244
PAIRS = 320


def measure() -> dict[str, float | str]:
    """Seconds for answering and for training, in this process, and a hash of the replies."""
    run = profile.load("mini")
    rows = [row for rows in world.test_sets().values() for row in rows][:PROMPTS]
    prompts = [records.joined(row.prompt, row.context) for row in rows]
    started = time.perf_counter()
    model = run.answer_models[-1]
    replies = chat.texts(chat.ask(model, prompts, run.answering), model.name)
    answered = time.perf_counter()
    both = zip(prompts, replies, strict=True)
    pairs = [records.Pair(str(number), text, reply, "") for number, (text, reply) in enumerate(both)]
    with tempfile.TemporaryDirectory() as folder:  # a finished training is not run again in its folder
        train.train((pairs * 2)[:PAIRS], run.training.model_copy(update={"epochs": 1}), Path(folder))
        seconds = train.finished(Path(folder))[-1]["seconds"]
    content = hashlib.sha256("".join(replies).encode()).hexdigest()
    return {"answering": answered - started, "training": seconds, "replies": content}


def main() -> None:
    """Measure both kinds in turns and write the ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure()))
        return
    plain = {name: value for name, value in os.environ.items() if name not in kernel.ALLOCATOR}
    kinds = {"without": plain, "with": plain | kernel.ALLOCATOR}
    found: dict[str, list[dict]] = {"without": [], "with": []}
    for _ in range(ROUNDS):
        for kind, env in kinds.items():
            call = [sys.executable, __file__, "one"]
            done = subprocess.run(call, env=env, check=True, capture_output=True, text=True)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
            print(kind, found[kind][-1], flush=True)
    assert len({one["replies"] for ones in found.values() for one in ones}) == 1, "the replies differ"
    ratios = {
        work: [a[work] / b[work] for a, b in zip(found["without"], found["with"], strict=True)]
        for work in ("answering", "training")
    }
    summary = {work: {"median": statistics.median(all_), "each": all_} for work, all_ in ratios.items()}
    machine = {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    records.write_json(
        paths.ROOT / "benchmarks" / "allocator.json",
        {"seconds_without_over_with": summary, "rounds": ROUNDS, "machine": machine, "seconds": found},
    )
    print(summary)


if __name__ == "__main__":
    main()
