import shutil
from importlib import metadata

import pytest

from bpo_utils import cli, doctor, paths

SECRET = "sk-not-for-any-eye"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    for name in (*doctor.KEYS.values(), "BPO_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BPO_RUNS_DIR", str(tmp_path / "not/yet/there"))
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "MINI_MODELS", tmp_path / "models")
    monkeypatch.setattr(shutil, "which", lambda name: None)


def by_name():
    return {check.name: check for check in doctor.examine()}


def test_everything_is_looked_at():
    found = by_name()
    expected = {"Python", "cores", "memory", "disk", "GPU", "packages", "srun", "sbatch", "deepspeed"}
    assert expected | set(doctor.KEYS.values()) == set(found)
    assert found["Python"].ok and found["disk"].found.endswith("not/yet/there")
    assert found["sbatch"].ok is None and found["sbatch"].found.startswith("absent")


def test_a_key_is_present_or_absent_and_never_shown(monkeypatch, capsys):
    assert by_name()["OPENAI_API_KEY"].found.startswith("absent")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert by_name()["OPENAI_API_KEY"].found == "present"
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert SECRET not in told and "OPENAI_API_KEY" in told


def test_an_old_python_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 0))
    assert by_name()["Python"].ok is False and "3.11" in by_name()["Python"].advice


def test_little_memory_and_disk(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED_DISK_GIB", 10**9)
    monkeypatch.setattr(doctor, "NEEDED_MEMORY_GIB", 10**9)
    assert (by_name()["disk"].ok, by_name()["memory"].ok) == (False, False)
    assert "BPO_RUNS_DIR" in by_name()["disk"].advice


def test_packages_are_compared_with_the_lock(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "# made by a tool\n--extra-index-url https://example.org\n"
        f"pyyaml=={metadata.version('pyyaml')} \\\n    --hash=sha256:00\n"
        "pytest==0.1  # via nothing\nno-such-package==1.0\nno-such-either==1.0 ; python_version < '3'\n"
    )
    assert doctor.differing(lock) == [
        f"pytest {metadata.version('pytest')} instead of ==0.1",
        "no-such-package is missing",
    ]
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert by_name()["packages"].ok is False and by_name()["packages"].advice == doctor.INSTALL
    lock.write_text("garbage ==\n")
    with pytest.raises(ValueError, match="cannot read the line 'garbage =='"):
        doctor.differing(lock)


def test_a_local_build_of_a_pinned_version_is_the_pinned_version(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==2.13.0\n")
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cpu")
    assert doctor.differing(lock) == []


def test_what_each_profile_can_do_here(monkeypatch):
    here = {each.name: each for each in doctor.profiles_here()}
    assert here["mini"].mend == [doctor.BUILD] and "weak" in here["mini"].missing[0]
    assert {"OPENAI_API_KEY", "ZHIPUAI_API_KEY", "sbatch"} <= set(here["paper"].missing)
    assert here["recorded"].missing == ["the recorded files"] and "BPO_DATA_DIR" in here["recorded"].mend[0]

    for name in ("base", "weak", "middle", "strong", "judge"):
        (paths.MINI_MODELS / name).mkdir(parents=True)
        (paths.MINI_MODELS / name / "model.safetensors").touch()
    monkeypatch.setenv("BPO_DATA_DIR", "somewhere")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    here = {each.name: each for each in doctor.profiles_here()}
    assert here["mini"].missing == here["recorded"].missing == []
    assert "OPENAI_API_KEY" not in here["paper"].missing
    assert "ready: bpo run --profile mini" in doctor.report()
