"""A run on a Slurm cluster: one job per stage, each starting when the one before it has succeeded.

The batch files in slurm/ can be submitted by hand as well. This module adds what they cannot know: the options that
slurm/site.env states, the profile's number of processes, the folder of the logs, and the ids of the jobs to wait for.
"""

import math
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpo_utils import paths, shard_files
from bpo_utils.chat import capabilities
from bpo_utils.notebook import WrongUse
from bpo_utils.profile import Profile, Training

STARTS = {"data": "data", "train": "train", "infer": "rewrites", "judge": "verdicts", "figure": "figure"}
STEPS = ("data", "train", "rewrites", "answers", "verdicts", "figure")
FILES = {"data": "data", "train": "train", "rewrites": "infer", "answers": "infer", "verdicts": "judge"}
FILES |= {"figure": "papermill", "grid": "papermill"}
SHARDED = {"rewrites": "04_inference", "answers": "05_judging", "verdicts": "05_judging"}
TIMEOUT_S = 300  # a busy controller answers late


@dataclass(frozen=True)
class Job:
    """One call of sbatch: the run's profile, the step, its options and variables, and the step that it waits for."""

    run: str
    step: str
    options: tuple[str, ...]
    variables: tuple[str, ...]
    after: str = ""

    @property
    def name(self) -> str:
        """The job's name, by which jobs of the same run are found in the queue."""
        return f"bpo-{self.step}-{self.run}"

    @property
    def logs(self) -> Path:
        """Folder of what the job prints. Slurm does not make it, and a job without it fails without a word."""
        return paths.run_dir(self.run) / "logs"

    def command(self, dependency: str) -> list[str]:
        """The call; `dependency` is the id of the job before this one, empty for none.

        A dependency that can no longer be met ends the job, which would wait for ever otherwise.
        """
        waits = [f"--dependency=afterok:{dependency}", "--kill-on-invalid-dep=yes"] if dependency else []
        log = self.logs / ("%x-%A_%a.log" if any(o.startswith("--array") for o in self.options) else "%x-%j.log")
        own = [f"--job-name={self.name}", f"--output={log}", f"--export={','.join(('ALL', *self.variables))}"]
        return ["sbatch", "--parsable", *waits, *own, *self.options, f"slurm/{FILES[self.step]}.sbatch"]


def site() -> dict[str, str]:
    """The variables BPO_... of slurm/site.env: the environment's value where it has one, else the file's.

    Raises FileNotFoundError outside a clone of the course, ValueError if bash cannot read the file.
    """
    file = paths.ROOT / "slurm" / "site.env"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run bpo submit from a clone of the course")
    script = '. slurm/site.env; for name in $(compgen -v BPO_); do printf "%s=%s\\0" "$name" "${!name}"; done'
    done = _run(["bash", "-euc", script])
    if done.returncode:
        raise ValueError(f"{paths.shown(file)}: bash says: {done.stderr.strip()}")
    return dict(entry.partition("=")[::2] for entry in done.stdout.split("\0") if entry)


def jobs(
    run: Profile,
    there: dict[str, str],
    *,
    start: str = "data",
    nodes: int | None = None,
    shards: int = 4,
    max_usd: float = 0.0,
) -> list[Job]:
    """The jobs of a run from a stage on, in order. `there`: see `site`; `max_usd`: for all shards together.

    Raises WrongUse if the profile's batch cannot be shared out over the processes.
    """
    made: list[Job] = []
    for step in STEPS[STEPS.index(STARTS[start]) :]:
        own, variables = [], [f"PROFILE={run.name}", *_commit()]
        if step == "train":
            own = training_options(run.training, there, nodes)
        if step in SHARDED:
            # Answers and verdicts of a shard share one store of calls, and its cap.
            variables += [f"WHAT={step}", f"SHARDS={shards}", f"MAX_USD={max_usd / shards:g}"]
            own = [f"--array=0-{shards - 1}"]
        if FILES[step] == "infer" and _gpus(there) == 0:
            own.append("--gpus-per-node=0")
        options = (*own, *_site_options(step, there))
        made.append(Job(run.name, step, options, tuple(variables), made[-1].step if made else ""))
    return made


