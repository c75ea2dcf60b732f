"""Shards of inference and judging: together they are the whole, and a killed one ends as if it had not been."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import asking
import fake_api
import pytest
import yaml

from bpo_utils import chat, cli_shards, judge, paths, profile, records, rewrite, rewriters, shard_files, shards, tokens
from bpo_utils.chat import local
from bpo_utils.chat.store import Store
from bpo_utils.mini import models, provider
from bpo_utils.notebook import WrongUse

GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 20, "batch_size": 3, "seed": 1}
ROWS = {"bpo_test": 5, "dolly": 3, "vicuna": 2, "self_instruct": 2}
CHILD = """
import sys
from bpo_utils import profile, shards
def tell(text):
    print(text, flush=True)
    if "block 3 of" in text:
        sys.stdin.read()  # the third of many blocks is as far as this process gets
run = profile.load("cut")
shards.work(run, "rewrites", 0, 1, shards.calls_of(run, 0, 1), tell)
"""


@pytest.fixture
def cut(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a run of the profile `cut`: smoke with few prompts, short replies and a shipped model as its rewriter."""

    def make(**changes: object) -> profile.Profile:
        values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
        values |= {"name": "cut", "rewriting": GREEDY, "answering": GREEDY, "controls": ["identity", "drop_words"]}
        folder = run_folder.parent / "profiles"
        folder.mkdir(exist_ok=True)
        (folder / "cut.yaml").write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        monkeypatch.setenv("BPO_PROFILES_DIR", str(folder))
        run = profile.load("cut")
        for name, count in ROWS.items():
            # The first question is in every set: equal prompts get one rewrite and one answer, as without shards.
            asked = ["Why do cats sleep?", *(f"{name} {'and why ' * n}tea {n}" for n in range(1, count))]
            rows = [records.TestPrompt(f"{name}-{n}", name, text, "", "") for n, text in enumerate(asked)]
            records.write_rows(paths.stage_dir("cut", "01_data") / "test" / f"{name}.jsonl", rows)
        model = paths.stage_dir("cut", "03_training") / "model"
        model.mkdir(exist_ok=True)
        for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(paths.MINI_MODELS / "weak" / file, model / file)
        return run

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No model is loaded and every reply is `text`; the texts that were asked together, in order."""
    asked: list[list[str]] = []

    def ask(texts: list[str], sample: int) -> list[records.Reply]:
        asked.append(texts)
        return [records.Reply("text") for _ in texts]

    monkeypatch.setattr(rewriters, "load", lambda *_: rewriters.Rewriter(ask, len))
    monkeypatch.setattr(provider, "ask", lambda name, texts, decoding: ["text"] * len(texts))
    return asked


def prompts() -> list[records.TestPrompt]:
    folder = paths.stage_dir("cut", "01_data") / "test"
    return [
        row for name in records.TEST_SETS for row in records.read_rows(folder / f"{name}.jsonl", records.TestPrompt)
    ]


def do(run: profile.Profile, kind: str, of: int, *only: int, **more) -> list[str]:
    """Make the shards of a kind, or those named; returns what was said."""
    said: list[str] = []
    for shard in only or range(of):
        shards.work(run, kind, shard, of, shards.calls_of(run, shard, of, **more), said.append)
    return said


def file(kind: str, shard: int, of: int) -> Path:
    return paths.run_dir("cut") / shards.KINDS.get(kind, ["05_judging"])[0] / "shards" / f"{kind}-{shard}-of-{of}.jsonl"


def some_rewrites() -> list[records.Rewrite]:
    """Rewrites as notebook 04 would write them, without a model; one leaves its prompt as it was."""
    made = [records.Rewrite(p.id, p.test_set, "bpo", p.prompt, f"{p.prompt} In detail.") for p in prompts()[1:]]
    rows = [*rewrite.identity(prompts()[:1]), *made, *rewrite.drop_words(prompts())]
    records.write_rows(paths.stage_dir("cut", "04_inference") / "rewrites.jsonl", rows)
    return rows


def command(*words: str) -> int:
    top = argparse.ArgumentParser()
    cli_shards.add_commands(top.add_subparsers())
    return cli_shards.shard(top.parse_args(["shard", *words]))


# The whole


def test_all_stages_in_shards_give_the_rows_of_a_run_without_them(cut):
    small = GREEDY | {"batch_size": 8, "max_new_tokens": 12}
    models = [{"name": name, "provider": "mini", "model": name} for name in ("strong", "weak")]
    run = cut(rewriting=small, answering=small, answer_models=models)
    model = paths.stage_dir("cut", "03_training") / "model"
    assert shards.collected(run, "rewrites", prompts()) == []
    do(run, "rewrites", 3)
    found = shards.collected(run, "rewrites", prompts())
    assert found == rewrite.rewrite(prompts(), model, run.rewriting) and len(found) == sum(ROWS.values())
    rewrites = found + rewrite.controls(run.controls, prompts())
    do(run, "answers", 2)  # of the collected rewrites and the controls: no notebook has run
    answers = shards.collected(run, "answers", rewrites)
    assert answers == [row for each in run.answer_models for row in chat.answers(each, rewrites, run.answering)]
    do(run, "verdicts", 4)
    matches = judge.matches(prompts(), answers)
    expected = []
    for each in run.judges:
        ask = lambda texts, sample, each=each: chat.ask(each, texts, run.judging.decoding, sample=sample)  # noqa: E731
        expected += judge.judge_pairs(matches, each.name, ask, run.judging)
    assert shards.collected(run, "verdicts", matches) == expected


@pytest.mark.parametrize("mode", ["stable", "aggressive", "iterative", "greedy"])
def test_any_number_of_shards_gives_the_samples_of_a_run_without_them(cut, mode):
    small = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, "batch_size": 2, "seed": 3}
    run = cut(rewriting=small | {"mode": mode, "samples": 3, "rounds": 3, "min_growth_tokens": 9})
    model = paths.stage_dir("cut", "03_training") / "model"
    alone = rewrite.rewrite(prompts(), model, run.rewriting.model_copy(update={"batch_size": 100}))
    for of in (1, 3):
        do(run, "rewrites", of)
        assert shards.collected(run, "rewrites", prompts()) == alone
        for shard in range(of):
            file("rewrites", shard, of).unlink()


def test_a_prompt_that_does_not_fit_is_in_no_row_of_the_shards(cut):
    tokenizer = models.load("weak")[1]
    cut()
    sizes = {p.id: len(tokens.prompt_ids(tokenizer, tokens.framed(tokens.REWRITER_FRAME, p.prompt))) for p in prompts()}
    run = cut(rewriting=GREEDY | {"context_tokens": max(sizes.values())})
    do(run, "rewrites", 2)
    found = shards.collected(run, "rewrites", prompts())
    assert rewrite.refused(prompts(), found) == ["bpo_test-4"]
    blocks = [block for shard in (0, 1) for block in shard_files.read(file("rewrites", shard, 2)).blocks]
    assert [row["prompt"] for block in blocks for row in block if row["outcome"] == "too_long"] == [prompts()[4].prompt]


def test_pairs_of_the_same_answers_are_in_one_shard(cut, monkeypatch):
    run, asked = cut(answer_models=[], controls=[]), []
    pair = {"test_set": "dolly", "answer_model": "one", "question": "Why?", "original": "So.", "optimized": "Thus."}
    matches = [judge.Match(id="a", rewriter=f"r{n}", **pair) for n in range(6)]
    matches[3] = judge.Match(id="b", rewriter="other", **pair | {"optimized": "Hence."})
    monkeypatch.setattr(shards, "_upstream", lambda *_: matches)
    monkeypatch.setattr(judge, "judge_pairs", lambda items, *_: asked.append([row.rewriter for row in items]) or [])
    do(run, "verdicts", 2)
    assert asked == [["r0", "r1", "r2", "r4", "r5"]] * 2 + [["other"]] * 2


# Stopped, and gone on


def test_killed_after_its_first_block_it_ends_with_the_same_bytes(cut):
    run = cut(rewriting=GREEDY | {"temperature": 0.9, "batch_size": 1})
    path = file("rewrites", 0, 1)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CHILD], env=os.environ, **pipes) as child:
        deadline = time.monotonic() + 120
        while not path.exists() or path.read_bytes().count(b"\n") < 2:
            assert child.poll() is None and time.monotonic() < deadline
            threading.Event().wait(0.01)
        child.send_signal(signal.SIGKILL)
    half = path.read_bytes()
    assert 2 <= half.count(b"\n") <= 4
    do(run, "rewrites", 1)  # the lock went with the process
    whole = path.read_bytes()
    assert whole.startswith(half[: half.rfind(b"\n") + 1]) and whole.count(b"\n") == 10
    path.unlink()
    do(run, "rewrites", 1)
    assert path.read_bytes() == whole


def test_half_of_a_last_line_is_dropped_with_a_word_and_nothing_else(cut, quick):
    run = cut()
    do(run, "rewrites", 2)
    path = file("rewrites", 1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="of 2 shards these are missing or not complete: 1;"):
        shards.collected(run, "rewrites", prompts())
    said = do(run, "rewrites", 2, 1)
    cut_off = len(whole) - 20 - (whole[:-1].rfind(b"\n") + 1)
    assert f"dropped {cut_off} bytes" in said[0] and [line for line in said if "block" in line][1:] == [said[1]]
    assert path.read_bytes() == whole


def test_every_line_is_on_the_disk_before_the_next_block_begins(cut, quick, monkeypatch):
    run, synced = cut(), []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    do(run, "rewrites", 1)
    data = file("rewrites", 0, 1).read_bytes()
    assert synced == [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]


def test_complete_already_is_said_and_nothing_is_loaded(cut, quick, monkeypatch):
    run = cut()
    do(run, "rewrites", 2, 0)
    before = file("rewrites", 0, 2).read_bytes()
    monkeypatch.setattr(rewriters, "load", None)
    assert "complete already" in do(run, "rewrites", 2, 0)[0]
    assert file("rewrites", 0, 2).read_bytes() == before


def test_a_damaged_line_in_the_middle_is_an_error(cut, quick):
    run = cut()
    do(run, "rewrites", 1)
    path = file("rewrites", 0, 1)
    path.write_bytes(path.read_bytes().replace(b'{"block": 1', b'{"blo', 1))
    for use in (lambda: do(run, "rewrites", 1), lambda: shards.collected(run, "rewrites", prompts())):
        with pytest.raises(ValueError, match="damaged .*delete it"):
            use()


# Refused


def test_a_file_of_other_inputs_is_refused_and_told_apart(cut, quick):
    do(cut(), "rewrites", 2)
    sampled = cut(rewriting=GREEDY | {"temperature": 0.6})
    for use in (lambda: do(sampled, "rewrites", 2), lambda: shards.collected(sampled, "rewrites", prompts())):
        with pytest.raises(ValueError, match=r"rewrites-0-of-2.*temperature: 0.0 there, 0.6 now\); delete it"):
            use()
    run = cut()
    with pytest.raises(ValueError, match="sha256 of the test prompts"):
        shards.collected(run, "rewrites", prompts()[::-1])
    weights = paths.run_dir("cut") / "03_training" / "model" / "model.safetensors"
    shutil.copyfile(paths.MINI_MODELS / "strong" / weights.name, weights)
    with pytest.raises(ValueError, match="sha256 of model.safetensors: "):
        do(run, "rewrites", 2)


def test_other_answer_models_are_refused_by_name(cut, quick):
    run = cut(answer_models=[{"name": "one", "provider": "mini", "model": "weak"}])
    rows = some_rewrites()
    do(run, "answers", 1)
    other = cut(answer_models=[{"name": "one", "provider": "mini", "model": "strong"}])
    with pytest.raises(ValueError, match=r"models: \['one: mini weak'\] there, \['one: mini strong'\] now"):
        shards.collected(other, "answers", rows)
    with pytest.raises(ValueError, match="sha256 of the rewrites"):
        shards.collected(run, "answers", rows[1:])


def test_missing_shards_are_named_with_the_command(cut, quick):
    run = cut()
    do(run, "rewrites", 4, 1)
    with pytest.raises(ValueError, match=r"complete: 0, 2, 3; run `bpo shard rewrites --profile cut --shard I --of 4`"):
        shards.collected(run, "rewrites", prompts())
    with pytest.raises(ValueError, match="complete: 0, 2, 3;"):  # nor does the next stage do with a part
        do(run, "answers", 2)


def test_two_ways_to_share_the_work_are_refused(cut, quick):
    run = cut()
    do(run, "rewrites", 2, 0)
    with pytest.raises(ValueError, match=r"rewrites-\*-of-2.jsonl and rewrites-\*-of-3.jsonl"):
        do(run, "rewrites", 3, 0)
    shutil.copyfile(file("rewrites", 0, 2), file("rewrites", 0, 3))
    with pytest.raises(ValueError, match="two ways"):
        shards.collected(run, "rewrites", prompts())


def test_two_processes_do_not_work_on_one_shard(cut, quick):
    run = cut()
    with (
        shard_files.held(file("rewrites", 0, 2)),
        pytest.raises(ValueError, match=r"another process works on .*rewrites-0-of-2.jsonl.lock"),
    ):
        do(run, "rewrites", 2, 0)
    do(run, "rewrites", 2, 0)


def test_without_a_rewriter_it_says_what_to_run(cut, quick):
    run = cut()
    shutil.rmtree(paths.run_dir("cut") / "03_training" / "model")
    with pytest.raises(ValueError, match="train the rewriter first"):
        do(run, "rewrites", 2, 0)


def test_a_profile_that_rewrites_nothing_says_so(cut):
    with pytest.raises(ValueError, match="profile cut makes no rewrites"):
        do(cut(rewriting=None), "rewrites", 2, 0)
    with pytest.raises(ValueError, match="published has no model"):
        do(cut(rewriting=GREEDY | {"mode": "published"}), "rewrites", 2, 0)


# The command


@pytest.mark.parametrize(
    "array, given, expected",
    [
        ({}, ("2", "4"), (2, 4)),
        ({"ID": "3", "COUNT": "4", "MAX": "3"}, ("slurm", "slurm"), (3, 4)),
        ({"ID": "2", "COUNT": "1", "MAX": "2"}, ("slurm", "4"), (2, 4)),  # sbatch --array=2: one task again
        ({}, ("slurm", "4"), "--shard slurm: SLURM_ARRAY_TASK_ID is not set"),
        ({"ID": "0"}, ("slurm", "slurm"), "--of slurm: SLURM_ARRAY_TASK_COUNT is not set"),
        ({"ID": "2", "COUNT": "1", "MAX": "2"}, ("slurm", "slurm"), "write --of N"),
        ({"ID": "1", "COUNT": "4", "MAX": "4"}, ("slurm", "slurm"), "write --of N"),  # --array=1-4
        ({}, ("4", "4"), "count from 0 to 3"),
        ({}, ("-1", "4"), "a number, or slurm"),
        ({}, ("0", None), "--shard I --of N"),
    ],
)
def test_numbers_of_a_shard(monkeypatch, array, given, expected):
    for name in ("ID", "COUNT", "MAX"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    if isinstance(expected, tuple):
        assert cli_shards.numbers(*given) == expected
    else:
        with pytest.raises(WrongUse, match=expected):
            cli_shards.numbers(*given)


def test_the_command_makes_a_shard_and_tells_how_far_all_are(cut, quick, capsys):
    cut()
    assert command("status", "--profile", "cut") == 0 and "no shards" in capsys.readouterr().out
    assert command("rewrites", "--profile", "cut", "--shard", "1", "--of", "2") == 0
    assert "rewrites-1-of-2.jsonl is complete: 4 rows" in capsys.readouterr().out
    path = file("rewrites", 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert command("status", "--profile", "cut") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == ["rewrites 0 of 2 - missing", "rewrites 1 of 2 3 of 4 not complete"]
    with pytest.raises(WrongUse, match="no profile 'cutt'"):
        command("status", "--profile", "cutt")
    with pytest.raises(WrongUse, match="--max-usd nan"):
        command("answers", "--profile", "cut", "--shard", "0", "--of", "2", "--max-usd", "nan")


# Models behind an API


@pytest.fixture(scope="module")
def server():
    with fake_api.running() as api:
        yield api


@pytest.fixture
def paid(cut, server, monkeypatch):
    """A run whose answer models and one judge are the local server's, and that server."""
    api = asking.prepare(server, monkeypatch)
    api.script(reply="judge")
    models = [asking.model(api, name=name).model_dump() | {"name": name} for name in ("gpt-4o", "gpt-4o-mini")]
    limits = {"openai": {"requests_per_minute": 6_000_000, "tokens_per_minute": 10**9}}
    run = cut(answer_models=models, judges=models[:1], limits=limits)
    some_rewrites()
    return run, api


