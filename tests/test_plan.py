"""The plan before the job: its formulas against real models and DeepSpeed's own functions, its text, its verdicts."""

import argparse
import json
import sys

import pytest

from bpo_utils import cli_train, paths, profile, records, tokens
from bpo_utils.notebook import WrongUse
from bpo_utils.training import flops, gpus, memory, plan, plan_inputs, plan_time, setup

PAPER, MINI = profile.load("paper").training, profile.load("mini").training
GIB = 2**30


def llama(**changes):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaConfig(**(sizes | {"vocab_size": 320, "attn_implementation": "eager"} | changes))


def on_meta(config):
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def seven():
    return plan_inputs.model("meta-llama/Llama-2-7b-chat-hf")[0]


def job(shape, gpus=8, nodes=1, **changes):
    tokens = PAPER.micro_batch * PAPER.max_length
    known = {"shape": shape, "trained": shape.parameters, "gpus": gpus, "nodes": nodes, "tokens": tokens}
    known |= {"examples": 4, "targets": tokens, "accumulation": 1, "attention": "sdpa", "batching": "flat", "width": 2}
    return memory.Job(**(known | changes))


def setting(stage, offload="none", checkpointing=False):
    return memory.Setting(stage, offload, checkpointing)


# --- sizes and operations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 2},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
        {"head_dim": 24},
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    ],
)
def test_parameters_are_those_of_the_real_model(changes):
    model = on_meta(llama(**changes))
    shape = flops.from_config(model.config)
    own = max(sum(part.numel() for part in each.parameters(recurse=False)) for each in model.modules())
    assert (shape.parameters, shape.largest_layer) == (model.num_parameters(), own)


def test_llama_2_7b_has_6738415616_parameters(seven):
    assert seven.parameters == 6_738_415_616
    assert seven.linear == 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096  # word vectors, output layer, norms


def test_other_dense_models_are_counted_and_mixtures_of_experts_refused():
    from transformers import MixtralConfig, Qwen2Config

    config = Qwen2Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    shape = flops.from_config(config)
    assert shape.parameters == on_meta(config).num_parameters()
    assert shape.linear == 2 * (2 * 64 * 64 + 2 * 64 * shape.kv_heads * 16 + 3 * 64 * 96)
    with pytest.raises(ValueError, match="mixtral is a mixture of experts"):
        flops.from_config(MixtralConfig())


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_are_counted_as_peft_makes_them(modules):
    peft = pytest.importorskip("peft")
    model = on_meta(llama(num_key_value_heads=2))
    lora = profile.Lora(rank=4, alpha=8, target_modules=modules)
    expected = flops.trained_parameters(flops.from_config(model.config), PAPER.model_copy(update={"lora": lora}))
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=modules))
    assert made.num_parameters(only_trainable=True) == expected


def test_adapters_beside_no_layer_are_refused_with_the_layers_there_are(seven):
    lora = profile.Lora(rank=4, alpha=8, target_modules=["query"])
    with pytest.raises(ValueError, match=r"\['query'\] names no linear layer .* down_proj, gate_proj, k_proj"):
        flops.trained_parameters(seven, PAPER.model_copy(update={"lora": lora}))


