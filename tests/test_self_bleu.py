"""Self-BLEU and the diversity filter against sacrebleu's own sentence BLEU, text by text; distinct-n; the benchmark."""

import functools
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import sacrebleu
from sacrebleu.metrics import bleu, helpers

from bpo_utils import describe, paths, records, segment, self_bleu

ODD = [
    "Name three fruits.",
    "Name three fruits.",
    "",
    "   \n",
    "Why",
    "Why ?",
    "?!...",
    "the the the the cat",
    "the the cat the",
    "the cat the cat the cat sat",
    "A well-\nknown trick",
    "Ends in a dash",
    "Ends in a dash-\n",
    "no where",
    "now here",
    "It costs 3,000.50 dollars - really &quot;cheap&quot;",
    "写一首关于海洋的诗。",
    "写一首诗，关于海洋 and the sea, 3.5 米。",
    "写写写写写一首诗",
    "東京の天気は？",
    "Naïve café, Straße, 𠮷野家!",
]


def oracle(text, others, tokenize="none", order=4):
    """Sacrebleu's sentence BLEU; with "none" of texts already cut into tokens."""
    metric = bleu.BLEU(tokenize=tokenize, smooth_method="exp", effective_order=True, max_ngram_order=order)
    return metric.sentence_score(text, others).score


def oracle_self(texts, tokenize="none", order=4):
    return [oracle(text, texts[:k] + texts[k + 1 :], tokenize, order) for k, text in enumerate(texts)]


def oracle_greedy(texts, threshold, tokenize="none", order=4):
    kept, values = [], []
    for text in texts:
        values.append(oracle(text, kept, tokenize, order) if kept else 0.0)
        if values[-1] < threshold:
            kept.append(text)
    return values


@pytest.fixture
def remembering(monkeypatch):
    """Sacrebleu counts the n-grams of every reference anew for every text; remembering them halves its time."""
    count = functools.cache(helpers.extract_all_word_ngrams)

    def copied(line, least, most):
        counts, length = count(line, least, most)
        return counts.copy(), length  # sacrebleu adds to the first one

    monkeypatch.setattr(bleu, "extract_all_word_ngrams", copied)


def cut(texts):
    return [" ".join(segment.bleu_tokens(text.rstrip())) for text in texts]


def near(values):
    return pytest.approx(values, rel=0, abs=1e-9)


def test_self_bleu_is_what_sacrebleu_says_of_each_text_against_the_others():
    texts = [text for text in ODD if not segment.has_han(text)]
    wanted = [
        sacrebleu.sentence_bleu(text, texts[:k] + texts[k + 1 :], smooth_method="exp", use_effective_order=True).score
        for k, text in enumerate(texts)
    ]
    assert self_bleu.self_bleu(texts) == near(wanted)
    assert wanted[0] == near(100) and 0 < wanted[8] < 100  # a duplicate; a repeated word that others have less often
    assert self_bleu.self_bleu(ODD) == near(oracle_self(cut(ODD)))


def test_the_filter_is_the_literal_loop_over_what_is_kept():
    texts = [text for text in ODD if not segment.has_han(text)]
    assert self_bleu.greedy(texts, 40) == near(oracle_greedy(texts, 40, "13a"))
    for threshold in (0, 10, 40, 100, 101):
        values = self_bleu.greedy(ODD, threshold)
        assert values == near(oracle_greedy(cut(ODD), threshold))
    assert values[1] == near(100)


def test_what_has_nothing_to_compare_with_has_zero():
    assert self_bleu.self_bleu([]) == self_bleu.greedy([], 50) == []
    assert self_bleu.self_bleu(["Name three fruits."]) == self_bleu.greedy(["Name three fruits."], 50) == [0.0]
    assert self_bleu.self_bleu(["", ""]) == self_bleu.greedy(["", ""], 50) == [0.0, 0.0]
    assert self_bleu.self_bleu(["alpha beta", "gamma delta"]) == [0.0, 0.0]
    with pytest.raises(ValueError, match="max_order is 0"):
        self_bleu.self_bleu(["a", "b"], max_order=0)
    with pytest.raises(ValueError, match="max_order is 0"):
        self_bleu.Diversity(max_order=0)


def test_a_threshold_is_to_be_stayed_under():
    texts = ["one two three four", "one two three five", "one two three five"]
    value = self_bleu.greedy(texts, 1000)[1]
    assert self_bleu.greedy(texts, value)[2] == value  # the second was not kept at its very value
    assert self_bleu.greedy(texts, value + 1e-6)[2] == near(100)