def asked_once(api: fake_api.FakeApi) -> bool:
    return {one["arrived"] for one in api.stats()["by_key"].values()} == {1}


def test_calls_of_shards_are_merged_and_nothing_is_asked_twice(paid, tmp_path, capsys):
    run, api = paid
    rewrites = some_rewrites()
    do(run, "answers", 2, max_usd=1.0, store_dir=tmp_path)  # as if the run lay on a network disk
    answers = shards.collected(run, "answers", rewrites)
    matches = judge.matches(prompts(), answers)
    do(run, "verdicts", 2, max_usd=1.0)
    verdicts = shards.collected(run, "verdicts", matches)
    asked = api.stats()["endpoints"]["chat"]
    assert asked_once(api) and command("merge", "--profile", "cut") == 0
    assert f"{asked} calls are new in the run's store, from 2 shards" in capsys.readouterr().out
    assert shards.merge_calls(run) == (0, 2, pytest.approx(asking.billed(api)))
    file("calls", 0, 2).unlink()  # killed between its last answer and this
    assert "complete already" in do(run, "verdicts", 2, 0)[-1] and file("calls", 0, 2).exists()
    replay = chat.Calls(paths.run_dir("cut") / "05_judging" / "calls.sqlite", "replay")
    assert answers == [row for each in run.answer_models for row in chat.answers(each, rewrites, run.answering, replay)]
    ask = lambda texts, sample: chat.ask(run.judges[0], texts, run.judging.decoding, replay, sample)  # noqa: E731
    assert verdicts == judge.judge_pairs(matches, run.judges[0].name, ask, run.judging)
    for shard in (0, 1):  # what the run's store has is not asked for again by new shards either
        file("answers", shard, 2).unlink()
    do(run, "answers", 3)
    assert api.stats()["endpoints"]["chat"] == asked and shards.collected(run, "answers", rewrites) == answers


