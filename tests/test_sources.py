"""The sources of preference data: invented rows in the columns of the real ones, and the real files where they are."""

import gzip
import json
import os
from pathlib import Path

import fake_hub
import pytest

from bpo_utils import download, segment, source_forms, sources
from bpo_utils.profile import Source
from bpo_utils.source_forms import Found

REAL = os.environ.get("BPO_PREFERENCES_DIR")
needs_real = pytest.mark.skipif(not REAL, reason="BPO_PREFERENCES_DIR is not set: no real preference data")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BPO_PREFERENCES_DIR", str(tmp_path))
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def write(path: Path, rows: list) -> None:
    """JSON Lines, or JSON by the name; gzip by the name."""
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows) if lines else json.dumps(rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def parsed(loaded: sources.Loaded) -> list[tuple]:
    return [(row.id, row.prompt, row.context, row.good, row.bad) for row in loaded.rows]


def message(name: str, parent: str | None, role: str, text: str, rank: int | None = None, **more) -> dict:
    other = {"user_id": "u", "review_result": True, "synthetic": False, "message_tree_id": "t", "tree_state": "ready"}
    row = {"message_id": name, "parent_id": parent, "text": text, "role": role, "lang": "en", "rank": rank, **other}
    return {**row, "deleted": False, **more}


OASST1 = [
    message("p1", None, "prompter", " Why is tea green? "),
    message("a", "p1", "assistant", "middling", 1),
    message("b", "p1", "assistant", "best", 0),
    message("c", "p1", "assistant", "worst", 2),
    message("d", "p1", "assistant", "unranked"),
    message("e", "p1", "assistant", "gone", 3, deleted=True),
    message("p2", "b", "prompter", "And black tea?"),
    message("f", "p2", "assistant", "best", 0),
    message("g", "p2", "assistant", "worst", 1),
    message("p3", None, "prompter", "茶为什么是绿的？", lang="zh"),
    message("p4", None, "prompter", "One reply only"),
    message("h", "p4", "assistant", "alone", 0),
    message("p5", None, "prompter", "Gone", deleted=True),
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_oasst1_takes_the_best_and_the_worst_reply_of_english_first_prompts(folder, ending):
    if ending == ".parquet":
        import datasets

        datasets.Dataset.from_list(OASST1).to_parquet(str(folder / "oasst1.parquet"))
    else:
        write(folder / f"oasst1{ending}", OASST1)
    loaded = sources.load(Source(name="oasst1"), 1)
    assert parsed(loaded) == [("oasst1-00001", "Why is tea green?", "", "best", "worst")]
    reasons = (source_forms.LATER, source_forms.OTHER_LANGUAGE, source_forms.FEW_RANKED, source_forms.DELETED)
    assert loaded.skipped == dict.fromkeys(reasons, 1) and loaded.read == 5


def test_oasst1_rows_without_null_fields_as_in_its_own_export(folder):
    write(folder / "oasst1.jsonl", [{k: v for k, v in row.items() if v is not None} for row in OASST1])
    assert len(sources.load(Source(name="oasst1"), 1).rows) == 1


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))


HH = [
    {
        "chosen": dialogue("Is tea bad?", "No."),
        "rejected": dialogue("Is tea bad?", "Yes.\n\nHuman error: see Human: x"),
    },
    {"chosen": dialogue("Hi", "Hello", "泡茶？", "好"), "rejected": dialogue("Hi", "Hello", "泡茶？", "坏")},
    {"chosen": dialogue("Hi", "Hello", "Tea?", "a"), "rejected": dialogue("Hi", "Hey", "Tea?", "b")},
    {"chosen": dialogue("Tea?", ""), "rejected": dialogue("Tea?", "b")},
    {"chosen": dialogue("Tea?", " same "), "rejected": dialogue("Tea?", "same")},
    {"chosen": dialogue("Tea?"), "rejected": dialogue("Tea?", "b")},
    {"chosen": "tea " + dialogue("Tea?", "a"), "rejected": dialogue("Tea?", "b")},
    {"chosen": dialogue("", "And?", "Tea?", "a"), "rejected": dialogue("", "And?", "Tea?", "b")},
    {"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"},
    {"chosen": dialogue("Tea?", "a") + "\n\nAssistant: more", "rejected": dialogue("Tea?", "b")},
]
HH_ODD = {source_forms.EMPTY: 1, source_forms.EQUAL: 1, source_forms.NO_REPLY: 2, source_forms.PARTED: 1}
HH_ODD |= {source_forms.NO_PROMPT: 1}
SINGLE = [("hh_rlhf-00001", "Is tea bad?", "", "No.", "Yes.\n\nHuman error: see Human: x")]
TWICE = [("hh_rlhf-00010", "Tea?", "", "a\n\nmore", "b")]