def test_row_by_row_as_the_pairs_filter_uses_it():
    kept, texts = self_bleu.Diversity(), cut(ODD)
    for k, text in enumerate(ODD):
        wanted = oracle(texts[k], texts[:k]) if k else 0.0
        assert kept.bleu("something else in between") >= 0  # another question must not change the next answer
        assert kept.bleu(text) == near(wanted)
        assert kept.bleu(text) == near(wanted)  # asking keeps nothing
        kept.bleu("and here")
        kept.add(text)


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_random_texts_of_few_words(monkeypatch, block):
    monkeypatch.setattr(self_bleu, "_BLOCK", block)
    draw = random.Random(20)
    for _ in range(300):
        words, order = "abcd"[: draw.randint(1, 4)] + draw.choice(["", "天", "。"]), draw.choice([1, 2, 3, 4, 4, 4, 5])
        texts = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(draw.randint(2, 7))]
        threshold = draw.choice([20, 50, 80])
        tokens = cut(texts)
        assert self_bleu.self_bleu(texts, order) == near(oracle_self(tokens, order=order)), texts
        assert self_bleu.greedy(texts, threshold, order) == near(oracle_greedy(tokens, threshold, order=order)), texts


@pytest.mark.parametrize("rows", [50, 100, 400])
def test_the_work_grows_with_the_tokens_and_not_with_the_pairs(monkeypatch, rows):
    draw, looked_up, factorize = random.Random(1), [], pandas.factorize
    texts = [" ".join(draw.choices("abcdefghijklmnop", k=20)) for _ in range(rows)]
    monkeypatch.setattr(pandas, "factorize", lambda values: looked_up.append(len(values)) or factorize(values))
    assert len(self_bleu.self_bleu(texts)) == rows
    assert len(looked_up) < 2 * 4 and sum(looked_up) <= 2 * 4 * 20 * rows


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_distinct_n(n):
    for texts in (ODD, ["a b c d a b c d"], ["", "a"], real_rows("BPO_DATA_DIR")[:500]):
        grams = [tuple(words[at : at + n]) for words in map(segment.words, texts) for at in range(len(words) - n + 1)]
        assert describe.distinct_n(texts, n) == near(len(set(grams)) / len(grams) if grams else 0.0)


def real_rows(variable):
    """Prompts of BPO (BPO_DATA_DIR) or the Chinese preference pairs (BPO_PREFERENCES_DIR); none without the files."""
    if variable not in os.environ:
        return []
    folder = Path(os.environ[variable])
    if variable == "BPO_DATA_DIR":
        return [row["instruction"] for row in json.loads((folder / "val.json").read_text("utf-8"))] + [
            row["prompt"] for row in json.loads((folder / "bpo_test.json").read_text("utf-8"))
        ]
    rows = json.loads((folder / "llamafactory_dpo_zh_demo.json").read_text("utf-8"))
    return [text for row in rows if segment.has_han(text := row["conversations"][0]["value"])]


@pytest.mark.skipif("BPO_DATA_DIR" not in os.environ, reason="BPO_DATA_DIR is not set")
def test_500_real_rows(remembering):
    texts = real_rows("BPO_DATA_DIR")
    assert len(texts) == 500 and not any(map(segment.has_han, texts))
    assert self_bleu.self_bleu(texts) == near(oracle_self(texts, "13a"))
    assert self_bleu.greedy(texts, 20) == near(oracle_greedy(texts, 20, "13a"))


@pytest.mark.skipif("BPO_PREFERENCES_DIR" not in os.environ, reason="BPO_PREFERENCES_DIR is not set")
def test_real_chinese_rows(remembering):
    texts = [text for text in real_rows("BPO_PREFERENCES_DIR") if len(text) < 100][:150]
    assert len(texts) > 100
    assert self_bleu.self_bleu(texts) == near(oracle_self(texts, "zh"))
    assert self_bleu.greedy(texts, 20) == near(oracle_greedy(texts, 20, "zh"))


BENCHMARK = paths.ROOT / "benchmarks" / "self_bleu.py"


