"""Notebook 05 with API models at a price: the question, the cap, resuming, replaying without a key.

The models are a local server that speaks OpenAI's and Zhipu's protocol. The steps build on each other, in one folder.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fake_api
import pytest
import yaml

from bpo_utils import cli_calls, paths, profile, records
from bpo_utils.notebook import WrongUse

KEY = "sk-planted-4f1d7c9e"
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
PRICE = {"input": 10.0, "output": 20.0}  # US dollars per million tokens: 0.002 for a call of USAGE
CALL_USD = 0.002
LONG = "Say it so that it takes more bytes than the tokens that the server will count. " * 2
LIMIT_S = 120


class Run:
    """A run folder with rewritten prompts, a profile whose models the server plays, and the command."""

    def __init__(self, folder: Path, api: fake_api.FakeApi) -> None:
        self.folder, self.api = folder / "runs" / "paid", api
        values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
        openai = {"provider": "openai", "base_url": api.url, "price": PRICE}
        zhipu = {"provider": "zhipu", "base_url": api.zhipu_url}
        values |= {
            "name": "paid",
            "label": "paid test",
            "answer_models": [{"name": "gpt-4o", "model": "gpt-4o"} | openai],
            "judges": [
                {"name": "gpt-4o", "model": "gpt-4o"} | openai,
                {"name": "glm-4-flash", "model": "glm-4-flash"} | zhipu,
            ],
            "answering": {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 60, "batch_size": 8, "seed": 1},
            "judging": {"max_new_tokens": 60},
            "limits": {
                name: {"requests_per_minute": 60000, "tokens_per_minute": 10**8, "concurrency_start": 4}
                for name in ("openai", "zhipu")
            },
        }
        profiles = folder / "profiles"
        profiles.mkdir()
        (profiles / "paid.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        places = {"BPO_RUNS_DIR": folder / "runs", "BPO_FIGURES_DIR": folder / "figures", "BPO_PROFILES_DIR": profiles}
        self.env = os.environ | {name: str(place) for name, place in places.items()}
        self.env |= {"OPENAI_API_KEY": KEY, "ZHIPUAI_API_KEY": KEY}
        rewrites = []
        for name in records.TEST_SETS:
            prompts = [records.TestPrompt(f"{name}-{n}", name, f"Why {name} {n}? {LONG}", "", "") for n in range(3)]
            records.write_rows(self.folder / "01_data" / "test" / f"{name}.jsonl", prompts)
            rewrites += [records.Rewrite(p.id, name, "bpo", p.prompt, f"{p.prompt} In detail.") for p in prompts[1:]]
            rewrites.append(records.Rewrite(prompts[0].id, name, "bpo", prompts[0].prompt, prompts[0].prompt))
        records.write_rows(self.folder / "04_inference" / "rewrites.jsonl", rewrites)

    def bpo(self, *words: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        env = {name: value for name, value in self.env.items() if name not in without}
        command = [sys.executable, "-m", "bpo_utils.cli", *words]
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=LIMIT_S
        )

    def paid_run(self, *words: str, **more) -> subprocess.CompletedProcess:
        return self.bpo("run", "--profile", "paid", "--only", "05", *words, **more)

    def billed(self) -> float:
        """US dollars that the server would bill: every reply that it made for gpt-4o."""
        return CALL_USD * self.api.stats()["endpoints"].get("chat", 0)


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    with fake_api.running(reply="judge", usage=USAGE, models={"gpt-4o": {"shutdown_date": "2999-01-14"}}) as api:
        yield Run(tmp_path_factory.mktemp("paid"), api)


def test_a_dry_run_shows_the_plan_and_calls_nobody(paid):
    done = paid.paid_run("--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    # 12 originals and 8 rewritten prompts; 8 pairs with unlike answers, two orders; gpt-4o and glm-4-flash judge
    assert ["answers", "gpt-4o", "20", "0", "20"] in [line[:5] for line in lines]
    assert ["judging", "gpt-4o", "16", "0", "16"] in [line[:5] for line in lines]
    assert ["judging", "glm-4-flash", "16", "0", "16", "0.0000", "0.0000"] in lines
    assert "gpt-4o is served until 2999-01-14" in done.stdout  # as GET /models says, whatever the table says
    assert paid.api.stats()["endpoints"].get("chat", 0) == 0 and not (paid.folder / "05_judging").exists()


def test_nobody_there_to_ask_means_nothing_is_sent(paid):
    done = paid.paid_run()
    assert done.returncode == 2 and "add --yes" in done.stderr
    assert paid.api.stats()["endpoints"].get("chat", 0) == 0


def test_the_cap_stops_the_run_with_exit_code_3_and_is_not_passed(paid):
    done = paid.paid_run("--yes", "--max-usd", "0.03")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "--max-usd" in done.stdout and "stored" in done.stdout
    answered = paid.api.stats()["endpoints"]["chat"]
    assert 0 < answered < 20 and paid.billed() <= 0.03


def test_the_run_goes_on_where_it_was_and_pays_for_nothing_twice(paid):
    done = paid.paid_run("--yes", "--max-usd", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    stats = paid.api.stats()
    assert stats["endpoints"]["chat"] == 20 + 2 * 16 and {one["arrived"] for one in stats["by_key"].values()} == {1}
    sent = {body["model"]: body.get("store") for body in stats["bodies"]}
    assert sent["gpt-4o"] is True  # as the profile says; only OpenAI is asked to keep replies
    verdicts = records.read_rows(paid.folder / "05_judging" / "verdicts.jsonl", records.Verdict)
    assert len(verdicts) == 24 and sum(row.how == "equal_answers" for row in verdicts) == 8
    assert {row.verdict for row in verdicts} <= {"A", "B", "C"}
    status = paid.bpo("calls", "status", "--profile", "paid").stdout
    spent = float(re.search(r"spent at most \$([\d.]+)", status)[1])
    assert spent == pytest.approx(CALL_USD * 36) and "0 attempts whose end is not known" in status


def test_it_can_be_replayed_elsewhere_without_a_key_and_without_a_call(paid, tmp_path):
    store, file = paid.folder / "05_judging" / "calls.sqlite", tmp_path / "calls.jsonl"
    verdicts = (paid.folder / "05_judging" / "verdicts.jsonl").read_bytes()
    assert paid.bpo("calls", "export", str(file), "--profile", "paid").stdout.startswith("52 calls")
    store.unlink()
    before = paid.api.stats()["arrived"]
    keys = ("OPENAI_API_KEY", "ZHIPUAI_API_KEY")
    missing = paid.paid_run("--calls", "replay", "--force", without=keys)
    assert missing.returncode == 1 and "replay:" in missing.stdout and "bpo calls import" in missing.stdout
    assert paid.bpo("calls", "import", str(file), "--profile", "paid").stdout.startswith("52 calls are new")
    again = paid.paid_run("--calls", "replay", "--force", without=keys)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (paid.folder / "05_judging" / "verdicts.jsonl").read_bytes() == verdicts
    assert paid.api.stats()["arrived"] == before


def test_the_key_is_in_no_file_that_was_written(paid):
    assert paid.bpo("judgments", "--profile", "paid").returncode == 0
    assert paid.bpo("judgments", "--profile", "paid", "--label-pairs", "5").returncode == 0
    files = [path for path in paid.folder.rglob("*") if path.is_file()]
    assert {"calls.sqlite", "05_judging.ipynb", "ledger.jsonl", "judgments.html", "labelling.html"} <= {
        path.name for path in files
    }
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_labels_saved_by_the_page_are_held_against_the_judges(paid, tmp_path):
    page = paid.folder / "05_judging" / "labelling.html"
    data = json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.S)[1]
    )
    saved = {"kind": data["kind"], "seed": data["seed"], "label": data["label"]}
    saved["labels"] = [{"item": item["item"], "choice": "A"} for item in data["items"]]
    file = records.write_json(tmp_path / "labels.json", saved)
    done = paid.bpo("judgments", "--profile", "paid", "--labels", str(file))
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[0][:3] == ["judge", "n", "agreement"] and {"gpt-4o", "glm-4-flash"} <= {row[0] for row in table[1:]}
    wrong = records.write_json(tmp_path / "wrong.json", saved | {"labels": [{"item": "0" * 16, "choice": "A"}]})
    done = paid.bpo("judgments", "--profile", "paid", "--labels", str(wrong))
    assert done.returncode == 2 and "another run" in done.stderr


@pytest.mark.parametrize(("reply", "agreed"), [("y", True), ("YES", True), ("", False), ("n", False)])
def test_the_question_is_asked_of_a_person(monkeypatch, reply, agreed):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or reply)
    arguments = cli_calls.argparse.Namespace(yes=False)
    if agreed:
        cli_calls._ask(1.5, arguments)
    else:
        with pytest.raises(WrongUse, match="nothing was sent"):
            cli_calls._ask(1.5, arguments)
    assert "spend at most $1.50" in asked[0]


def test_the_miniature_is_never_asked_about():
    before = cli_calls.agreed(
        profile.load("mini"), cli_calls.argparse.Namespace(calls="online", max_usd=None, yes=False)
    )
    notebook = type("Notebook", (), {"number": "05", "parameters": {"max_usd": None}})
    assert before(notebook) == {}


def test_notebook_07_is_not_priced_beforehand_and_spends_only_what_the_cap_leaves(run_folder, capsys, monkeypatch):
    run = profile.load("paper")
    notebook = type("Notebook", (), {"number": "07", "parameters": {"max_usd": None}})
    options = {"calls": "online", "yes": True}
    free = cli_calls.agreed(run, cli_calls.argparse.Namespace(max_usd=None, **options))
    assert free(notebook) == {"max_usd": 0.0, "calls": "online"} and capsys.readouterr().out == ""
    spent = {"02_pairs": 1.0, "05_judging": 2.5, "07_iterate": 0.7, "09_search": 0.0}
    monkeypatch.setattr("bpo_utils.bill.spent", lambda calls: spent[calls.store.parent.name])
    capped = cli_calls.agreed(run, cli_calls.argparse.Namespace(max_usd=5.0, **options))
    assert capped(notebook) == {"max_usd": 1.5, "calls": "online"}
    assert "its price is not known yet" in capsys.readouterr().out
    with pytest.raises(WrongUse, match="its price is not known yet"):
        cli_calls.plan(run, "online", "07")