def test_operations_by_hand():
    shape = flops.from_config(llama(num_hidden_layers=1, num_key_value_heads=2))
    weights = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 176
    attention = 12 * 64 * (3**2 + 5**2)  # each example sees itself only
    assert flops.training_flops(shape, [3, 5], 4) == 6 * (weights * 8 + 320 * 64 * 4) + attention
    assert flops.training_flops(shape, [3, 5], 4, trainable="lora") == 4 * (weights * 8 + 320 * 64 * 4) + attention


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize("taught", [48, 10])
def test_operations_are_those_that_torch_counts(trainable, taught):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama(num_key_value_heads=2))
    if trainable == "lora":  # frozen weights through which gradients pass
        model.requires_grad_(False)
        model.enable_input_require_grads()
    with FlopCounterMode(display=False) as counter:
        given = torch.arange(48)[None]
        model(input_ids=given, logits_to_keep=taught, use_cache=False).logits.sum().backward()
    shape = flops.from_config(model.config)
    assert counter.get_total_flops() == flops.training_flops(shape, [48], taught, trainable=trainable)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "offload", "count", "ours", "paper"),
    [
        (None, "none", 8, 113.0, 100.4),
        (1, "none", 8, 37.7, 34.5),
        (2, "none", 8, 26.7, 23.5),
        (2, "none", 4, 40.8, 34.5),
        (3, "none", 8, 14.6, 12.6),
        (2, "optimizer", 8, 12.6, 12.6),
    ],
)
def test_states_of_7b_are_the_published_figures(seven, stage, offload, count, ours, paper):
    gpu, by_paper, host = memory.states(setting(stage, offload), job(seven, count))
    assert (round(gpu / GIB, 1), round(by_paper / GIB, 1)) == (ours, paper)
    assert offload == "none" or round(host / GIB) == 301


def test_arithmetic_equals_deepspeeds_estimators():
    pytest.importorskip("deepspeed")
    source, two, three = memory.estimators()
    assert source.startswith("DeepSpeed's own") and two is not memory.zero2_states
    for parameters, layer in ((1_197_184, 393_216), (6_738_415_616, 131_072_000)):
        for count, nodes in ((1, 1), (4, 1), (8, 1), (8, 4)):
            for offload in (False, True):
                given = (parameters, count, nodes, offload)
                assert memory.zero2_states(*given) == two(*given)
                for everything in (False, True):
                    given = (parameters, layer, count, nodes, offload, everything)
                    assert memory.zero3_states(*given) == three(*given)


def test_without_deepspeed_the_same_arithmetic_stands_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    memory.estimators.cache_clear()
    try:
        source, two, three = memory.estimators()
    finally:
        memory.estimators.cache_clear()
    assert "not installed" in source and (two, three) == (memory.zero2_states, memory.zero3_states)


def kept_for_backward(model, count, **given):
    """Bytes of all tensors that autograd keeps, parameters left out."""
    import torch

    own = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage, storage.nbytes())  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(input_ids=torch.arange(count)[None] % 320, logits_to_keep=1, use_cache=False, **given)
    assert output.logits.requires_grad
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize(("attention", "flat"), [("sdpa", False), ("sdpa", True), ("eager", True)])
def test_activations_are_what_a_layer_keeps_and_no_less(attention, flat):
    import torch
    from transformers import LlamaForCausalLM

    count, heads = 256, 4
    positions = torch.arange(count)[None] % (64 if flat else count)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": heads}
    models = [LlamaForCausalLM(llama(num_hidden_layers=n, attn_implementation=attention, **sizes)) for n in (1, 3)]
    measured = [kept_for_backward(each.bfloat16(), count, position_ids=positions) for each in models]
    layer = (measured[1] - measured[0]) / 2
    work = job(flops.from_config(models[0].config), tokens=count, targets=0, attention=attention)
    predicted = memory.COPIES * 2 * count * 256 + (memory._attention(work) if flat else 0)
    assert 0.75 * predicted < layer < predicted  # the 56 s h of ml-engineering are more than this version keeps


def test_checkpointing_keeps_one_copy_per_layer_and_one_whole_layer(seven):
    work = job(seven, attention="flash_attention_2", targets=0)
    copy = 2 * 2048 * 4096
    assert memory.activations(setting(2), work) == 32 * 28 * copy
    assert memory.activations(setting(2, checkpointing=True), work) == (32 + 28) * copy


def test_frozen_weights_are_only_kept_and_adapters_have_states(seven):
    lora = profile.load("lora").training
    trained = flops.trained_parameters(seven, lora)
    gpu, paper, _ = memory.states(setting(None), job(seven, 1, trained=trained, lora=True))
    frozen = seven.parameters - trained
    assert (gpu, paper) == (18 * trained + 2 * frozen, 16 * trained + 2 * frozen)
    shared, _, _ = memory.states(setting(3), job(seven, 4, trained=trained, lora=True))
    assert shared == pytest.approx(18 * trained / 4 + 4 * seven.largest_layer + 2 * frozen / 4)


