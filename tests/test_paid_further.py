"""The whole notebook 07 with its models behind APIs: the cap, and a replay without a key that gives the same results.

The answer models, the judges and the teacher are a local server that speaks OpenAI's and Zhipu's protocol; the
rewriters are real and tiny. The steps build on each other, in one folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import fake_api
import pytest
import yaml

from bpo_utils import paths, records

KEY = "sk-planted-4f1d7c9e"
TEACHER = "Thoughts: it is short.\n\nOptimized Instruction: Explain the subject in detail, with an example. [END]"
LIMIT_S = 300
PAIRS = 8


def write_profile(folder: Path, api: fake_api.FakeApi) -> None:
    """The smoke profile with other models, and as few pairs and questions as there can be."""
    openai = {"provider": "openai", "base_url": api.url, "price": {"input": 10.0, "output": 20.0}}
    zhipu = {"provider": "zhipu", "base_url": api.zhipu_url, "price": {"input": 1.0, "output": 1.0}}
    values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    values |= {
        "name": "paid",
        "label": "paid test",
        "answer_models": [{"name": name, "model": name, **openai} for name in ("small", "large")],
        "judges": [{"name": "gpt-4o", "model": "gpt-4o", **openai}, {"name": "glm-4", "model": "glm-4", **zhipu}],
        "answering": {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 60, "batch_size": 8, "seed": 1},
        "judging": {"max_new_tokens": 60},
        "limits": {name: {"requests_per_minute": 60000, "tokens_per_minute": 10**8} for name in ("openai", "zhipu")},
    }
    values["rewriting"]["max_new_tokens"] = 24
    teacher = {"model": "teacher", "temperature": 0.9, **openai}
    sizes = {"prompts": None, "sizes": [4], "noise_pairs": 4}
    values["iterating"] |= {"answer_model": "small", "teacher": teacher, **sizes}
    (folder / "profiles").mkdir()
    (folder / "profiles" / "paid.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def write_inputs(run: Path) -> None:
    """What notebooks 01 to 03 would have left; the model of 03 is none that could be taken over."""
    rows = [records.Preference(f"r{n}", f"what is {n}", "", f"good {n}", f"bad {n}", "made") for n in range(PAIRS)]
    records.write_rows(run / "01_data" / "train.jsonl", rows)
    pairs = [records.Pair(row.id, row.prompt, f"Explain {row.prompt} with an example.", "made") for row in rows]
    records.write_rows(run / "02_pairs" / "pairs.jsonl", pairs)
    for name in records.TEST_SETS:
        made = [records.TestPrompt(f"{name}-{n}", name, f"why {name} {n}", "", "") for n in range(2)]
        records.write_rows(run / "01_data" / "test" / f"{name}.jsonl", made)
    records.write_text(run / "03_training" / "model" / "README.md", "no model")


class Run:
    """The command in a folder of its own."""

    def __init__(self, folder: Path, api: fake_api.FakeApi) -> None:
        self.api, self.folder = api, folder / "runs" / "paid"
        write_profile(folder, api)
        write_inputs(self.folder)
        places = {"BPO_RUNS_DIR": folder / "runs", "BPO_FIGURES_DIR": folder / "figures"}
        places |= {"BPO_PROFILES_DIR": folder / "profiles"}
        self.env = os.environ | {name: str(place) for name, place in places.items()}

    def notebook(self, *words: str, key: str = KEY) -> subprocess.CompletedProcess:
        """Run notebook 07."""
        keys = {"OPENAI_API_KEY": key, "ZHIPUAI_API_KEY": key}
        command = [sys.executable, "-m", "bpo_utils.cli", "run", "--profile", "paid", "--only", "07", *words]
        return subprocess.run(
            command,
            env=self.env | keys,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=LIMIT_S,
        )

    def chats(self) -> int:
        """Chat calls that reached the server."""
        return self.api.stats()["endpoints"].get("chat", 0)

    def results(self) -> dict:
        """What the notebook found."""
        return records.read_json(self.folder / "07_iterate" / "results.json")


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    models = {name: {} for name in ("small", "large", "gpt-4o", "glm-4", "teacher")}
    with fake_api.running(reply="judge", usage=usage, models=models) as api:
        api.script(rules=[{"match": {"model": "teacher"}, "do": "reply", "content": TEACHER}])
        yield Run(tmp_path_factory.mktemp("paid"), api)


def test_without_a_cap_nothing_is_sent(paid):
    done = paid.notebook("--yes")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "--max-usd" in done.stdout and paid.chats() == 0


def test_every_experiment_runs_on_models_behind_apis(paid):
    done = paid.notebook("--yes", "--max-usd", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = paid.results()["rows"]
    assert {row["experiment"] for row in rows} == {"iterate", "feedback", "scaling", "sizes", "noise"}
    assert {row["judge"] for row in rows} == {"gpt-4o", "glm-4"} and {row["n"] for row in rows} == {8}
    assert {one["arrived"] for one in paid.api.stats()["by_key"].values()} == {1}  # nothing is asked twice
    assert len(records.read_json(paid.folder / "07_iterate" / "cards.json")) > 0


def test_a_replay_needs_no_key_and_gives_the_same(paid):
    before, sent = paid.results(), paid.chats()
    done = paid.notebook("--calls", "replay", "--force", key="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert paid.chats() == sent
    known = {name: value for name, value in before.items() if name != "trials"}  # loaded now, trained then
    assert {name: paid.results()[name] for name in known} == known


def test_no_file_has_the_key(paid):
    files = [path for path in paid.folder.rglob("*") if path.is_file()]
    assert {"calls.sqlite", "07_iterate_ablate_scale.ipynb"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