@pytest.fixture
def invented(tmp_path):
    """An environment that names folders with the files that the benchmark reads: 85 different, invented texts."""
    count = iter(range(10_000))

    def text():
        return f"Invented number {next(count)} of some texts, 天."

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")

    def table(rows, *columns):
        return json.dumps([{name: text() for name in columns} for _ in range(rows)])

    write("bpo/val.json", table(4, "instruction", "context", "optimized_prompt", "good_res", "bad_res"))
    write("bpo/bpo_test.json", table(4, "prompt", "optimized_prompt", "good_res", "bad_res"))
    write("bpo/dolly_eval.json", table(4, "instruction", "context"))
    write("bpo/self_instruct_eval.json", table(4, "instruction", "context"))
    write("bpo/vicuna_eval.jsonl", "".join(json.dumps({"text": text()}) + "\n" for _ in range(4)))
    for part in ("train", "test"):
        write(f"tasks/gsm8k_{part}.tsv", "".join(f"{text()}\t5\tsteps\n" for _ in range(7)))
        lines = [json.dumps({"text": f"Statement: {text()}\nJob title: none"}) for _ in range(7)]
        write(f"tasks/liar/{part}.jsonl", "\n".join(lines) + "\n")
    for language in ("en", "zh"):
        rows = [{"conversations": [{"from": "human", "value": text()}, {"from": "gpt", "value": text()}]}]
        rows[0] |= {"chosen": {"value": text()}, "rejected": {"value": text()}}
        write(f"preferences/llamafactory_dpo_{language}_demo.json", json.dumps(rows))
    first = text()  # both dialogues of a pair begin alike, white space aside
    turns = "\n\nHuman: {}\n\nAssistant: {}"
    sides = [turns.format(first + end, text()) + turns.format(text(), text()) for end in ("", " ")]
    with gzip.open(tmp_path / "preferences/hh_rlhf_harmless_base_test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(dict(zip(("chosen", "rejected"), sides, strict=True))) + "\n")
    folders = {"BPO_DATA_DIR": "bpo", "BPO_PREFERENCES_DIR": "preferences", "BPO_TASKS_DIR": "tasks"}
    return dict(os.environ) | {name: str(tmp_path / folder) for name, folder in folders.items()}


def run_benchmark(environment, *arguments):
    call = [sys.executable, BENCHMARK, *arguments]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)


def test_the_benchmark_ends_in_its_json_line(invented, tmp_path):
    done = run_benchmark(
        invented, "--sizes", "20,60", "--rows", "3", "--rounds", "2", "--without-nltk", "--results", tmp_path
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    # all None: not measured at these sizes
    assert last == dict.fromkeys(["ours_30k_s", "nltk_ratio_3k", "sacrebleu_ratio_3k", "growth_10x"])
    found = records.read_json(tmp_path / "self_bleu.json")
    assert found["texts"] == {
        "BPO prompts": 20,
        "BPO optimized prompts": 8,
        "BPO responses": 16,
        "GSM8K questions": 14,
        "HH-RLHF, assistant": 4,
        "HH-RLHF, human": 3,
        "LIAR statements": 14,
        "ShareGPT, human": 2,
        "ShareGPT, replies": 4,
    }
    timed = found["rounds"]["60"]
    assert {name: len(seconds) for name, seconds in timed.items()} == {
        "self_bleu_s": 2,
        "filter_s": 2,
        "distinct_4_s": 2,
        "sacrebleu_extrapolated_s": 2,
        "sacrebleu_whole_s": 1,
    }
    assert all(second > 0 for seconds in timed.values() for second in seconds)
    assert "85 different texts" in done.stdout and found["sacrebleu_apart_at_most"] <= 1e-9
    assert found["peak_mb_before_and_at_most"]["self_bleu"][1] > 0


def test_the_benchmark_says_what_it_lacks(invented, tmp_path):
    without = {name: value for name, value in invented.items() if name != "BPO_TASKS_DIR"}
    assert "set BPO_TASKS_DIR to the folder" in run_benchmark(without, "--without-nltk").stderr
    too_many = run_benchmark(invented, "--sizes", "86", "--without-nltk")
    assert "85 different texts, --sizes asks for 86" in too_many.stderr
    (tmp_path / "nltk.py").write_text("raise ImportError")
    no_nltk = run_benchmark(invented | {"PYTHONPATH": str(tmp_path)}, "--sizes", "20")
    assert "pip install nltk==3.10.4, or give --without-nltk" in no_nltk.stderr and no_nltk.returncode == 1