def test_hh_rlhf_first_takes_dialogues_with_one_prompt(folder):
    write(folder / "hh_rlhf.jsonl.gz", HH)
    loaded = sources.load(Source(name="hh_rlhf"), 1)
    assert parsed(loaded) == SINGLE + TWICE
    assert loaded.skipped == HH_ODD | {source_forms.SEVERAL: 2} and not loaded.notes


def test_hh_rlhf_last_takes_the_last_prompt_and_says_what_it_left_out(folder):
    write(folder / "hh_rlhf.jsonl.gz", HH)
    loaded = sources.load(Source(name="hh_rlhf", turn="last"), 1)
    later = [("hh_rlhf-00002", "泡茶？", "", "好", "坏"), ("hh_rlhf-00008", "Tea?", "", "a", "b")]
    assert parsed(loaded) == SINGLE + later + TWICE
    assert loaded.skipped == HH_ODD and loaded.notes == {source_forms.EARLIER: 2}
    assert loaded.read == len(HH) == loaded.usable + loaded.skipped.total()


def battle(winner: str, first: list[str], second: list[str], **more) -> dict:
    sides = (
        [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(side)]
        for side in (first, second)
    )
    named = dict(zip(("conversation_a", "conversation_b"), sides, strict=True))
    about = {"model_a": "alpha", "model_b": "beta", "judge": "arena_user_1", "turn": len(first) // 2, "anony": True}
    return {"question_id": "q", "winner": winner, **named, **about, "language": "English", "tstamp": 1.0, **more}


ARENA = [
    battle("model_a", ["Tea?", "x"], ["Tea?", "y"]),
    battle("model_b", ["茶？", "甲"], ["茶？", "乙"], language="Chinese"),
    battle("tie", ["Tea?", "x"], ["Tea?", "y"]),
    battle("tie (bothbad)", ["Tea?", "x"], ["Tea?", "y"]),
    battle("model_a", ["Tea?", "x", "More", "z"], ["Tea?", "y", "More", "w"]),
]


def test_chatbot_arena_takes_winner_against_loser(folder):
    write(folder / "chatbot_arena.json", ARENA)
    loaded = sources.load(Source(name="chatbot_arena"), 1)
    assert parsed(loaded) == [
        ("chatbot_arena-00001", "Tea?", "", "x", "y"),
        ("chatbot_arena-00002", "茶？", "", "乙", "甲"),
    ]
    assert loaded.skipped == {source_forms.TIE: 2, source_forms.WHOLE: 1}


def compared(prompt: str, **scores) -> dict:
    replies = [
        {"response": f" by {name} ", "score": score, "source": name.replace("_", "-")} for name, score in scores.items()
    ]
    return {"user_input": prompt, "responses_and_scores": replies}


TASK = "Below is an instruction that describes a task. Write ...\n\n### Instruction:\nName a tea."
PAIRED = (
    "Below is an instruction ..., paired with an input ...\n\n### Instruction:\nTranslate.\n\n### Input:\n绿茶\nno milk"
)
ALPACA = [
    compared(TASK, gpt4=9.0, text_davinci_003=7, icm=1),
    compared(PAIRED + "\n\n### Response:", text_davinci_003="6", gpt4="9.5"),
    compared(TASK, gpt4=7, text_davinci_003=7),
    compared(TASK, gpt4=6, text_davinci_003=7),
    compared(TASK, gpt4=6, icm=1),
]


def test_alpaca_gpt4_takes_only_what_gpt4_won_and_keeps_the_input_as_context(folder):
    write(folder / "alpaca_gpt4.json", ALPACA)
    loaded = sources.load(Source(name="alpaca_gpt4"), 1)
    assert parsed(loaded) == [
        ("alpaca_gpt4-00001", "Name a tea.", "", "by gpt4", "by text_davinci_003"),
        ("alpaca_gpt4-00002", "Translate.", "绿茶\nno milk", "by gpt4", "by text_davinci_003"),
    ]
    assert loaded.skipped == {source_forms.NOT_BEATEN: 2, source_forms.NOT_BOTH: 1}


def shared(*turns: tuple[str, str], good: str = "好", bad: str = "坏", **more) -> dict:
    said = [{"from": who, "value": text} for who, text in turns]
    return {
        "conversations": said,
        "chosen": {"from": "gpt", "value": good},
        "rejected": {"from": "gpt", "value": bad},
    } | more


SHAREGPT = [
    shared(("system", "你是茶师"), ("human", "什么是茶？")),
    shared(("human", "a"), ("gpt", "b"), ("human", "最后一问")),
    shared(("human", "a"), ("gpt", "ends with a reply")),
    shared(("human", "a"), ("observation", "b"), ("human", "c")),
    shared(("human", "a"), good="half \ud83c"),
    shared(("human", "a"), chosen={"from": "human", "value": "x"}),
]


@pytest.mark.parametrize("turn", ["first", "last"])
def test_sharegpt_dialogues_in_chinese(folder, turn):
    (folder / "zh.json").write_text(json.dumps(SHAREGPT), encoding="utf-8")
    loaded = sources.load(Source(name="sharegpt", files=["zh.json"], turn=turn), 1)
    assert parsed(loaded)[0] == ("sharegpt-00001", "什么是茶？", "", "好", "坏")
    odd = (source_forms.NO_PROMPT, "a message from observation", source_forms.BROKEN, source_forms.NO_REPLY)
    if turn == "last":
        assert parsed(loaded)[1][:2] == ("sharegpt-00002", "最后一问")
        assert loaded.notes == {source_forms.SYSTEM: 1, source_forms.EARLIER: 1}
        assert loaded.skipped == dict.fromkeys(odd, 1)
    else:
        assert loaded.skipped == dict.fromkeys((*odd, source_forms.SEVERAL), 1)


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("oasst1", {"message_id": "m", "role": "prompter", "lang": "en"}, "row 1: no text in column text"),
        ("hh_rlhf", {"chosen": "x", "rejected": None}, "row 1: no text in column rejected; it has chosen, rejected"),
        ("hh_rlhf", ["x"], "row 1: not an object but list"),
        ("chatbot_arena", ARENA[0] | {"conversation_b": "x"}, "no list in column conversation_b"),
        (
            "chatbot_arena",
            ARENA[0] | {"winner": "model_c"},
            "row 1: winner is 'model_c'.*not of the form of chatbot_ar",
        ),
        ("chatbot_arena", ARENA[0] | {"conversation_a": [{"role": "bot", "content": ""}]}, "role is 'bot', not one of"),
        ("alpaca_gpt4", compared(TASK, gpt4=None), "row 1: no score in"),
        ("alpaca_gpt4", {"user_input": "x", "responses_and_scores": [{"score": 1}]}, "no text 'response' in"),
        ("sharegpt", shared(("human", "a")) | {"conversations": ["a"]}, "row 1: no text 'from' in 'a'"),
    ],
)
def test_a_row_of_another_form_is_named(folder, name, row, words):
    write(folder / "x.json", [row])
    with pytest.raises(ValueError, match=rf"x\.json, .*{words}"):
        sources.load(Source(name=name, files=["x.json"]), 1)


