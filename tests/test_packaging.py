"""The files that describe the installation agree with each other and with the code; `make` fails in one clear sentence.

Nothing is installed here: the setup runs with a stand-in for Python that writes down what it was asked to do.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bpo_utils import paths

ROOT = paths.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
FURTHER = ("requirements-training.txt", "requirements-rlhf.txt")  # what make training and make rlhf install
TRAINING = [line for name in FURTHER for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
ADDED = dict(line.split("==") for line in TRAINING if not line.startswith("#"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
SETUP = (ROOT / "tools" / "setup.sh").read_text(encoding="utf-8")
BASE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {k: [Requirement(x) for x in v] for k, v in PROJECT["project"]["optional-dependencies"].items()}
PINS = [Requirement(line.split("  #")[0]) for line in LOCK.splitlines() if line and not line.startswith("#")]
COURSE_LIBRARIES = [
    "jupyterlab",
    "papermill",
    "torch",
    "transformers",
    "datasets",
    "openai",
    "zhipuai",
    "matplotlib",
    "seaborn",
]
CUDA = ("nvidia-", "cuda-", "triton")
OTHER_NAMES = {"yaml": "pyyaml", "_pytest": "pytest", "sklearn": "scikit-learn", "pypandoc": "pypandoc-binary"}
HEAVY = {
    "IPython",
    "accelerate",
    "datasets",
    "deepspeed",
    "httpx2",
    "huggingface_hub",
    "jupyter_client",
    "matplotlib",
    "nbclient",
}
HEAVY |= {"aiolimiter", "anyio", "openai", "pandas", "papermill", "scipy", "seaborn", "statsmodels", "tenacity"}
HEAVY |= {"datasketch", "peft", "py3langid", "sacrebleu", "tokenizers", "torch", "transformers", "trl"}
HEAVY |= {"gymnasium", "minigrid", "pypandoc", "typst", "zhipuai"}


def pinned(name: str, python: str, system: str) -> str | None:
    """The version that the lock gives a package on one Python and system; None if it is not installed there."""
    where = {"python_version": python.rsplit(".", 1)[0], "python_full_version": python, "sys_platform": system}
    where |= {"implementation_name": "cpython", "platform_machine": "arm64", "os_name": "posix"}
    found = [
        next(iter(pin.specifier)).version
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(name) and (not pin.marker or pin.marker.evaluate(where))
    ]
    assert len(found) <= 1, f"{name} is pinned to {found} on Python {python}"
    return found[0] if found else None


# --- the three files agree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11.2", "3.11.9", "3.12.4", "3.13.0", "3.14.0"])
def test_every_dependency_is_pinned_within_its_bounds(python, system):
    for wanted in BASE + EXTRAS["test"]:
        version = pinned(wanted.name, python, system)
        assert version and version in wanted.specifier, f"{wanted} on Python {python}, {system}: the lock has {version}"
    (builder,) = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    assert pinned(builder.name, python, system) in builder.specifier  # the setup builds without isolation


def test_the_lock_holds_exact_versions_and_nothing_local():
    for pin in PINS:
        assert [one.operator for one in pin.specifier] == ["=="] and "*" not in str(pin.specifier), pin
        assert pin.url is None and not pin.name.startswith(CUDA), pin
    comments = [line for line in LOCK.splitlines() if line.startswith("#")]
    assert not [line for line in comments if re.search(r"(/\w+){2}|://|--index|--find", line)]
    assert "uv pip compile pyproject.toml -o requirements.lock" in comments[1]


def test_torch_is_the_same_exact_version_everywhere():
    (torch,) = [wanted for wanted in BASE if wanted.name == "torch"]
    assert str(torch.specifier) == "==2.13.0"
    assert pinned("torch", "3.11.9", "linux") == pinned("torch", "3.14.0", "darwin") == "2.13.0"
    assert "torch 2.13.0" in SETUP


def test_python_versions_agree():
    oldest, newest = (int(re.search(rf"^{name}=(\d+)", SETUP, re.MULTILINE)[1]) for name in ("OLDEST", "NEWEST"))
    assert PROJECT["project"]["requires-python"] == f">=3.{oldest}"
    assert PROJECT["tool"]["uv"]["pip"]["python-version"] == f"3.{oldest}"
    assert f"python>=3.{oldest},<3.{newest + 1}" in ENVIRONMENT["dependencies"]
    assert f"Python 3.{oldest} to 3.{newest}" in LOCK
    assert f"Python 3.{oldest} to 3.{newest}" in (ROOT / "Makefile").read_text(encoding="utf-8")
    tried = re.search(r"set -- python3 (.*)", SETUP)[1].split()
    assert tried == [f"python3.{minor}" for minor in range(newest, oldest - 1, -1)]


def test_conda_takes_the_same_lock():
    assert ENVIRONMENT["dependencies"][1:] == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]


def test_the_libraries_of_the_course_are_declared_and_deepspeed_is_optional():
    names = {wanted.name for wanted in BASE}
    assert set(COURSE_LIBRARIES) <= names
    assert "deepspeed" not in names and [wanted.name for wanted in EXTRAS["deepspeed"]] == ["deepspeed"]
    assert pinned("deepspeed", "3.11.9", "linux") is None


def test_what_training_adds_is_pinned_and_declared():
    for wanted in [*EXTRAS["deepspeed"], *EXTRAS["lora"], *EXTRAS["rlhf"]]:
        assert wanted.specifier.contains(ADDED[wanted.name])
    assert not ADDED.keys() & {pin.name for pin in PINS}


def test_what_is_installed_is_what_the_lock_says():
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("this Python is not the .venv that make made")
    python = ".".join(map(str, sys.version_info[:3]))
    for package in metadata.distributions():
        name, version = canonicalize_name(package.name), package.version.split("+")[0]
        if name in ("pip", "bpo-utils"):
            continue
        if name.startswith(CUDA):
            assert "+cpu" not in metadata.version("torch"), f"a CPU build of torch does not need {name}"
        else:
            wanted = pinned(name, python, sys.platform) or ADDED.get(name)
            assert version == wanted, f"{name} {version} is installed"


# --- the code uses what is declared ----------------------------------------------------------------------------------


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """First parts of the names of the modules that a file imports, standard library and own package left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        pending += ast.iter_child_nodes(node)
    own = {"bpo_utils"} | {other.stem for folder in (path.parent, ROOT / "benchmarks") for other in folder.glob("*.py")}
    return names - set(sys.stdlib_module_names) - own


