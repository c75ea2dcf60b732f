"""benchmarks/rewriting.py on a few prompts: that it measures what it says, not how fast."""

import json
import shutil

import pytest

from bpo_utils import paths, records


@pytest.fixture
def benchmark(monkeypatch, run_folder):
    """The benchmark, and a run of the miniature with four prompts and a shipped model as its rewriter."""
    monkeypatch.syspath_prepend(paths.ROOT / "benchmarks")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # main sets it for its own process
    import rewriting
    import torch

    for number, name in enumerate(records.TEST_SETS):
        row = records.TestPrompt("1", name, f"why {'tea ' * number}", "", "")
        records.write_rows(paths.stage_dir("mini", "01_data") / "test" / f"{name}.jsonl", [row])
    shutil.copytree(paths.MINI_MODELS / "strong", paths.stage_dir("mini", "03_training") / "model")
    threads = torch.get_num_threads()
    yield rewriting
    torch.set_num_threads(threads)


def test_the_comparison_ends_in_its_json_line(benchmark, tmp_path, capsys):
    benchmark.main(["--rounds", "2", "--threads", "1", "--results", str(tmp_path)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last) == ["ratio_to_loop", "identical", "prompts_per_s"] and last["identical"] is True
    assert last["ratio_to_loop"] > 0 < last["prompts_per_s"]
    written = records.read_json(tmp_path / "rewriting.json")
    assert {name: written[name] for name in last} == last and written["prompts"] == 4
    assert written["differ"] == {"loop": 0, "ours": 0, "continuous": 0}
    assert {name: len(each) for name, each in written["seconds"].items()} == {"loop": 2, "ours": 2, "continuous": 2}
    assert list(written["seconds_by_batch_size"]) == ["batch size 1", "batch size 4"]


def test_another_text_than_the_loops_is_counted(benchmark):
    ways = {"loop": lambda texts: texts, "ours": lambda texts: [texts[0], *("x" for _ in texts[1:])]}
    assert benchmark.compare(ways, ["a", "b", "c"], 2, dict.fromkeys(ways, 1))[1] == {"loop": 0, "ours": 2}


def test_the_gpus_code_runs_on_a_cpu_with_texts_of_one_length(benchmark, tmp_path, capsys):
    given = ["--gpu", "--shape", "tiny", "--batch", "2", "--new-tokens", "5", "--results", str(tmp_path)]
    benchmark.main(given)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (made,) = last["tokens_per_s"]
    assert made["batch"] == 2 and made["batched"] > 0 < made["continuous"] and made["limit"] is None
    assert last == {k: v for k, v in records.read_json(tmp_path / "rewriting_gpu.json").items() if k != "date"}


def test_the_limit_is_what_a_step_reads_over_the_bandwidth(benchmark):
    gpu = benchmark.rewriting_gpu
    model = gpu.random_model("tiny", gpu=False)
    own = sum(p.numel() for p in model.parameters()) - 512 * 64  # word vectors are not read whole
    read = (
        2 * own + 3 * (10 + 4) * 2 * 2 * 64 * 2
    )  # 3 rows, 10 tokens and half of 8 new ones, keys and values, 2 layers
    found = gpu.limit(model, ["1 " * 9] * 6, 3, 8, "NVIDIA A100-SXM4-80GB")
    assert found == pytest.approx(3 * 2039e9 / read, rel=1e-3)


def test_without_a_gpu_it_says_what_it_needs(benchmark, monkeypatch):
    with pytest.raises(SystemExit, match="no GPU here .* 40 GiB"):
        benchmark.main(["--gpu"])