def test_zero_1_with_accumulation_keeps_whole_gradients_in_float32(seven):
    once, often = (memory.states(setting(1), job(seven, accumulation=n))[0] for n in (1, 2))
    assert often - once == pytest.approx((4 - 4 / 8) * seven.parameters)


@pytest.mark.parametrize(("stage", "offload"), [(None, "none"), (2, "none"), (3, "optimizer"), (3, "all"), (1, "none")])
def test_own_setting_is_always_in_the_table(stage, offload):
    own = setting(stage, offload, True)
    assert memory.settings(own).count(own) == 1


def test_disk_holds_two_checkpoints_of_108_gb(seven):
    count = seven.parameters
    assert memory.checkpoint_bytes(count, count, PAPER) == pytest.approx(107.8e9, rel=1e-3)
    assert memory.model_bytes(count, PAPER) == pytest.approx(13.48e9, rel=1e-3)
    assert plan.disk_needed(count, count, PAPER) == 2 * memory.checkpoint_bytes(count, count, PAPER)
    lora = profile.load("lora").training
    assert plan.disk_needed(count, 40_000_000, lora) == 12 * 40_000_000 + 2 * count


# --- steps, lengths, time --------------------------------------------------------------------------------------------


def test_resolved_counts_steps_warmup_and_target_tokens():
    shape = flops.from_config(llama())
    training = MINI.model_copy(update={"epochs": 2, "global_batch": 8, "micro_batch": 4, "freeze_embeddings": True})
    what = plan.resolved([3] * 33, [2] * 33, training, shape, processes=2)
    assert (what["steps"], what["warmup_steps"], what["accumulation"]) == (10, 1, 1)
    assert (what["pairs"], what["tokens"], what["target_tokens"]) == (33, 99, 66)
    frozen = 2 * 320 * 64
    assert what["trained"] == shape.parameters - frozen
    assert what["state_bytes"] == 16 * what["trained"] + 4 * frozen
    whole = plan.resolved([3] * 33, [2] * 33, training.model_copy(update={"drop_last": True}), shape, processes=1)
    assert (whole["steps"], whole["accumulation"]) == (8, 2)


def test_batches_that_cannot_be_made_are_refused_with_the_numbers():
    shape = flops.from_config(llama())
    odd = MINI.model_copy(update={"global_batch": 32, "micro_batch": 5})
    with pytest.raises(ValueError, match=r"global batch 32 is not a multiple of micro batch 5 x 2 .*= 10; change"):
        plan.resolved([3] * 64, [2] * 64, odd, shape, processes=2)
    with pytest.raises(ValueError, match="31 examples make no whole global batch of 32"):
        plan.resolved([3] * 31, [2] * 31, MINI.model_copy(update={"drop_last": True}), shape, processes=1)


def test_shipped_lengths_say_what_their_rows_say():
    facts = records.read_json(paths.FACTS / "bpo_lengths.json")
    prompts, targets = zip(*facts["rows"], strict=True)
    both = [prompt + target for prompt, target in facts["rows"]]
    for name, values in (("prompt", prompts), ("target", targets), ("total", both)):
        assert facts[name]["mean"] == pytest.approx(sum(values) / facts["n"], abs=0.01)
        assert facts[name]["max"] == max(values)
        assert facts[name]["p50"] in sorted(values)[148:152]
    assert len(facts["rows"]) == facts["n"] == 300


def test_lengths_of_the_runs_own_pairs_are_used(run_folder):
    run = profile.load("mini")
    pairs = [records.Pair(f"p{n}", "Tides?", "Explain what causes the tides.", "s") for n in range(40)]
    records.write_rows(paths.stage_dir("mini", "02_pairs") / "pairs.jsonl", pairs)
    found = plan_inputs.lengths(run)
    example = tokens.encode_pairs(setup.load_tokenizer("mini:base"), pairs[:1], 256).examples[0]
    assert found.all == [len(example["input_ids"])] * 40
    assert found.targets == [sum(label != tokens.IGNORED for label in example["labels"])] * 40
    assert "40 pairs of" in found.source and "02_pairs/pairs.jsonl" in found.source


