"""Fine-tuning in one process: what is written, logged and counted, that it repeats, stops and goes on."""

import json
import os
import subprocess
import sys

import pytest
import train_child

from bpo_utils import paths, profile, records, tokens, train
from bpo_utils.chat import local
from bpo_utils.training import checkpoint, launch, log, output, setup, stop

PAIRS = train_child.PAIRS[:32]
DECODING = profile.Decoding(temperature=0.6, top_p=0.9, max_new_tokens=8, batch_size=4, seed=1)


def settings(**changes):
    return train_child.settings(**{"epochs": 2, "micro_batch": 4, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train.train(PAIRS, settings(), folder, validation=train_child.PAIRS[32:38], decoding=DECODING, name="test")
    return folder


def test_training_lowers_the_loss_and_logs_every_step(trained):
    steps = train.finished(trained)
    assert [entry["step"] for entry in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    plan = json.loads((trained / "plan.json").read_text(encoding="utf-8"))
    assert (plan["steps"], plan["warmup_steps"], plan["accumulation"], plan["validation_pairs"]) == (8, 1, 2, 6)


def test_learning_rate_warms_up_and_then_falls_linearly(trained):
    rates = [entry["learning_rate"] for entry in train.finished(trained)]
    assert rates == pytest.approx([0.0, *(1e-3 * (8 - step) / 7 for step in range(1, 8))])


def test_each_step_says_how_fast_it_was_and_what_it_took(trained):
    steps = train.finished(trained)
    for entry in steps:
        assert entry["utilisation"] == 1.0 and entry["mfu"] is None and entry["memory_gib"] > 0
        assert 0 < entry["target_tokens_per_s"] < entry["tokens_per_s"] and entry["grad_norm"] > 0
    encoded = tokens.encode_pairs(train.load_tokenizer("mini:base"), PAIRS, 256)
    everything = sum(len(example["input_ids"]) for example in encoded.examples)
    assert sum(entry["tokens"] for entry in steps[:4]) == everything
    assert [entry["step"] for entry in log.events(trained, "evaluation")] == [4, 8]
    assert any(path.name.startswith("events.out.tfevents") for path in (trained / "tensorboard").iterdir())


def test_padding_is_counted_as_upstream_pads(tmp_path):
    # 4 rows of unequal length in a batch; the plan's pairs differ in length on purpose.
    train.train(PAIRS, settings(epochs=1, batching="pad", loss_mean="micro_batches"), tmp_path)
    shares = [entry["utilisation"] for entry in train.finished(tmp_path)]
    assert all(0.7 < share < 1 for share in shares)


def test_both_batchings_give_the_same_losses(trained, tmp_path):
    train.train(PAIRS, settings(batching="pad"), tmp_path)
    flat, padded = ([entry["loss"] for entry in train.finished(folder)] for folder in (trained, tmp_path))
    assert padded == pytest.approx(flat, rel=1e-5)


def test_upstreams_mean_of_micro_batch_means_is_another_loss(trained, tmp_path):
    # The first step has learning rate 0: the same weights, so the difference is the mean's alone.
    train.train(PAIRS, settings(loss_mean="micro_batches", epochs=1), tmp_path)
    first, ours = train.finished(tmp_path)[0]["loss"], train.finished(trained)[0]["loss"]
    assert first == pytest.approx(_mean_of_means(), rel=1e-5) and abs(first - ours) > 1e-3


def _mean_of_means():
    import torch

    from bpo_utils.training import batches

    model, tokenizer = (
        setup.model(settings(), type("Arguments", (), {"bf16": False})()),
        train.load_tokenizer("mini:base"),
    )
    examples = tokens.encode_pairs(tokenizer, PAIRS, 256).examples
    places, means = batches.order(len(examples), 1, 0, 8, drop_last=True)[:8], []
    for part in (places[:4], places[4:]):
        total = count = 0.0
        for place in part:
            ids, labels = (torch.tensor([examples[place][name]]) for name in ("input_ids", "labels"))
            with torch.inference_mode():
                summed, number = batches.summed_loss(model(input_ids=ids).logits, labels)
            total, count = total + summed.item(), count + number.item()
        means.append(total / count)
    return sum(means) / 2


def test_same_seed_same_weights(trained, tmp_path):
    train.train(PAIRS, settings(), tmp_path)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_word_vectors_stay_and_all_else_moves(tmp_path, frozen):
    chosen = settings(freeze_embeddings=frozen, epochs=1)
    plan = train.train(PAIRS, chosen, tmp_path)
    before = local.load(train.base_folder(chosen.base))[0].state_dict()
    after = local.load(tmp_path / "model")[0].state_dict()
    same = {name for name in before if before[name].equal(after[name])}
    assert same == ({"model.embed_tokens.weight", "lm_head.weight"} if frozen else set())
    assert (plan["trained"] < plan["parameters"]) is frozen


def test_adapters_are_merged_into_a_model_that_loads_without_peft(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed (pip install -e '.[lora]')")
    lora = profile.Lora(rank=4, alpha=8)
    plan = train.train(PAIRS, settings(lora=lora, epochs=1, checkpointing=True, learning_rate=1e-2), tmp_path)
    assert 0 < plan["trained"] < 0.1 * plan["parameters"]
    before = local.load(train.base_folder("mini:base"))[0].state_dict()
    after = local.load(tmp_path / "model")[0].state_dict()
    assert before.keys() == after.keys()
    moved = {name.split(".")[-2] for name in before if not before[name].equal(after[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (tmp_path / "model/adapter/adapter_config.json").is_file()
    assert train.finished(tmp_path)[-1]["loss"] < train.finished(tmp_path)[0]["loss"]


def test_the_model_folder_is_what_transformers_and_vllm_load(trained):
    model = trained / "model"
    names = {path.name for path in model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]  # nothing that must be unpickled
    config = records.read_json(model / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"] and config["use_cache"] is True
    generation = records.read_json(model / "generation_config.json")
    assert (generation["temperature"], generation["top_p"], generation["do_sample"]) == (0.6, 0.9, True)


def test_the_model_loads_in_a_process_that_knows_nothing_of_this_package(trained):
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer)); "
        "ids = tokenizer('[INST] maps why [/INST]', return_tensors='pt'); "
        "assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] > ids.input_ids.shape[1]; "
        "assert 'bpo_utils' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(trained / "model")]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_model_card_names_data_code_and_versions(trained):
    card = (trained / "model" / "README.md").read_text(encoding="utf-8")
    facts = records.read_json(trained / "model" / "training.json")
    assert facts["settings"]["data"] in card and facts["commit"] in card and "torch 2.13.0" in card
    assert "profile `test`" in card and tokens.REWRITER_FRAME in card
    assert f"{facts['end']['validation_loss']:.4f}" in card and "| learning_rate | 0.001 |" in card


def test_the_card_links_a_base_of_the_hub_and_keeps_local_paths_to_itself(trained, tmp_path):
    facts = records.read_json(trained / "model" / "training.json")
    local_base = output.settings_of(settings(base=str(tmp_path)), [], [])
    assert local_base["base"] == tmp_path.name
    assert "base_model" not in output.card(facts | {"settings": local_base})
    of_the_hub = output.settings_of(settings(base="owner/name"), [], [])
    assert "\nbase_model: owner/name\n" in output.card(facts | {"settings": of_the_hub})


def test_a_finished_training_is_not_run_again_and_another_one_is(trained, capsys):
    before = (trained / "model/model.safetensors").stat().st_mtime_ns
    rest = {"validation": train_child.PAIRS[32:38], "decoding": DECODING, "name": "test"}
    train.train(PAIRS, settings(), trained, **rest)
    assert (trained / "model/model.safetensors").stat().st_mtime_ns == before
    assert "is finished, with these settings, this data and this code" in capsys.readouterr().out
    known = records.read_json(trained / "model" / "training.json")
    assert output.is_same(trained / "model", known)
    for part in ("settings", "code"):
        assert not output.is_same(trained / "model", known | {part: {"learning_rate": 1}})


class StopAt(train_child.AskAt):
    """Stops at a step by the file STOP."""

    def agreed(self, device, leader):
        if self.done_steps + 1 == self.step:
            (self.folder / stop.STOP).touch()
        return super().agreed(device, leader)


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(stop.Stopped, match=r"stopped at step 3 as asked; .*checkpoint-3 is complete"):
        train.train(PAIRS, settings(), tmp_path, requests=StopAt(tmp_path, 3))
    return tmp_path


def test_the_file_stop_stops_after_a_complete_checkpoint_and_is_taken_away(stopped):
    found = checkpoint.newest(stopped / "checkpoints")
    marker = checkpoint.marker(found)
    assert (marker["step"], marker["processes"], found.name) == (3, 1, "checkpoint-3")
    assert not (stopped / stop.STOP).exists() and not (stopped / "model").exists()
    with pytest.raises(FileNotFoundError, match="holds no finished model"):
        train.finished(stopped)


def test_checkpoints_of_another_training_are_refused_by_name(stopped):
    with pytest.raises(ValueError, match=r"belongs to another training: learning_rate was 0.001, is 0.002. Set these"):
        train.train(PAIRS, settings(learning_rate=2e-3), stopped)


def test_an_incomplete_checkpoint_is_passed_over(stopped, capsys):
    found = checkpoint.newest(stopped / "checkpoints")
    (found / "trainer_state.json").unlink()
    train.train(PAIRS, settings(), stopped)
    assert "is passed over: trainer_state.json has no file, the marker says" in capsys.readouterr().out
    assert log.lines(stopped / "log.jsonl")[0]["event"] == "start"


def test_the_file_save_writes_a_checkpoint_and_training_goes_on(tmp_path):
    class SaveAt(train_child.AskAt):
        def agreed(self, device, leader):
            if self.done_steps + 1 == self.step:
                (self.folder / stop.SAVE).touch()
            self.step, step = None, self.step
            answer = super().agreed(device, leader)
            self.step = step
            return answer

    train.train(PAIRS, settings(), tmp_path, requests=SaveAt(tmp_path, 3))
    assert [line["step"] for line in log.events(tmp_path, "checkpoint")] == [3]
    assert not (tmp_path / stop.SAVE).exists() and len(train.finished(tmp_path)) == 8


def test_a_loss_that_is_not_finite_stops_with_the_ids(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"step \d: the loss is nan; its examples are p\d+, .* lower learning_rate"
    ):
        train.train(PAIRS, settings(learning_rate=1e30, max_grad_norm=1e30), tmp_path)


def test_a_full_disk_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6})())
    with pytest.raises(
        OSError, match=r"has 0.0 GB free, and the checkpoints and the model of this training take up to"
    ):
        train.train(PAIRS, settings(), tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_no_pair_that_fits_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of the 32 pairs fits into max_length = 5"):
        train.train(PAIRS, settings(max_length=5), tmp_path)


def test_global_batch_that_cannot_be_cut_up_is_refused_with_the_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"global batch 8 is not a multiple of micro batch 3 x 1 .*= 3"):
        train.train(PAIRS, train_child.settings(micro_batch=3), tmp_path)


def test_srun_tells_each_task_its_rank_and_needs_a_meeting_place(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("SLURM_PROCID", "3"), ("SLURM_LOCALID", "1"), ("SLURM_STEP_NUM_TASKS", "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="srun started 4 tasks, but MASTER_ADDR and MASTER_PORT are not set"):
        launch.set_up(deepspeed=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    assert launch.set_up(deepspeed=False) == "process 3 of 4, as srun says"
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["3", "1", "4"]
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        del os.environ[name]


def test_the_entry_trains_a_profile_and_says_so_the_second_time(run_folder, monkeypatch):
    folder = paths.stage_dir("smoke", "02_pairs")
    records.write_rows(folder / "pairs.jsonl", PAIRS)
    records.write_rows(folder / "validation.jsonl", [])
    # As it is started by hand, but for a clean-up at the interpreter's end that aborts, as that of Gloo's threads may.
    started = "import atexit, os, runpy; atexit.register(os.abort); runpy.run_module('bpo_utils.train', {}, '__main__')"
    command = [sys.executable, "-c", started, "--profile", "smoke"]
    first, second = (subprocess.run(command, capture_output=True, text=True, timeout=300) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr[-2000:]
    assert "1 steps; no pair is too long; begins" in first.stdout and "is finished, with these" in second.stdout
