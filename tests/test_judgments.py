"""The page of judgments: its data, that nothing in it can run or load, and that it filters, in a real browser."""

import html
import json
import random
import re

import pytest
from browser import chromium, told
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from bpo_utils import describe, judgments
from bpo_utils.records import Answer, TestPrompt, Verdict, write_rows

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- {{ } ${0} @@data@@ "
    "\u2028\u2029 &lt;b&gt; \\ \" '"
)
# (test set, id, model): what each judge says with the original first and with the optimized first, and the verdict
SAID = {
    ("dolly", "dolly-1", "weak"): {"one": "A A A", "two": "B B B"},
    ("dolly", "dolly-1", "strong"): {"one": "A B C", "two": "C C C"},
    ("dolly", "dolly-2", "weak"): {"one": "B B B", "two": "B B B"},
    ("dolly", "dolly-2", "strong"): {"one": "invalid B invalid", "two": "refused A refused"},
    ("vicuna", "vicuna-1", "weak"): {"one": "C C C", "two": "C C C"},
    ("vicuna", "vicuna-1", "strong"): {"one": "B A C", "two": "A B C"},
}
FLAGGED = [("dolly", "dolly-2", "original", "weak"), ("vicuna", "vicuna-1", "bpo", "strong")]
D1W, D1S, D2W, D2S, V1W, V1S = (f"{name} {id} {model} bpo" for name, id, model in SAID)
IDENTITY = "dolly dolly-1 weak identity"


def rows() -> tuple[list[TestPrompt], list[Answer], list[Verdict]]:
    """Six pairs of the rewriter bpo and one of identity, with texts that try to break out of the page."""
    prompts, answers, verdicts = {}, [], []
    for (name, id, model), said in SAID.items():
        prompts[id] = TestPrompt(id, name, f"Kindly explain {id}.", "", "imperative")
        context = HOSTILE if id == "dolly-2" else "all of it"
        for side, prompt in (("original", f"Kindly explain {id}."), ("bpo", f"Explain {id}: {context}")):
            equal = id == "vicuna-1" and model == "weak"
            refused = (name, id, side, model) == ("dolly", "dolly-2", "bpo", "strong")
            text = "" if refused else f"{model} says {'the same' if equal else side} {HOSTILE}"
            answers.append(Answer(id, name, side, model, prompt, text, "refused" if refused else "answered"))
        for judge, letters in said.items():
            first, second, verdict = letters.split()
            replies = ("", "") if equal else (f"{judge} likes {first} {HOSTILE}", f"{judge} again: {second}")
            how = "equal_answers" if equal else "judged"
            verdicts.append(Verdict(id, name, "bpo", model, judge, first, second, verdict, *replies, how))
    answers.append(Answer("dolly-1", "dolly", "identity", "weak", "Kindly explain dolly-1.", "a copy"))
    verdicts.append(Verdict("dolly-1", "dolly", "identity", "weak", "one", "C", "C", "C", "tie", "tie"))
    return list(prompts.values()), answers, verdicts


# --- the file, without a browser


def written(tmp_path, **options) -> str:
    path = judgments.page(f"miniature {HOSTILE}", *rows(), tmp_path / "judgments.html", **options)
    return path.read_text(encoding="utf-8")


