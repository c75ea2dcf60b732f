"""benchmarks/training.py on a model of a few thousand parameters: that it measures what it says, not how fast."""

import json
import random

import pytest

from bpo_utils import paths, records
from bpo_utils.training import flops

WORDS = ["tides", "jazz", "maps", "sleep", "ballet", "voting", "caching", "poetry", "why", "how"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(paths.ROOT / "benchmarks")
    import torch
    import training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in {"BPO_TOKENIZER_DIR": "", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)  # main sets them for its own process, as it does the threads
    yield training
    torch.set_num_threads(threads)


@pytest.fixture
def pairs(benchmark, monkeypatch):
    """Pairs of different lengths instead of BPO's, which not every machine has; one is too long."""
    draw = random.Random(1)
    text = {n: " ".join(draw.choices(WORDS, k=draw.randint(2, 40))) for n in range(80)}
    made = [records.Pair(f"p{n}", text[n], text[n + 40], "s") for n in range(39)]
    made += [records.Pair("long", "tides " * 900, "maps", "s")]
    monkeypatch.setattr(benchmark.ways, "real_pairs", lambda: made)
    return made


def test_the_comparison_ends_in_its_json_line(benchmark, pairs, tmp_path, capsys):
    given = ["--size", "tiny", "--threads", "1", "--rounds", "2", "--steps", "2", "--global-batch", "4", "--no-trl"]
    benchmark.main([*given, "--results", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ["ours", "upstream", "default_collator", "trl", "utilisation", "utilisation_upstream"]
    assert list(last) == names and last["trl"] is None
    assert all(last[name] > 0 for name in names[:3])
    assert last["utilisation"] == 1.0 and 0.3 < last["utilisation_upstream"] < 0.95
    written = records.read_json(tmp_path / "training.json")
    assert {name: written[name] for name in names} == last
    rounds = written["rounds"]
    assert set(rounds) == {"ours", "upstream", "default_collator", "limit"}
    for turn in range(2):  # the same work for every way: the same tokens, and as many of them taught
        assert len({tuple(ones[turn][2:]) for ones in rounds.values()}) == 1
        assert rounds["upstream"][turn][1] == rounds["default_collator"][turn][1] > rounds["ours"][turn][1]
    assert rounds["ours"][0][1:] != rounds["ours"][1][1:]  # other rows


def test_ours_sees_the_rows_in_the_order_of_the_others(benchmark, pairs, tmp_path, monkeypatch):
    ways = benchmark.ways
    ways.make_base(tmp_path / "base", ways.SIZES["tiny"])
    work = ways.work(tmp_path / "base", pairs, 8, 1, 2, 7, tmp_path)
    assert len(work.pairs) == 24 and "long" not in {pair.id for pair in work.pairs}
    monkeypatch.setattr(ways.Meter, "measured", lambda meter, work: [batch[1:] for batch in meter.batches])
    seen = ways.ours(work)
    assert seen == ways.default_collator(work) and len(set(seen)) > 4


def test_the_bound_is_padding_and_the_output_layer(benchmark):
    shape = flops.Shape(4, 8, 0, 1, 1, 4, 10, False, 100, 50, (("up_proj", 4, 25, 1),))  # 100 weights, output 40
    row = {"input_ids": [3] * 10, "labels": [-100] * 5 + [3] * 5}
    assert benchmark.ways.bound(shape, [row] * 4) == pytest.approx((1000 + 400) / (1000 + 200))
    short = {"input_ids": [3] * 5, "labels": [-100] * 5}
    padded, ours = 4 * 10 * 140, (10 + 3 * 5) * 100 + 5 * 40
    assert benchmark.ways.bound(shape, [row, *[short] * 3]) == pytest.approx(padded / ours)


def test_without_a_gpu_it_refuses_and_says_what_it_needs(benchmark, tmp_path):
    with pytest.raises(SystemExit, match=r"no GPU here.* needs a GPU with 1\d\d GiB .* GB of disk.*--shape tiny"):
        benchmark.main(["--gpu", "--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_the_gpu_loop_runs_on_a_tiny_shape(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = ["--gpu", "--shape", "tiny", "--base", str(tmp_path), "--results", str(tmp_path), "--checkpointing", "on"]
    one = ["--attention", "sdpa", "--micro", "8"]
    benchmark.main([*given, *one])
    made = records.read_json(tmp_path / "training_gpu.json")["settings"]
    assert len(made) == 1 and made[0]["command"] == f"python benchmarks/training.py {' '.join(given)} {' '.join(one)}"
    assert {"attention": "sdpa", "checkpointing": True, "micro": 8, "shape": "tiny"}.items() <= made[0].items()
    assert made[0]["tokens_per_s"] > made[0]["target_tokens_per_s"] > 0 and made[0]["mfu"] is None
    benchmark.main([*given, "--attention", "flash_attention_2", "--micro", "8"])  # adds a line, keeps the other
    table = capsys.readouterr().out.splitlines()[-2:]
    assert "| flash_attention_2 | on | 8 | the package flash_attn is not installed |" in table[0]
    assert table[1].startswith("| sdpa | on | 8 | ")


def test_the_plan_is_reckoned_for_the_largest_micro_batch(benchmark):
    gpu = benchmark.training_gpu
    from transformers import LlamaConfig

    shape = flops.from_config(LlamaConfig(**gpu.shape_of("llama-2-7b")))
    made = gpu.examples(shape.vocab)
    assert len(made) == 297 and sum(len(row["input_ids"]) for row in made) / 297 == pytest.approx(100, abs=10)
    small, large = (gpu.planned(gpu.Setting("sdpa", on, 4), shape, made, gpu=True) for on in (True, False))
    each = [gpu.planned(gpu.Setting("sdpa", False, 4), shape, made[n : n + 4], gpu=True) for n in range(0, 297, 4)]
    assert large == max(each) > min(each)
    states = 18 * shape.parameters / 2**30
    assert states < small < large < states + 16
    assert gpu.planned(gpu.Setting("sdpa", False, 16), shape, made, gpu=True) > large
