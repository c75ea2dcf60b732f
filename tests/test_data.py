"""The recorded files against a local server that misbehaves on command; no test leaves 127.0.0.1."""

import dataclasses
import errno
import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from bpo_utils import data, describe, profile
from bpo_utils.records import Preference, TestPrompt

BODY = json.dumps([{"prompt": f"Tell me about tea {n}, please. " * 40} for n in range(20)]).encode()
NAME = "bpo_test.json"
PINNED = data.Pinned("c0ffee1", "data/testset/bpo_test.json", len(BODY), hashlib.sha256(BODY).hexdigest())


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
    monkeypatch.setitem(data.FILES, NAME, PINNED)
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
    path = data.fetch(NAME, server.url)
    assert path.read_bytes() == BODY and data.fetch(NAME, server.url) == path
    assert server.asked == [("/c0ffee1/data/testset/bpo_test.json", "")]
    assert path.is_relative_to(tmp_path / "cache") and files_left(tmp_path) == {NAME}


def test_the_address_can_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("BPO_DATA_URL", server.url + "/")
    assert data.fetch(NAME).read_bytes() == BODY


def test_a_dropped_connection_goes_on_where_it_stopped(server):
    server.moods = ["drop", "drop"]
    assert data.fetch(NAME, server.url).read_bytes() == BODY
    assert ranges(server) == ["", "bytes=700-", "bytes=1400-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.moods = ["drop"] * data.ATTEMPTS
    have = 700 * data.ATTEMPTS
    with pytest.raises(ConnectionError, match=rf"cut off at {have} of {len(BODY)} bytes .*run again to go on"):
        data.fetch(NAME, server.url)
    assert files_left(tmp_path) == {f"{NAME}.part"}
    assert data.fetch(NAME, server.url).read_bytes() == BODY
    assert ranges(server)[-1] == f"bytes={have}-" and files_left(tmp_path) == {NAME}


def test_a_kill_between_the_last_byte_and_the_rename_costs_no_download(server):
    path = data.fetch(NAME, server.url)
    path.rename(path.with_name(f"{NAME}.part"))
    assert data.fetch(NAME, server.url).read_bytes() == BODY and len(server.asked) == 1


@pytest.mark.parametrize("mood", ["no ranges", "other range"])
def test_a_server_without_proper_ranges_still_gives_the_right_file(server, mood):
    server.moods = ["drop", mood]
    assert data.fetch(NAME, server.url).read_bytes() == BODY


def test_a_server_that_ends_early_is_called_truncated(server):
    server.moods = ["short", "missing"]
    with pytest.raises(ConnectionError, match="answered HTTP 404; check the network, or .*BPO_DATA_DIR"):
        data.fetch(NAME, server.url)
    assert ranges(server) == ["", "bytes=500-"]


@pytest.mark.parametrize("mood", ["other file", "too long"])
def test_a_wrong_checksum_is_an_error_and_nothing_stays(server, tmp_path, mood):
    server.moods = [mood]
    with pytest.raises(
        ValueError, match=rf"wrong checksum: sha256 [0-9a-f]{{64}}, expected {PINNED.sha256}.*run again"
    ):
        data.fetch(NAME, server.url)
    assert files_left(tmp_path) == set()
    assert data.fetch(NAME, server.url).read_bytes() == BODY


def test_a_file_that_is_too_long_is_not_downloaded_to_its_end(server, monkeypatch):
    checked, problem = [], data._problem
    monkeypatch.setattr(
        data, "_problem", lambda path, pinned: checked.append(path.stat().st_size) or problem(path, pinned)
    )
    server.moods = ["too long"]
    with pytest.raises(ValueError, match="wrong checksum"):
        data.fetch(NAME, server.url)
    assert checked[-1] < 50 * len(BODY)


def test_a_damaged_cache_is_mended(server):
    path = data.fetch(NAME, server.url)
    path.write_bytes(BODY.replace(b"tea", b"pea"))
    assert data.fetch(NAME, server.url).read_bytes() == BODY


def test_an_unreachable_network_is_one_clear_error(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"could not reach http://127.*\(ConnectError.*BPO_DATA_DIR"):
        data.fetch(NAME, server.url)


def test_a_full_disk_names_the_file(server, monkeypatch):
    opened = Path.open

    def full(path, *mode, **options):
        if path.suffix == ".part":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"could not write .*bpo_test\.json\.part: No space left.*free some space"):
        data.fetch(NAME, server.url)


def test_two_downloads_at_once_share_one(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(data.fetch(NAME, server.url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(server.asked) == 1


def test_a_local_folder_needs_no_network(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    (tmp_path / NAME).write_bytes(BODY)
    assert data.fetch(NAME, server.url) == tmp_path / NAME and not server.asked


def test_a_local_folder_with_faults_says_which(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BPO_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"bpo_test\.json is missing; put it there or unset BPO_DATA_DIR"):
        data.fetch(NAME)
    (tmp_path / NAME).write_bytes(BODY[:-9])
    with pytest.raises(ValueError, match=rf"truncated: {len(BODY) - 9} of {len(BODY)} bytes; take .* at c0ffee1"):
        data.fetch(NAME)
    (tmp_path / NAME).write_bytes(BODY.replace(b"tea", b"pea"))
    with pytest.raises(
        ValueError, match=r"wrong checksum.*; take data/testset/bpo_test\.json of thu-coai/BPO at c0ffee1"
    ):
        data.fetch(NAME)


def pin(monkeypatch, folder: Path, name: str, text: str) -> None:
    """Put a file into BPO_DATA_DIR and make its checksum the expected one."""
    monkeypatch.setenv("BPO_DATA_DIR", str(folder))
    (folder / name).write_text(text, encoding="utf-8")
    raw = text.encode()
    monkeypatch.setitem(data.FILES, name, data.Pinned("c0ffee1", name, len(raw), hashlib.sha256(raw).hexdigest()))


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
    with pytest.raises(ValueError, match=r"data\.source is 'hubb' in profile recorded; use miniature, recorded or hub"):
        data.load_preferences(cut("recorded", source="hubb"))


def test_hub_rows_come_through_the_hub_client(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
    monkeypatch.setattr(data, "HUB_COLUMNS", ("prompt",))
    rows = data._hub_rows(server.url)
    assert rows == json.loads(BODY)
    assert "/datasets/THUDM/BPO/resolve/main/train.json" in [path for path, _ in server.asked]


def test_a_hub_without_the_file_is_one_clear_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
    server.moods = ["missing"] * 9
    with pytest.raises(ConnectionError, match=r"file train\.json from the Hub \(\w+Error: "):
        data._hub_rows(server.url)


def test_an_unreachable_hub_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a dead address would be tried for 20 s
    with pytest.raises(ConnectionError, match=r"THUDM/BPO, revision main, file train\.json .*check the network"):
        data._hub_rows()


def test_a_hub_row_keeps_the_published_prompt_as_its_reply(monkeypatch):
    row = {"prompt": "p", "optimized_prompt": "o", "good_res": "g", "bad_res": "b"}
    monkeypatch.setattr(data, "_hub_rows", lambda: [row])
    assert data.load_preferences(profile.load("paper")) == [
        Preference("train-00001", "p", "", "g", "b", "THUDM/BPO", "Optimized Instruction: o [END]")
    ]


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
