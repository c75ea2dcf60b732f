import json

import pytest
from made_notebooks import PARAMETERS, write_notebook

from bpo_utils import notebook
from bpo_utils.notebook import WrongUse

TYPED = """profile: str = "mini"  # which run
# a comment of its own
seed: int = 1
rate: float = 1e-3
limit: float | None = None
names: list[str] = ["a#b"]
quick = True
"""


def test_parameters_are_read_with_their_types():
    found = notebook.parse_parameters(TYPED, "x.ipynb")
    assert {p.name: (p.annotation, p.default) for p in found.values()} == {
        "profile": ("str", "mini"),
        "seed": ("int", 1),
        "rate": ("float", 0.001),
        "limit": ("float | None", None),
        "names": ("list[str]", ["a#b"]),
        "quick": ("bool", True),
    }


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("a, b = 1, 2", "one parameter per line"),
        ("import os", "one parameter per line"),
        ("n: int = 2 * k", "not a plain literal"),
        ("n: int = 'x'", "declared int but its default is 'x' (str)"),
        ("n: tuple = (1, 2)", "type 'tuple' is not one of"),
        ("n = (1, 2)", "type 'tuple' is not one of"),
        ("n: int", "one parameter per line"),
        ("n = = 1", "line 1"),
    ],
)
def test_a_parameters_cell_that_papermill_would_misread_is_refused(source, told):
    with pytest.raises(WrongUse, match="x.ipynb, parameters cell") as caught:
        notebook.parse_parameters(source, "x.ipynb")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("seed", 3, True),
        ("seed", 3.0, False),
        ("seed", True, False),
        ("seed", "3", False),
        ("rate", 1, True),
        ("rate", "1e-4", False),
        ("rate", float("nan"), False),
        ("limit", None, True),
        ("limit", 2.5, True),
        ("names", ["x"], True),
        ("names", [1], False),
        ("names", ("x",), False),
        ("quick", False, True),
        ("quick", 1, False),
    ],
)
def test_types_are_checked(tmp_path, name, value, good):
    made = notebook.read(write_notebook(tmp_path / "01_a.ipynb", parameters=TYPED))
    if good:
        assert notebook.assign([made], "mini", {name: value})["01_a"] == {"profile": "mini", name: value}
    else:
        with pytest.raises(WrongUse, match=f"{name} must be .* in 01_a.ipynb, got"):
            notebook.assign([made], "mini", {name: value})


def test_a_misspelt_parameter_names_the_nearest(tmp_path):
    made = notebook.read(write_notebook(tmp_path / "01_a.ipynb", parameters=TYPED))
    with pytest.raises(WrongUse, match=r"no parameter 'sede' \(did you mean 'seed'\?\)"):
        notebook.assign([made], "mini", {"sede": 3})
    with pytest.raises(WrongUse, match="--profile"):
        notebook.assign([made], "mini", {"profile": "paper"})


def test_a_parameter_goes_only_to_the_notebooks_that_have_it(tmp_path):
    write_notebook(tmp_path / "01_a.ipynb", parameters=TYPED)
    write_notebook(tmp_path / "02_b.ipynb")
    injected = notebook.assign(notebook.find(tmp_path), "mini", {"seed": 5})
    assert injected == {"01_a": {"profile": "mini", "seed": 5}, "02_b": {"profile": "mini"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("words here", "words here"),
        ("'3'", "3"),
    ],
)
def test_values_of_the_command_line(text, value):
    assert notebook.parse_value(text) == value
    assert type(notebook.parse_value(text)) is type(value)


def test_the_source_hash_ignores_noise_only(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", "print(1)", reads=["01_data/x"])
    before = notebook.read(path).source_hash
    node = json.loads(path.read_text())
    node["cells"][2] |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}], "execution_count": 4}
    node["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
    node["cells"].insert(
        1,
        {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "profile = 'x'", "outputs": []},
    )
    path.write_text(json.dumps(node))
    assert notebook.read(path).source_hash == before
    node["metadata"]["bpo"]["reads"] = ["01_data/y"]
    path.write_text(json.dumps(node))
    assert notebook.read(path).source_hash != before
    write_notebook(path, "print(2)", reads=["01_data/x"])
    assert notebook.read(path).source_hash != before


def test_notebooks_that_cannot_be_run_are_named(tmp_path):
    path = tmp_path / "01_a.ipynb"
    path.write_text("{")
    with pytest.raises(WrongUse, match="01_a.ipynb is not a notebook"):
        notebook.find(tmp_path)
    path.write_text("[]")
    with pytest.raises(WrongUse, match="01_a.ipynb is not a notebook"):
        notebook.find(tmp_path)
    write_notebook(path, writes=["../outside"])
    with pytest.raises(WrongUse, match=r"'\.\./outside' is no path inside the run folder"):
        notebook.find(tmp_path)
    write_notebook(path)
    node = json.loads(path.read_text())
    node["cells"].append(node["cells"][0])
    path.write_text(json.dumps(node))
    with pytest.raises(WrongUse, match="2 cells tagged 'parameters'"):
        notebook.find(tmp_path)
    write_notebook(path)
    write_notebook(tmp_path / "01_b.ipynb")
    with pytest.raises(WrongUse, match="01_a.ipynb and 01_b.ipynb have the same number"):
        notebook.find(tmp_path)


def test_the_heading_is_the_nearest_above(tmp_path):
    made = notebook.read(write_notebook(tmp_path / "01_a.ipynb", "a = 1", "# Later\n\ntext", "b = 1"))
    assert [made.heading(position) for position in (0, 2, 4)] == ["(no heading above the cell)", "The work", "Later"]


def test_who_writes_what(tmp_path):
    write_notebook(tmp_path / "01_a.ipynb", writes=["01_data/"], parameters=PARAMETERS)
    write_notebook(tmp_path / "02_b.ipynb", writes=["02_pairs/pairs.jsonl"])
    both = notebook.find(tmp_path)
    assert notebook.writer_of("01_data/test/dolly.jsonl", both).number == "01"
    assert notebook.writer_of("02_pairs/", both).number == "02"
    assert notebook.writer_of("03_training/log.jsonl", both) is None
