"""Processes beside this one: order, number, failure, interruption, and that none is left."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from bpo_utils import workers

LIMIT_S = 60


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes jobs that run given lines of Python. `started`: their processes; `at_once`: how many ran then."""

    def job(name, lines):
        (tmp_path / f"play_{name}.py").write_text(textwrap.dedent(lines))
        return workers.Job(name, f"play_{name}", (str(tmp_path),), tmp_path / f"{name}.log")

    def start(*rest):
        job.started.append(real(*rest))
        job.at_once.append(sum(process.returncode is None for process in job.started))
        return job.started[-1]

    real, job.started, job.at_once = workers.start, [], []
    monkeypatch.setattr(workers, "start", start)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return job


MEET = """
    import os, sys, threading
    here = os.path.join(sys.argv[1], "meeting")
    os.makedirs(here, exist_ok=True)
    open(os.path.join(here, "{name}"), "w").close()
    while len(os.listdir(here)) < {count}:
        threading.Event().wait(0.01)
"""
STAYS = f"import threading; threading.Event().wait({LIMIT_S})"


def test_all_are_done_and_each_is_told_of(program):
    told = []
    jobs = [program(name, f"print({name!r})") for name in "abc"]
    workers.run(jobs, 1, ended=lambda job, seconds: told.append((job.name, seconds > 0)))
    assert told == [("a", True), ("b", True), ("c", True)]
    assert [job.log.read_text() for job in jobs] == ["a\n", "b\n", "c\n"]


def test_two_run_at_once_and_no_more(program):
    jobs = [program(name, MEET.format(name=name, count=2)) for name in "ab"]  # each waits for the other
    workers.run([*jobs, program("c", ""), program("d", "")], 2)
    assert max(program.at_once) == 2 and len(program.started) == 4


def test_threads_are_limited_where_it_is_asked_for(program, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    shows = "import os; print(*(os.environ.get(name) for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')))"
    jobs = [program("limited", shows), program("free", shows)]
    workers.run(jobs[:1], 1, threads=1)
    workers.run(jobs[1:], 1)
    assert [job.log.read_text().split() for job in jobs] == [["1", "1"], ["7", str(os.environ.get("MKL_NUM_THREADS"))]]


def test_a_failure_tells_the_last_lines_and_ends_the_others(program):
    fails = program("fails", "import sys\nfor line in range(40):\n    print('line', line)\nsys.exit('what was wrong')")
    with pytest.raises(ChildProcessError, match=r"(?s)^fails ended with code 1; .*what was wrong$") as told:
        workers.run([program("stays", STAYS), fails, program("later", "")], 2)
    assert "line 39" in str(told.value) and "line 20" not in str(told.value)
    assert len(program.started) == 2 and all(process.returncode is not None for process in program.started)


def test_an_interruption_ends_them(program):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.run([program("a", STAYS), program("b", STAYS)], 2, meanwhile=interrupted)
    assert [process.returncode for process in program.started] == [-signal.SIGKILL] * 2


def test_none_outlives_a_process_that_is_killed(program, tmp_path):
    child = program("child", f"from bpo_utils import workers\nworkers.end_with_parent()\n{STAYS}")
    parent = f"""
        from pathlib import Path
        from bpo_utils import workers
        process = workers.start(workers.Job("child", {child.module!r}, (), Path({str(child.log)!r})))
        print(process.pid, flush=True)
        process.wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        left = psutil.Process(int(process.stdout.readline()))
        process.kill()
    gone, there = psutil.wait_procs([left], timeout=LIMIT_S)
    for each in there:
        each.kill()
    assert gone == [left]


def test_a_process_can_end_while_it_watches_its_parent(program):
    workers.run([program("child", "from bpo_utils import workers\nworkers.end_with_parent()\nprint('done')")], 1)
    assert program.started[0].returncode == 0
