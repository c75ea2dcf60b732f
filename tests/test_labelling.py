"""Blind pairs for human labels: nothing tells the sides apart, keys record, and the file comes back un-blinded."""

import dataclasses
import json
import re
from collections import Counter

import pytest
from browser import chromium, told
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bpo_utils import labelling
from bpo_utils.records import Answer, Verdict

MODELS = ("weak", "strong")
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u2028 @@data@@"


def rows(sizes: dict[str, int]) -> tuple[list[Answer], list[Verdict]]:
    """So many questions of each test set, answered by two models and judged by two judges; two rewriters."""
    answers, verdicts = [], []
    for name, size in sizes.items():
        for id in (f"{name}-{number}" for number in range(size)):
            for model in MODELS:
                for side in ("original", "bpo", "identity"):
                    text = f"{'short' if side == 'original' else 'long'} answer {id} {model} {HOSTILE}"
                    answers.append(Answer(id, name, side, model, f"Question {id} {HOSTILE}", text.replace("weak", "w")))
                for rewriter in ("bpo", "identity"):
                    for judge in ("one", "two"):
                        verdicts.append(Verdict(id, name, rewriter, model, judge, "B", "B", "B", "reply", "reply"))
    return answers, verdicts


ANSWERS, VERDICTS = rows({"dolly": 8, "vicuna": 3})
TEXTS = {(row.test_set, row.id, row.side, row.model): row.text for row in ANSWERS}


