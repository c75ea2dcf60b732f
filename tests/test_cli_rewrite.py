"""`bpo rewrite`: where prompts come from, what is shown, and what is refused."""

import io
import json
import shutil
import subprocess
import sys

import pytest

from bpo_utils import chat, cli, cli_rewrite, paths, records, rewriters
from bpo_utils.chat import errors, local


@pytest.fixture
def asked(run_folder, monkeypatch):
    """A run with a rewriter that says `new` and the prompt; the settings it was opened with, and the texts."""
    folder = paths.stage_dir("mini", "03_training") / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    seen = []

    def load(settings, *_):
        def ask(texts, sample):
            seen.append((settings, texts))
            return [local.TOO_LONG if "huge" in text else records.Reply(f"new {text}") for text in texts]

        return rewriters.Rewriter(ask, len)

    monkeypatch.setattr(rewriters, "load", load)
    return seen


def texts(asked):
    return [text for _, part in asked for text in part]


def bpo(capsys, *words):
    code = cli.main(["rewrite", *words])
    out, err = capsys.readouterr()
    return code, out, err


def typed(monkeypatch, text, terminal=False):
    stream = io.StringIO(text)
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdin", stream)


def test_a_prompt_comes_out_as_a_diff(asked, capsys):
    assert bpo(capsys, "why maps") == (0, "[+new+] why maps\n", "")
    assert asked[0][0].mode == "stable" and asked[0][0].seed == 1


def test_the_command_line_changes_the_profiles_settings(asked, capsys):
    given = ("--mode", "aggressive", "--seed", "7", "--model", "THUDM/BPO", "--base-url", "http://127.0.0.1:1/v1")
    assert bpo(capsys, "tea", *given)[0] == 0
    settings = asked[0][0]
    assert (settings.mode, settings.seed, settings.model, settings.backend) == ("aggressive", 7, "THUDM/BPO", "served")
    assert settings.samples == 5


def test_json_has_one_line_for_each_prompt(asked, capsys, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("为什么 \n\nwhy tea\n", encoding="utf-8")
    code, out, _ = bpo(capsys, "--file", str(file), "--json", "--mode", "iterative")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [line["id"] for line in lines] == ["1", "2", "3"] and "为什么" in out
    assert [line["outcome"] for line in lines] == ["", "empty_prompt", ""]
    assert lines[0]["prompt"] == "为什么" and lines[0]["steps"][:2] == ["new 为什么", "new new 为什么"]
    assert lines[0]["optimized_prompt"] == "new " * 5 + "为什么"


def test_json_lines_have_ids_and_contexts(asked, capsys, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "sum up", "context": "Tea is hot.", "id": "x-1"}, {"prompt": "a huge one", "id": "x-2"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, err = bpo(capsys, "--file", str(file))
    assert texts(asked) == ["sum up\nTea is hot.", "a huge one"]
    assert code == 1 and "[+new+] sum up" in out and "huge" not in out
    assert err.startswith("bpo: prompt x-2 does not fit into the model's context; it has no rewrite")


def test_standard_input_is_one_prompt_or_its_lines(asked, capsys, monkeypatch):
    for words in ((), ("-",)):
        typed(monkeypatch, "two\nlines\n")
        assert bpo(capsys, *words)[0] == 0
    typed(monkeypatch, "two\nlines\n")
    bpo(capsys, "--file", "-")
    assert texts(asked) == ["two\nlines", "two\nlines", "two", "lines"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["x", "--profile", "min"], "no profile 'min' (did you mean 'mini'?)"),
        (["x", "--profile", "recorded"], "published has no model"),
        (["x", "--profile", "recorded", "--mode", "greedy"], "this profile trains none; name another with --model"),
        (["x", "--file", "-"], "a prompt or --file, not both"),
        (["--file", "absent.txt"], "absent.txt: No such file"),
        ([], "give a prompt"),
    ],
)
def test_wrong_use_is_told(asked, capsys, monkeypatch, words, told):
    typed(monkeypatch, "", terminal=True)
    code, out, err = bpo(capsys, *words)
    assert code == 2 and told in err and not out and not asked


@pytest.mark.parametrize(
    "line, told", [("{", "line 2: not JSON"), ('{"text": "x"}', "line 2: not an object"), ("[]", "line 2")]
)
def test_a_line_that_is_no_prompt_is_named(asked, capsys, tmp_path, line, told):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")
    code, _, err = bpo(capsys, "--file", str(file))
    assert code == 2 and told in err


def test_without_a_trained_rewriter_it_says_what_trains_one(run_folder, capsys):
    code, _, err = bpo(capsys, "why")
    assert code == 2 and "has no rewriter: `bpo run --profile mini` trains one" in err and "--model" in err


def test_a_server_that_does_not_answer_is_an_error_of_one_line(run_folder, capsys, monkeypatch):
    def fails(*_):
        raise errors.Unfinished("1 of 1 calls have no answer")

    monkeypatch.setattr(chat, "ask", fails)
    code, _, err = bpo(capsys, "why", "--model", "bpo", "--base-url", "http://127.0.0.1:1/v1")
    assert code == 1 and err == "bpo: 1 of 1 calls have no answer\n"


def test_marks_and_colours_of_a_difference(monkeypatch):
    assert cli_rewrite.diff("why maps", "why are maps", False) == "why [+are+] maps"
    assert cli_rewrite.diff("tell me why", "explain why", False) == "[-tell me-][+explain+] why"
    assert cli_rewrite.diff("same", "same", True) == "same" and cli_rewrite.diff("", "", True) == ""
    assert cli_rewrite.diff("a b", "a c", True) == "a \x1b[31;9mb\x1b[0m \x1b[32mc\x1b[0m"
    assert "\x1b" not in cli_rewrite.diff("a", "a \x1b[2J\x9b b", False)


@pytest.mark.parametrize("terminal, no_color, coloured", [(True, "", True), (True, "1", False), (False, "", False)])
def test_colours_are_for_terminals_that_want_them(asked, capsys, monkeypatch, terminal, no_color, coloured):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert ("\x1b[" in bpo(capsys, "why")[1]) is coloured


def test_a_trained_model_rewrites_and_a_long_prompt_is_refused(run_folder, capsys, monkeypatch):
    folder = paths.stage_dir("mini", "03_training") / "model"
    shutil.copytree(paths.MINI_MODELS / "weak", folder)
    code, out, err = bpo(capsys, "why tea", "--mode", "greedy", "--json")
    assert code == 0 and json.loads(out)["optimized_prompt"] and not err
    typed(monkeypatch, "tea " * 600)
    assert bpo(capsys)[0] == 1


def test_help_loads_nothing_heavy():
    check = (
        "import sys; from bpo_utils import cli; cli.parser().format_help(); print({'torch', 'yaml'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "set()\n"
