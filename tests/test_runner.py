import errno
import os

import psutil
import pytest
from made_notebooks import PARAMETERS, START, chain, short_profile, write_notebook

from bpo_utils import kernel, ledger, records, runner
from bpo_utils.notebook import Place, WrongUse


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("BPO_FIGURES_DIR", str(tmp_path / "figures"))
    monkeypatch.delenv("BPO_RUN_DIR", raising=False)
    monkeypatch.setattr(ledger, "code_hash", lambda: "0" * 64)
    yield Place(tmp_path / "runs" / "mini", tmp_path / "figures")
    assert not [child for child in psutil.Process().children() if "ipykernel" in " ".join(child.cmdline())]


def test_only_what_changed_runs_again(place, tmp_path, monkeypatch, capsys):
    folder = chain(tmp_path / "notebooks")

    def states(**options):
        return list(runner.run(short_profile(), notebooks_dir=folder, **options).values())

    assert states() == ["done", "done", "done"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["01_seed", "done"], ["02_odd", "done"], ["03_last", "done"]]
    assert lines[1].endswith("wrote 02_pairs (1 file)")
    entry = ledger.read(place.run)[1]
    assert entry.inputs == {"01_data/seed.json": ledger.digest(place.find("01_data/seed.json"))}
    assert entry.outputs == {"02_pairs/": ledger.digest(place.find("02_pairs"))}
    assert (entry.parameters, entry.error, entry.pid) == ({"profile": "mini"}, None, os.getpid())
    assert entry.started <= entry.ended and entry.versions["papermill"]

    assert states() == ["up to date"] * 3
    assert len(ledger.read(place.run)) == 3
    # 3 is odd like 1: the second notebook runs and writes the same, so the third need not
    assert states(parameters={"seed": 3}) == ["done", "done", "up to date"]
    assert states(parameters={"seed": 3}, only="01", force=True) == ["done"]
    assert states(parameters={"seed": 3}) == ["up to date"] * 3
    monkeypatch.setattr(ledger, "code_hash", lambda: "1" * 64)
    assert states(start="3") == ["done"]
    assert runner.why_run(runner.find(folder)[0], {"profile": "mini", "seed": 3}, place) == "the package code changed"


def test_further_experiments_run_only_when_asked_for(place, tmp_path, capsys):
    folder = chain(tmp_path / "notebooks")
    profile = short_profile("01", "02", further=["03"])
    assert list(runner.run(profile, notebooks_dir=folder)) == ["01_seed", "02_odd"]
    assert "03_last" not in capsys.readouterr().out
    assert list(runner.run(profile, notebooks_dir=folder, start="02")) == ["02_odd"]
    assert runner.run(profile, notebooks_dir=folder, further=True)["03_last"] == "done"
    assert runner.run(profile, notebooks_dir=folder, only="03", force=True) == {"03_last": "done"}
    assert runner.run(profile, notebooks_dir=folder, start="03", force=True) == {"03_last": "done"}


def test_changed_or_missing_outputs_are_made_again(place, tmp_path):
    folder = chain(tmp_path / "notebooks")
    runner.run(short_profile("01"), notebooks_dir=folder)
    first = runner.find(folder)[0]
    values = {"profile": "mini", "seed": 1}
    output, executed = place.find("01_data/seed.json"), runner.executed_path(first, place)
    assert "injected-parameters" in executed.read_text()
    assert runner.why_run(first, values, place) == ""
    output.write_text("2")
    assert runner.why_run(first, values, place) == "01_data/seed.json changed"
    output.unlink()
    assert runner.why_run(first, values, place) == "01_data/seed.json is missing"
    output.write_text("1\n")
    assert runner.why_run(first, values, place) == ""
    executed.unlink()
    assert runner.why_run(first, values, place) == "the executed notebook is missing"


def fail(place, tmp_path, *cells, parameters=None, **changes):
    """Run one notebook that fails; returns its ledger line."""
    write_notebook(tmp_path / "notebooks/01_a.ipynb", *cells)
    states = runner.run(short_profile("01", **changes), notebooks_dir=tmp_path / "notebooks", parameters=parameters)
    (entry,) = ledger.read(place.run)
    assert states == {"01_a": entry.status}
    return entry


