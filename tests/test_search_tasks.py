"""Real tasks: how answers are read and scored, invented files in the forms of the real ones, and the real files."""

import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import pytest

from bpo_utils import profile
from bpo_utils.chat import Calls
from bpo_utils.profile import Model, Searching, SearchRows
from bpo_utils.search import evidence, metrics, prompts, real_files, real_tasks, tasks
from bpo_utils.search.evaluate import evaluate, request
from bpo_utils.search.state import Roles, Search, start
from bpo_utils.search.task import Row, prompt

REAL = os.environ.get("BPO_TASKS_DIR")
needs_real = pytest.mark.skipif(not REAL, reason="BPO_TASKS_DIR is not set: no real tasks")
CANARY = "canary GUID 00000000-made-up"
OPTIONS = "Which one is it?\nOptions:\n(A) old cat\n(B) big old cat\n(C) dog"


def read(metric: metrics.Metric, gold: str, answer: str, text: str = "") -> tuple[float, str, bool]:
    mark = metric(Row("r", text, gold), answer)
    return mark.value, mark.read, mark.unreadable


# Metrics


@pytest.mark.parametrize(
    ("answer", "gold", "value", "found"),
    [
        ("72", "72", 1.0, "72"),
        ("48 + 24 = 72 clips.", "72", 1.0, "72"),
        ("It costs $1,234,567.00!", "1234567", 1.0, "1234567"),
        ("#### 1,234\nCheck: 7", "1234", 1.0, "1234"),
        ("The answer is 71.6", "72", 1.0, "71.6"),  # rounded to whole numbers, as OPRO compares them
        ("71.4", "72", 0.0, "71.4"),
        ("8 - 3", "3", 1.0, "3"),
        ("so -5", "-5", 1.0, "-5"),
        ("−5 °C", "-5", 1.0, "-5"),  # the sign of typesetting
        ("-$5", "-5", 1.0, "-5"),
        ("答案是72元。", "72", 1.0, "72"),
        ("共７２个", "72", 1.0, "72"),
        ("\\boxed{72}", "72", 1.0, "72"),
        ("<answer>72</answer>, not 5", "72", 1.0, "72"),
        ("<answer>72", "72", 1.0, "72"),
        ("<answer>5</answer> No: <ANSWER> 72 </ANSWER>", "72", 1.0, "72"),
        ("GPT4 says .5", "0", 1.0, "0.5"),  # halves go to the even number
    ],
)
def test_a_number_is_found_and_compared_rounded(answer, gold, value, found):
    assert read(metrics.number, gold, answer) == (value, found, False)


@pytest.mark.parametrize("answer", ["", "I do not know.", "seventy-two", "x2", "####", "<answer></answer>", "七十二"])
def test_an_answer_without_a_number_is_a_class_of_its_own(answer):
    assert read(metrics.number, "72", answer) == (0.0, "", True)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("(B)", "(B)"),
        ("B", "(B)"),
        ("b.", "(B)"),
        ("B) big old cat", "(B)"),
        ("The answer is (B).", "(B)"),
        ("Final answer: **(B)**", "(B)"),
        ("It is the big old cat.", "(B)"),  # `old cat` stands in it only as a part of it
        ("An OLD  cat", "(A)"),
        ("(A) is too young and (C) barks.\n\nSo it is (B)", "(B)"),
        ("Not (A). <answer>(B)</answer>", "(B)"),
        ("答案是：(B)", "(B)"),
    ],
)
def test_an_option_is_read_by_its_letter_or_its_text(answer, found):
    assert read(metrics.choice, "(B)", answer, OPTIONS) == (float(found == "(B)"), found, False)


def test_a_reference_may_be_the_text_of_an_option():
    assert read(metrics.choice, "big old cat", "(B)", OPTIONS) == (1.0, "(B)", False)
    assert read(metrics.choice, "big old cat", "the dog", OPTIONS) == (0.0, "(C)", False)