OWN = {"prompt": "什么是茶？", "good": "好", "bad": "坏"}


def test_own_rows_may_bring_context_source_and_id(folder):
    rows = [OWN, OWN | {"context": " 一段\u2028话 ", "source": "课堂", "id": "mine"}]
    text = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (folder / "own.jsonl").write_text(text, encoding="utf-8", newline="")
    write(folder / "more.jsonl.gz", [OWN])
    loaded = sources.load(Source(name="own", files=["own.jsonl", "more.jsonl.gz"]), 1)
    assert [(row.id, row.context, row.source) for row in loaded.rows] == [
        ("own-00001", "", "own"),
        ("mine", "一段\u2028话", "课堂"),
        ("own-00003", "", "own"),
    ]


def test_faults_of_an_own_file_are_listed_by_line(folder):
    line = json.dumps(OWN | {"id": "x"})
    faulty = [line, "", '{"prompt": ', "[1]", '{"prompt": "p", "good": "g"}', json.dumps(OWN | {"bad": 3}), line]
    (folder / "own.jsonl").write_text("\n".join(faulty) + "\n", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        sources.load(Source(name="own", files=["own.jsonl"]), 1)
    told = str(caught.value).split("\n")
    ends = [
        "line 2: empty; delete",
        "line 3: not JSON (",
        "line 4: not an object but list; write",
        "line 5: no bad; add",
    ]
    ends += ["line 6: bad is 3, not text; put it in quotes", "and 1 more"]
    assert len(told) == 6
    for end, said in zip(ends, told, strict=True):
        assert end in said and (end.startswith("and") or said.startswith(str(folder / "own.jsonl")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(OWN | {"promt": ""}), "line 1: unknown key 'promt'; did you mean 'prompt'"),
        (json.dumps(OWN | {"x9": ""}), "unknown key 'x9'; the keys are prompt, good, bad, context, source, id"),
        (json.dumps(OWN | {"good": " "}), "line 1: good is empty; fill it or delete the line"),
        ('{"prompt": "p"}', "line 1: no good and no bad; add them"),
        (json.dumps(OWN | {"id": "x"}) + "\n" + json.dumps(OWN | {"id": "x"}), "line 2: id 'x' is already that of own"),
    ],
)
def test_each_fault_of_an_own_row_says_what_to_do(folder, text, words):
    (folder / "own.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"own\.jsonl, .*{words}"):
        sources.load(Source(name="own", files=["own.jsonl"]), 1)


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_another_encoding_is_named_with_its_line(folder, encoding):
    text = json.dumps({"prompt": "p"}) + "\n" + json.dumps(OWN, ensure_ascii=False)
    (folder / "own.jsonl").write_text(text, encoding=encoding)
    with pytest.raises(
        ValueError, match=rf"own\.jsonl, line {2 if encoding == 'gbk' else 1}: not UTF-8; save the file"
    ):
        sources.load(Source(name="own", files=["own.jsonl"]), 1)


def test_ids_are_unique_over_files_and_sources(folder):
    write(folder / "a.jsonl", [OWN | {"id": "x"}])
    write(folder / "b.jsonl", [OWN | {"id": "x"}])
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: id 'x' is already that of a\.jsonl, line 1"):
        sources.load(Source(name="own", files=["a.jsonl", "b.jsonl"]), 1)
    with pytest.raises(ValueError, match="rows share the ids x; give"):
        sources.load_all([Source(name="own", files=["a.jsonl"]), Source(name="own", files=["b.jsonl"])], 1)
    write(folder / "zh.json", SHAREGPT[:1])
    named = [Source(name="sharegpt", files=["zh.json"])] * 2
    assert [part.rows[0].id for part in sources.load_all(named, 1).values()] == ["sharegpt-00001", "sharegpt.2-00001"]


def test_a_sample_depends_on_the_seed_and_on_no_other_source(folder):
    write(folder / "own.jsonl", [OWN | {"prompt": f"p {n}"} for n in range(50)])
    write(folder / "hh_rlhf.jsonl", HH)
    own, hh = Source(name="own", files=["own.jsonl"], rows=10), Source(name="hh_rlhf", rows=1)
    alone = sources.load_all([own], 1)["own"].rows
    assert sources.load_all([hh, own], 1)["own"].rows == alone and len(alone) == 10
    assert sources.load_all([own], 2)["own"].rows != alone
    assert [row.id for row in alone] == sorted(row.id for row in alone)
    whole = {row.id: row for row in sources.load(Source(name="own", files=["own.jsonl"]), 1).rows}
    assert all(whole[row.id] == row for row in alone) and len(whole) == 50
    with pytest.raises(ValueError, match=r"source own has 50 usable rows of 50, 51 are wanted .*lower its rows"):
        sources.load(own.model_copy(update={"rows": 51}), 1)
    with pytest.raises(ValueError, match=r"has 2 usable rows of 10, 3 are wanted \(2 .*more than one prompt"):
        sources.load(hh.model_copy(update={"rows": 3}), 1)


def test_files_stay_inside_the_folder(folder, monkeypatch):
    for name in ("../x.jsonl", str(folder / "x.jsonl"), "a/../../x.jsonl"):
        with pytest.raises(ValueError, match="is outside .*; files must lie in that folder"):
            sources.load(Source(name="own", files=[name]), 1)
    with pytest.raises(FileNotFoundError, match=r"source own: x\.jsonl is not in .*; put it there .*unset BPO_PREF"):
        sources.load(Source(name="own", files=["x.jsonl"]), 1)
    with pytest.raises(FileNotFoundError, match=r"source oasst1: oasst1\.jsonl is not in"):
        sources.load(Source(name="oasst1"), 1)
    with pytest.raises(ValueError, match=r"source sharegpt: name its files in data\.preferences"):
        sources.load(Source(name="sharegpt"), 1)
    for name in ("hh_rlhf.jsonl", "hh_rlhf.json"):
        write(folder / name, HH)
    with pytest.raises(ValueError, match=r"has hh_rlhf\.jsonl and hh_rlhf\.json; keep one, or name it in files"):
        sources.load(Source(name="hh_rlhf"), 1)
    monkeypatch.delenv("BPO_PREFERENCES_DIR")
    with pytest.raises(ValueError, match="source own reads local files: set BPO_PREFERENCES_DIR"):
        sources.load(Source(name="own", files=["own.jsonl"]), 1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("BPO_PREFERENCES_DIR", "BPO_DATA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    with fake_hub.running(token="unused") as hub:
        fake_hub.in_its_place(monkeypatch, hub, tmp_path / "hub")
        yield hub


def publish(hub, name: str, rows: list, tmp_path: Path) -> None:
    """Share the rows out over the files that the source has on the Hub."""
    import datasets

    wanted = sources.HUB[name]
    for number, file in enumerate(wanted.files):
        part = [row for n, row in enumerate(rows) if n * len(wanted.files) // len(rows) == number]
        path = tmp_path / Path(file).name
        if path.suffix == ".parquet":
            datasets.Dataset.from_list(part).to_parquet(str(path))
        else:
            write(path, part)
        hub.datasets[wanted.name, wanted.revision, file] = path.read_bytes()


@pytest.mark.parametrize(("name", "rows"), [("oasst1", OASST1), ("hh_rlhf", HH), ("chatbot_arena", ARENA)])
def test_the_hub_gives_what_a_local_file_gives(hub, tmp_path, monkeypatch, name, rows):
    publish(hub, name, rows, tmp_path)
    loaded = sources.load(Source(name=name), 1)
    assert loaded.origin["revision"] == sources.HUB[name].revision
    assert tuple(loaded.origin["files"]) == sources.HUB[name].files
    assert {path.split("/")[5] for _, path, _ in hub.requests if "/resolve/" in path} == {sources.HUB[name].revision}
    monkeypatch.setenv("BPO_PREFERENCES_DIR", str(tmp_path))
    write(tmp_path / f"{name}.jsonl", rows)
    local = sources.load(Source(name=name), 1)
    assert local._replace(origin={}) == loaded._replace(origin={}) and local.origin["folder"] == "BPO_PREFERENCES_DIR"


def test_a_gated_source_says_how_to_get_it(hub):
    hub.gated = {"lmsys/chatbot_arena_conversations"}
    words = (
        r"accepted its terms; open https://.*chatbot_arena_conversations, accept them, run `hf auth login`.*BPO_PREF"
    )
    with pytest.raises(PermissionError, match=words):
        sources.load(Source(name="chatbot_arena"), 1)


def test_a_hub_out_of_reach_is_one_clear_error(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = r"Anthropic/hh-rlhf, revision \w{40}, file .*check the network, or set BPO_PREFERENCES_DIR to .*hh_rlhf"
    with pytest.raises(ConnectionError, match=words):
        sources.load(Source(name="hh_rlhf"), 1)


def test_the_comparison_data_are_downloaded_from_the_pinned_commit(hub, monkeypatch):
    pinned = download.UNCHECKED["comparison_data_v2.json"]
    monkeypatch.setattr(fake_hub.Handler, "plain", lambda self: self.answer(200, ALPACA), raising=False)
    route = ("plain", f"GET /{pinned.commit}/{pinned.path}", "")
    monkeypatch.setattr(fake_hub, "ROUTES", (*fake_hub.ROUTES, route))
    monkeypatch.setenv("BPO_DATA_URL", hub.url)
    loaded = sources.load(Source(name="alpaca_gpt4"), 1)
    assert len(loaded.rows) == 2 and loaded.origin["revision"] == pinned.commit
    assert loaded.origin["repository"].endswith("github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM")
    assert list(loaded.origin["files"]) == ["comparison_data_v2.json"]


def test_every_form_gives_found_or_a_reason():
    assert set(source_forms.FORMS) == set(Source.model_fields["name"].annotation.__args__)
    assert isinstance(source_forms.own(OWN, "first"), Found)
    assert set(source_forms.COLUMNS) == set(source_forms.FORMS) - {"own"}
    assert set(sources.HUB) < set(source_forms.COLUMNS)


def real(name: str, file: str, turn: str) -> sources.Loaded:
    return sources.load(Source(name=name, files=[file], turn=turn), 1)


@needs_real
def test_the_real_hh_rlhf_file():
    first, last = (real("hh_rlhf", "hh_rlhf_harmless_base_test.jsonl.gz", turn) for turn in ("first", "last"))
    assert first.read == last.read == 2312
    assert (first.usable, first.skipped) == (659, {source_forms.SEVERAL: 1650, source_forms.EMPTY: 3})
    assert (last.usable, last.skipped, last.notes) == (2308, {source_forms.EMPTY: 4}, {source_forms.EARLIER: 1649})
    assert {row.id for row in first.rows} < {row.id for row in last.rows}
    texts = [text for row in last.rows for text in (row.prompt, row.good, row.bad)]
    # one reply begins with the other speaker's mark ("Assistant:  Human: ..."), which is what was said
    assert sum(mark in text for text in texts for mark in ("\n\nHuman:", "\n\nAssistant:")) == 1


@needs_real
@pytest.mark.parametrize(("language", "first", "system"), [("en", 194, 80), ("zh", 300, 64)])
def test_the_real_sharegpt_files(language, first, system):
    loaded = real("sharegpt", f"llamafactory_dpo_{language}_demo.json", "last")
    assert loaded.usable == loaded.read == 300 and loaded.notes[source_forms.SYSTEM] == system
    single = real("sharegpt", f"llamafactory_dpo_{language}_demo.json", "first")
    assert single.usable == first and single.skipped.total() == single.skipped[source_forms.SEVERAL] == 300 - first
    chinese = sum(any("\u4e00" <= sign <= "\u9fff" for sign in row.prompt) for row in loaded.rows)
    assert (chinese == 0) if language == "en" else (chinese > 270)
    assert all(len(segment.words(row.prompt)) >= 1 and row.good != row.bad for row in loaded.rows)