def test_texts_stay_data(tmp_path):
    text = written(tmp_path)
    assert re.findall("<script[^>]*>", text) == ['<script type="application/json" id="data">', "<script>"]
    assert text.count("</script") == 2 and "<img" not in text
    as_json = re.search('id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert not re.search("[<\u2028\u2029]", as_json)
    data = json.loads(as_json)
    assert f"weak says bpo {HOSTILE}" in data["texts"] and data["label"] == f"miniature {HOSTILE}"
    assert f"<title>Judgments: miniature {html.escape(HOSTILE)}</title>" in text


def test_page_loads_nothing_and_says_so(tmp_path):
    text = written(tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\ssrc=(?!x)|<link|<iframe", text.replace(HOSTILE, ""))
    policy = re.search('Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert "innerHTML" not in text and '<html lang="en">' in text


def test_same_rows_make_the_same_bytes_and_each_text_is_there_once(tmp_path):
    text = written(tmp_path)
    assert text == written(tmp_path)
    assert text.count("Explain dolly-1: all of it") == 1 and text.count("two again: B") == 1


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    prompts, answers, verdicts = rows()
    answers[0] = Answer("dolly-1", "dolly", "original", "weak", "p", "half \ud83d")
    path = judgments.page("x", prompts, answers, verdicts, tmp_path / "page.html")
    assert "half \\ud83d" in path.read_text(encoding="utf-8")


def test_rewriters_are_chosen_and_a_missing_one_names_those_there(tmp_path):
    prompts, answers, verdicts = rows()

    def keys(**options):
        data = re.search('id="data">(.*?)</script>', written(tmp_path, **options), re.DOTALL)[1]
        return [pair["rewriter"] for pair in json.loads(data)["pairs"]]

    assert keys() == ["bpo"] * 6 and sorted(keys(rewriters=None)) == ["bpo"] * 6 + ["identity"]
    with pytest.raises(ValueError, match="no verdicts on reference; there are verdicts on: bpo, identity"):
        judgments.page("x", prompts, answers, verdicts, tmp_path / "x.html", rewriters=["reference"])
    with pytest.raises(ValueError, match="there are verdicts on: none; run notebook 05"):
        judgments.page("x", prompts, answers, [], tmp_path / "x.html", rewriters=None)


def test_a_verdict_without_its_answer_or_prompt_is_named(tmp_path):
    prompts, answers, verdicts = rows()
    with pytest.raises(ValueError, match="dolly dolly-1 bpo weak: judged, but no such answer; run notebook 05 again"):
        judgments.page("x", prompts, [answers[0], *answers[2:]], verdicts, tmp_path / "x.html")
    with pytest.raises(ValueError, match="dolly dolly-1: a verdict, but no test prompt; run notebooks 01, 04 and 05"):
        judgments.page("x", prompts[1:], answers, verdicts, tmp_path / "x.html")


def test_a_run_folder_is_read_and_a_missing_file_named(tmp_path):
    prompts, answers, verdicts = rows()
    for name in ("dolly", "vicuna"):
        write_rows(tmp_path / "01_data" / "test" / f"{name}.jsonl", [row for row in prompts if row.test_set == name])
    write_rows(tmp_path / "05_judging" / "answers.jsonl", answers)
    write_rows(tmp_path / "05_judging" / "verdicts.jsonl", verdicts)
    assert judgments.read_run(tmp_path) == (prompts, answers, verdicts)
    (tmp_path / "01_data" / "test" / "vicuna.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="vicuna.jsonl is missing; run the notebook"):
        judgments.read_run(tmp_path)


def test_segments_are_the_word_diff_and_give_both_texts_back():
    random.seed(1)
    pieces = ["maps", "all", ":", " ", "\n", "<b>", "été", "。", "{x}", "  "]
    texts = ["".join(random.choices(pieces, k=random.randrange(12))) for _ in range(200)] + ["", " ", "a \n"]
    for before, after in zip(texts, reversed(texts), strict=True):
        shown = ""
        found = judgments.segments(before, after)
        for kind, old, new in found:
            gone = f'<del style="{describe.DELETED}">{html.escape(old)}</del>' if old else ""
            added = f'<ins style="{describe.INSERTED}">{html.escape(new)}</ins>' if new else ""
            shown += html.escape(new) if kind == "=" else gone + added
        assert describe.word_diff(before, after) == f'<div style="white-space:pre-wrap">{shown}</div>'
        assert ("".join(old for _, old, _ in found), "".join(new for _, _, new in found)) == (before, after)


# --- in the browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "judgments.html"
    return judgments.page("miniature", *rows(), path, flagged=FLAGGED, rewriters=None).as_uri()


@pytest.fixture
def page(browser, address):
    """The page, freshly loaded; its console must have stayed empty at the end."""
    told(browser)
    browser.get(address)
    yield browser
    assert told(browser) == []


def keys_shown(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('article')].map(each => each.dataset.key)")


def choose(browser, name: str, value: str) -> None:
    browser.find_element("css selector", f"#{name} option[value='{value}']").click()


def text_of(browser, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def test_page_opens_with_every_pair_and_its_run_in_the_title(page):
    assert sorted(keys_shown(page)) == sorted([D1W, D1S, D2W, D2S, V1W, V1S, IDENTITY])
    assert page.title == "Judgments: miniature" and "miniature" in text_of(page, "h1")
    assert text_of(page, "#count").startswith("7 of 7 pairs")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"set": "vicuna"}, [V1W, V1S]),
        ({"model": "strong"}, [D1S, D2S, V1S]),
        ({"rewriter": "identity"}, [IDENTITY]),
        ({"judge": "two"}, [D1W, D1S, D2W, D2S, V1W, V1S]),
        ({"outcome": "A"}, [D1W]),
        ({"outcome": "B"}, [D1W, D2W]),
        ({"outcome": "B", "judge": "one"}, [D2W]),
        ({"outcome": "C"}, [D1S, IDENTITY, V1W, V1S]),
        ({"outcome": "invalid"}, [D2S]),
        ({"outcome": "refused"}, [D2S]),
        ({"outcome": "refused", "judge": "one"}, []),
        ({"flip": "yes"}, [D1S, V1S]),
        ({"flip": "yes", "judge": "two"}, [V1S]),
        ({"flip": "no"}, [D1W, D1S, IDENTITY, D2W, V1W]),
        # the same judge must fit both: judge one flipped but said C, judge two said C without a flip
        ({"flip": "no", "outcome": "C", "model": "strong"}, [D1S]),
        ({"flip": "yes", "outcome": "A"}, []),
        ({"panel": "no"}, [D1W, D2S]),
        ({"panel": "yes", "set": "vicuna"}, [V1W, V1S]),
        ({"flagged": "yes"}, [D2W, V1S]),
        ({"flagged": "no", "set": "dolly"}, [D1W, D1S, IDENTITY, D2S]),
        ({"q": "VICUNA-1"}, [V1W, V1S]),
        ({"q": "n dolly-2"}, [D2W, D2S]),  # a prompt
        ({"q": "g says o"}, [D1S, D2S, V1S]),  # an answer
        ({"q": "likes ref"}, [D2S]),  # a judge's reply
        ({"q": "</script>", "set": "vicuna"}, [V1W, V1S]),
        ({"q": "nowhere"}, []),
        ({"set": "dolly", "model": "weak", "rewriter": "bpo", "q": "weak"}, [D1W, D2W]),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_each_filter_shows_exactly_its_rows_and_the_address_shows_them_again(page, wanted, expected):
    for name, value in wanted.items():
        if name == "q":
            page.find_element("id", name).send_keys(value)
        else:
            choose(page, name, value)
    assert sorted(keys_shown(page)) == sorted(expected)
    assert text_of(page, "#count").startswith(f"{len(expected)} of 7 pairs")
    page.refresh()
    assert sorted(keys_shown(page)) == sorted(expected)
    assert {name: page.find_element("id", name).get_property("value") for name in wanted} == wanted


def test_clear_shows_everything_again_and_an_unknown_address_filters_nothing(page, address):
    choose(page, "outcome", "A")
    assert keys_shown(page) == [D1W]
    page.find_element("css selector", "button[type=reset]").click()
    WebDriverWait(page, 5).until(lambda _: len(keys_shown(page)) == 7)
    assert page.current_url == address + "#"
    page.get(address + "#set=other&outcome=B")
    WebDriverWait(page, 5).until(lambda _: sorted(keys_shown(page)) == sorted([D1W, D2W]))
    assert Select(page.find_element("id", "set")).first_selected_option.text == "all"


def test_shares_are_of_the_pairs_shown_and_sum_to_all(page):
    choose(page, "rewriter", "bpo")
    rows_shown = [row.text.split() for row in page.find_elements("css selector", "#shares tbody tr")]
    sixth, third = ["16.7", "%"], ["33.3", "%"]
    assert rows_shown[0] == ["one", *sixth, *sixth, "50.0", "%", *sixth, "0.0", "%", "6", "2"]
    assert rows_shown[1] == ["two", "0.0", "%", *third, "50.0", "%", "0.0", "%", *sixth, "6", "1"]


def test_card_shows_prompts_answers_and_both_orders_of_every_judge(page, address):
    page.get(f"{address}#q=dolly-2")
    WebDriverWait(page, 5).until(lambda _: sorted(keys_shown(page)) == sorted([D2W, D2S]))
    weak, strong = (page.find_element("css selector", f"article[data-key='{key}']") for key in (D2W, D2S))
    prompts = [part.get_property("textContent") for part in weak.find_elements("css selector", "header + .two p")]
    assert prompts == ["Kindly explain dolly-2.", f"Explain dolly-2: {HOSTILE}"]
    assert [part.text for part in weak.find_elements("css selector", "del")] == ["Kindly explain"]
    assert weak.find_element("css selector", "ins").text == "Explain"
    for tag, line in (("del", "line-through"), ("ins", "underline")):  # told apart without colour
        assert line in weak.find_element("css selector", tag).value_of_css_property("text-decoration")
    paragraphs = [part.get_property("textContent") for part in weak.find_elements("css selector", ".text")]
    assert f"weak says original {HOSTILE}" in paragraphs and f"weak says bpo {HOSTILE}" in paragraphs
    assert f"one likes B {HOSTILE}" in paragraphs and "two again: B" in paragraphs
    assert [part.text for part in weak.find_elements("css selector", ".mark")] == ["original answer talks to the judge"]
    letters = [part.get_attribute("data-letter") for part in strong.find_elements("css selector", ".letter")]
    assert letters == ["invalid", "invalid", "B", "refused", "refused", "A"]
    assert "(refused by a content filter)" in strong.text


def test_what_was_not_judged_and_what_flipped_is_said(page):
    equal = page.find_element("css selector", f"article[data-key='{V1W}']").text
    assert equal.count("the answers are equal: a tie without a call") == 2 and "shown first" not in equal
    assert page.find_element("css selector", f"article[data-key='{D1S}']").text.count("flip: the orders disagree") == 1


def test_an_order_that_was_not_asked_is_neither_a_flip_nor_agreement(browser, tmp_path):
    prompts, answers, _ = rows()
    verdicts = [Verdict("dolly-1", "dolly", "bpo", "weak", "one", "", "B", "B", "", "yes [[A]]", "one_order")]
    path = judgments.page("miniature", prompts, answers, verdicts, tmp_path / "page.html")
    for flip in ("yes", "no"):
        browser.get(f"{path.as_uri()}?{flip}#flip={flip}")
        assert keys_shown(browser) == []
    browser.get(path.as_uri())
    first, second = (part.text for part in browser.find_elements("css selector", ".judge section"))
    assert first == "Original shown first:\n(not asked in this order)"
    assert second == "Optimized shown first:\nB: optimized better\nyes [[A]]"
    assert told(browser) == []


def test_hostile_texts_do_nothing_and_the_policy_refuses_network_and_html(browser, address):
    browser.get(address)
    assert browser.execute_script("return [typeof hacked, document.images.length, document.scripts.length]") == [
        "undefined",
        0,
        2,
    ]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert told(browser) == []
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        browser.execute_script("document.body.innerHTML = '<b>x</b>'")
    refused = browser.execute_async_script(
        "const tell = arguments[0];"
        "document.addEventListener('securitypolicyviolation', event => tell(event.effectiveDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => null);"
    )
    assert refused == "connect-src"
    told(browser)  # the two refusals


def test_keys_reach_the_search_and_walk_through_the_pairs(page):
    order = keys_shown(page)

    def focused():
        return page.execute_script("return document.activeElement.dataset.key ?? document.activeElement.id")

    def press(key):
        page.switch_to.active_element.send_keys(key)
        return focused()

    assert [press("j"), press("j"), press("k"), press("k")] == [order[0], order[1], order[0], order[0]]
    assert press("/") == "q"
    assert press("j") == "q" and page.find_element("id", "q").get_property("value") == "j"
    assert press(Keys.TAB) != "q"


def test_thousands_of_pairs_are_drawn_fifty_at_a_time(browser, tmp_path):
    ids = [f"dolly-{number}" for number in range(5000)]
    prompts = [TestPrompt(id, "dolly", "a prompt", "", "") for id in ids]
    answers = [Answer(id, "dolly", side, "weak", "a prompt", side) for id in ids for side in ("original", "bpo")]
    verdicts = [Verdict(id, "dolly", "bpo", "weak", "one", "B", "B", "B", "b", "a") for id in ids]
    browser.get(judgments.page("miniature", prompts, answers, verdicts, tmp_path / "page.html").as_uri())
    assert len(keys_shown(browser)) == 50 and text_of(browser, "#count").startswith("5,000 of 5,000 pairs")
    more = browser.find_element("id", "more")
    assert more.text == "Show 50 more (4,950 left)"
    more.send_keys(Keys.ENTER)
    assert keys_shown(browser) == [f"dolly {id} weak bpo" for id in ids[:100]]
    assert browser.execute_script("return document.activeElement.dataset.key") == "dolly dolly-50 weak bpo"
    browser.find_element("id", "q").send_keys("Y-4999")  # the text of no prompt or answer
    assert keys_shown(browser) == ["dolly dolly-4999 weak bpo"] and not more.is_displayed()
    # one set, model, rewriter, judge: no choice, so nothing to choose from
    assert not any(browser.find_element("id", name).is_displayed() for name in ("set", "model", "rewriter", "panel"))
    assert told(browser) == []