def grid_job(file: Path, points: int, profile_name: str, there: dict[str, str]) -> Job:
    """The job of a grid: an array with one task per point. Raises WrongUse for a name that sbatch cannot pass on."""
    if "," in str(file):
        raise WrongUse(f"{file}: sbatch --export ends a value at a comma; rename the file")
    variables = (f"PROFILE={profile_name}", *_commit(), f"GRID={file}")
    return Job(profile_name, "grid", (f"--array=0-{points - 1}", *_site_options("grid", there)), variables)


def training_options(training: Training, there: dict[str, str], nodes: int | None = None) -> list[str]:
    """Nodes, processes and GPUs of the training job. `nodes` None: as many as the profile's processes fill.

    Every GPU of a node is used, unless the profile has fewer processes than one node has GPUs. Without GPUs the
    profile's processes are shared out over the nodes. Raises WrongUse with the numbers if the batch does not fit.
    """
    gpus = _gpus(there)
    nodes = nodes or (math.ceil(training.processes / gpus) if gpus else 1)
    per_node = min(gpus, training.processes) if gpus else math.ceil(training.processes / nodes)
    at_once = training.micro_batch * nodes * per_node
    if training.global_batch % at_once:
        raise WrongUse(
            f"global_batch {training.global_batch} is not a multiple of micro_batch {training.micro_batch} x "
            f"{nodes * per_node} processes ({nodes} node(s) x {per_node}) = {at_once}; change --nodes, or micro_batch "
            "or global_batch in a profile of your own"
        )
    return [f"--nodes={nodes}", f"--ntasks-per-node={per_node}", f"--gpus-per-node={per_node if gpus else 0}"]


def problems(run: Profile, start: str, shards: int) -> list[str]:
    """What would make the jobs fail on this machine, as far as it can be known before they start; one sentence each.

    Raises WrongUse for a profile that is not for Slurm anywhere.
    """
    if run.training is None:
        raise WrongUse(f"profile {run.name} trains nothing; without Slurm: bpo run --profile {run.name}")
    if run.training.launch != "slurm":
        raise WrongUse(
            f"profile {run.name} trains in notebook 03 (launch: here): bpo run --profile {run.name} does all of it; to "
            "use Slurm, write launch: slurm into a profile of your own"
        )
    folder = paths.run_dir(run.name)
    wrong = [*_missing_inputs(folder, start), *_not_cached(run, folder, start)]
    stop = folder / "03_training" / "STOP"
    if start in ("data", "train") and stop.exists():
        wrong.append(f"{paths.shown(stop)} would stop the training at once; remove it")
    if start in ("data", "train") and run.training.push_to:
        upload = f"hf upload {run.training.push_to} {paths.shown(folder / '03_training' / 'model')}"
        wrong.append(f"push_to would fail, as jobs work offline; leave it empty, and upload afterwards: {upload}")
    if start == "data" and run.teacher.provider not in ("recorded", *capabilities.IN_PROCESS):
        told = (
            f"the teacher {run.teacher.model} would have to be asked, and jobs work offline; where there is a network"
        )
        wrong.append(f"{told}: bpo run --profile {run.name} --only 01, --only 02; then bpo submit --from train")
    for kind, stage in SHARDED.items():
        try:
            shard_files.only_set(folder / stage / "shards", kind, shards)
        except ValueError as error:
            wrong.append(f"--shards {shards}: {error}")
    return wrong


def script(chosen: Sequence[Job]) -> str:
    """The jobs as commands for a shell, to read or to paste: what `submit` does."""
    lines = [f"cd {shlex.quote(str(paths.ROOT))}", f"mkdir -p {shlex.quote(str(chosen[0].logs))}"]
    for job in chosen:
        command = shlex.join(job.command("ID" if job.after else ""))
        lines.append(f"{job.step}=$({command.replace('afterok:ID', f'afterok:${job.after}')})")
    return "\n".join(lines)