def test_the_cap_is_the_shards_own_and_the_rest_comes_when_it_is_raised(paid, capsys):
    run, api = paid
    words = ("answers", "--profile", "cut", "--shard", "0", "--of", "2")
    assert command(*words) == 3  # by default only what is free
    assert api.stats()["endpoints"].get("chat", 0) == 0
    assert command(*words, "--max-usd", "0.002") == 3
    first = api.stats()["endpoints"]["chat"]
    assert first and "bpo: " in capsys.readouterr().err
    saved = file("answers", 0, 2).with_name("calls-0-of-2.jsonl")
    assert len(saved.read_text(encoding="utf-8").splitlines()) == first  # kept, though the shard was stopped
    assert command(*words, "--max-usd", "1") == 0
    assert asked_once(api) and api.stats()["endpoints"]["chat"] > first


def test_a_lost_store_comes_back_from_its_export_and_limits_are_shared(paid, tmp_path):
    run, api = paid
    do(run, "answers", 2, 0, max_usd=1.0, store_dir=tmp_path / "node1")
    asked = api.stats()["endpoints"]["chat"]
    path = file("answers", 0, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.find(b"\n") + 1])
    do(run, "answers", 2, 0, max_usd=0.0, store_dir=tmp_path / "node2")
    assert path.read_bytes() == whole and api.stats()["endpoints"]["chat"] == asked
    with Store(tmp_path / "node2" / "calls-0-of-2.sqlite") as store:
        assert store.spent() == pytest.approx(asking.billed(api))  # so the cap holds for both nodes together
    do(run, "answers", 2, 1, max_usd=1.0)
    words = ("verdicts", "--profile", "cut", "--shard", "0", "--of", "2", "--store-dir", str(tmp_path / "node3"))
    before = asking.billed(api)
    assert command(*words, "--max-usd", f"{before / 2:.6f}") == 3 and asking.billed(api) == before
    assert command(*words, "--max-usd", "1") == 0 and asked_once(api)
    share = shards.calls_of(run, 0, 4).limits["openai"]
    assert (share.requests_per_minute, share.concurrency_most) == (1_500_000, 8)
    assert json.loads(whole.split(b"\n")[0])["made_from"]["models"] == [
        "gpt-4o: openai gpt-4o",
        "gpt-4o-mini: openai gpt-4o-mini",
    ]


def test_a_model_of_this_process_goes_on_after_its_last_stored_batch(cut, monkeypatch):
    folder = str(paths.MINI_MODELS / "weak")
    models = [{"name": "local", "provider": "huggingface", "model": folder}]
    run, generate, batches = (
        cut(answer_models=models, answering=GREEDY | {"temperature": 0.9, "max_new_tokens": 6}),
        local.generate,
        [],
    )
    some_rewrites()
    monkeypatch.setattr(local, "BATCH", 4)

    def stopped(*given):
        batches.append(given[2])
        if len(batches) == 3:
            raise KeyboardInterrupt
        return generate(*given)

    monkeypatch.setattr(local, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        do(run, "answers", 2, 0)
    assert file("answers", 0, 2).read_bytes().count(b"\n") == 1
    do(run, "answers", 2, 0)
    assert batches[3] == batches[2]  # the two batches before it were not made again
    whole = file("answers", 0, 2).read_bytes()
    shutil.rmtree(file("answers", 0, 2).parent)
    do(run, "answers", 2, 0)
    assert file("answers", 0, 2).read_bytes() == whole
