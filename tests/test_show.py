"""What notebooks show: tables escape their text, diffs mark words, the map is drawn from the notebooks' own words."""

import json

import pytest

from bpo_utils import course, describe, paths, records, show


def test_table_takes_dicts_and_rows_rounds_and_escapes():
    shown = show.table([{"name": "<b>", "share": 1 / 3, "id": 7}], without=["id"]).data
    assert "&lt;b&gt;" in shown and ">0.333<" in shown and "id" not in shown
    row = records.Pair("p1", "maps", "Explain maps.", "s")
    assert "Explain maps." in show.table([row]).data


def test_table_sideways_puts_fields_below_each_other():
    shown = show.table([{"steps": 1200, "rate": 0.001}], sideways=True).data
    assert shown.count("<tr>") == 2 and "<thead>" not in shown and "1,200" in shown and "0.001" in shown


def test_a_small_number_is_not_rounded_to_nothing():
    row = {"learning_rate": 2.0e-5, "share": 0.12345, "zero": 0.0}
    for sideways in (True, False):
        shown = show.table([row], sideways=sideways).data
        assert "2e-05" in shown or "0.00002" in shown
        assert "0.123<" in shown and "0.0<" in shown


def test_no_rows_are_said_and_no_error():
    assert show.table([], without=["name"]).data == "no rows"


def test_waterfall_draws_what_was_removed_and_what_was_kept():
    steps = [{"filter": "all rows", "removed": 0, "kept": 8}, {"filter": "too short", "removed": 6, "kept": 2}]
    shown = show.waterfall(steps).data
    # The widest bars take 90 % of their cells: 6 of 6 removed, 8 of 8 kept; 2 of 8 kept is a quarter of that.
    assert shown.count("90.0%") >= 2 and "22.5%" in shown and "too short" in shown
    assert shown == show.waterfall(steps).data


def test_show_source_is_the_function_itself():
    assert "def joined(" in show.show_source(records.joined).data


def test_punctuation_behind_a_word_does_not_make_it_another_word():
    assert "<del" not in describe.word_diff("explain maps", "explain maps: all of them")


def notebook(folder, name, reads, writes):
    cells = [{"cell_type": "markdown", "source": [f"# {name} title"], "metadata": {}}]
    text = json.dumps({"cells": cells, "metadata": {"bpo": {"reads": reads, "writes": writes}}})
    (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")


def test_map_links_each_reader_to_its_writer_folders_included(tmp_path):
    notebook(tmp_path, "01_a", [], ["01_data/test/", "x.json"])
    notebook(tmp_path, "02_b", ["x.json"], ["y.json"])
    notebook(tmp_path, "03_c", ["01_data/test/dolly.jsonl", "y.json"], [])
    rows = course.declared(tmp_path)
    assert course._links(rows) == [(0, 1), (0, 2), (1, 2)]
    drawn = course.course_map(tmp_path).data
    assert drawn.count("<svg") == 1 and drawn == course.course_map(tmp_path).data


def test_notebook_that_declares_nothing_is_named(tmp_path):
    (tmp_path / "01_a.ipynb").write_text('{"cells": [], "metadata": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="01_a.ipynb: no `bpo` metadata"):
        course.declared(tmp_path)


def test_course_has_its_seven_notebooks_in_order():
    names = [row["name"] for row in course.declared(paths.NOTEBOOKS)]
    assert [name[:2] for name in names][:7] == ["00", "01", "02", "03", "04", "05", "06"]
