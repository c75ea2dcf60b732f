"""A real Slurm cluster of two nodes on this machine, for the tests: munged, slurmctld and two slurmd.

All state is in one folder, the ports are free ones, and the daemons stay in the foreground, so that they can be stopped
by their process ids. It works as root and as another user, who then owns every daemon and every job.
"""

import contextlib
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bpo_utils import paths

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # not in every user's PATH
NODES = ("n1", "n2")
NOT_OURS = (
    "SLURM",
    "SBATCH",
    "BPO_",
    "MASTER_",
    "RANK",
    "WORLD_SIZE",
    "HF_HUB_OFFLINE",
)  # of these tests, or a job they run in
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/log/%n.log
# No cgroups and no GPUs here; the nodes claim more cores than the machine has.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
# Quick decisions: a scheduler that looks at once, nodes that are missed soon, jobs that are killed soon.
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
SlurmctldTimeout=10
SlurmdTimeout=6
MessageTimeout=5
TCPTimeout=1
ReturnToService=2
KillWait=5
MinJobAge=3600
FirstJobId={first}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=96 RealMemory=1000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=96 RealMemory=1000
PartitionName=normal Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]


def until(condition: Callable[[], Any], seconds: float, what: str, told: Callable[[], str] = str) -> Any:
    """Wait for a condition to be true, and return what it gave. Fails after `seconds`, with `what` and `told()`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}\n{told()}")
        threading.Event().wait(0.05)
    return found


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that is still there: the end of one may have ended the next."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Cluster:
    """The running cluster. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, {}
        self.conf = folder / "slurm.conf"
        for name in ("munge", "log", "state", "jobs"):
            (folder / name).mkdir()
        # Munge wants a socket that everyone can reach and a key that nobody else can read.
        for path in (folder, folder / "munge"):
            path.chmod(0o755)
        (folder / "munge" / "key").touch(mode=0o600)
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(1024))
        ports, first = _free_ports(3), _first_job()
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        self.conf.write_text(CONF.format(folder=folder, ports=ports, first=first, host=host, user=user))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        self.env |= {"SLURM_CONF": str(self.conf), "PATH": SEARCHED}

    def __enter__(self) -> "Cluster":
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--foreground", *(f"--{option}={munge / name}" for option, name in files.items()))
        until((munge / "socket").exists, 20, "munged", self.logs)
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.run("sinfo", "-h", "-o", "%T", "-t", "idle").split() == ["idle"], 40, "nodes", self.logs)
        return self

    def __exit__(self, *_: object) -> None:
        started = [self.daemons[name] for name in ("slurmctld", *NODES, "munged") if name in self.daemons]
        for daemon in started:  # the controller first: it must not start anything more
            daemon.kill()
            daemon.wait()
        until(lambda: not self._kill_all(), 30, "the end of what the jobs have started", self.logs)

    def _kill_all(self) -> list[psutil.Process]:
        mine = self.processes()
        send(mine, signal.SIGKILL)
        return mine

    def _start(self, name: str, *options: str, program: str = "") -> None:
        command = [shutil.which(program or name, path=SEARCHED), *options]
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._start(node, "-D", "-N", node, program="slurmd")

    def kill_node(self, node: str) -> None:
        """End everything on a node at once, as a power cut would: its slurmd, and all processes of its jobs."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        tasks = self.processes(SLURMD_NODENAME=node)
        above = {process.pid: process for process in psutil.process_iter(["name", "ppid"])}
        steps = []
        for process in tasks:
            while process := above.get(process.info["ppid"]):
                steps += [process] if (process.info["name"] or "").startswith("slurmstepd") else []
        send([*steps, *tasks], signal.SIGKILL)

    def processes(self, **wanted: str) -> list[psutil.Process]:
        """All that jobs of this cluster run and whose environment has these values.

        What each was when it was found is in its `.info`: `cmdline` (a list), `environ`, `ppid`. Ask that and not the
        process, which may have ended, or turned into another program, since.
        """
        wanted, others = wanted | {"SLURM_CONF": str(self.conf)}, {daemon.pid for daemon in self.daemons.values()}
        found = psutil.process_iter(["cmdline", "environ", "ppid"])
        mine = [process for process in found if process.pid not in others | {os.getpid()}]
        return [process for process in mine if wanted.items() <= (process.info["environ"] or {}).items()]

    def programs(self, name: str, *words: str, **wanted: str) -> list[psutil.Process]:
        """Those of `processes` that run the program `name...` with these words in the command line, in any place.

        A copy that one of them has made of itself, to start another program from, is left out.
        """
        found = [
            process
            for process in self.processes(**wanted)
            if (line := process.info["cmdline"]) and Path(line[0]).name.startswith(name)
            if all(word in " ".join(line) for word in words)
        ]
        return [process for process in found if process.info["ppid"] not in {other.pid for other in found}]

    def run(self, *command: str, **env: str) -> str:
        """Run a program as a client of this cluster, in the repository; returns what it printed."""
        done = subprocess.run(command, cwd=paths.ROOT, env=self.env | env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sbatch(self, *options: str, **env: str) -> str:
        """Submit; returns the job's id. Its log is in `jobs/`."""
        log = self.folder / "jobs" / "%x-%j.log"
        return self.run("sbatch", "--parsable", f"--output={log}", *options, **env).strip()

    def job(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job or of one task of an array (`12_3`)."""
        told = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(re.findall(r"(\w+)=(\S*)", told))

    def state(self, job: str) -> str:
        """A job's state, such as RUNNING."""
        return self.job(job)["JobState"]

    def wait(self, job: str, *states: str, seconds: float = 60) -> dict[str, str]:
        """Wait until a job is in one of these states; returns what Slurm knows of it then."""
        told = f"job {job} to be {' or '.join(states)}"
        until(lambda: self.state(job) in states, seconds, told, lambda: f"{self.log(job)[-3000:]}\n{self.logs()}")
        return self.job(job)

    def over(self, job: str, seconds: float = 60) -> tuple[str, int]:
        """Wait until a job has ended for good; returns (state, exit code)."""
        known = self.wait(job, *OVER, seconds=seconds)
        return known["JobState"], int(known["ExitCode"].split(":")[0])

    def start_now(self, job: str, seconds: float = 30) -> None:
        """Wait until a job has been put back into the queue, and start it without the two minutes that Slurm waits.

        Not in the same second: a node would take the new start for the old one, whose credential has been revoked.
        """
        self.wait(job, "PENDING", seconds=seconds)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def log(self, job: str) -> str:
        """What a job printed."""
        return "".join(path.read_text() for path in sorted((self.folder / "jobs").glob(f"*-{job}.log")))

    def logs(self) -> str:
        """The ends of all logs and the state of the cluster, for the message of a test that fails."""
        shown = [subprocess.run(["squeue", "--states=all"], env=self.env, capture_output=True, text=True).stdout]
        for path in sorted([*(self.folder / "log").iterdir(), *self.folder.glob("jobs/*.log")]):
            shown.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
        return "\n".join(shown)


def environment(folder: Path) -> Path:
    """A folder for BPO_VENV: `activate` puts the Python that runs these tests first, whatever sort of one it is."""
    (folder / "bin").mkdir(parents=True)
    found = Path(sys.executable).parent
    (folder / "bin" / "activate").write_text(f'PATH="{folder / "bin"}:{found}:$PATH"\n')
    return folder


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _first_job() -> int:
    """A job id after which the ports that the batch file derives from the ids (10000 + id) are free for 50 jobs."""
    for first in range(100 * (1 + os.getpid() % 90), 20000, 50):
        try:
            for port in range(first, first + 50):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", 10000 + port))
        except OSError:
            continue
        return first
    raise AssertionError("no 50 free ports between 10000 and 30000")