def test_an_error_in_a_cell(place, tmp_path, capsys):
    entry = fail(place, tmp_path, "print(1)", "# The sum\n\nwords", "1 / 0", "open('never', 'w')")
    assert entry.status == "failed"
    assert {key: entry.error[key] for key in ("cell", "heading", "name", "message")} == {
        "cell": 5,
        "heading": "The sum",
        "name": "ZeroDivisionError",
        "message": "division by zero",
    }
    told = capsys.readouterr().out
    for words in ("The sum (cell 5)", "ZeroDivisionError: division by zero", "01_a.ipynb", "bpo run --profile mini"):
        assert words in told
    assert not (tmp_path / "notebooks/never").exists()


def test_a_killed_kernel(place, tmp_path):
    entry = fail(place, tmp_path, "# The end", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (entry.status, entry.error["heading"], entry.error["name"]) == ("killed", "The end", "DeadKernelError")


def test_a_cell_that_takes_too_long(place, tmp_path):
    entry = fail(place, tmp_path, "import threading\nthreading.Event().wait()", cell_timeout_s=1)
    assert (entry.status, entry.error["cell"]) == ("timeout", 3)
    assert "1 s" in entry.error["message"]


def test_leaving_early_is_not_success(place, tmp_path):
    entry = fail(place, tmp_path, "import sys\nsys.exit(0)")
    assert (entry.status, entry.error["name"]) == ("failed", "SystemExit")


def test_a_declared_output_must_be_written_in_this_run(place, tmp_path):
    declared = ["01_data/a.json", "figures/b.png"]
    write_notebook(
        tmp_path / "notebooks/01_a.ipynb", START + "records.write_json(run / '01_data/a.json', 1)", writes=declared
    )
    records.write_json(place.find("figures/b.png"), "of an earlier run")
    assert runner.run(short_profile("01"), notebooks_dir=tmp_path / "notebooks") == {"01_a": "failed"}
    (entry,) = ledger.read(place.run)
    assert "written figures/b.png, which" in entry.error["message"]
    assert list(entry.outputs) == ["01_data/a.json"]


def test_nothing_starts_after_a_wrong_call(place, tmp_path):
    folder = chain(tmp_path / "notebooks")
    for options, told in [
        ({"parameters": {"sed": 1}}, "did you mean 'seed'"),
        ({"parameters": {"seed": "one"}}, "seed must be int in 01_seed.ipynb"),
        ({"only": "07"}, "profile mini has the notebooks 01, 02, 03"),
        ({"start": "x"}, "--from x"),
        ({"only": "02"}, "01_seed writes it: bpo run --profile mini --from 01"),
    ]:
        with pytest.raises(WrongUse, match=told):
            runner.run(short_profile(), notebooks_dir=folder, **options)
    assert not ledger.path_of(place.run).exists()


def test_a_corrupt_input_fails_alone_and_is_healed_by_a_full_run(place, tmp_path):
    folder = chain(tmp_path / "notebooks")
    profile = short_profile()
    runner.run(profile, notebooks_dir=folder, only="01")
    place.find("01_data/seed.json").write_text('{"half')
    assert runner.run(profile, notebooks_dir=folder, start="02") == {"02_odd": "failed"}  # and 03 did not start
    entry = ledger.latest(place.run)["02_odd"]
    assert entry.error["name"] == "ValueError" and "seed.json, line 1: not JSON" in entry.error["message"]
    assert list(runner.run(profile, notebooks_dir=folder).values()) == ["done", "done", "done"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_at_the_end_leaves_running_which_becomes_interrupted(place, tmp_path, monkeypatch, broken):
    folder = chain(tmp_path / "notebooks")
    real, calls = getattr(os, broken), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 2:  # the lock's holder and the line that says running still fit
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="still says running.*bpo run --profile mini.*No space left"):
        runner.run(short_profile("01"), notebooks_dir=folder)
    assert [entry.status for entry in ledger.read(place.run)] == ["running"]
    monkeypatch.setattr(os, broken, real)
    assert runner.run(short_profile("01"), notebooks_dir=folder) == {"01_seed": "done"}
    assert [entry.status for entry in ledger.read(place.run)] == ["interrupted", "done"]


def test_a_full_disk_at_the_start_starts_nothing(place, tmp_path, monkeypatch):
    folder = chain(tmp_path / "notebooks")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not write .*No space left"):
        runner.run(short_profile("01"), notebooks_dir=folder)
    assert not (place.run / "notebooks").exists()


def test_a_kernel_that_does_not_start_gets_a_second_chance(place, tmp_path, monkeypatch):
    folder = chain(tmp_path / "notebooks")
    real, tries = kernel._answered, []

    async def answered(manager):
        tries.append(manager)
        if len(tries) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        await real(manager)

    monkeypatch.setattr(kernel, "_answered", answered)
    assert runner.run(short_profile("01"), notebooks_dir=folder) == {"01_seed": "done"}
    assert len(tries) == 2

    async def never(manager):
        tries.append(manager)
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(kernel, "_answered", never)
    assert runner.run(short_profile("01"), notebooks_dir=folder, force=True) == {"01_seed": "failed"}
    assert len(tries) == 4
    assert ledger.latest(place.run)["01_seed"].error["cell"] is None

    monkeypatch.setattr(kernel, "_answered", real)
    monkeypatch.setattr(kernel, "START_TIMEOUT_S", 20)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ipykernel_launcher.py").write_text("raise ImportError('no kernel here')")
    assert runner.run(short_profile("01"), notebooks_dir=folder, force=True) == {"01_seed": "failed"}
    assert "ImportError: no kernel here" in ledger.latest(place.run)["01_seed"].error["last_lines"]


def test_what_a_kernel_finds_in_its_environment(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("BPO_DATA_DIR", "somewhere")
    monkeypatch.setenv("BPO_RUN_DIR", "elsewhere")
    env = kernel.environment(place, short_profile())
    assert "MPLBACKEND" not in env and "BPO_RUN_DIR" not in env
    assert env["BPO_DATA_DIR"] == os.path.abspath("somewhere")
    assert kernel.ALLOCATOR.items() <= env.items()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert kernel.environment(place, short_profile())["MALLOC_TRIM_THRESHOLD_"] == "1"  # the user's own wish counts
    assert (env["BPO_HEADLESS"], env["TOKENIZERS_PARALLELISM"], env["HF_HUB_OFFLINE"]) == ("1", "false", "1")
    point = Place(tmp_path / "point", tmp_path / "point/figures")
    assert kernel.environment(point, short_profile())["BPO_RUN_DIR"] == str(point.run)
    check = "import os\nassert os.environ['BPO_HEADLESS'] == '1' and os.getcwd() == " + repr(
        str(tmp_path / "notebooks")
    )
    monkeypatch.delenv("BPO_RUN_DIR")
    write_notebook(tmp_path / "notebooks/01_a.ipynb", check)
    assert runner.run(short_profile("01"), notebooks_dir=tmp_path / "notebooks") == {"01_a": "done"}


def test_the_reason_to_stop_is_told_at_the_end(place, tmp_path, capsys):
    write_notebook(tmp_path / "notebooks/01_a.ipynb", parameters=PARAMETERS)
    runner.run(short_profile("01", stops_because="Next would come a GPU."), notebooks_dir=tmp_path / "notebooks")
    assert capsys.readouterr().out.splitlines()[-1] == "Next would come a GPU."


def test_a_broken_ledger_is_named(place):
    ledger.path_of(place.run).parent.mkdir(parents=True)
    ledger.path_of(place.run).write_text('{"id": 1}\n')
    with pytest.raises(WrongUse, match="ledger.jsonl, line 1 is not a line of a ledger"):
        ledger.read(place.run)


def test_the_hash_of_a_folder_sees_names_and_content(tmp_path):
    assert ledger.digest(tmp_path / "none") is None
    (tmp_path / "f").mkdir()
    assert ledger.digest(tmp_path / "f") is None
    (tmp_path / "f/a").write_text("1")
    one = ledger.digest(tmp_path / "f")
    (tmp_path / "f/a").rename(tmp_path / "f/b")
    two = ledger.digest(tmp_path / "f")
    (tmp_path / "f/b").write_text("2")
    assert len({one, two, ledger.digest(tmp_path / "f")}) == 3


def test_an_input_that_no_notebook_of_the_profile_writes_counts_only_if_it_is_there(place, tmp_path):
    everything = runner.find(chain(tmp_path / "notebooks"))
    assert everything[1].reads == ("01_data/seed.json",)
    without = runner.of_profile(short_profile("02"), everything, place)
    assert [(each.number, each.reads) for each in without] == [("02", ())]
    assert runner.of_profile(short_profile("01", "02"), everything, place)[1].reads == ("01_data/seed.json",)
    records.write_json(place.find("01_data/seed.json"), 1)
    assert runner.of_profile(short_profile("02"), everything, place)[0].reads == ("01_data/seed.json",)
