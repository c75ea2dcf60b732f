import errno
import json
import os

import pytest

from bpo_utils import records
from bpo_utils.records import Pair, Preference

PAIR = Pair("mini-1", "tea 茶\u2028", 'Explain "tea"\nin two lines.', "mini")


def test_rows_come_back_as_they_went(tmp_path):
    path = records.write_rows(tmp_path / "new" / "pairs.jsonl", [PAIR, PAIR])
    assert records.read_rows(path, Pair) == [PAIR, PAIR]
    assert "茶".encode() in path.read_bytes()


def test_default_fields_may_be_absent(tmp_path):
    fields = {"id": "1", "prompt": "p", "context": "", "good": "g", "bad": "b", "source": "s"}
    records.write_text(tmp_path / "rows.jsonl", json.dumps(fields) + "\n")
    assert records.read_rows(tmp_path / "rows.jsonl", Preference) == [Preference(**fields)]


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    records.write_text(tmp_path / "a.txt", "old")
    records.write_text(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = records.write_text(tmp_path / "a.txt", "old")
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append(path.read_text(encoding="utf-8")), replace(*names)))
    records.write_text(path, "new")
    assert seen == ["old"] and path.read_text(encoding="utf-8") == "new"


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = records.write_rows(tmp_path / "pairs.jsonl", [PAIR])
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*pairs\.jsonl: No space left.*free some space") as caught:
        records.write_rows(path, [PAIR, PAIR])
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "2", "prom', r"rows\.jsonl, line 2: not JSON .*run the notebook"),
        ('{"id": "2"}', r"rows\.jsonl, line 2: not a Pair row; it needs the fields .*optimized_prompt"),
        ('{"id": "2", "prompt": "", "optimized_prompt": "", "source": "", "extra": ""}', "line 2: not a Pair row"),
        ('["id", "prompt", "optimized_prompt", "source"]', "line 2: not a Pair row"),
        ('{"id": 2, "prompt": "p", "optimized_prompt": null, "source": "s"}', "line 2: id, optimized_prompt must be"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, message):
    path = records.write_rows(tmp_path / "rows.jsonl", [PAIR])
    records.write_text(path, path.read_text(encoding="utf-8") + line + "\n")
    with pytest.raises(ValueError, match=message):
        records.read_rows(path, Pair)


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: not UTF-8 at byte 8"):
        records.read_rows(tmp_path / "rows.jsonl", Pair)


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"stats\.json is missing; run the notebook"):
        records.read_json(tmp_path / "stats.json")


def test_json_keeps_key_order_and_refuses_nan(tmp_path):
    path = records.write_json(tmp_path / "stats.json", {"b": 1, "a": "é"})
    assert list(records.read_json(path)) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_json(path, float("nan"))
    records.write_text(path, '{"a": 1,\n"b"}')
    with pytest.raises(ValueError, match=r"stats\.json, line 2: not JSON"):
        records.read_json(path)


def test_joined_puts_the_context_below():
    assert records.joined(" Sum up: ", "A text.") == "Sum up: \nA text."
    assert records.joined(" Sum up ", "") == "Sum up"
