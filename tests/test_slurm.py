"""The batch files of slurm/, submitted as they are to a real cluster of two nodes on this machine.

In the first half a stand-in takes the place of the training: it keeps to the same files, signals and exit codes, and
starts in no time. In the second half the training is the real one, on two processors' cores.
"""

import getpass
import importlib.util
import re
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
import yaml
from slurm_cluster import Cluster, environment, missing, send, until

from bpo_utils import paths
from bpo_utils.training import checkpoint, log

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"no {', '.join(missing())} here; on Debian: apt-get install slurm-wlm munge"
)

# What training does at a stop, without the training: every process leaves with 85, but not in the same moment.
STAND_IN = """#!{python} -IS
import os, pathlib, signal, sys, time
rank, folder = int(os.environ["SLURM_PROCID"]), pathlib.Path(os.environ["PLAY_DIR"])
stop, terminated = folder / "play/03_training/STOP", []
signal.signal(signal.SIGTERM, lambda *_: terminated.append(1))
(folder / f"rank-{{rank}}.txt").write_text("\\n".join(f"{{k}}={{v}}" for k, v in sorted(os.environ.items())))
print(rank, "of", os.environ["SLURM_NTASKS"], "runs", sys.argv[1:], flush=True)
deadline = time.monotonic() + 100
while time.monotonic() < deadline:
    if (folder / "finish").exists():
        sys.exit(0)
    if (folder / "bug at once").exists():
        sys.exit(1)
    if stop.exists() or terminated:
        time.sleep(1)
        print(rank, "saved", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Python does when it ends
        time.sleep(rank)
        sys.exit(1 if (folder / "bug in the save").exists() else 85)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cluster():
    # Not in pytest's own folder: munge wants one that others can enter, and a socket's path must be short.
    made = tempfile.TemporaryDirectory(prefix="bpo-slurm-", ignore_cleanup_errors=True)
    with made as folder, Cluster(Path(folder)) as running:
        running.env |= {
            "BPO_GPUS_PER_NODE": "0",
            "BPO_SBATCH": "--cpus-per-task=1",
            "BPO_VENV": str(environment(Path(folder) / "venv")),
            "BPO_STORE_DIR": str(Path(folder) / "stores"),
            "GLOO_SOCKET_IFNAME": "lo",  # this machine's name need not be an address of its own
        }
        yield running


# --- the batch file of the training, with a stand-in -----------------------------------------------------------------


class Play:
    """One job of slurm/train.sbatch in which a stand-in plays the training."""

    def __init__(self, cluster: Cluster, folder: Path, *options: str, **env: str) -> None:
        self.cluster, self.folder = cluster, folder
        program = environment(folder / "venv") / "bin" / "python"
        program.write_text(STAND_IN.format(python=sys.executable))
        program.chmod(0o755)
        env = {"BPO_VENV": str(folder / "venv"), "PLAY_DIR": str(folder), "BPO_RUNS_DIR": str(folder)} | env
        self.stop = folder / "play" / "03_training" / "STOP"
        self.job = cluster.sbatch(
            "--nodes=2",
            "--ntasks-per-node=1",
            "--gpus-per-node=0",
            "--cpus-per-task=1",
            "--export=ALL,PROFILE=play",
            *options,
            "slurm/train.sbatch",
            **env,
        )

    def running(self, rank: int = 1) -> dict[str, str]:
        """Wait until a process runs; returns its environment."""
        told = self.folder / f"rank-{rank}.txt"
        until(lambda: told.exists() and told.read_text(), 30, "the stand-in", self.cluster.logs)
        return dict(line.partition("=")[::2] for line in told.read_text().splitlines())

    def signal(self) -> None:
        """What Slurm does when the time limit is near: USR1 to the batch shell alone. Returns once it has acted."""
        self.cluster.run("scancel", "--signal=USR1", "--batch", self.job)
        until(self.stop.exists, 20, "STOP", self.cluster.logs)

    def again(self) -> None:
        """Start the requeued job at once."""
        self.cluster.start_now(self.job)
        until(lambda: self.cluster.log(self.job).count("1 of 2 runs") > 1, 30, "the second start", self.cluster.logs)

    def finish(self) -> tuple[str, int]:
        """Let the training come to its end."""
        (self.folder / "finish").touch()
        return self.cluster.over(self.job)


def test_every_process_finds_its_place(cluster, tmp_path):
    play = Play(cluster, tmp_path, BPO_SRUN="--label")  # an option of srun, as a container's would be
    first, second = play.running(0), play.running(1)
    assert play.finish() == ("COMPLETED", 0)
    assert [(env["SLURM_PROCID"], env["SLURMD_NODENAME"]) for env in (first, second)] == [("0", "n1"), ("1", "n2")]
    port = 10000 + int(play.job) % 20000
    for env in (first, second):
        assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("127.0.0.1", str(port))
        assert (env["SLURM_NTASKS"], env["SLURM_CPUS_PER_TASK"], env["OMP_NUM_THREADS"]) == ("2", "1", "1")
        assert (env["SRUN_CPUS_PER_TASK"], env["DS_ACCELERATOR"], env["TOKENIZERS_PARALLELISM"]) == (
            "1",
            "cpu",
            "false",
        )
        assert (env["HF_HUB_OFFLINE"], env["HF_DATASETS_OFFLINE"], env["PYTHONUNBUFFERED"]) == ("1", "1", "1")
        assert not Path(env["TRITON_CACHE_DIR"]).is_relative_to(Path.home())
    log = cluster.log(play.job)
    assert f"== bpo-train, job {play.job}, start 0" in log and "== nodes n[1-2], 1 cores per task, 0 GPUs" in log
    assert "== profile play, 2 processes meet at" in log and "== commit " in log and "WARNING" not in log
    assert "1: 1 of 2 runs ['-m', 'bpo_utils.train', '--profile', 'play']" in log


def test_the_signal_of_the_time_limit_stops_and_requeues(cluster, tmp_path):
    play = Play(cluster, tmp_path, "--export=ALL,PROFILE=play,BPO_COMMIT=another")
    play.running()
    play.signal()
    play.signal()  # a second signal while the processes save changes nothing
    play.again()
    told = cluster.log(play.job)
    parts = ("0 saved", "1 saved", "requeue 1 of at most 3", "start 1,")
    places = [told.index(part) for part in parts]
    assert max(places[:2]) < places[2] < places[3]
    assert "WARNING: submitted at commit another" in told
    assert not play.stop.exists()
    assert play.finish() == ("COMPLETED", 0)
    assert cluster.job(play.job)["Restarts"] == "1"


@pytest.mark.parametrize("when", ["at once", "in the save"])
def test_a_bug_is_never_requeued(cluster, tmp_path, when):
    play = Play(cluster, tmp_path)
    play.running()
    (tmp_path / f"bug {when}").touch()
    if when == "in the save":
        play.signal()
    assert cluster.over(play.job) == ("FAILED", 1)
    until(lambda: not cluster.processes(SLURM_JOB_ID=play.job), 20, "the end of the batch shell", cluster.logs)
    assert not play.stop.exists() and "== requeue" not in cluster.log(play.job)


def test_a_person_stops_for_good(cluster, tmp_path):
    play = Play(cluster, tmp_path)
    play.running()
    play.stop.touch()
    play.signal()  # and the time limit comes on top
    assert cluster.over(play.job) == ("FAILED", 85)
    assert play.stop.exists() and "== requeue" not in cluster.log(play.job)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, tmp_path):
    play = Play(cluster, tmp_path)
    play.running()
    play.signal()
    cluster.run("scancel", play.job)
    state, _ = cluster.over(play.job)
    until(lambda: "1 saved" in cluster.log(play.job), 20, "the save", cluster.logs)
    until(lambda: not cluster.processes(SLURM_JOB_ID=play.job), 20, "the end of the batch shell", cluster.logs)
    assert state == cluster.state(play.job) == "CANCELLED" and cluster.job(play.job)["Restarts"] == "0"


def test_a_preempted_job_saves_and_is_requeued(cluster, tmp_path):
    play = Play(cluster, tmp_path)
    play.running()
    urgent = cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    play.again()  # SIGTERM to the processes, none to the batch shell
    assert "requeue 1 of" in cluster.log(play.job) and cluster.over(urgent) == ("COMPLETED", 0)
    assert play.finish() == ("COMPLETED", 0)


def test_requeues_have_an_end(cluster, tmp_path):
    play = Play(cluster, tmp_path, BPO_MAX_REQUEUES="0")
    play.running()
    play.signal()
    assert cluster.over(play.job) == ("FAILED", 85)
    assert "not requeued again: BPO_MAX_REQUEUES is 0" in cluster.log(play.job)
    cluster.run("scontrol", "requeue", play.job)  # as Slurm itself does when a node dies
    cluster.start_now(play.job)
    assert cluster.over(play.job) == ("FAILED", 1)
    assert "started 2 times" in cluster.log(play.job)


def test_what_a_killed_batch_shell_left_does_not_stop_the_next_job(cluster, tmp_path):
    first = Play(cluster, tmp_path / "a")
    first.running()
    (shell,) = cluster.programs("bash", "slurm_script", SLURM_JOB_ID=first.job)
    first.signal()
    shell.send_signal(signal.SIGKILL)
    cluster.over(first.job)
    assert first.stop.read_text().startswith("Slurm")
    second = Play(cluster, tmp_path / "b", BPO_RUNS_DIR=str(tmp_path / "a"))
    second.running()
    assert not first.stop.exists()
    assert second.finish() == ("COMPLETED", 0)


def test_the_lines_in_the_heads_of_the_files_work_as_they_stand(cluster, tmp_path):
    for name in ("python", "bpo"):
        program = tmp_path / "venv" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "ran {name} $* as $SLURM_PROCID/$SLURM_ARRAY_TASK_ID"\n')
        program.chmod(0o755)
    (program.parent / "activate").write_text(f'PATH="{program.parent}:$PATH"\n')
    env = {"BPO_VENV": str(program.parents[1]), "BPO_RUNS_DIR": str(tmp_path), "BPO_SBATCH": ""}
    env |= {"SBATCH_GPUS_PER_NODE": "0", "SBATCH_OUTPUT": str(tmp_path / "%j.log")}  # all that is changed
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((paths.ROOT / "slurm").iterdir()))
    lines = re.findall(r"^# .*?((?:\. slurm/site\.env; )?sbatch .*slurm/\w+\.sbatch)", text, re.MULTILINE)
    for line in lines:
        cluster.run("bash", "-euc", line, **env)
    until(lambda: not cluster.run("squeue", "-h"), 90, "all jobs", cluster.logs)
    ran = [line for path in tmp_path.glob("*.log") for line in path.read_text().splitlines() if line.startswith("ran")]
    shard = "--shard slurm --of {} --max-usd {} --store-dir " + cluster.env["BPO_STORE_DIR"]
    shard += f"/bpo-{getpass.getuser()}-paper as 0/{{}}"
    wanted = [f"ran python -m bpo_utils.train --profile paper as {rank}/" for rank in range(8)] * 2
    wanted += [f"ran bpo run --profile paper --only {number} as 0/" for number in ("01", "02")]
    wanted += ["ran bpo run --profile paper --from 03 --yes --max-usd 0 as 0/"]
    wanted += [f"ran bpo grid slurm/grid_example.yaml --task slurm as 0/{task}" for task in range(6)]
    for task in range(4):
        wanted.append(f"ran bpo shard rewrites --profile paper {shard.format('slurm', 0, task)}")
        wanted.append(f"ran bpo shard verdicts --profile paper {shard.format('slurm', 5, task)}")
    wanted.append(f"ran bpo shard rewrites --profile paper {shard.format(4, 0, 2)}")
    assert sorted(ran) == sorted(wanted)


# --- the miniature, from the data to the figure, and the real training in two processes ------------------------------

EPOCH = 10  # steps: 294 pairs in batches of 32, the last one short
STEPS = 2 * EPOCH


@pytest.fixture(scope="module")
def course(cluster, tmp_path_factory):
    """A profile of the shrunken miniature for this cluster, and folders of its own; every client gets to know them."""
    folder = tmp_path_factory.mktemp("course")
    values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8")) | {"name": "cluster"}
    values["data"] |= {"test_rows": {"bpo_test": 4, "dolly": 4, "vicuna": 4, "self_instruct": 4}}
    values["training"] |= {"launch": "slurm", "processes": 2, "epochs": 2, "checkpoint_steps": 6}
    values["training"] |= {"zero_stage": 2 if importlib.util.find_spec("deepspeed") else None}
    values["controls"] = ["identity"]
    (folder / "profiles").mkdir()
    (folder / "profiles" / "cluster.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    own = {"RUNS": "runs", "FIGURES": "figures", "PROFILES": "profiles"}
    cluster.env |= {f"BPO_{name}_DIR": str(folder / place) for name, place in own.items()}
    return folder


def submit(cluster: Cluster, *options: str) -> list[str]:
    """`bpo submit`; returns the ids of its jobs."""
    told = cluster.run(sys.executable, "-m", "bpo_utils.cli", "submit", "--profile", "cluster", *options)
    return re.findall(r"^bpo-\w+-cluster +(\d+)", told, re.MULTILINE)


@pytest.fixture(scope="module")
def whole(cluster, course):
    """The ids of the whole chain, once its training is done: the one that nothing disturbed."""
    ids = submit(cluster, "--nodes=2", "--shards=4")
    assert cluster.over(ids[0], 120) == ("COMPLETED", 0), cluster.logs()
    assert cluster.over(ids[1], 240) == ("COMPLETED", 0), cluster.logs()
    return ids


def test_the_chain_draws_the_figure_and_a_killed_shard_is_run_again(cluster, course, whole):
    run = course / "runs" / "cluster"
    steps = ("data", "train", "rewrites", "answers", "verdicts", "figure")
    assert len(whole) == len(steps)
    shard_2 = {"SLURM_ARRAY_JOB_ID": whole[2], "SLURM_ARRAY_TASK_ID": "2", "SLURM_PROCID": "0"}
    (task,) = until(lambda: cluster.programs("python", "shard", **shard_2), 60, "shard 2", cluster.logs)
    task.kill()
    ends = [cluster.over(f"{whole[2]}_{number}", 120) for number in range(4)]
    assert ends == [("COMPLETED", 0), ("COMPLETED", 0), ("FAILED", 137), ("COMPLETED", 0)]
    assert [cluster.over(job)[0] for job in whole[3:]] == ["CANCELLED"] * 3
    before = {path: path.stat().st_mtime_ns for path in run.glob("04_inference/shards/rewrites-[013]-of-4.jsonl")}
    assert len(before) == 3 and not (run / "04_inference" / "rewrites.jsonl").exists()

    again = submit(cluster, "--from=infer", "--shards=4")
    for job, step in zip(again, steps[2:], strict=True):
        tasks = [f"{job}_{number}" for number in range(4)] if step != "figure" else [job]
        assert [cluster.over(task, 180) for task in tasks] == [("COMPLETED", 0)] * len(tasks), cluster.logs()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    log = (run / "logs" / f"bpo-rewrites-cluster-{again[0]}_0.log").read_text()
    assert "is complete already" in log
    assert list((course / "figures").glob("*.png")) and (run / "06_results" / "results.json").is_file()
    assert {path.name for path in (run / "logs").iterdir()} >= {f"bpo-train-cluster-{whole[1]}.log"}


class Training:
    """One run of the real training by slurm/train.sbatch, on the pairs of the chain."""

    def __init__(self, cluster: Cluster, course: Path, folder: Path) -> None:
        self.cluster, self.runs, self.folder = cluster, folder, folder / "cluster" / "03_training"
        shutil.copytree(course / "runs" / "cluster" / "02_pairs", folder / "cluster" / "02_pairs")

    def submit(self, *options: str, nodes: int = 2) -> str:
        """Submit it; returns the job's id."""
        shape = (f"--nodes={nodes}", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
        export = f"--export=ALL,PROFILE=cluster,BPO_RUNS_DIR={self.runs}"
        self.job = self.cluster.sbatch(*shape, export, *options, "slurm/train.sbatch")
        return self.job

    def lines(self) -> list[dict]:
        """The training's log."""
        return log.lines(self.folder / "log.jsonl")

    def reach(self, step: int, start: int = 0) -> None:
        """Wait until a step is logged by the start of that number."""

        def reached() -> bool:
            lines = self.lines()
            starts = [line for line in lines if line.get("event") in ("start", "resume")]
            return len(starts) > start and lines[-1]["step"] >= step

        until(reached, 180, f"step {step} of start {start}", self.cluster.logs)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        found = self.cluster.programs("python", "bpo_utils.train", SLURM_JOB_ID=self.job)
        return [process for process in found if "SLURM_PROCID" in process.info["environ"]]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process that trains."""
        send(self.ranks(), number)

    def hold_in_a_save(self) -> None:
        """Have the training save after every step, and hold its processes again and again until that is in a save."""
        ranks, half = self.ranks(), checkpoint.writing(self.folder / "checkpoints")

        def caught() -> bool:
            for process in ranks:
                process.resume()
            (self.folder / "SAVE").touch()
            threading.Event().wait(0.01)
            for process in ranks:
                process.suspend()
            return any(half.glob("checkpoint-*/*")) and not any(half.glob(f"checkpoint-*/{checkpoint.MARKER}"))

        until(caught, 60, "a save to be half done", self.cluster.logs)

    def ended(self, seconds: float = 180) -> tuple[str, int]:
        """Wait for the end of the job."""
        return self.cluster.over(self.job, seconds)

    def equals(self, course: Path) -> bool:
        """Whether the model is, to the bit, the one that nothing disturbed, and the log as continuous as that one's."""
        one, other = (folder / "03_training" for folder in (self.runs / "cluster", course / "runs" / "cluster"))
        name = Path("model") / "model.safetensors"
        assert (one / name).read_bytes() == (other / name).read_bytes()
        curves = [[(row["step"], row["loss"], row["learning_rate"]) for row in log.finished(f)] for f in (one, other)]
        assert [row[0] for row in curves[0]] == list(range(1, STEPS + 1))
        assert curves[0] == curves[1]
        return True


@pytest.fixture
def training(cluster, course, whole, tmp_path):
    return Training(cluster, course, tmp_path)


def test_the_time_limit_interrupts_nothing(cluster, course, training):
    training.submit("--time=30", "--signal=B:USR1@20")
    training.reach(EPOCH - 2)
    training.signal(signal.SIGSTOP)  # so that the training, which is short, is still there when its limit is near
    cluster.run("scontrol", "update", f"JobId={training.job}", "EndTime=now+45")
    until((training.folder / "STOP").exists, 60, "Slurm's signal", cluster.logs)  # it looks every half minute
    training.signal(signal.SIGCONT)
    cluster.start_now(training.job, 60)
    assert training.ended() == ("COMPLETED", 0), cluster.logs()
    assert training.equals(course)
    events = [line["event"] for line in training.lines() if line.get("event") in ("start", "stop", "resume", "end")]
    assert events == ["start", "stop", "resume", "end"]
    told = cluster.log(training.job)
    assert told.index("start 0,") < told.index("requeue 1 of") < told.index("start 1,") and "TIME LIMIT" not in told


def test_a_save_killed_halfway_and_a_dead_node_cost_a_few_steps(cluster, course, training):
    training.submit()
    training.reach(6)
    until(lambda: checkpoint.newest(training.folder / "checkpoints"), 60, "a checkpoint", cluster.logs)
    training.hold_in_a_save()
    saved = checkpoint.newest(training.folder / "checkpoints")
    training.signal(signal.SIGKILL)
    assert training.ended() == ("FAILED", 137)
    assert saved and checkpoint.newest(training.folder / "checkpoints") == saved

    training.submit()
    training.reach(EPOCH + 3, start=1)
    resumed = [line for line in training.lines() if line.get("event") == "resume"]
    assert [line["step"] for line in resumed] == [int(saved.name.removeprefix("checkpoint-"))]
    cluster.kill_node("n2")
    cluster.wait(training.job, "PENDING", seconds=60)  # Slurm misses the node, and puts the job back by itself
    cluster.start_node("n2")
    cluster.start_now(training.job)
    assert training.ended() == ("COMPLETED", 0), cluster.logs()
    assert training.equals(course) and cluster.job(training.job)["Restarts"] == "1"


def test_a_training_that_a_person_stopped_goes_on_with_another_number_of_processes(cluster, course, training):
    training.submit()
    training.reach(4)
    (training.folder / "STOP").touch()
    assert training.ended() == ("FAILED", 85)
    stopped = training.lines()[-1]
    assert stopped["event"] == "stop" and not (training.folder / "STOP").exists()
    training.submit(nodes=1)
    assert training.ended() == ("COMPLETED", 0), cluster.logs()
    # Exact: the steps, the examples of each step (also of the short one that ends an epoch) and the learning rate. Not
    # exact: sums are taken in another order, so weights and losses differ in their last digits.
    one, other = (log.finished(folder / "cluster" / "03_training") for folder in (training.runs, course / "runs"))
    assert [(row["step"], row["tokens"], row["learning_rate"]) for row in one] == [
        (row["step"], row["tokens"], row["learning_rate"]) for row in other
    ]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in other], rel=1e-4)
    assert [line["processes"] for line in training.lines() if line.get("event") in ("start", "resume")] == [2, 1]
