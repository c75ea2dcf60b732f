import os
import signal
import subprocess

import psutil
import pytest
from made_notebooks import PARAMETERS, START, Signpost, chain, command, process_environment, started, write_notebook

from bpo_utils import cli, grid, ledger, records
from bpo_utils.notebook import WrongUse

GOOD = "name: lr\nnotebook: 03\nprofile: mini\nparameters: {rate: [1e-4, 0.5], seed: [1, 2]}\n"
TYPED = PARAMETERS + "\nrate: float = 0.1\nseed: int = 1"


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A notebook 03 that reads what 01 wrote, and writes its parameters; seed 2 fails."""
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("BPO_FIGURES_DIR", str(tmp_path / "figures"))
    folder = chain(tmp_path / "notebooks")
    cell = START + (
        "found = records.read_json(run / '01_data/seed.json')\n"
        "records.write_json(paths.figures_dir() / 'x.json', [found, rate, seed])\n"
        "assert seed != 2, 'two is not wanted'"
    )
    write_notebook(
        folder / "03_last.ipynb", cell, reads=["01_data/seed.json"], writes=["figures/x.json"], parameters=TYPED
    )
    records.write_json(tmp_path / "runs/mini/01_data/seed.json", 7)
    (tmp_path / "grid.yaml").write_text(GOOD)
    return tmp_path


def test_the_points_come_in_a_fixed_order_and_keep_their_folders(course):
    loaded = grid.load(course / "grid.yaml", course / "notebooks")
    assert [tuple(point.values()) for point in loaded.points] == [(1e-4, 1), (1e-4, 2), (0.5, 1), (0.5, 2)]
    (course / "grid.yaml").write_text(GOOD.replace("[1, 2]", "[0, 1, 2]"))
    longer = grid.load(course / "grid.yaml", course / "notebooks")
    assert longer.place(1) == loaded.place(0)
    assert loaded.place(0).run.parent == course / "runs/mini/grid/lr"


def test_all_points_run_and_are_skipped_when_up_to_date(course):
    env = process_environment(course / "runs")
    call = command("grid", course / "grid.yaml", "--jobs", 2, "--notebooks", course / "notebooks")
    first = subprocess.run(call, env=env, capture_output=True, encoding="utf-8", timeout=60)
    assert first.returncode == 1, first.stderr
    lines = sorted(line.split("  ") for line in first.stdout.splitlines() if line.startswith("lr "))
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("lr 1/4", "rate=0.0001 seed=1", "done"),
        ("lr 2/4", "rate=0.0001 seed=2", "failed"),
        ("lr 3/4", "rate=0.5 seed=1", "done"),
        ("lr 4/4", "rate=0.5 seed=2", "failed"),
    ]
    assert "AssertionError: two is not wanted" in first.stdout
    point = grid.load(course / "grid.yaml", course / "notebooks").place(2)
    assert records.read_json(point.figures / "x.json") == [7, 0.5, 1]
    assert not (course / "runs/mini/ledger.jsonl").exists() and not (course / "figures").exists()

    (course / "grid.yaml").write_text(GOOD.replace("[1, 2]", "[1]"))
    second = subprocess.run(call, env=env, capture_output=True, encoding="utf-8", timeout=60)
    assert second.returncode == 0 and second.stdout.count("up to date") == 2


def test_one_task_as_a_slurm_array_calls_it(course, monkeypatch, capsys):
    call = ["grid", str(course / "grid.yaml"), "--notebooks", str(course / "notebooks"), "--task"]
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert cli.main([*call, "slurm"]) == 2
    assert "SLURM_ARRAY_TASK_ID is not set" in capsys.readouterr().err
    assert cli.main([*call, "4"]) == 2
    assert "tasks 0 to 3" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert cli.main([*call, "slurm"]) == 0
    assert capsys.readouterr().out.startswith("lr 3/4  ")
    place = grid.load(course / "grid.yaml", course / "notebooks").place(2)
    assert [entry.parameters["rate"] for entry in ledger.read(place.run)] == [0.5]
    records.write_json(course / "runs/mini/01_data/seed.json", 8)  # another input: the point is out of date
    assert cli.main([*call, "slurm"]) == 0
    assert records.read_json(place.figures / "x.json")[0] == 8


def test_a_missing_input_is_told_before_anything_starts(course, capsys):
    os.remove(course / "runs/mini/01_data/seed.json")
    assert cli.main(["grid", str(course / "grid.yaml"), "--notebooks", str(course / "notebooks")]) == 2
    assert "01_seed writes it: bpo run --profile mini --from 01" in capsys.readouterr().err
    assert not (course / "runs/mini/grid").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "is not YAML"),
        ("3", "a grid is: name"),
        (GOOD.replace("parameters", "parametres"), "unknown key 'parametres' (did you mean 'parameters'?)"),
        (GOOD.replace("name: lr\n", ""), "name is missing"),
        (GOOD.replace("lr", "a/b"), "becomes a folder"),
        (GOOD.replace("mini", "minni"), "did you mean 'mini'"),
        (GOOD.replace("03", "'09'"), "there is no notebook 09; there are 01, 02, 03"),
        (GOOD.replace("[1, 2]", "1"), "seed is 1; give a list"),
        (GOOD.replace("[1, 2]", "[]"), "seed is []; give a list"),
        (GOOD.replace("[1, 2]", "[1, 1]"), "comes twice"),
        (GOOD.replace("[1, 2]", "[1, x]"), "seed must be int"),
        (GOOD.replace("rate", "rat"), "did you mean 'rate'"),
        (GOOD.replace("{rate: [1e-4, 0.5], seed: [1, 2]}", ""), "parameters is None"),
    ],
)
def test_a_bad_grid_file_is_refused(course, text, told):
    (course / "grid.yaml").write_text(text)
    with pytest.raises(WrongUse) as caught:
        grid.load(course / "grid.yaml", course / "notebooks")
    assert told in str(caught.value)


def test_a_stopped_grid_ends_its_points(course):
    signpost = Signpost(course)
    write_notebook(course / "notebooks/03_last.ipynb", signpost.cell, parameters=TYPED)
    call = command("grid", course / "grid.yaml", "--jobs", 1, "--notebooks", course / "notebooks")
    with started(call, process_environment(course / "runs")) as running:
        kernel = psutil.Process(signpost.wait())
        running.send_signal(signal.SIGTERM)  # as a batch system does; the point gets what Ctrl-C sends
        assert running.communicate(timeout=60)[1] == "bpo: interrupted\n" and running.returncode == 130
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    point = grid.load(course / "grid.yaml", course / "notebooks").place(0)
    assert [entry.status for entry in ledger.read(point.run)] == ["interrupted"]
