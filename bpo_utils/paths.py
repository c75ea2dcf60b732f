"""The only place that knows where things lie.

Everything is absolute, so that a notebook finds the same files from JupyterLab, from papermill and from a Slurm job.
Environment variables move things: BPO_RUNS_DIR, BPO_RUN_DIR and BPO_FIGURES_DIR (tests and grids use them), and
BPO_PROFILES_DIR, a folder with profiles of your own.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
REPORT = ROOT / "report"  # its text in two languages, words and published numbers
PROFILES = PACKAGE / "profiles"
FACTS = PACKAGE / "facts"  # published numbers, each with its source
FONT = PACKAGE / "fonts" / "NotoSansSC-subset.ttf"  # SIL Open Font License, see fonts/OFL.txt
REPORT_FONTS = PACKAGE / "fonts" / "report"
MINI = PACKAGE / "mini"
MINI_WORLD = MINI / "world"
MINI_DATA = MINI / "data"
MINI_MODELS = MINI / "models"

STAGES = ("01_data", "02_pairs", "03_training", "04_inference", "05_judging", "06_results")
STAGES += ("07_iterate", "08_align", "09_search", "10_embodied")  # further experiments


def profile_dirs() -> list[Path]:
    """Folders of profiles: the package's, then $BPO_PROFILES_DIR, whose profiles win over those of the same name."""
    own = os.environ.get("BPO_PROFILES_DIR")
    return [PROFILES, *([Path(own).resolve()] if own else [])]


def runs_dir() -> Path:
    """Folder of all runs: `runs/` of the repository, or $BPO_RUNS_DIR."""
    return Path(os.environ.get("BPO_RUNS_DIR") or ROOT / "runs").resolve()


def run_dir(profile: str) -> Path:
    """Folder of one run, `runs/<profile>`; $BPO_RUN_DIR (set for one point of a grid) wins."""
    return Path(os.environ.get("BPO_RUN_DIR") or runs_dir() / profile).resolve()


def stage_dir(profile: str, stage: str) -> Path:
    """Folder of one stage of a run, made if missing. Raises ValueError for a stage that the course does not have."""
    if stage not in STAGES:
        raise ValueError(f"no stage {stage!r}; the stages are {', '.join(STAGES)}")
    folder = run_dir(profile) / stage
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def figures_dir() -> Path:
    """Folder of the figures: `figures/` of the repository, or $BPO_FIGURES_DIR."""
    folder = Path(os.environ.get("BPO_FIGURES_DIR") or ROOT / "figures").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_dir() -> Path:
    """Folder for downloaded data: $BPO_CACHE_DIR, else `bpo` below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BPO_CACHE_DIR") or Path(base) / "bpo").resolve()


def shown(path: Path | str) -> str:
    """A path as a person reads it: relative to the repository where possible."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