def submit(chosen: Sequence[Job]) -> list[str]:
    """Submit the jobs; returns their ids, in order.

    Raises WrongUse without sbatch or if jobs of these names are in the queue, OSError with sbatch's own words and the
    ids of what was submitted before.
    """
    if not shutil.which("sbatch"):
        raise WrongUse("sbatch is not here; log in where jobs are submitted, or see the commands with --dry-run")
    if queued := _queued(chosen):
        raise WrongUse(f"in the queue already: {queued}; two jobs would write the same files, so wait, or scancel it")
    chosen[0].logs.mkdir(parents=True, exist_ok=True)
    ids: dict[str, str] = {}
    for job in chosen:
        done = _run(job.command(ids.get(job.after, "")))
        if done.returncode:
            waiting = f"; cancel what was submitted before it: scancel {' '.join(ids.values())}" if ids else ""
            raise OSError(f"{job.step}: sbatch says: {done.stderr.strip()}{waiting}")
        ids[job.step] = done.stdout.strip().split(";")[0]  # a name of the cluster may follow
    return list(ids.values())


def _site_options(step: str, there: dict[str, str]) -> list[str]:
    """Last on the command line, where they win over everything else."""
    return [*shlex.split(there["BPO_SBATCH"]), *shlex.split(there[f"BPO_SBATCH_{FILES[step].upper()}"])]


def _gpus(there: dict[str, str]) -> int:
    text = there["BPO_GPUS_PER_NODE"]
    if not text.isdecimal():
        raise WrongUse(f"BPO_GPUS_PER_NODE is {text!r} (slurm/site.env); write a number, 0 without GPUs")
    return int(text)


def _commit() -> list[str]:
    """The code as slurm/common.sh names it, so that a job can say that it has changed since."""
    done = _run(["git", "describe", "--always", "--dirty", "--abbrev=12"])
    return [f"BPO_COMMIT={done.stdout.strip()}"] if done.returncode == 0 else []


def _missing_inputs(folder: Path, start: str) -> list[str]:
    needed = {"data": [], "train": ["02_pairs/pairs.jsonl"]}.get(start, ["03_training/model/config.json"])
    gone = [paths.shown(folder / name) for name in needed if not (folder / name).is_file()]
    wrong = [f"{name} is missing; begin earlier than --from {start}" for name in gone]
    judging = folder / "05_judging"
    if start == "judge" and not ((judging / "answers.jsonl").is_file() or any(judging.glob("shards/answers-*"))):
        wrong.append(f"{paths.shown(judging)} has no answers; begin with --from infer")
    return wrong


def _not_cached(run: Profile, folder: Path, start: str) -> list[str]:
    """What the jobs would have to download: they work offline, as the nodes of many clusters are."""
    from huggingface_hub import try_to_load_from_cache

    wanted = [run.training.base] if start in ("data", "train") else []
    wanted += [model.model for model in run.answer_models if model.provider == "huggingface" and start != "figure"]
    if run.rewriting and run.rewriting.model and run.rewriting.backend != "served" and start not in ("judge", "figure"):
        wanted.append(run.rewriting.model)
    wanted = [name for name in dict.fromkeys(wanted) if not name.startswith("mini:") and not Path(name).is_dir()]
    gone = [name for name in wanted if not isinstance(try_to_load_from_cache(name, "config.json"), str)]
    told = [f"{name} is not in the Hub's cache; where there is a network: hf download {name}" for name in gone]
    if start == "data" and run.data.source != "miniature" and not (folder / "01_data" / "stats.json").is_file():
        told.append(f"the data are not here yet; where there is a network: bpo run --profile {run.name} --only 01")
    return told


def _queued(chosen: Sequence[Job]) -> str:
    names, states = ",".join(job.name for job in chosen), "PENDING,RUNNING,SUSPENDED,CONFIGURING"
    done = _run(["squeue", "--me", "--noheader", f"--states={states}", f"--name={names}", "--format=%j (job %A)"])
    if done.returncode:
        raise OSError(f"squeue says: {done.stderr.strip()}")
    return ", ".join(dict.fromkeys(line.strip() for line in done.stdout.splitlines()))


def _run(command: list[str]) -> subprocess.CompletedProcess:
    # In the repository, where the batch files expect to be: Slurm starts a job in the folder that it was submitted in.
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