def items(tmp_path, **options) -> list[dict[str, str]]:
    path = labelling.page("miniature", ANSWERS, VERDICTS, tmp_path / "labelling.html", **options)
    return json.loads(re.search('id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])["items"]


def key_of(item: dict[str, str]) -> tuple[str, str, str]:
    """Test set, id and model of an item, found by the texts: by no means that the page has."""
    texts = {item["left"], item["right"]}
    sides = {key for key, text in TEXTS.items() if text in texts and key[2] in ("original", "bpo")}
    ((name, id, model),) = {(name, id, model) for name, id, _, model in sides}
    return name, id, model


def optimized_left(item: dict[str, str]) -> bool:
    return item["left"].startswith("long")


def saved(tmp_path, labels, **other):
    path = tmp_path / "labels.json"
    kept = {"kind": "bpo labels", "seed": 0, "label": "miniature", "labels": labels} | other
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path


# --- drawing and blinding


def test_pairs_are_drawn_evenly_each_question_once_while_there_are_others(tmp_path):
    for seed in range(5):
        keys = [key_of(item) for item in items(tmp_path, n=8, seed=seed)]
        assert set(Counter((name, model) for name, _, model in keys).values()) == {2}
        assert len({id for _, id, _ in keys}) == 7  # vicuna has 3 questions for 4 places
    assert len(items(tmp_path, n=22)) == 22 == len(items(tmp_path, n=1000))


def test_the_seed_decides_pairs_order_and_sides(tmp_path):
    assert items(tmp_path, n=8) == items(tmp_path, n=8) != items(tmp_path, n=8, seed=1)
    sides = [optimized_left(item) for item in items(tmp_path, n=22)]
    assert 5 <= sum(sides) <= 17


def test_the_page_knows_neither_model_nor_rewriter_nor_judge_nor_letter(tmp_path):
    for item in items(tmp_path, n=22):
        assert item.keys() == {"item", "question", "left", "right"} and re.fullmatch("[0-9a-f]{12}", item["item"])
    answers = [dataclasses.replace(row, text=row.text.replace("strong", "s")) for row in ANSWERS]
    path = labelling.page("miniature", answers, VERDICTS, tmp_path / "page.html", n=22)
    text = path.read_text(encoding="utf-8")
    assert not re.search("weak|strong|bpo[^ ]|identity|optimi[sz]ed|original|reply", text)
    assert re.search("default-src 'none'; style-src 'sha256-[^;]*; script-src 'sha256-", text)
    assert not re.search("https?:|unsafe|innerHTML", text) and "<title>Labelling: miniature</title>" in text


def test_pairs_without_two_answers_are_left_out(tmp_path):
    verdicts = [dataclasses.replace(row, how="no_answer") if row.test_set == "dolly" else row for row in VERDICTS]
    path = labelling.page("miniature", ANSWERS, verdicts, tmp_path / "page.html", n=22)
    assert path.read_text(encoding="utf-8").count('"left":') == 6
    with pytest.raises(ValueError, match="no judged pairs of the rewriter reference; run notebook 05 first"):
        labelling.page("miniature", ANSWERS, verdicts, tmp_path / "page.html", rewriter="reference")
    with pytest.raises(ValueError, match="0 pairs to label: at least 1"):
        labelling.page("miniature", ANSWERS, VERDICTS, tmp_path / "page.html", n=0)


# --- reading back, without a browser


def test_labels_come_back_in_the_letters_of_the_course(tmp_path):
    shown = items(tmp_path, n=22, seed=7)
    choices = [("A", "B", "C")[number % 3] for number in range(22)]
    labels = [{"item": item["item"], "choice": choice} for item, choice in zip(shown, choices, strict=True)]
    found = labelling.read(saved(tmp_path, labels, seed=7), ANSWERS, VERDICTS)
    for item, choice, row in zip(shown, choices, found, strict=True):
        optimized = "A" if optimized_left(item) else "B"
        wanted = "C" if choice == "C" else "B" if choice == optimized else "A"
        assert tuple(row) == ("test_set", "id", "rewriter", "answer_model", "label")
        assert tuple(row.values()) == (*key_of(item)[:2], "bpo", key_of(item)[2], wanted)
    assert {row["label"] for row in found} == {"A", "B", "C"}


def test_labels_of_answers_made_again_are_not_taken_for_labels_of_the_new_ones(tmp_path):
    path = saved(tmp_path, [{"item": items(tmp_path, n=1)[0]["item"], "choice": "A"}])
    assert len(labelling.read(path, ANSWERS, VERDICTS)) == 1
    again = [dataclasses.replace(row, text=f"{row.text}.") for row in ANSWERS]
    with pytest.raises(ValueError, match="another run, or its answers were made again"):
        labelling.read(path, again, VERDICTS)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    name = items(tmp_path, n=1)[0]["item"]
    good = {"item": name, "choice": "A"}
    for labels, other, message in (
        ([{"item": "0" * 12, "choice": "A"}], {}, r"labels\[0\]: no pair of this run has the name '0{12}'"),
        ([good], {"seed": 1}, r"labels\[0\]: no pair of this run"),
        ([{"item": name, "choice": "D"}], {}, r"labels\[0\]: choice 'D'; it must be A, B or C"),
        ([good, good], {}, rf"labels\[1\]: {name} is labelled twice; remove one"),
        ([good, "A"], {}, r"labels\[1\]: 'A' is not item and choice"),
        ([{"item": ["x"], "choice": "A"}], {}, r"labels\[0\]: .* is not item and choice"),
        ([good | {"side": "left"}], {}, r"labels\[0\]: .* is not item and choice"),
        ([], {}, "no labels in it yet; label some pairs"),
        ([good], {"kind": "other"}, "not a file of labels"),
        ([good], {"seed": "0"}, "seed must be a whole number"),
        ({}, {}, "labels a list"),
    ):
        with pytest.raises(ValueError, match=message) as told_so:
            labelling.read(saved(tmp_path, labels, **other), ANSWERS, VERDICTS)
        assert str(tmp_path / "labels.json") in str(told_so.value)
    path = tmp_path / "labels.json"
    for content in (b"{", b"\xff", b"[]"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels.json: not (JSON|a file of labels).*save"):
            labelling.read(path, ANSWERS, VERDICTS)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="labels.json is missing; save the labels from the labelling page"):
        labelling.read(path, ANSWERS, VERDICTS)


def test_a_mark_before_the_text_does_no_harm(tmp_path):
    path = saved(tmp_path, [{"item": items(tmp_path, n=1)[0]["item"], "choice": "C"}])
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert labelling.read(path, ANSWERS, VERDICTS)[0]["label"] == "C"


# --- in the browser


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture
def browser(folder):
    """A browser for each test: on a busy machine Chromium hands labels of the test before over late."""
    with chromium(folder) as started:
        yield started


@pytest.fixture
def page(browser, tmp_path):
    """A page of four pairs with nothing labelled yet; its console must have stayed empty at the end."""
    told(browser)
    path = labelling.page("miniature", ANSWERS, VERDICTS, tmp_path / "labelling.html", n=4)
    browser.get(path.as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    yield browser
    assert told(browser) == []


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def choices(browser) -> str:
    """The choices in the exported text, in order of the pairs; `-` for a pair without one."""
    exported = json.loads(browser.find_element("id", "json").get_property("value"))
    given = {row["item"]: row["choice"] for row in exported["labels"]}
    names = browser.execute_script("return items.map(each => each.item)")
    return "".join(given.get(name, "-") for name in names)


def place(browser) -> str:
    return browser.find_element("id", "at").text


def test_keys_record_go_back_and_change(page):
    assert (place(page), choices(page)) == ("Pair 1 of 4, 0 labelled", "----")
    press(page, "a", "B", "c")
    assert (place(page), choices(page)) == ("Pair 4 of 4, 3 labelled", "ABC-")
    press(page, Keys.BACKSPACE, Keys.ARROW_LEFT)
    assert place(page) == "Pair 2 of 4, 3 labelled"
    assert page.find_element("css selector", "[aria-pressed=true]").text == "B is better"
    press(page, "c")
    assert (place(page), choices(page)) == ("Pair 3 of 4, 3 labelled", "ACC-")
    press(page, "d", Keys.SPACE, Keys.CONTROL + "a", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert (place(page), choices(page)) == ("Pair 4 of 4, 3 labelled", "ACC-")


def test_a_key_held_down_labels_one_pair(page):
    page.execute_script("""for (const repeat of [false, true, true])
        document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "a", repeat, bubbles: true}))""")
    assert choices(page) == "A---"


def comes_back(browser, expected: str) -> None:
    """Load the page again until it has its labels: Chromium's renderer hands them over late on a busy machine."""

    def seen(_) -> bool:
        browser.refresh()
        return choices(browser) == expected

    WebDriverWait(browser, 10).until(seen, "the labels are gone")


@pytest.fixture
def own_page(tmp_path):
    """The page in a browser of its own: what a test before cleared may take effect late, and would take labels away."""
    with chromium(tmp_path / "own") as browser:
        browser.get(labelling.page("miniature", ANSWERS, VERDICTS, tmp_path / "labelling.html", n=4).as_uri())
        yield browser
        assert told(browser) == []


def test_reload_keeps_the_labels_and_another_page_has_its_own(own_page, tmp_path):
    page = own_page
    press(page, Keys.ARROW_RIGHT, "a", "b")
    comes_back(page, "-AB-")
    assert (place(page), choices(page)) == ("Pair 1 of 4, 2 labelled", "-AB-")
    assert "kept in this browser" in page.find_element("id", "state").text
    first = page.current_url
    page.get(labelling.page("miniature", ANSWERS, VERDICTS, tmp_path / "other.html", n=3).as_uri())
    press(page, "c", "c", "c")
    page.get(first)
    comes_back(page, "-AB-")
    assert choices(page) == "-AB-"


def test_after_the_last_pair_comes_the_first_open_one(own_page):
    page = own_page
    press(page, Keys.ARROW_RIGHT, "a", "a", "a")
    assert place(page) == "Pair 1 of 4, 3 labelled"
    press(page, "a")
    assert "All labelled: save the file now." in page.find_element("id", "state").text


def test_a_browser_that_keeps_nothing_still_labels_and_says_so(page):
    source = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no') }})"
    added = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    page.refresh()
    press(page, "b")
    assert choices(page) == "B---" and "not kept by this browser" in page.find_element("id", "state").text
    page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_hostile_texts_stay_texts_and_nothing_is_loaded(page):
    found = "return [typeof hacked, document.images.length, performance.getEntriesByType('resource').length]"
    assert page.execute_script(found) == ["undefined", 0, 0]
    shown = [part.get_property("textContent") for part in page.find_elements("css selector", "#pair .text")]
    assert all(text.endswith(HOSTILE) for text in shown) and len(shown) == 3


def test_the_saved_file_holds_what_was_preferred(page, folder, tmp_path):
    wanted = {}
    for _ in range(4):
        left = page.find_element("css selector", "#left .text").get_property("textContent")
        right = page.find_element("css selector", "#right .text").get_property("textContent")
        item = {"left": left, "right": right}
        letter = ("A", "B", "C", "B")[len(wanted)]
        wanted[key_of(item)] = letter
        if letter == "C":
            page.find_element("css selector", "[data-choice=C]").click()
        else:
            press(page, "a" if optimized_left(item) == (letter == "B") else "b")
    assert "All labelled" in page.find_element("id", "state").text
    page.find_element("id", "export").click()
    path = folder / "downloads" / "labels.json"
    WebDriverWait(page, 10).until(lambda _: path.exists() and path.stat().st_size)
    found = labelling.read(path, ANSWERS, VERDICTS)
    assert {(row["test_set"], row["id"], row["answer_model"]): row["label"] for row in found} == wanted
    saved_file = json.loads(path.read_text(encoding="utf-8"))
    assert saved_file == json.loads(page.find_element("id", "json").get_property("value"))
    assert list(saved_file) == ["kind", "seed", "label", "labels"] and saved_file["label"] == "miniature"