def test_shipped_lengths_stand_in_and_are_named(run_folder):
    run = profile.load("paper")
    found = plan_inputs.lengths(run)
    assert len(found.all) == 13895 and max(found.all) == PAPER.max_length
    assert "bpo_lengths.json), because this run has no pairs yet" in found.source
    leave_out = run.model_copy(update={"training": PAPER.model_copy(update={"too_long": "leave_out"})})
    shorter = plan_inputs.lengths(leave_out)
    assert len(shorter.all) < 13895 and max(shorter.all) <= PAPER.max_length


def test_zero_2_moves_four_bytes_per_parameter_and_the_longer_part_counts(seven):
    work = plan_time.Work(131e12, 1.0, 1, seven.parameters, False, 2)
    time = plan_time.step(setting(2), work, seven, gpus.named("a800-80"), 8, 1)
    moved = 7 / 8 * 4 * seven.parameters / (200e9 * plan_time.LINK)
    assert time.communication == pytest.approx(moved)
    adam = 30 * seven.parameters / 8 / 2039e9
    assert time.compute == pytest.approx(131e12 / (8 * 312e12 * plan_time.MFU) + adam)
    assert (time.step, time.bound_by) == (time.communication, "communicating")
    faster = plan_time.step(setting(2), work, seven, gpus.named("a100-80"), 8, 1)
    assert (faster.step, faster.bound_by) == (faster.compute, "computing")
    alone = plan_time.step(setting(None), work, seven, gpus.named("h200"), 1, 1)
    assert alone.communication == alone.offload == 0


def test_off_loading_checkpointing_padding_and_accumulation_cost_time(seven):
    card = gpus.named("a800-80")
    work = plan_time.Work(131e12, 1.0, 1, seven.parameters, False, 2)
    plain = plan_time.step(setting(2), work, seven, card, 8, 1)
    assert plan_time.step(setting(2, "optimizer"), work, seven, card, 8, 1).bound_by == "off-loading"
    assert plan_time.step(setting(2, checkpointing=True), work, seven, card, 8, 1).compute > 1.2 * plain.compute
    padded = plan_time.Work(131e12, 0.5, 1, seven.parameters, False, 2)
    assert plan_time.step(setting(2), padded, seven, card, 8, 1).compute > 1.5 * plain.compute
    often = plan_time.Work(131e12, 1.0, 4, seven.parameters, False, 2)
    assert plan_time.step(setting(2), often, seven, card, 8, 1).communication == pytest.approx(
        plain.communication * 5 / 2
    )


# --- the whole plan --------------------------------------------------------------------------------------------------


def made(name, **where):
    return plan.make(profile.load(name), **where)


@pytest.fixture
def no_cached_model(run_folder, monkeypatch):
    """As on a machine that has never fetched Llama 2: no configuration in the cache, and nobody may ask the Hub."""
    from transformers import AutoConfig

    def from_pretrained(name, local_files_only=False):
        assert local_files_only, f"the Hub would be asked for {name}"
        raise OSError("not in the cache")

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)


def test_plan_of_the_paper_fits_eight_a800(no_cached_model):
    done = made("paper", gpu="a800-80", gpus=8)
    text = plan.text(done)
    assert "Verdict: fits: 45.1 of 79.1 GiB on each GPU; no checkpointing and no off-load needed." in text
    line = "sbatch --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --export=ALL,PROFILE=paper slurm/train.sbatch"
    assert f"  {line}\n  bpo submit --profile paper" in text
    assert "6,738,415,616 parameters, all trained" in text and "llama2_7b_config.json, because" in " ".join(
        text.split()
    )
    assert "Predictions from formulas; nothing here was measured." in text
    assert "1,302 in 3 epoch(s) (the last 7 examples of each are left out), 131 of them warm-up" in text
    assert done["inputs"]["machine"] == "as asked"
    own = [row for row in done["memory"] if row["own"]]
    assert [(row["setting"], round(row["states_gib"], 1), row["fits"]) for row in own] == [("ZeRO-2", 26.7, "yes")]
    assert json.loads(json.dumps(done, allow_nan=False)) == done
    assert done["time"][0]["bound_by"] == "communicating" and len(done["time"]) == len(plan.MACHINES)
    rows = plan.tables(done)
    assert len(rows["memory"]) == 12 and all(isinstance(cell, str) for row in rows["time"] for cell in row.values())


