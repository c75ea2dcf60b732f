"""The batch files of slurm/ as text, and `bpo submit` with a stand-in for sbatch; test_slurm.py has a real cluster."""

import argparse
import os
import re
import shutil
import subprocess

import pytest
import yaml

from bpo_utils import cli_submit, paths, profile, submit
from bpo_utils.notebook import WrongUse

SLURM = paths.ROOT / "slurm"
JOBS = sorted(SLURM.glob("*.sbatch"))
SHELL = [*JOBS, SLURM / "common.sh", SLURM / "site.env"]


def directives(path):
    """The options in a batch file, as {name: value}."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_files_are_the_ones_that_the_readme_names():
    assert [path.stem for path in JOBS] == ["data", "infer", "judge", "papermill", "train"]
    assert {f"{name}.sbatch" for name in submit.FILES.values()} == {path.name for path in JOBS}


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_files_are_short_and_correct(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 70
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-x", path], cwd=paths.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_known_traps_of_batch_files(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    marked = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert marked and marked[-1] < commands[0], "Slurm reads no #SBATCH after the first command"
    assert not [line for line in lines if line.startswith("#SBATCH") and "$" in line], "#SBATCH expands no variable"
    assert not [line for line in lines if re.match(r"#\s+SBATCH|#SBATCH-|#sbatch", line)], "not a directive"
    assert lines[0] == "#!/usr/bin/env bash" and lines[commands[0]] == "set -euo pipefail"
    assert lines[commands[1]].startswith('cd "${SLURM_SUBMIT_DIR:?')
    code = "\n".join(line for line in lines if not line.startswith("#"))
    for trap in ("PROCID", "LOCALID", "torchrun", "accelerate launch", "bashrc", "/home/", "--gpus-per-task"):
        assert trap not in code, f"{trap} in a batch file"
    found = directives(path)
    assert {"requeue", "open-mode", "output", "time", "cpus-per-task", "job-name"} <= set(found)
    assert found["open-mode"] == "append", "a requeued job would write over its own log"
    assert ("%a" in found["output"]) == ("array" in found) and "/" not in found["output"]


def test_the_training_asks_for_what_it_needs():
    found = directives(SLURM / "train.sbatch")
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("1", "8", "8")
    assert found["signal"] == "B:USR1@360", "to the batch shell only, and in time for a large checkpoint"
    code = (SLURM / "train.sbatch").read_text(encoding="utf-8")
    assert "--kill-on-bad-exit=0" in code and "10000 + SLURM_JOB_ID % 20000" in code
    ports = {10000 + job % 20000 for job in range(60000)}
    assert min(ports) > 1023 and max(ports) < 32768, "below the ports that the kernel hands out"


@pytest.mark.parametrize("env", [{}, {"BPO_RUNS_DIR": "elsewhere"}, {"BPO_RUNS_DIR": "x", "BPO_RUN_DIR": "one"}])
def test_the_batch_file_and_the_package_mean_the_same_folder(env, monkeypatch):
    for name in ("BPO_RUNS_DIR", "BPO_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, str(paths.ROOT / value))
    (line,) = re.findall(r"^folder=(\S+)", (SLURM / "train.sbatch").read_text(encoding="utf-8"), re.MULTILINE)
    script = f'PROFILE=paper; folder={line}; realpath --canonicalize-missing "$folder"'
    told = subprocess.run(["bash", "-euc", script], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(paths.run_dir("paper") / "03_training")


def test_a_variable_wins_over_the_sites_file(monkeypatch):
    for name in [*submit.site()]:
        monkeypatch.delenv(name, raising=False)
    plain = submit.site()
    assert (plain["BPO_GPUS_PER_NODE"], plain["BPO_MAX_REQUEUES"], plain["BPO_VENV"]) == ("8", "3", ".venv")
    assert (plain["BPO_SBATCH"], plain["BPO_SRUN"]) == ("", "")
    monkeypatch.setenv("BPO_SBATCH", "--partition=gpu --comment='two words'")
    monkeypatch.setenv("BPO_VENV", "")
    assert submit.site()["BPO_SBATCH"] == "--partition=gpu --comment='two words'" and submit.site()["BPO_VENV"] == ""
    for step in submit.FILES.values():
        assert f"BPO_SBATCH_{step.upper()}" in plain


# --- bpo submit ------------------------------------------------------------------------------------------------------

SITE = {"BPO_GPUS_PER_NODE": "8", "BPO_SBATCH": ""}
SITE |= {f"BPO_SBATCH_{name.upper()}": "" for name in submit.FILES.values()}
STAND_IN = """#!/bin/sh
name=$(basename "$0")
printf '%s' "$PWD $name" >>"$CALLS"
for each in "$@"; do printf ' %s' "$each" >>"$CALLS"; done
echo >>"$CALLS"
[ "$name" = squeue ] && { printf "$QUEUED"; exit 0; }
case "$*" in *"$REFUSED"*) echo "sbatch: error: Invalid account" >&2; exit 1;; esac
echo $((100 + $(grep -c ' sbatch ' "$CALLS")))$CLUSTER
"""


@pytest.fixture
def own(run_folder, tmp_path, monkeypatch):
    """A profile `own` that is trained on Slurm, with two processes."""
    values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8")) | {"name": "own"}
    values["training"] |= {"launch": "slurm", "processes": 2}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "own.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv("BPO_PROFILES_DIR", str(tmp_path / "profiles"))
    for name in ("BPO_SBATCH", "BPO_GPUS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    return profile.load("own")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for sbatch and squeue, first in the PATH; returns the file of the calls."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "squeue"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))
    for name, value in {"CALLS": str(tmp_path / "calls"), "QUEUED": "", "REFUSED": "never", "CLUSTER": ""}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "calls"


def bpo_submit(*options):
    """`bpo submit` with these options; returns the exit code."""
    top = argparse.ArgumentParser()
    cli_submit.add_commands(top.add_subparsers())
    return cli_submit.submit(top.parse_args(["submit", *options]))


def test_the_chain(own, slurm, capsys, run_folder):
    assert bpo_submit("--profile=own", "--shards=3", "--max-usd=6") == 0
    called = [line.split() for line in slurm.read_text().splitlines()]
    assert called[0][1] == "squeue" and {words[0] for words in called} == {str(paths.ROOT)}
    sent = [words[2:] for words in called[1:]]
    assert [words[-1] for words in sent] == [f"slurm/{submit.FILES[step]}.sbatch" for step in submit.STEPS]
    assert not [word for word in sent[0] if "dependency" in word]
    for before, words in enumerate(sent[1:], 101):
        assert {f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"} <= set(words)
    for step, words in zip(submit.STEPS, sent, strict=True):
        assert f"--job-name=bpo-{step}-own" in words
        (export,) = [word for word in words if word.startswith("--export=ALL,PROFILE=own")]
        if step in submit.SHARDED:
            assert export.endswith(f",WHAT={step},SHARDS=3,MAX_USD=2") and "--array=0-2" in words
            assert f"--output={run_folder}/own/logs/%x-%A_%a.log" in words
        else:
            assert f"--output={run_folder}/own/logs/%x-%j.log" in words
    assert {"--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2"} <= set(sent[1])
    assert (run_folder / "own" / "logs").is_dir()
    told = capsys.readouterr().out.splitlines()
    assert [line.split() for line in told[:3]] == [["job", "id", "after"], ["bpo-data-own", "101", "-"]] + [
        ["bpo-train-own", "102", "101"]
    ]
    assert told[-1].endswith("own/03_training/STOP")


def test_a_dry_run_prints_what_would_be_done(own, slurm, capsys, monkeypatch, run_folder):
    monkeypatch.setenv("BPO_SBATCH_TRAIN", "--comment='two words'")
    assert bpo_submit("--profile=own", "--dry-run") == 0
    assert not slurm.exists() and not run_folder.exists()
    script = capsys.readouterr().out
    subprocess.run(["bash", "-euc", script], check=True)
    pasted = slurm.read_text().splitlines()
    slurm.unlink()
    assert bpo_submit("--profile=own") == 0
    assert slurm.read_text().splitlines()[1:] == pasted
    assert "--comment=two words" in pasted[1] and "two words" not in pasted[2]


@pytest.mark.parametrize(
    ("start", "steps"), [("train", 5), ("infer", 4), ("judge", 2), ("figure", 1)], ids=lambda value: str(value)
)
def test_a_start_in_the_middle_needs_what_comes_before(own, start, steps, run_folder):
    assert len(submit.jobs(own, SITE, start=start)) == steps and not submit.jobs(own, SITE, start=start)[0].after
    (wrong, *_) = submit.problems(own, start, 4)
    assert f"is missing; begin earlier than --from {start}" in wrong
    for name in ("02_pairs/pairs.jsonl", "03_training/model/config.json", "05_judging/shards/answers-0-of-4.jsonl"):
        (run_folder / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (run_folder / "own" / name).touch()
    assert submit.problems(own, start, 4) == []


def test_a_job_cannot_ask_a_teacher_nor_download_a_rewriter(own, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    teacher = own.teacher.model_copy(update={"provider": "openai", "model": "gpt-x"})
    rewriting = own.rewriting.model_copy(update={"model": "THUDM/BPO"})
    changed = own.model_copy(update={"teacher": teacher, "rewriting": rewriting})
    told = submit.problems(changed, "data", 4)
    assert any("the teacher gpt-x would have to be asked" in each and "--only 02" in each for each in told)
    assert any("THUDM/BPO is not in the Hub's cache" in each for each in told)
    served = changed.model_copy(update={"rewriting": rewriting.model_copy(update={"backend": "served"})})
    assert not any("THUDM/BPO" in each for each in submit.problems(served, "data", 4))


def test_nothing_is_submitted_that_cannot_work(own, slurm, run_folder, tmp_path, monkeypatch):
    for name, told in {"mini": "launch: slurm", "recorded": "trains nothing", "ow": "no profile 'ow'"}.items():
        with pytest.raises(WrongUse, match=told):
            bpo_submit(f"--profile={name}")
    (run_folder / "own" / "03_training").mkdir(parents=True)
    (run_folder / "own" / "03_training" / "STOP").touch()
    (run_folder / "own" / "04_inference" / "shards").mkdir(parents=True)
    (run_folder / "own" / "04_inference" / "shards" / "rewrites-0-of-8.jsonl").touch()
    with pytest.raises(WrongUse) as refused:
        bpo_submit("--profile=own")
    for told in ("03_training/STOP would stop the training at once", "--shards 4: ", "rewrites-*-of-8.jsonl"):
        assert told in str(refused.value)
    shutil.rmtree(run_folder)
    uploading = own.model_copy(update={"training": own.training.model_copy(update={"push_to": "me/it"})})
    (told,) = submit.problems(uploading, "train", 4)[1:]
    assert "push_to would fail" in told and "hf upload me/it" in told
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(WrongUse) as refused:
        bpo_submit("--profile=paper")
    assert "hf download meta-llama/Llama-2-7b-chat-hf" in str(refused.value)
    assert "bpo run --profile paper --only 01" in str(refused.value)
    assert not slurm.exists()


def test_jobs_that_are_queued_already_are_not_submitted_twice(own, slurm, monkeypatch):
    monkeypatch.setenv("QUEUED", "bpo-train-own (job 7)\\n")
    with pytest.raises(WrongUse, match=r"in the queue already: bpo-train-own \(job 7\)"):
        bpo_submit("--profile=own")
    (asked,) = slurm.read_text().splitlines()
    assert "--name=bpo-data-own,bpo-train-own," in asked and "--me" in asked


def test_what_sbatch_refuses_is_told_with_what_waits_already(own, slurm, monkeypatch):
    monkeypatch.setenv("REFUSED", "WHAT=rewrites")
    monkeypatch.setenv("CLUSTER", ";north")
    with pytest.raises(OSError, match="rewrites: sbatch says: sbatch: error: Invalid account.*scancel 101 102"):
        bpo_submit("--profile=own")


def test_without_sbatch(own, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(WrongUse, match="sbatch is not here; log in where jobs are submitted"):
        bpo_submit("--profile=own")


@pytest.mark.parametrize(
    ("gpus", "processes", "nodes", "expected"),
    [
        ("8", 8, None, (1, 8, 8)),
        ("8", 16, None, (2, 8, 8)),
        ("8", 8, 2, (2, 8, 8)),
        ("4", 8, None, (2, 4, 4)),
        ("8", 2, None, (1, 2, 2)),
        ("0", 2, None, (1, 2, 0)),
        ("0", 2, 2, (2, 1, 0)),
    ],
)
def test_the_shape_of_the_training(own, gpus, processes, nodes, expected):
    training = own.training.model_copy(update={"processes": processes, "micro_batch": 1})
    options = submit.training_options(training, SITE | {"BPO_GPUS_PER_NODE": gpus}, nodes)
    assert options == [f"--nodes={expected[0]}", f"--ntasks-per-node={expected[1]}", f"--gpus-per-node={expected[2]}"]


def test_a_batch_that_does_not_fit_is_told_with_its_numbers(own):
    wanted = r"global_batch 32 is not a multiple of micro_batch 8 x 6 processes \(3 node\(s\) x 2\) = 48"
    with pytest.raises(WrongUse, match=wanted):
        submit.jobs(own, SITE, nodes=3)
    with pytest.raises(WrongUse, match="BPO_GPUS_PER_NODE is 'eight'"):
        submit.jobs(own, SITE | {"BPO_GPUS_PER_NODE": "eight"})


def test_the_sites_options_reach_every_job_and_its_own_kind(own):
    there = SITE | {"BPO_SBATCH": "--account=a --qos=q", "BPO_SBATCH_INFER": "--time=9", "BPO_GPUS_PER_NODE": "0"}
    chosen = {job.step: job.options for job in submit.jobs(own, there)}
    for step in ("data", "train", "verdicts", "figure"):
        assert chosen[step][-2:] == ("--account=a", "--qos=q")
    assert chosen["answers"] == ("--array=0-3", "--gpus-per-node=0", "--account=a", "--qos=q", "--time=9")
    assert "--gpus-per-node=0" in chosen["train"] and "--gpus-per-node=0" not in chosen["verdicts"]


def test_a_grid_is_an_array_over_its_points(own, slurm, capsys):
    grid = SLURM / "grid_example.yaml"
    assert bpo_submit(f"--grid={grid}") == 0
    sent = slurm.read_text().splitlines()[-1].split()
    assert "--array=0-5" in sent and "--job-name=bpo-grid-mini" in sent and sent[-1] == "slurm/papermill.sbatch"
    assert any(word.endswith(f",GRID={grid}") for word in sent)
    with pytest.raises(WrongUse, match="comma"):
        submit.grid_job(paths.ROOT / "a,b.yaml", 1, "mini", SITE)


@pytest.mark.parametrize(
    "options", [["--nodes=0"], ["--shards=x"], ["--from=notebook"], ["--grid=a", "--profile=b"], []]
)
def test_a_wrong_call_says_so(options, capsys):
    with pytest.raises(SystemExit):
        bpo_submit(*(["--profile=mini", *options] if options and "--grid=a" not in options else options))
    assert "error:" in capsys.readouterr().err