@pytest.mark.parametrize("folder", ["bpo_utils", "tests"])
def test_every_imported_library_is_declared(folder):
    declared = {canonicalize_name(wanted.name) for wanted in BASE}
    extras = ["deepspeed", "lora", "rlhf", "alpaca-eval"] if folder == "bpo_utils" else ["test", "rlhf"]
    declared |= {canonicalize_name(wanted.name) for extra in extras for wanted in EXTRAS[extra]}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name in imports(path):
            assert canonicalize_name(OTHER_NAMES.get(name, name)) in declared, f"{paths.shown(path)} imports {name}"


def test_heavy_libraries_are_imported_inside_functions():
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        assert not imports(path, top_level_only=True) & HEAVY, f"{paths.shown(path)}: import it where it is used"


def test_the_command_starts_without_heavy_libraries():
    program = f"""
import sys
import bpo_utils, bpo_utils.cli, bpo_utils.profile
print(*sorted(sys.modules.keys() & {HEAVY | {"numpy"}!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_all_data_of_the_package_are_installed_with_it():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["bpo_utils"]
    covered = {path for pattern in patterns for path in paths.PACKAGE.glob(pattern)}
    files = {path for path in paths.PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    code = {path for path in files if path.suffix == ".py" and (path.parent / "__init__.py").exists()}
    assert files - code - covered == set()


def test_the_licence_is_apache_2():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text[:200] and "Version 2.0, January 2004" in text[:200] and len(text) > 10_000


def test_tests_cannot_reach_the_network_but_can_reach_this_machine(run_folder):
    for reach in (
        lambda: socket.create_connection(("example.org", 80)),
        lambda: socket.socket().connect(("192.0.2.1", 9)),
    ):
        with pytest.raises(AssertionError, match=r"example.org|192.0.2.1"):
            reach()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert paths.run_dir("mini") == run_folder / "mini" and paths.figures_dir() == run_folder.parent / "figures"


# --- make, with a stand-in for Python --------------------------------------------------------------------------------

TOOLS = [
    "make",
    "sh",
    "bash",
    "awk",
    "cat",
    "cksum",
    "cp",
    "df",
    "dirname",
    "find",
    "grep",
    "id",
    "mkdir",
    "rm",
    "uname",
]
STAND_IN = """#!/bin/sh
case "$*" in
    *sys.version_info*) echo "${FAKE_PYTHON:-3 11 Linux x86_64}" ;;
    *ensurepip*) exit "${FAKE_NO_VENV:-0}" ;;
    "-m venv .venv") echo venv >>asked; mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/bpo ;;
    *"-r requirements.lock") echo lock >>asked; echo "$FAKE_PIP_LOG" >.venv/pip.log; exit "${FAKE_PIP:-0}" ;;
    *"-e .") echo package >>asked; exit "${FAKE_PACKAGE:-0}" ;;
    "run --profile "* | "report --profile "*) echo "$*" >>asked ;;
    *) echo "unexpected: $*" >&2; exit 3 ;;