def test_four_small_gpus_need_another_setting_and_the_plan_says_which(run_folder):
    verdict = made("paper", gpu="a100-40", gpus=4)["verdict"]
    assert verdict["text"].startswith("does not fit: 59.3 of 39.4 GiB")
    assert "Smallest setting that does: ZeRO-3 with checkpointing" in verdict["text"]
    assert verdict["change"] == {"zero_stage": 3, "checkpointing": True}
    assert "--gpus-per-node=4 --export=ALL,PROFILE=YOURS" in verdict["submit"][0]


def test_one_gpu_of_24_gb_is_sent_to_the_profile_lora(run_folder):
    done = made("paper", gpu="rtx4090", gpus=1)
    assert "Without off-load nothing does" in done["verdict"]["text"]
    assert "151 GiB of the node's own memory" in done["verdict"]["text"]
    assert "Use the profile lora" in done["verdict"]["text"]
    assert done["verdict"]["submit"][0].endswith("PROFILE=lora slurm/train.sbatch")
    lora = made("lora", gpu="rtx4090")
    assert lora["verdict"]["text"].startswith("fits: 16.5 of 23.5 GiB")
    assert "checkpointing is needed" in lora["verdict"]["text"]


def test_upstreams_off_load_is_called_what_it_is(run_folder):
    done = made("upstream", gpu="a800-80")
    assert "off-load is not needed (45.2 GiB without)" in done["verdict"]["text"]
    assert done["time"][0]["bound_by"] == "off-loading"


def test_a_machine_without_a_known_gpu_is_said_to_be_so(run_folder, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    run = profile.load("paper")
    card, why = plan_inputs.gpu(None, run)
    assert card.name == "a800-80" and "this machine's Tesla T4 is not in the table" in why
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert plan_inputs.gpu(None, run) == (gpus.named("h200"), "found on this machine")


def test_mini_needs_no_gpu_and_gets_no_time(run_folder, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = made("mini")
    assert done["time"] == [] and done["machine"]["gpu"] is None and len(done["memory"]) == 1
    assert 50 < done["memory"][0]["gpu_gib"] * 1024 < 1000
    text = plan.text(done)
    assert "Memory in MiB" in text and "python -m bpo_utils.train --profile mini" in text and "Time" not in text
    assert "the miniature's data, as notebook 02 makes its pairs" in " ".join(text.split())


def test_base_that_cannot_be_had_is_refused_with_what_to_do(run_folder):
    with pytest.raises(ValueError, match="the configuration of nobody/nothing cannot be read"):
        plan_inputs.model("nobody/nothing")


def arguments(*given):
    parser = argparse.ArgumentParser()
    cli_train.add_commands(parser.add_subparsers(dest="command"))
    return parser.parse_args(["plan", *given])


def test_command_prints_text_or_json_and_refuses_what_it_cannot_plan(run_folder, capsys):
    assert cli_train.plan(arguments("--profile", "paper", "--gpu", "a100-40", "--gpus", "4", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["fits"] == "no"
    for given, told in (
        (("--gpu", "a800"), "did you mean 'a800-80'"),
        (("--gpu", "h200", "--gpus", "3"), r"micro batch 4 x 3 process\(es\) = 12"),
        (("--profile", "recorded"), "no training section"),
        (("--profile", "papier"), "no profile 'papier'"),
    ):
        with pytest.raises(WrongUse, match=told):
            cli_train.plan(arguments("--profile", "paper", *given))
    with pytest.raises(SystemExit):
        arguments("--gpus", "0")
