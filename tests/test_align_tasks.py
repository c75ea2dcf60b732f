import subprocess
import sys

import pytest

from bpo_utils import profile, records, workers
from bpo_utils.align import systems, tasks

DECODING = profile.Decoding(temperature=0.0, top_p=1.0, max_new_tokens=12, batch_size=8, seed=1)
ROWS = [{"prompt": "volcanoes", "answer": "A volcano is an opening in the crust of the Earth."}] * 4


def instruction_task(key="ori_full-1", rows=ROWS, **changes):
    run = profile.load("smoke")
    training = run.training.model_copy(update={"global_batch": 4, "micro_batch": 4, **changes})
    job = {"kind": "instructions", "training": training.model_dump(mode="json"), "rows": rows}
    return tasks.Task(key, "mini:base", job, ["volcanoes", "maps"], DECODING)


def test_a_task_is_made_once_and_again_when_a_fact_changes(tmp_path):
    said: list[str] = []
    found = tasks.run([instruction_task()], tmp_path, said.append)
    assert list(found["ori_full-1"]) == ["volcanoes", "maps"] and "made in" in said[-1]
    weights = (tmp_path / "ori_full-1/model/model.safetensors").read_bytes()
    assert tasks.run([instruction_task()], tmp_path, said.append) == found and "found" in said[-1]
    known = tasks.facts(instruction_task())
    for changed in (instruction_task(seed=2), instruction_task(rows=ROWS[:3])):
        assert not tasks.has_model(tmp_path / "ori_full-1", tasks.facts(changed))
    other = records.read_json(tmp_path / "ori_full-1/model/facts.json")["facts"] | {"base": "another"}
    records.write_json(tmp_path / "ori_full-1/model/facts.json", {"facts": other})
    assert not tasks.is_made(tmp_path / "ori_full-1", known)
    tasks.run([instruction_task()], tmp_path, said.append)
    assert "made in" in said[-1]
    assert (tmp_path / "ori_full-1/model/model.safetensors").read_bytes() == weights, "a seed must repeat its model"


def test_other_questions_ask_again_and_train_nothing(tmp_path):
    one = instruction_task()
    before, after = tasks.facts(one), tasks.facts(tasks.Task(one.key, one.base, one.train, ["maps"], DECODING))
    assert before["model"] == after["model"] and before["answers"] != after["answers"]


def test_both_alignments_log_what_they_measured(run_folder, tmp_path):
    rows = [
        {"prompt": f"{topic} {n}", "good": "A volcano is an opening.", "bad": "Maps are drawings of places."}
        for n in range(2)
        for topic in ("volcanoes", "maps")
    ]
    run = profile.load("smoke")
    small = {"dpo": run.aligning.dpo.model_copy(update={"batch": 2})}
    small |= {"policy_gradient": run.aligning.policy_gradient.model_copy(update={"steps": 1, "prompts": 2})}
    run = run.model_copy(
        update={
            "aligning": run.aligning.model_copy(update=small),
            "answering": run.answering.model_copy(update={"max_new_tokens": 8}),
        }
    )
    asked = [records.Rewrite("dolly-1", "dolly", "bpo", "volcanoes", "maps")]
    found = tasks.run(systems.aligned(run, tuple(systems.RLHF), rows, rows[:2], asked), tmp_path, lambda text: None)
    assert sorted(found) == ["dpo-1", "original-1", "policy_gradient-1"]
    assert all(list(texts) == ["volcanoes", "maps"] for texts in found.values())
    for key, last in (("dpo-1", 2), ("policy_gradient-1", 1)):
        looks = tasks.log_of(tmp_path, key)["looks"]
        assert (looks[0]["step"], looks[-1]["step"]) == (0, last) and looks[0]["kl"] == 0 and looks[-1]["kl"] > 0
        assert len(looks[0]["each"]["reward"]) == 2
    assert not (tmp_path / "original-1" / "model").exists()


def test_a_process_that_fails_tells_the_end_of_its_output(tmp_path):
    with pytest.raises(ChildProcessError, match=r"(?s)ori_full-1 ended with code 1.*none of 4 rows fits"):
        tasks.run([instruction_task(max_length=4)], tmp_path, lambda text: None)


def test_none_is_left_behind_when_the_notebook_is_interrupted(tmp_path, monkeypatch):
    started: list[subprocess.Popen] = []

    def start(job: workers.Job, threads: int) -> subprocess.Popen:
        waits = "" if not started else "import threading; threading.Event().wait(60)"  # the first one ends at once
        started.append(subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE))
        return started[-1]

    def interrupted(told: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "start", start)
    with pytest.raises(KeyboardInterrupt):
        tasks._in_processes(["a", "b", "c"], tmp_path, interrupted)
    assert len(started) == tasks.AT_ONCE and all(process.poll() is not None for process in started)


def test_the_process_of_a_task_ends_when_the_notebook_is_gone(tmp_path, monkeypatch):
    real = workers.start

    def orphaned(*rest) -> subprocess.Popen:
        process = real(*rest)
        process.stdin.close()  # what happens when a kernel is killed
        return process

    monkeypatch.setattr(workers, "start", orphaned)
    with pytest.raises(ChildProcessError, match="ori_full-1 ended with code 1"):
        tasks.run([instruction_task()], tmp_path, lambda text: None)
    assert not (tmp_path / "ori_full-1" / "model").exists()
