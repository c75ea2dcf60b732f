"""Small notebooks for the runner's tests, and a way to know that a cell has come to a certain point."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil

from bpo_utils import paths, profile

PARAMETERS = 'profile: str = "mini"  # which run'
START = "from bpo_utils import paths, records\nrun = paths.run_dir(profile)\n"


def write_notebook(path: Path, *cells: str, reads=(), writes=(), parameters=PARAMETERS) -> Path:
    """A notebook with a parameters cell, a heading and code cells; a cell that begins with `# ` is markdown."""
    v4 = nbformat.v4
    made = [v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), v4.new_markdown_cell("## The work")]
    made += [v4.new_markdown_cell(cell) if cell.startswith("# ") else v4.new_code_cell(cell) for cell in cells]
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"
    metadata = {"bpo": {"reads": list(reads), "writes": list(writes)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=made, metadata=metadata), path)
    return path


def chain(folder: Path) -> Path:
    """01 writes its seed, 02 writes whether that is odd, 03 reads this."""
    write_notebook(
        folder / "01_seed.ipynb",
        START + "records.write_json(run / '01_data/seed.json', seed)",
        writes=["01_data/seed.json"],
        parameters=PARAMETERS + "\nseed: int = 1  # any number",
    )
    write_notebook(
        folder / "02_odd.ipynb",
        START + "records.write_json(run / '02_pairs/odd.json', records.read_json(run / '01_data/seed.json') % 2)",
        reads=["01_data/seed.json"],
        writes=["02_pairs/"],
    )
    write_notebook(
        folder / "03_last.ipynb",
        START + "print(records.read_json(run / '02_pairs/odd.json'))",
        reads=["02_pairs/odd.json"],
    )
    return folder


def short_profile(*numbers: str, **changes):
    """The profile mini with these notebooks only."""
    return profile.load("mini").model_copy(update={"notebooks": list(numbers or ("01", "02", "03")), **changes})


def command(*arguments: object) -> list[str]:
    """The command line of `bpo` in a process of its own."""
    return [sys.executable, "-m", "bpo_utils.cli", *map(str, arguments)]


def process_environment(runs: Path) -> dict[str, str]:
    """Environment of such a process, with its runs and figures below a temporary folder."""
    folders = {"BPO_RUNS_DIR": str(runs), "BPO_FIGURES_DIR": str(runs / "figures"), "PYTHONPATH": str(paths.ROOT)}
    return os.environ | folders


@contextmanager
def started(call: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is ended, with all its children, when the block ends: a failed test leaves nothing behind."""
    process = subprocess.Popen(call, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        yield process
    finally:
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        process.communicate()


class Signpost:
    """A named pipe: a cell writes its kernel's process id into it and then waits until the file `open` exists."""

    def __init__(self, folder: Path):
        self.pipe, self.open = folder / "pipe", folder / "open"
        os.mkfifo(self.pipe)
        self.handle = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.cell = (
            "import os, threading\nfrom pathlib import Path\n"
            f"if not Path({str(self.open)!r}).exists():\n"
            f"    Path({str(self.pipe)!r}).write_text(str(os.getpid()))\n"
            "    threading.Event().wait()\n"
        )

    def wait(self) -> int:
        """Process id of the kernel that came to the cell; an error if none does within a minute."""
        ready, _, _ = select.select([self.handle], [], [], 60)
        assert ready, "no kernel came to the cell"
        return int(os.read(self.handle, 100))
