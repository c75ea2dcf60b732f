"""Notebook 02 with a teacher behind an API: the plan, the cap, re-asking, resuming, replaying without a key, batches.

The teacher is a local server that speaks OpenAI's protocol. The steps build on each other, in one folder.
"""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import fake_api
import pytest
import yaml

from bpo_utils import chat, cli_calls, paths, profile, records, teacher
from bpo_utils.chat.store import Store, now

KEY = "sk-planted-93ab0c4e"
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
PRICE = {"input": 10.0, "output": 20.0}  # US dollars per million tokens: 0.002 for a call of USAGE
GOOD = "Comparison: one says more.\n\nOptimized Instruction: Explain it to a child, step by step, with examples. [END]"
LIMIT_S = 120


def row(number: int, prompt: str) -> records.Preference:
    return records.Preference(f"own-{number:05d}", prompt, "", f"Good answer {number}.", f"Bad {number}.", "own")


ROWS = [row(n, f"Explain the number {n} to me please") for n in range(10)]
ROWS += [row(10, "Explain the number 9 to me please"), row(11, "UNREADABLE reply wanted here"), row(12, "short")]


class Run:
    """A run folder with preference rows, a profile whose teacher the server plays, and the command."""

    def __init__(self, folder: Path, api: fake_api.FakeApi) -> None:
        self.folder, self.api = folder / "runs" / "taught", api
        values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
        values |= {
            "name": "taught",
            "label": "taught test",
            "teacher": {"provider": "openai", "model": "gpt-4o", "base_url": api.url, "price": PRICE}
            | {"temperature": 0.9, "max_new_tokens": 60, "most_asked": 2},
            "filters": values["filters"] | {"min_prompt_words": 2},
            "limits": {"openai": {"requests_per_minute": 60000, "tokens_per_minute": 10**8}},
        }
        profiles = folder / "profiles"
        profiles.mkdir()
        (profiles / "taught.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        places = {"BPO_RUNS_DIR": folder / "runs", "BPO_FIGURES_DIR": folder / "figures", "BPO_PROFILES_DIR": profiles}
        self.env = os.environ | {name: str(place) for name, place in places.items()} | {"OPENAI_API_KEY": KEY}
        records.write_rows(self.folder / "01_data" / "train.jsonl", ROWS)
        records.write_rows(
            self.folder / "01_data" / "validation.jsonl", [row(99, "Explain the number 99 to me please")]
        )

    def bpo(self, *words: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        env = {name: value for name, value in self.env.items() if name not in without}
        command = [sys.executable, "-m", "bpo_utils.cli", *words]
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=LIMIT_S
        )

    def run(self, *words: str, **more) -> subprocess.CompletedProcess:
        return self.bpo("run", "--profile", "taught", "--only", "02", *words, **more)

    def sent(self) -> int:
        return self.api.stats()["endpoints"].get("chat", 0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    rules = [{"match": {"contains": "UNREADABLE"}, "do": "reply", "content": "I would rather not."}]
    models = {"gpt-4o": {"shutdown_date": "2999-01-14"}}
    with fake_api.running(reply=f"text:{GOOD}", usage=USAGE, models=models, rules=rules) as api:
        yield Run(tmp_path_factory.mktemp("taught"), api)


def test_the_plan_counts_only_rows_that_pass_the_filters(taught):
    done = taught.run("--dry-run")
    assert done.returncode == 0, done.stderr
    # 13 rows less a duplicate and a short one, and one for validation
    assert ["teacher", "gpt-4o", "12", "0", "12"] in [line.split()[:5] for line in done.stdout.splitlines()]
    assert "is served until 2999-01-14" in done.stdout and taught.sent() == 0


def test_nobody_there_to_ask_means_nothing_is_sent(taught):
    done = taught.run()
    assert done.returncode == 2 and "add --yes" in done.stderr and taught.sent() == 0


def test_the_cap_stops_it_and_counts_what_notebook_05_has_spent(taught):
    with Store(taught.folder / "05_judging" / "calls.sqlite") as store, store.transaction() as db:
        spent = (now(), "settled", 0.97)
        db.execute("INSERT INTO attempt(key, started, state, usd) VALUES ('', ?, ?, ?)", spent)
    done = taught.run("--yes", "--max-usd", "1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert 0 < taught.sent() < 12 and taught.sent() * 0.002 <= 0.03


def test_it_goes_on_and_asks_again_only_for_what_it_could_not_read(taught):
    done = taught.run("--yes", "--max-usd", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert taught.sent() == 12 + 1  # the unreadable one twice: most_asked
    assert {one["arrived"] for one in taught.api.stats()["by_key"].values()} <= {1, 2}
    pairs = records.read_rows(taught.folder / "02_pairs" / "pairs.jsonl", records.Pair)
    assert [pair.id for pair in pairs] == [each.id for each in ROWS[:10]]
    assert pairs[0].optimized_prompt == "Explain it to a child, step by step, with examples."
    rejected = records.read_rows(taught.folder / "02_pairs" / "rejected.jsonl", records.Rejected)
    assert [(each.id, each.reason) for each in rejected] == [
        ("own-00010", "duplicate prompt"),
        ("own-00012", "too short"),
        ("own-00011", "no marker"),
    ]
    assert records.read_rows(taught.folder / "02_pairs" / "validation.jsonl", records.Pair)[0].id == "own-00099"
    assert KEY not in "".join(path.read_text("utf-8", "ignore") for path in taught.folder.rglob("*") if path.is_file())


def test_it_can_be_replayed_without_a_key(taught, tmp_path):
    file, before = tmp_path / "calls.jsonl", taught.sent()
    pairs = (taught.folder / "02_pairs" / "pairs.jsonl").read_bytes()
    told = taught.bpo("calls", "export", str(file), "--profile", "taught", "--stage", "02")
    assert told.stdout.startswith("13 calls"), told.stderr
    (taught.folder / "02_pairs" / "calls.sqlite").unlink()
    assert taught.bpo("calls", "import", str(file), "--profile", "taught", "--stage", "02").returncode == 0
    again = taught.run("--calls", "replay", "--force", without=("OPENAI_API_KEY",))
    assert again.returncode == 0, again.stdout + again.stderr
    assert (taught.folder / "02_pairs" / "pairs.jsonl").read_bytes() == pairs and taught.sent() == before


def test_a_teacher_answers_in_a_batch(taught, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("BPO_PROFILES_DIR", taught.env["BPO_PROFILES_DIR"])
    settings = profile.load("taught").teacher
    calls = chat.Calls(tmp_path / "calls.sqlite", "batch", poll_s=0.05)
    ask = partial(chat.ask, settings.as_model, decoding=settings.decoding, calls=calls)
    found, again = teacher.replies([ROWS[3], ROWS[4]], ask, settings, [])
    assert [reply.text for reply in found] == [GOOD, GOOD] and again == 0
    assert taught.api.stats()["endpoints"]["batches"] >= 1


def test_the_plan_drops_no_validation_row_for_being_like_a_training_row(run_folder):
    priced = {"provider": "openai", "model": "gpt-4o", "price": profile.Price(**PRICE)}
    loaded = profile.load("smoke")
    run = loaded.model_copy(update={"teacher": loaded.teacher.model_copy(update=priced)})
    for name, good in (("train", "One."), ("validation", "Another.")):
        like = dataclasses.replace(ROWS[0], id=name, good=good)
        records.write_rows(run_folder / "smoke" / "01_data" / f"{name}.jsonl", [like])
    assert [line.calls for line in cli_calls.plan(run, "replay", "02")[1]] == [2]
