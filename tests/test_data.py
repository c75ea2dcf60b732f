"""The recorded files against a local server that misbehaves on command; no test leaves 127.0.0.1."""

import dataclasses
import errno
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import fake_hub
import pytest

from bpo_utils import data, describe, download, profile
from bpo_utils.records import Preference, TestPrompt

BODY = json.dumps([{"prompt": f"Tell me about tea {n}, please. " * 40} for n in range(20)]).encode()
NAME = "bpo_test.json"
PINNED = download.Pinned("c0ffee1", "data/testset/bpo_test.json", len(BODY), hashlib.sha256(BODY).hexdigest())


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Serves BODY with ranges; `server.moods` holds how the next requests go wrong, `server.asked` what was asked."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        asked = self.headers.get("Range", "")
        mood = self.server.moods.pop(0) if self.server.moods else ""
        self.server.asked.append((self.path, asked))
        if mood == "missing":
            return self.send_error(404)
        body = BODY[::-1] if mood == "other file" else BODY * 100 if mood == "too long" else BODY
        body = BODY[:500] if mood == "short" else body
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and mood != "no ranges" else 0
        self.send_response(206 if asked and mood != "no ranges" else 200)
        if asked and mood != "no ranges":
            start = 0 if mood == "other range" else start
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", f'"{hashlib.sha256(BODY).hexdigest()}"')  # this and the next one only the Hub sends
        self.send_header("X-Repo-Commit", "c0ffee" + "0" * 34)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start : start + 700] if mood == "drop" else body[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("BPO_DATA_DIR", "BPO_DATA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(download.FILES, NAME, PINNED)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.moods, server.asked, server.url = [], [], f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files_left(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} - {f"{NAME}.lock"}


def ranges(server) -> list[str]:
    return [asked for _, asked in server.asked]


def test_a_file_is_downloaded_once_from_the_pinned_commit(server, tmp_path):
    path = download.fetch(NAME, server.url)
    assert path.read_bytes() == BODY and download.fetch(NAME, server.url) == path
    assert server.asked == [("/c0ffee1/data/testset/bpo_test.json", "")]
    assert path.is_relative_to(tmp_path / "cache") and files_left(tmp_path) == {NAME}


def test_the_address_can_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("BPO_DATA_URL", server.url + "/")
    assert download.fetch(NAME).read_bytes() == BODY


def test_a_dropped_connection_goes_on_where_it_stopped(server):
    server.moods = ["drop", "drop"]
    assert download.fetch(NAME, server.url).read_bytes() == BODY
    assert ranges(server) == ["", "bytes=700-", "bytes=1400-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.moods = ["drop"] * download.ATTEMPTS
    have = 700 * download.ATTEMPTS
    with pytest.raises(ConnectionError, match=rf"cut off at {have} of {len(BODY)} bytes .*run again to go on"):
        download.fetch(NAME, server.url)
    assert files_left(tmp_path) == {f"{NAME}.part"}
    assert download.fetch(NAME, server.url).read_bytes() == BODY
    assert ranges(server)[-1] == f"bytes={have}-" and files_left(tmp_path) == {NAME}


def test_a_kill_between_the_last_byte_and_the_rename_costs_no_download(server):
    path = download.fetch(NAME, server.url)
    path.rename(path.with_name(f"{NAME}.part"))
    assert download.fetch(NAME, server.url).read_bytes() == BODY and len(server.asked) == 1


@pytest.mark.parametrize("mood", ["no ranges", "other range"])
def test_a_server_without_proper_ranges_still_gives_the_right_file(server, mood):
    server.moods = ["drop", mood]
    assert download.fetch(NAME, server.url).read_bytes() == BODY


def test_a_server_that_ends_early_is_called_truncated(server):
    server.moods = ["short", "missing"]
    with pytest.raises(ConnectionError, match="answered HTTP 404; check the network, or .*BPO_DATA_DIR"):
        download.fetch(NAME, server.url)
    assert ranges(server) == ["", "bytes=500-"]


@pytest.mark.parametrize("mood", ["other file", "too long"])
def test_a_wrong_checksum_is_an_error_and_nothing_stays(server, tmp_path, mood):
    server.moods = [mood]
    with pytest.raises(
        ValueError, match=rf"wrong checksum: sha256 [0-9a-f]{{64}}, expected {PINNED.sha256}.*run again"
    ):
        download.fetch(NAME, server.url)
    assert files_left(tmp_path) == set()
    assert download.fetch(NAME, server.url).read_bytes() == BODY


def test_a_file_that_is_too_long_is_not_downloaded_to_its_end(server, monkeypatch):
    checked, problem = [], download._problem
    monkeypatch.setattr(
        download, "_problem", lambda path, pinned: checked.append(path.stat().st_size) or problem(path, pinned)
    )
    server.moods = ["too long"]
    with pytest.raises(ValueError, match="wrong checksum"):
        download.fetch(NAME, server.url)
    assert checked[-1] < 50 * len(BODY)


def test_a_damaged_cache_is_mended(server):
    path = download.fetch(NAME, server.url)
    path.write_bytes(BODY.replace(b"tea", b"pea"))
    assert download.fetch(NAME, server.url).read_bytes() == BODY


def test_an_unreachable_network_is_one_clear_error(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"could not reach http://127.*\(ConnectError.*BPO_DATA_DIR"):
        download.fetch(NAME, server.url)


def test_a_full_disk_names_the_file(server, monkeypatch):
    opened = Path.open

    def full(path, *mode, **options):
        if path.suffix == ".part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"could not write .*bpo_test\.json\.part: No space left.*free some space"):
        download.fetch(NAME, server.url)


def test_two_downloads_at_once_share_one(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(download.fetch(NAME, server.url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(server.asked) == 1


def test_a_local_folder_needs_no_network(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    (tmp_path / NAME).write_bytes(BODY)
    assert download.fetch(NAME, server.url) == tmp_path / NAME and not server.asked


def test_a_local_folder_with_faults_says_which(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"bpo_test\.json is missing; put it there or unset BPO_DATA_DIR"):
        download.fetch(NAME)
    (tmp_path / NAME).write_bytes(BODY[:-9])
    with pytest.raises(ValueError, match=rf"truncated: {len(BODY) - 9} of {len(BODY)} bytes; take .* at c0ffee1"):
        download.fetch(NAME)
    (tmp_path / NAME).write_bytes(BODY.replace(b"tea", b"pea"))
    with pytest.raises(
        ValueError, match=r"wrong checksum.*; take data/testset/bpo_test\.json of thu-coai/BPO at c0ffee1"
    ):
        download.fetch(NAME)


def pin(monkeypatch, folder: Path, name: str, text: str) -> None:
    """Put a file into BPO_DATA_DIR and make its checksum the expected one."""
    monkeypatch.setenv("BPO_DATA_DIR", str(folder))
    (folder / name).write_text(text, encoding="utf-8")
    raw = text.encode()
    monkeypatch.setitem(
        download.FILES, name, download.Pinned("c0ffee1", name, len(raw), hashlib.sha256(raw).hexdigest())
    )


VAL = {"instruction": "Sum up", "good_res": "g", "bad_res": "b", "comparison": "Good is good.\n\n", "source": "oasst1"}
VAL |= {"optimized_prompt": "Sum up well", "final_input": "Sum up\nA text.", "final_output": "Sum up well\nA text."}


def test_validation_rows_become_preferences(tmp_path, monkeypatch):
    rows = [VAL, VAL | {"context": "A text.", "source": "alpaca-gpt4"}]
    pin(monkeypatch, tmp_path, "val.json", json.dumps(rows))
    reply = "Good is good.\n\nOptimized Instruction: Sum up well [END]"
    assert data.load_preferences(profile.load("recorded")) == [
        Preference("val-0001", "Sum up", "", "g", "b", "oasst1", reply),
        Preference("val-0002", "Sum up", "A text.", "g", "b", "alpaca-gpt4", reply),
    ]
    published = data.load_published()
    assert list(published) == ["val-0001", "val-0002"]
    assert published["val-0002"] == ("Sum up well", "Sum up\nA text.", "Sum up well\nA text.")


@pytest.mark.parametrize("column", ["comparison", "optimized_prompt"])
def test_a_missing_column_is_named_with_its_row(tmp_path, monkeypatch, column):
    broken = {key: value for key, value in VAL.items() if key != column}
    pin(monkeypatch, tmp_path, "val.json", json.dumps([VAL, broken]))
    with pytest.raises(
        ValueError, match=rf"val\.json, row 2: no text in column {column}; it has instruction, .*pinned commit"
    ):
        data.load_preferences(profile.load("recorded"))


def test_a_broken_line_is_named(tmp_path, monkeypatch):
    pin(monkeypatch, tmp_path, "vicuna_eval.jsonl", '{"text": "a", "category": "b"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"vicuna_eval\.jsonl, line 2: not JSON"):
        data.load_test_sets(cut("recorded", test_rows={"vicuna": 1}))


def cut(name: str, **changes) -> profile.Profile:
    loaded = profile.load(name)
    return loaded.model_copy(update={"data": loaded.data.model_copy(update=changes)})


def test_test_sets_are_read_and_cut(tmp_path, monkeypatch):
    lines = [
        json.dumps({"question_id": n, "text": f"Why {n}?\u2028", "category": "generic"}, ensure_ascii=False)
        for n in (1, 2, 3)
    ]
    pin(monkeypatch, tmp_path, "vicuna_eval.jsonl", "\n".join(lines) + "\n")
    assert data.load_test_sets(cut("recorded", test_rows={"vicuna": 2})) == {
        "vicuna": [TestPrompt(f"vicuna-000{n}", "vicuna", f"Why {n}?\u2028", "", "generic") for n in (1, 2)]
    }
    with pytest.raises(ValueError, match=r"data\.test_rows\.vicuna of profile recorded is 4; choose .* 1 to 3"):
        data.load_test_sets(cut("recorded", test_rows={"vicuna": 4}))
    with pytest.raises(ValueError, match=r"no test set \['vicunia'\]; there are .*'vicuna'"):
        data.load_test_sets(cut("recorded", test_rows={"vicunia": 4}))


def test_train_rows_are_cut(tmp_path, monkeypatch):
    pin(monkeypatch, tmp_path, "val.json", json.dumps([VAL] * 3))
    assert [row.id for row in data.load_preferences(cut("recorded", train_rows=2))] == ["val-0001", "val-0002"]
    with pytest.raises(ValueError, match=r"data\.train_rows of profile recorded is 0"):
        data.load_preferences(cut("recorded", train_rows=0))


def test_an_unknown_source_is_named():
    with pytest.raises(
        ValueError, match=r"data\.source is 'hubb' in profile recorded; use miniature, recorded, hub, raw"
    ):
        data.load_preferences(cut("recorded", source="hubb"))


@pytest.mark.parametrize("moods", [[], ["drop", "drop"]])
def test_a_file_of_unknown_size_is_downloaded_whole(server, monkeypatch, moods):
    monkeypatch.setitem(download.UNCHECKED, "train.json", download.Pinned("c0ffee1", "train.json", None, None))
    server.moods = list(moods)
    assert download.fetch("train.json", server.url).read_bytes() == BODY
    assert download.fetch("train.json", server.url) and len(server.asked) == len(moods) + 1


def test_a_file_of_unknown_size_that_never_ends_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setitem(download.UNCHECKED, "train.json", download.Pinned("c0ffee1", "train.json", None, None))
    server.moods = ["drop"] * download.ATTEMPTS
    with pytest.raises(ConnectionError, match=r"was cut off at 2100 bytes .*run again"):
        download.fetch("train.json", server.url)
    assert download.fetch("train.json", server.url).read_bytes() == BODY
    assert ranges(server)[-1] == ""  # whether the part was complete could not be told


def test_raw_rows_are_the_training_file_of_the_same_form(tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    text = json.dumps([VAL | {"instruction": f"请总结 {n}"} for n in range(6)], ensure_ascii=False)
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    loaded = data.load(cut("recorded", source="raw", validation_rows=2))
    reply = "Good is good.\n\nOptimized Instruction: Sum up well [END]"
    assert loaded.rows[0] == Preference("train-00002", "请总结 1", "", "g", "b", "oasst1", reply)
    assert [row.id for row in loaded.validation] == ["train-00001", "train-00004"]
    assert [row.id for row in loaded.rows] == ["train-00002", "train-00003", "train-00005", "train-00006"]
    found = {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    assert loaded.provenance == {"source": "raw", "commit": download.FIRST, "files": {"train.json": found}}
    with pytest.raises(ValueError, match=r"data\.validation_rows of profile recorded is 6; there are 6 rows in all"):
        data.load_validation(cut("recorded", source="raw", validation_rows=6))


def test_a_raw_file_of_the_hub_s_form_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    (tmp_path / "train.json").write_bytes(HUB_FILES["train.json"])
    with pytest.raises(ValueError, match=r"train\.json, row 1: no text in column instruction, .*it has prompt, optimi"):
        data.load_preferences(cut("recorded", source="raw"))


def test_recorded_has_no_validation_rows(tmp_path, monkeypatch):
    pin(monkeypatch, tmp_path, "val.json", json.dumps([VAL]))
    with pytest.raises(ValueError, match="source recorded has no validation rows; set them to 0"):
        data.load_validation(cut("recorded", validation_rows=1))


HUB_ROW = {"optimized_prompt": "o", "good_res": "g", "bad_res": "b"}
HUB_FILES = {
    name: json.dumps([{"prompt": f"茶 {n}\u2028", **HUB_ROW} for n in range(count)], ensure_ascii=False).encode()
    for name, count in {"train.json": 5, "val.json": 3, "test.json": 2}.items()
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("BPO_HUB_DIR", "BPO_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    known = download.FILES["bpo_test.json"]._replace(sha256=hashlib.sha256(HUB_FILES["test.json"]).hexdigest())
    monkeypatch.setitem(download.FILES, "bpo_test.json", known)
    with fake_hub.running(token="unused") as hub:
        hub.datasets = {(data.HUB_DATASET, data.HUB_REVISION, name): raw for name, raw in HUB_FILES.items()}
        fake_hub.in_its_place(monkeypatch, hub, tmp_path / "hub")
        yield hub


def from_hub(**changes) -> profile.Profile:
    return cut("recorded", source="hub", train_rows=None, **changes)


def check_hub_rows(loaded: data.Loaded) -> None:
    reply = "Optimized Instruction: o [END]"
    assert [row.id for row in loaded.rows] == [f"train-0000{n}" for n in range(1, 6)]
    assert loaded.rows[1] == Preference("train-00002", "茶 1\u2028", "", "g", "b", "THUDM/BPO", reply)
    assert [row.id for row in loaded.validation] == ["validation-00001", "validation-00002"]
    assert loaded.provenance["rows"] == {"train": 5, "validation": 3, "test": 2}
    assert loaded.provenance["files"]["val.json"]["sha256"] == hashlib.sha256(HUB_FILES["val.json"]).hexdigest()


def test_the_three_splits_come_from_the_pinned_commit_once(hub):
    loaded = data.load(from_hub(validation_rows=2))
    check_hub_rows(loaded)
    assert loaded.provenance["revision"] == data.HUB_REVISION and re.fullmatch("[0-9a-f]{40}", data.HUB_REVISION)
    asked = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert asked and all(f"/datasets/THUDM/BPO/resolve/{data.HUB_REVISION}/" in path for path in asked)
    hub.requests.clear()
    assert data.load(from_hub(validation_rows=2)) == loaded and hub.requests == []


def test_a_folder_stands_in_for_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_HUB_DIR", str(tmp_path / "own [1]"))
    (tmp_path / "own [1]").mkdir()
    for name, raw in HUB_FILES.items():
        with pytest.raises(
            FileNotFoundError, match=rf"{name}.* is not in .*own \[1\]; put it there .*unset BPO_HUB_DIR"
        ):
            data.load_preferences(from_hub())
        (tmp_path / "own [1]" / name).write_bytes(raw)
    check_hub_rows(data.load(from_hub(validation_rows=2)))
    assert hub.requests == []


def test_another_test_split_is_refused_with_both_hashes(hub):
    hub.datasets[data.HUB_DATASET, data.HUB_REVISION, "test.json"] = b"[]"
    digests = [hashlib.sha256(b"[]").hexdigest(), download.FILES["bpo_test.json"].sha256]
    with pytest.raises(ValueError, match=rf"test\.json .*sha256 {digests[0]}, expected {digests[1]}; take THUDM/BPO"):
        data.load_preferences(from_hub())


NO_COLUMN = (b'[{"prompt": "p", "good_res": "g", "bad_res": "b"}]', "row 1: no text in column optimized_prompt; it has")


@pytest.mark.parametrize(("raw", "words"), [NO_COLUMN, (b'[{"prompt": "p"}, {"pro', ": not readable as json .*again")])
def test_a_split_without_a_column_or_cut_off_is_named(hub, raw, words):
    hub.datasets[data.HUB_DATASET, data.HUB_REVISION, "val.json"] = raw
    with pytest.raises(ValueError, match=rf"val\.json.*{words}"):
        data.load_preferences(from_hub())


def test_a_hub_without_the_file_or_out_of_reach_is_one_clear_error(hub, tmp_path, monkeypatch):
    del hub.datasets[data.HUB_DATASET, data.HUB_REVISION, "val.json"]
    with pytest.raises(
        ConnectionError, match=r"file val\.json from the Hub \(\w+Error: .*check the network, or set BPO_HUB"
    ):
        data.load_preferences(from_hub())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a dead address would be tried for 20 s
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other"))
    with pytest.raises(ConnectionError, match=r"THUDM/BPO, revision \w{40}, file train\.json .*check the network"):
        data.load_preferences(from_hub())


def test_preferences_come_from_the_named_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_PREFERENCES_DIR", str(tmp_path))
    rows = [{"prompt": f"泡茶 {n}", "good": "好", "bad": "坏", "source": "课堂"} for n in range(8)] + [{}]
    rows[-1] = {"prompt": "p", "good": "same", "bad": "same"}
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    named = [profile.Source(name="own", files=["a.jsonl"])]
    loaded = data.load(cut("recorded", source="preferences", preferences=named, validation_rows=2))
    assert loaded.rows[0] == Preference("own-00002", "泡茶 1", "", "好", "坏", "课堂")
    assert [row.id for row in loaded.validation] == ["own-00001", "own-00005"] and len(loaded.rows) == 6
    counts = loaded.provenance["sources"]["own"]
    assert (counts["read"], counts["usable"], counts["skipped"]) == (9, 8, {"both replies are the same": 1})
    assert json.loads(json.dumps(loaded.provenance)) == loaded.provenance
    with pytest.raises(ValueError, match=r"data\.preferences must name a source"):
        data.load_preferences(cut("recorded", source="preferences"))


def test_the_miniature_is_held_apart_as_before():
    loaded = data.load(profile.load("mini"))
    assert loaded.provenance == {"source": "miniature"} and loaded.rows == data.load_preferences(profile.load("mini"))
    assert not {row.id for row in loaded.rows} & {row.id for row in loaded.validation}


PAIRS = [("tea", "Explain tea well"), ("a b", " a b\n"), ("a b c d", "a b")]


def test_lengths_growth_and_unchanged():
    assert describe.lengths(["a b", ""]) == [2, 0] and describe.lengths(["a b"], len) == [3]
    assert describe.growth(PAIRS) == [3.0, 1.0, 0.5]
    assert describe.unchanged_share(PAIRS) == pytest.approx(1 / 3) and describe.unchanged_share([]) == 0.0
    assert describe.summary([1, 2, 6]) == {"n": 3, "mean": 3.0, "median": 2, "min": 1, "max": 6}
    assert describe.summary([]) == {"n": 0}
    with pytest.raises(ValueError, match="pair 2 has an empty prompt"):
        describe.growth([("a", "b"), (" ", "b")])


def test_duplicates_and_distinct_n():
    assert describe.duplicates(["A  b", "a b", "c"]) == {"a b": 2}
    assert describe.distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert describe.distinct_n(["a b c d e"]) == 1.0 and describe.distinct_n(["a b"]) == 0.0


def test_rows_by_source_come_largest_first():
    row = Preference("1", "p", "", "g", "b", "small")
    groups = describe.by_source([row, *[dataclasses.replace(row, source="large")] * 2])
    assert [(name, len(rows)) for name, rows in groups.items()] == [("large", 2), ("small", 1)]


def test_the_word_diff_marks_words_and_escapes_them():
    shown = describe.word_diff("Explain <b> tea", "Explain green  tea & milk")
    assert re.sub(r' style="[^"]*"', "", shown) == (
        "<div>Explain<del> &lt;b&gt;</del><ins> green</ins>  tea<ins> &amp; milk</ins></div>"
    )
    assert "<ins" not in describe.word_diff("a  b", "a b") and "<b>" not in shown


def test_table_1_of_the_paper_adds_up():
    *rows, overall = describe.paper_table1()
    assert overall == {
        "dataset": "Overall",
        "sampled_n": 15000,
        "sampled_distinct4": 0.860,
        "kept_n": 14395,
        "kept_distinct4": 0.913,
    }
    assert sum(row["sampled_n"] for row in rows) == 15000 and sum(row["kept_n"] for row in rows) == 14395