@pytest.mark.parametrize("answer", ["", "(A) or (B)", "a dog or an old cat", "(E)", "I cannot say", "Because"])
def test_an_answer_that_names_no_option_or_several_is_a_class_of_its_own(answer):
    assert read(metrics.choice, "(B)", answer, OPTIONS) == (0.0, "", True)


@pytest.mark.parametrize(
    ("answer", "gold", "said"),
    [
        ("No", "No", "no"),
        ("no, for there is none; yes would be wrong", "No", "no"),
        ("Yes, there is no evidence", "No", "yes"),
        ("They go on. So the answer is: No.", "No", "no"),
        ("First I thought yes. In the end it is no.", "No", "no"),
        ("No one lies here", "No", "no"),
        ("**Yes**", "Yes", "yes"),
        ("0", "False", "no"),
        ("True", "Yes", "yes"),
        ("The argument is not deductively valid.", "invalid", "no"),
        ("valid", "valid", "yes"),
        ("Yes or no?\n<answer>no</answer>", "No", "no"),
    ],
)
def test_yes_and_no_are_read_as_words(answer, gold, said):
    right = said == {"No": "no", "False": "no", "invalid": "no"}.get(gold, "yes")
    assert read(metrics.boolean, gold, answer) == (float(right), said, False)


@pytest.mark.parametrize(
    "answer", ["", "I do not know", "Nothing", "1 step and 0 turns", "yes and no", "No one, so yes"]
)
def test_neither_yes_nor_no_is_never_taken_for_no(answer):
    assert read(metrics.boolean, "No", answer) == (0.0, "", True)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Apple, bat-cat.", 1.0),
        (" apple BAT cat\nand more", 1.0),
        ("The answer is: apple bat cat. Good.", 1.0),
        ("apple bat", 0.0),
        ("so apple bat cat", 0.0),
    ],
)
def test_texts_are_compared_in_apes_normal_form(answer, value):
    assert read(metrics.exact, "apple bat-cat", answer)[::2] == (value, False)


def test_the_normal_form_is_as_it_is_stated():
    assert metrics.normalised('  "Well-known, 3.5 % More!"  ok. Not this\nnor this') == "well known 35 more ok"
    assert metrics.normalised("苹果、香蕉。还有") == "苹果香蕉"
    assert read(metrics.exact, "a", "") == (0.0, "", True) and read(metrics.exact, "a", "?!") == (0.0, "", True)


def test_brackets_have_no_normal_form():
    assert read(metrics.exact, "] ) >", "]) >") == (1.0, "])>", False)
    assert read(metrics.exact, "] ) >", "So: ] ) }")[:2] == (0.0, "])}")
    assert read(metrics.exact, "] ) >", "I do not know") == (0.0, "", True)


def test_containment_is_a_choice_and_has_its_trap():
    golds = ["Yes", "No"]
    assert read(metrics.of(golds), "No", "I do not know") == (0.0, "", True)
    assert read(metrics.of(golds, contained=True), "No", "I do not know") == (1.0, "no", False)
    assert metrics.of(["1", "2"], contained=True) is metrics.number  # 1 stands in 12


@pytest.mark.parametrize(
    ("golds", "name"),
    [
        (["8", "-12", "1,000"], "number"),
        (["(A)", "(F)"], "choice"),
        (["Yes", "No"], "boolean"),
        (["True", "False"], "boolean"),
        (["valid", "invalid"], "boolean"),
        (["a b", "(A)"], "exact"),
        (["(A)"] * 29 + ["dog"], "choice"),  # as published: now and then the text in the letter's place
        (["] )", ">"], "exact"),
    ],
)
def test_the_metric_fits_the_references(golds, name):
    assert metrics.of(golds).__name__ == name


# Files in the forms of the real ones


def bbh_file(folder: Path, name: str = "navigate", count: int = 9) -> Path:
    path = folder / "bbh" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"input": f"Turn {n} times. Back?\nOptions:\n- Yes\n- No", "target": ("Yes", "No")[n % 2]} for n in range(count)
    ]
    path.write_text(json.dumps({"canary": f"DATA {CANARY}", "examples": [*rows, rows[0]]}), encoding="utf-8")
    return path