esac
"""
OLD = 'FAKE_PYTHON="3 9 Linux x86_64"\n'


class Course:
    """A folder with the files that make needs, and a PATH with a stand-in for Python and nothing else of note."""

    def __init__(self, folder: Path):
        self.root, self.bin = folder / "the course", folder / "bin"
        (self.root / "tools").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools/setup.sh"):
            shutil.copy(ROOT / name, self.root / name)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.program("python3", STAND_IN)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        (self.root / "asked").unlink(missing_ok=True)
        environment = {"PATH": str(self.bin), "PIP_FIND_LINKS": "x"} | environment
        command = ["make", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=60)

    def asked(self) -> list[str]:
        path = self.root / "asked"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def refuses(self, *said: str, **environment: str) -> None:
        """`make reproduce` fails with one sentence that holds all of `said`, and runs nothing."""
        done = self.make("reproduce", **environment)
        sentences = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert done.returncode != 0 and len(sentences) == 1 and sentences[0].startswith("setup: "), done.stderr
        for part in said:
            assert part in sentences[0]
        assert "run --profile" not in " ".join(self.asked())
        assert not (self.root / ".venv" / "ready").exists()


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path)


def test_first_call_installs_and_second_does_not(course):
    assert course.make("reproduce").returncode == 0
    assert course.asked() == ["venv", "lock", "package", "run --profile mini", "report --profile mini"]
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(course.root / name)  # a checkout changes times; what counts is the content
    assert course.make("reproduce", "PROFILE=recorded").returncode == 0
    assert course.asked() == ["run --profile recorded", "report --profile recorded"]
    assert course.make("reproduce-all").returncode == 0
    assert course.asked() == ["run --profile mini --all", "report --profile mini"]


def test_only_what_changed_is_installed_again(course):
    course.make("venv")
    with (course.root / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    course.make("venv")
    assert course.asked() == ["package"]
    (course.root / ".venv" / "left-over").touch()
    with (course.root / "requirements.lock").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    course.make("venv")
    assert course.asked() == ["venv", "lock", "package"]
    assert not (course.root / ".venv" / "left-over").exists()  # a package that is no longer pinned is gone


def test_a_half_made_venv_is_made_again(course):
    course.refuses("network", FAKE_PIP="1")
    assert (course.root / ".venv/bin/python").exists()
    assert course.make("venv").returncode == 0
    assert course.asked() == ["venv", "lock", "package"]
    (course.root / ".venv" / "ready").unlink()  # interrupted between the lock and the package
    course.make("venv")
    assert course.asked() == ["package"]


def test_a_venv_that_lost_its_python_or_was_copied_is_made_again(course):
    course.make("venv")
    (course.root / ".venv/bin/python").unlink()
    course.make("venv")
    assert course.asked() == ["venv", "lock", "package"]
    course.root = course.root.rename(course.root.with_name("moved"))
    course.make("venv")
    assert course.asked() == ["venv", "lock", "package"]


def test_wrong_python(course):
    course.refuses("python3 is Python 3.9", "3.11 to 3.14", "make PYTHON=", FAKE_PYTHON="3 9 Linux x86_64")
    course.refuses("python3 is Python 3.15", FAKE_PYTHON="3 15 Linux x86_64")
    course.refuses("python3 is Python 2.7", FAKE_PYTHON="2 7 Linux x86_64")
    course.refuses("Intel Macs", FAKE_PYTHON="3 12 Darwin x86_64")
    assert course.make("venv", FAKE_PYTHON="3 14 Darwin arm64").returncode == 0


def test_no_python_at_all(course):
    (course.bin / "python3").unlink()
    course.refuses("python3 is not installed", "install or mend one")
    course.program("python3", "#!/bin/sh\nexit 1\n")
    course.refuses("python3 does not run")


def test_another_python_is_found_or_named(course):
    course.program("python3", STAND_IN.replace("case", OLD + "case", 1))
    course.program("python3.12", STAND_IN)
    assert "python3.12" in course.make("venv").stdout
    shutil.rmtree(course.root / ".venv")
    (course.bin / "python3.12").rename(course.bin / "my python")
    assert "my python" in course.make("venv", f"PYTHON={course.bin}/my python").stdout
    shutil.rmtree(course.root / ".venv")
    course.refuses("nosuch is not installed", PYTHON="nosuch")


def test_python_without_venv(course):
    course.refuses("lacks its venv module", "apt install python3.11-venv", FAKE_NO_VENV="1")


def test_full_disk_before_and_while_installing(course):
    course.refuses("is full", "TMPDIR", FAKE_PIP="1", FAKE_PIP_LOG="OSError: [Errno 28] No space left on device")
    (course.bin / "df").unlink()
    header = "Filesystem 1024-blocks Used Available Capacity Mounted on"
    course.program("df", f"#!/bin/sh\necho '{header}'\necho 'a disk 99999999 1 4100000 99% /a mount'\n")
    course.refuses("only 3 GB", "4 GB are needed")
    assert course.asked() == []
    course.program("df", f"#!/bin/sh\necho '{header}'\necho 'a disk 99999999 1 5300000 99% /a mount'\n")
    assert course.make("venv").returncode == 0
    shutil.rmtree(course.root / ".venv")
    if sys.platform == "linux":  # where PyPI's torch brings CUDA
        course.refuses("only 5 GB", "10 GB are needed", "whl/cpu", PIP_FIND_LINKS="")


def test_package_that_cannot_be_installed(course):
    course.refuses("pyproject.toml", FAKE_PACKAGE="1")


def test_bare_make_prints_each_target_in_one_line(course):
    done = course.make()
    lines = done.stdout.splitlines()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(line.split()[1] for line in lines) == sorted(targets)
    assert all(re.match(r"make [\w-]+ +\w", line) for line in lines) and max(map(len, lines)) <= 120
    assert course.asked() == []


def test_make_test_lints_first(course):
    commands = course.make("-n", "test").stdout
    order = ["setup.sh", "ruff check", "ruff format --check", "nbstripout --verify", "bpo_utils.checks", "pytest"]
    assert [commands.index(part) for part in order] == sorted(commands.index(part) for part in order)


def test_clean_removes_runs_and_leaves_what_costs_time(course):
    kept = [".venv/x", "figures/x.png", "build/mini/x", "notebooks/x.ipynb"]
    gone = ["runs/mini/x", "build/lib/x", "bpo_utils/__pycache__/x", "tests/__pycache__/x", ".ruff_cache/x"]
    for name in [*kept, *gone, "benchmarks/x"]:
        (course.root / name).parent.mkdir(parents=True, exist_ok=True)
        (course.root / name).touch()
    assert course.make("clean").returncode == 0
    assert [(course.root / name).exists() for name in kept] == [True] * len(kept)
    assert [(course.root / name).exists() for name in gone] == [False] * len(gone)
    assert course.make("distclean").returncode == 0
    assert not (course.root / ".venv").exists() and not (course.root / "build").exists()


def test_ci_calls_make_test_with_the_recorded_data_where_they_are(course):
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (course.root / ".ci").mkdir()
    (course.root / ".ci" / "run").write_text(script, encoding="utf-8")
    (course.bin / "make").unlink()
    course.program("make", '#!/bin/sh\necho "made $* with $BPO_DATA_DIR"\nexit "${FAKE_MAKE:-0}"\n')

    def ci(**more: str) -> subprocess.CompletedProcess:
        command, env = ["bash", str(course.root / ".ci" / "run")], {"PATH": str(course.bin)} | more
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    assert ci().stdout.endswith("made test with \n")
    data = (course.root / re.search(r"\.\./[\w/]+", script)[0]).resolve()
    data.mkdir(parents=True)
    assert ci().stdout.endswith(f"made test with {data}\n")
    assert ci(BPO_DATA_DIR="elsewhere").stdout.endswith("made test with elsewhere\n")
    assert ci(FAKE_MAKE="2").returncode == 2


def test_requires_python_admits_debian_12():
    assert "3.11.2" in SpecifierSet(PROJECT["project"]["requires-python"])
