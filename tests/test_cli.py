import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import psutil
import pytest
from made_notebooks import START, Signpost, chain, command, process_environment, started, write_notebook

from bpo_utils import cli, ledger

LIMIT_S = 60


@pytest.fixture
def course(tmp_path):
    """Three notebooks in a row, of which the second waits at a signpost; and the environment to run them in."""
    folder = chain(tmp_path / "notebooks")
    signpost = Signpost(tmp_path)
    wait = START + signpost.cell + "records.write_json(run / '02_pairs/odd.json', 1)"
    write_notebook(folder / "02_odd.ipynb", "# The long wait", wait, reads=["01_data/seed.json"], writes=["02_pairs/"])
    return folder, signpost, process_environment(tmp_path / "runs"), tmp_path / "runs" / "mini"


def bpo(env, *arguments, **options):
    return subprocess.run(
        command(*arguments), env=env, capture_output=True, encoding="utf-8", timeout=LIMIT_S, **options
    )


def states(run):
    return [(entry.notebook, entry.status) for entry in ledger.read(run)]


def first_words(text):
    return [" ".join(line.split()[:3]) for line in text.splitlines() if line.startswith("0")]


def test_two_runs_at_once_then_ctrl_c_then_resume(course, tmp_path):
    folder, signpost, env, run = course
    with started(command("run", "--notebooks", folder), env) as first:
        kernel = psutil.Process(signpost.wait())
        assert states(run) == [("01_seed", "done"), ("02_odd", "running")]

        second = bpo(env, "run", "--notebooks", folder)
        assert second.returncode == 2
        assert f"is in use by process {first.pid} on " in second.stderr and second.stderr.count("\n") == 1
        other = bpo(process_environment(tmp_path / "other"), "run", "--notebooks", folder, "--only", "01")
        assert (other.returncode, first_words(other.stdout)[0][:12]) == (0, "01_seed done")
        assert "running now" in bpo(env, "status", "--notebooks", folder).stdout

        first.send_signal(signal.SIGINT)
        told, complaints = first.communicate(timeout=LIMIT_S)
        assert first.returncode == 130 and complaints == "bpo: interrupted\n"
        assert "The long wait (cell 4)" in told and f"bpo run --profile mini --notebooks {folder}" in told
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert states(run)[-1] == ("02_odd", "interrupted")

    signpost.open.touch()
    resumed = bpo(env, "run", "--notebooks", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split()[1] for line in first_words(resumed.stdout)] == ["up", "done", "done"]


def test_a_runner_that_was_killed_is_told_by_the_next(course):
    folder, signpost, env, run = course
    with started(command("run", "--notebooks", folder), env) as first:
        kernel = psutil.Process(signpost.wait())
        first.kill()
        first.communicate(timeout=LIMIT_S)
    psutil.wait_procs([kernel], timeout=LIMIT_S)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert states(run)[-1] == ("02_odd", "running")
    assert "last run: interrupted" in bpo(env, "status", "--notebooks", folder).stdout
    assert states(run)[-1] == ("02_odd", "running")  # looking changes nothing

    signpost.open.touch()
    resumed = bpo(env, "run", "--notebooks", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split()[1] for line in first_words(resumed.stdout)] == ["up", "done", "done"]
    assert states(run) == [("01_seed", "done"), ("02_odd", "interrupted"), ("02_odd", "done"), ("03_last", "done")]


def limited(size):
    """Let a process write no file beyond `size` bytes, as if the disk were full; Python raises OSError then."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_cell_that_meets_a_full_disk(tmp_path):
    env = process_environment(tmp_path / "runs") | {"PYTHONDONTWRITEBYTECODE": "1"}
    cell = START + "records.write_text(run / '01_data/a', 'x' * 10**6)"
    write_notebook(tmp_path / "notebooks/01_a.ipynb", cell, writes=["01_data/a"])
    ended = bpo(env, "run", "--notebooks", tmp_path / "notebooks", preexec_fn=limited(500_000))
    assert ended.returncode == 1 and "could not write" in ended.stdout
    (entry,) = ledger.read(tmp_path / "runs/mini")
    assert (entry.status, entry.error["name"]) == ("failed", "OSError")
    assert os.listdir(tmp_path / "runs/mini/01_data") == []


def test_a_disk_that_is_full_when_the_end_is_to_be_written(tmp_path):
    env, run = process_environment(tmp_path / "runs") | {"PYTHONDONTWRITEBYTECODE": "1"}, tmp_path / "runs/mini"
    folder = chain(tmp_path / "notebooks")
    assert bpo(env, "run", "--only", "01", "--notebooks", folder).returncode == 0
    (done,) = ledger.read(run)
    # A ledger so long that the next line fits while it says running, and no longer with the outputs in it.
    padding = dataclasses.replace(done, notebook="00_padding", id="x" * 500_000)
    running = dataclasses.replace(done, status="running", ended=None, seconds=None, outputs={}, pid=10**7)
    lines = [json.dumps(dataclasses.asdict(entry)) + "\n" for entry in (padding, done, running)]
    ledger.path_of(run).write_text(lines[0] + lines[1])
    call = ["run", "--only", "01", "--force", "--notebooks", folder]
    ended = bpo(env, *call, preexec_fn=limited(sum(map(len, lines)) + 20))
    assert ended.returncode == 1 and "still says running" in ended.stderr and "Traceback" not in ended.stderr
    assert [entry.status for entry in ledger.read(run)] == ["done", "done", "running"]
    assert bpo(env, *call).returncode == 0
    assert [entry.status for entry in ledger.read(run)] == ["done", "done", "interrupted", "done"]


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = "{'yaml', 'pydantic', 'torch', 'papermill', 'nbclient'}"
    check = f"import sys, bpo_utils.cli as c; c.parser().format_help(); print(sorted({heavy} & set(sys.modules)))"
    env = process_environment(cli.paths.runs_dir())
    ended = subprocess.run(
        [sys.executable, "-c", check], env=env, capture_output=True, encoding="utf-8", timeout=LIMIT_S
    )
    assert ended.stdout == "[]\n", ended.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "-p", "sed=3"], "did you mean 'seed'"),
        (["run", "-p", "seed"], "-p name=value"),
        (["run", "-p", "seed=1e-4"], "seed must be int in 01_seed.ipynb, got 0.0001 (float)"),
        (["run", "--profile", "min"], "did you mean 'mini'"),
        (["run", "--only", "09"], "has the notebooks 01, 02, 03"),
        (["status", "--profile", "min"], "did you mean 'mini'"),
    ],
)
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "runs"))
    assert cli.main([*arguments, "--notebooks", str(chain(tmp_path / "notebooks"))]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_status_of_what_never_ran(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "runs"))
    assert cli.main(["status", "--notebooks", str(chain(tmp_path / "notebooks"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        [name, "-", "-", "-", "never", "run"] for name in ("01_seed", "02_odd", "03_last")
    ]
    assert not (tmp_path / "runs").exists()