def pinned(path: Path) -> tuple[int, str]:
    return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A local folder with one invented file of every kind, pinned as the real ones are."""
    monkeypatch.setenv("BPO_TASKS_DIR", str(tmp_path))
    monkeypatch.setitem(real_files.BBH, "navigate", pinned(bbh_file(tmp_path)))
    (tmp_path / "liar").mkdir()
    for part, count in (("train", 12), ("test", 5)):
        lines = [{"label": n % 2, "text": f"Statement: {part} {n}\nParty: 无"} for n in range(count)]
        path = tmp_path / "liar" / f"{part}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        monkeypatch.setitem(real_files.LIAR, part, (real_files.LIAR[part][0], *pinned(path)))
        table = tmp_path / f"gsm8k_{part}.tsv"
        rows = [f"How many in {part} {n} “boxes”?\t{n * 1000}\tb'#### {n * 1000}'\n" for n in range(count)]
        table.write_text("".join(rows), encoding="utf-8")
        monkeypatch.setitem(real_files.GSM8K_TABLES, part, pinned(table))
    return tmp_path


ROWS = SearchRows(train=4, dev=2, test=3)


def test_a_bbh_task_is_divided_and_its_canary_stays_in_the_file(folder, tmp_path):
    task = tasks.load("bbh/navigate", ROWS)
    every = (*task.train, *task.dev, *task.test)
    assert len({row.input for row in every}) == 9 and all(row.id.startswith("navigate-") for row in every)
    assert (task.position, task.metric.__name__, task.seed) == ("before", "boolean", "Let's solve the problem.")
    target = Model(name="t", provider="landscape", model="t")
    search = Search(task, Roles(target, target, Calls(tmp_path / "calls.sqlite")))
    search.roles.complete([], search.roles.calls)
    sent = [request(search, start(search), row).prompt for row in every]
    told = [
        evidence.examples(search, task.train),
        evidence.placed(search, task.train),
        task.about,
        prompts.text("opro"),
    ]
    assert not [text for text in (*sent, *told) if "canary" in text.lower() or "GUID" in text]
    with pytest.raises(ValueError, match=r"9 \+ 1 \+ 1 rows are asked for, and there are 9"):  # the tenth came before
        tasks.load("bbh/navigate", SearchRows(train=9, dev=1, test=1))
    evaluate(search, [start(search)], task.dev)  # `did: ...`: no yes, no no
    assert search.counts.unreadable == 2


def test_a_row_whose_reference_is_none_of_its_options_is_left_out(folder, monkeypatch):
    names = [f"Name {n}?\nOptions:\n(A) old {n}\n(B) new {n}" for n in range(40)]
    rows = [{"input": text, "target": "(B)"} for text in names]
    rows[3]["target"], rows[4]["target"] = "another", "new 4"
    path = folder / "bbh" / "ruin_names.json"
    path.write_text(json.dumps({"examples": rows}), encoding="utf-8")
    monkeypatch.setitem(real_files.BBH, "ruin_names", pinned(path))
    task = tasks.load("bbh/ruin_names", SearchRows(train=20, dev=9, test=10))
    every = {row.id for row in (*task.train, *task.dev, *task.test)}
    assert task.metric.__name__ == "choice" and every == {f"ruin_names-{n}" for n in range(40)} - {"ruin_names-3"}


@pytest.mark.parametrize(("name", "metric"), [("liar", "boolean"), ("gsm8k", "number")])
def test_test_rows_come_from_the_official_test_part(folder, name, metric):
    task = tasks.load(name, ROWS)
    assert all(row.id.startswith(f"{name}-test-") for row in task.test) and len(task.test) == 3
    assert all(row.id.startswith(f"{name}-train-") for row in (*task.train, *task.dev))
    assert task.metric.__name__ == metric
    assert tasks.load(name, ROWS).dev == task.dev != tasks.load(name, ROWS.model_copy(update={"draw": 2})).dev
    with pytest.raises(ValueError, match="6 test rows are asked for, and there are 5"):
        tasks.load(name, ROWS.model_copy(update={"test": 6}))


def test_a_training_row_that_is_in_the_test_part_is_left_out(folder, monkeypatch):
    path = folder / "liar" / "train.jsonl"
    text = path.read_text("utf-8") + json.dumps({"label": 1, "text": "Statement: test 0\nParty: 无"}) + "\n"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setitem(real_files.LIAR, "train", (real_files.LIAR["train"][0], *pinned(path)))
    every = tasks.load("liar", SearchRows(train=10, dev=2, test=5))
    assert not {row.input for row in (*every.train, *every.dev)} & {row.input for row in every.test}
    with pytest.raises(ValueError, match="there are 12"):
        tasks.load("liar", SearchRows(train=11, dev=2, test=5))


def test_label_1_is_a_lie(folder):
    rows = real_tasks.liar(folder / "liar" / "test.jsonl", "test")
    assert [row.gold for row in rows] == ["No", "Yes", "No", "Yes", "No"]


def test_both_forms_of_gsm8k_give_the_same_rows(folder, tmp_path):
    lines = [(f"How many in test {n} “boxes”?", f"It is <<{n}*1000={n}000>>.\n#### {n * 1000:,}") for n in range(5)]
    path = tmp_path / "gsm8k_test.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in lines), encoding="utf-8")
    assert real_tasks.gsm8k(path, "test") == real_tasks.gsm8k(folder / "gsm8k_test.tsv", "test")
    path.write_text(json.dumps({"question": "How many?", "answer": "I forgot."}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"gsm8k_test\.jsonl, line 1: no question with a number"):
        real_tasks.gsm8k(path, "test")


def test_a_profile_can_change_what_is_ours_about_a_task(folder):
    model = {"name": "m", "provider": "landscape", "model": "m"}
    section = {"task": "gsm8k", "rows": ROWS.model_dump(), "target": model, "optimizer": model, "budgets": [9]}
    section |= {"seeds": [1], "methods": ["seed"]}
    plain = tasks.of(Searching.model_validate(section))
    assert prompt(plain, "INS", "Q?") == (f"INS\nQ?\n{metrics.FORM}", "")
    changes = {"instruction": "", "position": "A_begin", "form": "", "answer_tokens": 9}
    changed = tasks.of(Searching.model_validate(section | changes))
    assert prompt(changed, "So", "Q?") == ("Q: Q?\nA:", "So") and (changed.seed, changed.answer_tokens) == ("", 9)
    assert tasks.of(Searching.model_validate(section | {"form": "A number!"})).form == "A number!"
    boolean = section | {"task": "liar", "contained": True}
    assert tasks.of(Searching.model_validate(boolean)).metric(Row("r", "", "No"), "I do not know").value == 1.0
    with pytest.raises(ValueError, match="no position 'above'"):
        tasks.of(Searching.model_validate(section | {"position": "above"}))


def test_a_missing_or_changed_file_says_what_to_do(folder):
    with pytest.raises(
        FileNotFoundError, match=r"snarks\.json is missing; .*unset BPO_TASKS_DIR.*BIG-Bench-Hard at 9ee07bd"
    ):
        tasks.load("bbh/snarks", ROWS)
    bbh_file(folder, count=8)
    with pytest.raises(ValueError, match=r"navigate\.json is truncated"):
        tasks.load("bbh/navigate", ROWS)
    with pytest.raises(ValueError, match=r"no task 'bbh/navigates' \(did you mean 'bbh/navigate'\?\)"):
        tasks.load("bbh/navigates", ROWS)
    broken = folder / "broken.json"
    broken.write_text(json.dumps({"examples": [{"input": "x"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json, row 1: no text in column target"):
        real_tasks.bbh(broken, "broken")


class Home(http.server.BaseHTTPRequestHandler):
    """The public homes of the files."""

    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.files.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "BPO_TASKS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Home)
    server.files, server.asked = {}, []
    monkeypatch.setenv("BPO_DATA_URL", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_a_folder_files_are_downloaded_once_from_the_pinned_commits(home, tmp_path, monkeypatch):
    path = bbh_file(tmp_path)
    monkeypatch.setitem(real_files.BBH, "navigate", pinned(path))
    home.files[f"/{real_files.BBH_AT[1]}/bbh/navigate.json"] = path.read_bytes()
    assert tasks.load("bbh/navigate", ROWS).train == tasks.load("bbh/navigate", ROWS).train
    assert home.asked == [f"/{real_files.BBH_AT[1]}/bbh/navigate.json"]
    for part in ("train", "test"):
        body = "".join(
            json.dumps({"question": f"{part} {n}?", "answer": f"#### {n}"}) + "\n" for n in range(9)
        ).encode()
        monkeypatch.setitem(real_files.GSM8K, part, (len(body), hashlib.sha256(body).hexdigest()))
        home.files[f"/{real_files.GSM8K_AT[1]}/grade_school_math/data/{part}.jsonl"] = body
    assert tasks.load("gsm8k", ROWS).test[0].id.startswith("gsm8k-test-")
    with pytest.raises(ConnectionError, match="answered HTTP 404; .*set BPO_TASKS_DIR to their folder"):
        tasks.load("liar", ROWS)
    assert home.asked[-1] == f"/{real_files.LIAR['train'][0]}/prompt_optimization/data/liar/train.jsonl"
    left = {found.name for found in (tmp_path / "cache").rglob("*") if found.suffix in (".json", ".jsonl")}
    assert left == {"navigate.json", "gsm8k_train.jsonl", "gsm8k_test.jsonl"}


def test_all_pins_are_whole():
    assert len(real_files.BBH) == 27
    pins = [*real_files.BBH.values(), *real_files.GSM8K.values(), *real_files.GSM8K_TABLES.values()]
    pins += [pin[1:] for pin in real_files.LIAR.values()]
    assert all(size > 1000 and len(digest) == 64 for size, digest in pins)
    commits = {real_files.BBH_AT[1], real_files.GSM8K_AT[1], real_files.OPRO_AT[1]}
    assert {len(commit) for commit in commits | {pin[0] for pin in real_files.LIAR.values()}} == {40}


# The real files


@needs_real
def test_the_real_files_are_the_pinned_ones_and_every_reference_scores_1():
    found = sorted(path.stem for path in (Path(REAL) / "bbh").glob("*.json"))
    kinds = {}
    for name in [f"bbh/{one}" for one in found] + ["liar", "gsm8k"]:
        task = tasks.load(name, SearchRows(train=50, dev=30, test=80))
        kinds[name] = task.metric.__name__
        for row in (*task.train, *task.dev, *task.test):
            mark = task.metric(row, f"Let me think.\n<answer>{row.gold}</answer>")
            assert mark.value == 1.0 and not mark.unreadable, row.id
            assert "canary" not in row.input.lower()
            assert task.metric(row, "I am not able to tell.").unreadable, row.id
    assert kinds["bbh/object_counting"] == "number" and kinds["bbh/snarks"] == "choice" and kinds["liar"] == "boolean"


@needs_real
def test_the_real_sets_have_their_published_sizes():
    sizes = {part: len(real_tasks.gsm8k(real_files.gsm8k(part), part)) for part in ("train", "test")}
    assert sizes == {"train": 7473, "test": 1319}
    assert [len(real_tasks.liar(real_files.liar(part), part)) for part in ("train", "test")] == [3681, 461]
    assert len(real_tasks.bbh(real_files.bbh("causal_judgement"), "c")) == 185  # 187, two of them twice


@needs_real
def test_the_profile_for_paper_scale_names_a_task_that_can_be_had():
    searching = profile.load("paper").searching
    task = tasks.of(searching)
    assert len(task.test) == searching.rows.test and task.metric.__name__ == "number"
