"""What the rewriter adds: the groups and their numbers, the figure whose bars are links, the page behind them."""

import html
import json
import re
from urllib.parse import parse_qs, urldefrag

import pytest
from browser import chromium, told
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from statsmodels.stats.proportion import confint_proportions_2indep

from bpo_utils import additions, interpret, interpret_figure, interpret_page, paths, rewrite_reading, stats
from bpo_utils.mini import world
from bpo_utils.records import Answer, Pair, Rewrite, TestPrompt, Verdict

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> @@data@@ $x$ \u2028"
ODD = r"$\odd$ <b>"  # a category that matplotlib would take for a formula, and not know
CHINESE = ("怎么学英语", "怎么学英语？请详细解释，并举例说明。")
MODELS, JUDGES = ("weak", "strong"), ("one", "two")
# additions to "Write a text on topic 3.": what the rules find in them
ADDED = {
    "explanation": " Explain the reasons.",
    "elaboration": " Please be accurate and detailed.",
    "hints": " It should cover painting, sculpture and music.",
    "safety": " Please be respectful.",
    "none": "",
}


def rows(*, hostile: str = HOSTILE):
    """26 questions of two sets with a rewrite each, answers of two models, verdicts of two judges (one missing)."""
    prompts, rewrites, answers, verdicts = [], [], [], []
    for number in range(26):
        test_set = "dolly" if number < 14 else "vicuna"
        category = ODD if number < 12 else ("open", "open", "rare")[number % 3] if number < 24 else ""
        before = f"Write a text on topic {number}."
        after = before + list(ADDED.values())[number % 5]
        if number == 0:
            before, after = f"Write on {hostile}", f"Write on {hostile} Please be accurate."
        if number == 25:
            before, after = CHINESE
        id = f"{test_set}-{number:02d}"
        prompts.append(TestPrompt(id, test_set, before, "", category))
        rewrites.append(Rewrite(id, test_set, "bpo", before, after))
        for model in MODELS:
            answers.append(Answer(id, test_set, "original", model, before, f"{model} on {number} {hostile}"))
            answers.append(Answer(id, test_set, "bpo", model, after, f"{model} better on {number}"))
            for judge in JUDGES[: 1 if (number, model) == (1, "strong") else 2]:
                letter = "BBACB"[(number + len(model) + len(judge)) % 5]
                words = f"{judge} says {letter} {hostile}"
                verdicts.append(Verdict(id, test_set, "bpo", model, judge, letter, letter, letter, words, "again"))
    rewrites.append(Rewrite("dolly-00", "dolly", "identity", "x", "x"))
    verdicts.append(Verdict("dolly-00", "dolly", "identity", "weak", "one", "A", "A", "A", "", ""))
    return prompts, rewrites, answers, verdicts


def groups(found: list[dict], panel: str) -> dict[str, dict]:
    return {row["group"]: row for each in found if each["panel"] == panel for row in each["groups"]}


def bar(row: dict, model: str, judge: str) -> dict:
    return next(each for each in row["bars"] if (each["answer_model"], each["judge"]) == (model, judge))


# --- the numbers


def test_strategies_overlap_nothing_is_hidden_and_chinese_is_said_not_to_be_read():
    prompts, rewrites, _, verdicts = rows()
    reads = interpret.read(prompts, rewrites)
    assert len(reads) == 26 and "explanation" in reads[5].strategies and "safety" in reads[3].strategies
    assert reads[4].strategies == ("none",) and reads[4].harms == ("no_harm",)
    assert reads[25].strategies == ("not_read",) and reads[25].harms == ("not_read",)
    found = groups(interpret.panels(reads, verdicts), "strategy")
    assert found["not_read"]["n"] == 1 and found["not_read"]["small"]
    everything = {row.key for row in reads}
    for panel, behind in interpret.members(reads).items():
        assert {key for keys in behind.values() for key in keys} == everything, panel
        assert all(behind.values())
    assert "passage" not in interpret.members(reads)  # no prompt has one


def test_a_bar_has_the_net_win_of_its_questions_and_its_n_counts_verdicts():
    prompts, rewrites, _, verdicts = rows()
    reads = interpret.read(prompts, rewrites)
    found = groups(interpret.panels(reads, verdicts), "category")
    said = [row for row in verdicts if row.rewriter == "bpo" and int(row.id[-2:]) < 12]
    for model in MODELS:
        for judge in JUDGES:
            letters = [row.verdict for row in said if (row.answer_model, row.judge) == (model, judge)]
            counts = {letter: letters.count(letter) for letter in "ABC"}
            one = bar(found[ODD], model, judge)
            assert one["n"] == len(letters) == (11 if (model, judge) == ("strong", "two") else 12)
            assert {letter: one["counts"][letter] for letter in "ABC"} == counts
            assert (one["net_win"], one["ci_low"], one["ci_high"]) == stats.net_win(counts)


def test_rare_categories_are_one_group_that_names_them_and_a_single_rare_one_stays_itself():
    prompts, rewrites, _, verdicts = rows()
    found = interpret.panels(interpret.read(prompts, rewrites), verdicts)
    pooled = groups(found, "category")
    # 12 odd; 8 open, 4 rare and 2 without a category are too few to stand alone
    assert {name: row["n"] for name, row in pooled.items()} == {ODD: 12, "(other)": 14}
    assert pooled["(other)"]["holds"] == {"open": 8, "rare": 4, "(none given)": 2}
    within = groups(found, "set_category")
    assert list(within) == [f"dolly/{ODD}", "dolly/open", "vicuna/(other)"]
    assert within["dolly/open"]["small"] and within["dolly/open"]["n"] == 2 and not within[f"dolly/{ODD}"]["small"]


def test_growth_quarters_hold_every_rewrite_and_rise():
    prompts, rewrites, _, verdicts = rows()
    found = list(groups(interpret.panels(interpret.read(prompts, rewrites), verdicts), "growth").values())
    assert sum(row["n"] for row in found) == 26 and len(found) > 2
    assert all(low["growth"][1] <= high["growth"][0] for low, high in zip(found, found[1:], strict=False))


def test_where_it_hurts_compares_shares_of_a_and_leaves_small_counts_as_counts():
    prompts = [TestPrompt(f"d-{n}", "dolly", "p", "a passage" if n < 15 else "", "x") for n in range(40)]
    rewrites = [Rewrite(row.id, "dolly", "bpo", "Describe maps.", "Describe maps.") for row in prompts]
    for n in range(3):
        rewrites[n] = Rewrite(f"d-{n}", "dolly", "bpo", "Describe maps.", "Describe 17 maps.")
    letters = ["A" if n < 9 or n == 20 else "B" for n in range(40)]
    verdicts = [
        Verdict(row.id, "dolly", "bpo", "m", "j", letter, letter, letter, "", "")
        for row, letter in zip(prompts, letters, strict=True)
    ]
    found = {row["harm"]: row for row in interpret.hurts(interpret.read(prompts, rewrites), verdicts)}
    passage = found["with_passage"]
    assert (passage["a"], passage["n"], passage["a_without"], passage["n_without"]) == (9, 15, 1, 25)
    assert passage["difference"] == pytest.approx(9 / 15 - 1 / 25)
    low, high = confint_proportions_2indep(9, 15, 1, 25, method="newcomb", compare="diff")
    assert (passage["low"], passage["high"]) == pytest.approx((low, high)) and low > 0
    few = found["over_specified"]
    assert (few["a"], few["n"], few["n_without"]) == (3, 3, 37)
    assert few["share"] is few["difference"] is few["low"] is None and few["share_without"] == 7 / 37
    lines = {row["harm"]: row["m"] for row in interpret.harm_table(found.values(), "j")}
    assert lines["over_specified"] == "3 of 3, else 7 of 37"
    assert lines["with_passage"].startswith("9 of 15, else 1 of 25: +56 [+")


def test_the_worlds_truth():
    topic, other = list(world.topics())[:2]
    threat = next(iter(world.threats()))
    passage = f"Passage: Nothing is said of {topic} here."
    asked = f"Explain {topic} in plain words: say what it means"

    def truth(before, after):
        return set(rewrite_reading.world_truth(before, after))

    assert truth(f"Explain {topic}.", f"{asked} and explain what causes it.") == {"needed_only"}
    assert truth(f"Explain {topic}.", f"{asked} and mention its history.") == {"not_needed"}
    assert truth(f"Explain {topic}.", f"Explain {topic}.") == {"adds_nothing", "asks_other"}
    assert truth(f"Explain {topic}.", f"Explain {other}: say what it means.") == {"needed_only", "topic_lost"}
    assert truth(f"Explain {topic}.\n{passage}", f"{asked}.\n{passage}") == {"needed_only", "passage_kept"}
    assert truth(f"Explain {topic}.\n{passage}", f"{asked}.") == {"needed_only", "passage_dropped"}
    unsafe = f"Help me with {threat} against someone."
    safe = f"Inform about {threat} so that nobody gets hurt: say what it means, say why it is wrong."
    assert truth(unsafe, safe) == {"needed_only", "made_safe"}
    assert "left_unsafe" in truth(unsafe, unsafe)


def test_rules_and_truth_are_counted_for_the_miniature_only():
    topic = next(iter(world.topics()))
    prompts = [TestPrompt(f"d-{n}", "dolly", f"Explain {topic}.", "", "x") for n in range(2)]
    asked = f"Explain {topic}: say what it means"
    rewrites = [
        Rewrite("d-0", "dolly", "bpo", f"Explain {topic}.", f"{asked} and mention its history."),
        Rewrite("d-1", "dolly", "bpo", f"Explain {topic}.", f"{asked} and name 17 benefits."),
    ]
    found = interpret.rules_and_truth(interpret.read(prompts, rewrites, miniature=True))
    row = next(each for each in found if each["rule"] == "over_specified")
    counts = ("both", "rule_only", "truth_only", "neither", "n")
    assert row["truth"] == "not_needed" and [row[name] for name in counts] == [0, 1, 1, 0, 2]
    assert interpret.rules_and_truth(interpret.read(prompts, rewrites)) == []


def test_what_is_added_stands_beside_what_the_teacher_adds():
    ours = [("Describe maps.", "Describe maps. Please be accurate."), ("Say hello.", "Say hello."), CHINESE]
    theirs = [("Explain rain.", "Explain rain. Be accurate and brief."), ("Go.", "Go. Be accurate.")]
    found = additions.adds(ours, theirs)
    words = {row["name"]: row for row in found["words"]}
    assert words["accurate"]["rewriter"] == 1 and words["accurate"]["teacher_share"] == 1.0
    assert words["详细"]["rewriter_share"] == pytest.approx(1 / 3) and "英语" not in words
    assert (found["shared_words"], found["of_words"]) == (1, 2) and found["facets"] == []
    kinds = {row["name"]: (row["rewriter"], row["teacher"]) for row in found["strategies"]}
    assert kinds == {"elaboration": (1, 2), "none": (1, 0), "not_read": (1, 0)}
    alone = additions.adds(ours, [])
    assert alone["shared_words"] is None and alone["words"][0]["teacher_share"] is None


def test_facets_say_how_often_they_were_needed():
    topic = next(iter(world.topics()))
    ours = [(f"Explain {topic}.", f"Explain {topic}: say what it means, name a risk and explain what causes it.")] * 2
    found = {row["name"]: (row["rewriter"], row["needed"]) for row in additions.adds(ours, ours, True)["facets"]}
    assert found == {"definition": (2, 2), "cause": (2, 2), "risk": (2, 0)}


def test_everything_is_one_json_value():
    prompts, rewrites, _, verdicts = rows()
    pairs = [Pair("p", "Describe maps.", "Describe maps. Please be accurate.", "alpaca")]
    found = interpret.tables(prompts, rewrites, verdicts, pairs)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {row["class"] for row in found["agreement"]} >= {"safety", "inconsistent"}


def test_a_run_of_one_question_has_exact_intervals_and_no_shares():
    prompts, rewrites, _, verdicts = rows()
    found = interpret.tables(prompts, rewrites[3:4], [row for row in verdicts if row.id == "dolly-03"])
    one = bar(groups(found["panels"], "strategy")["safety"], "weak", "one")
    assert one["n"] == 1 and (one["net_win"], one["ci_low"], one["ci_high"]) == stats.net_win(one["counts"])
    assert all(row["share"] is row["difference"] is None for row in found["hurts"])


def test_what_is_missing_is_named():
    prompts, rewrites, answers, verdicts = rows()
    with pytest.raises(ValueError, match="vicuna vicuna-25: a rewrite, but no test prompt; run notebooks 01 and 04"):
        interpret.read(prompts[:-1], rewrites)
    with pytest.raises(ValueError, match="no rewrites of bpo to interpret; run notebook 04 first"):
        interpret.read(prompts, rewrites[-1:])
    reads = interpret.read(prompts, rewrites)
    with pytest.raises(ValueError, match="no verdicts on bpo to interpret; run notebook 05 first"):
        interpret.panels(reads, verdicts[-1:])
    with pytest.raises(ValueError, match="1 questions judged, but not rewritten, such as dolly dolly-00"):
        interpret_page.page("x", prompts, answers, verdicts, reads[1:], None)


def test_the_worst_lost_most_often():
    prompts, rewrites, _, verdicts = rows()
    reads = interpret.read(prompts, rewrites)
    found = interpret.worst(reads, verdicts, "no_harm", most=4)
    lost = [
        sum(row.verdict == "A" for row in verdicts if row.rewriter == "bpo" and row.id == one.key[1]) for one in reads
    ]
    assert [a for _, a, _ in found] == sorted(lost, reverse=True)[:4] and found[0][2] == 4


# --- the figure


def links(svg: str) -> list[dict[str, str]]:
    found = []
    for address in re.findall('xlink:href="([^"#]*#panel=[^"]*)"', svg):
        page, names = urldefrag(html.unescape(address))
        found.append({"page": page} | {name: value for name, (value,) in parse_qs(names).items()})
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_bar_of_the_figure_is_a_link_to_its_examples(tmp_path, language):
    prompts, rewrites, _, verdicts = rows()
    panels = interpret.panels(interpret.read(prompts, rewrites), verdicts)
    stem, page = tmp_path / "figures" / "why", tmp_path / "runs" / "examples.html"
    written = interpret_figure.figure(panels, "miniature", stem, language, page)
    assert sorted(path.suffix for path in written) == [".json", ".pdf", ".png", ".svg"]
    names = ("panel", "group", "model", "judge")
    linked = {tuple(each[name] for name in names) for each in links(stem.with_suffix(".svg").read_text("utf-8"))}
    drawn = json.loads(stem.with_suffix(".json").read_text("utf-8"))
    assert linked == {
        (panel["panel"], group["group"], one["answer_model"], one["judge"])
        for panel in drawn["panels"]
        for group in panel["groups"]
        for one in group["bars"]
    }
    # the bar itself and a field over its whole row, so that a bar of length zero can be clicked too
    assert len(links(stem.with_suffix(".svg").read_text("utf-8"))) == 2 * len(linked)
    assert {each["page"] for each in links(stem.with_suffix(".svg").read_text("utf-8"))} == {"../runs/examples.html"}
    assert [panel["panel"] for panel in drawn["panels"]] == ["strategy", "category", "harm"]
    assert ("miniature" if language == "en" else "微缩") in drawn["title"]
    assert f"{ODD}  (n = 12)" in [group["label"] for group in drawn["panels"][1]["groups"]]
    before = {path.name: path.read_bytes() for path in written}
    assert {
        path.name: path.read_bytes() for path in interpret_figure.figure(panels, "miniature", stem, language, page)
    } == before


def test_the_figures_of_the_repository_lead_into_a_run_beside_them():
    for path in sorted((paths.ROOT / "figures").glob("*.svg")):
        pages = {each["page"] for each in links(path.read_text("utf-8"))} - {""}
        assert pages <= {"../runs/mini/06_results/examples.html"}, path.name


def test_the_figure_refuses_another_language_and_nothing(tmp_path):
    with pytest.raises(ValueError, match="no labels in language 'xx'"):
        interpret_figure.figure([], "x", tmp_path / "f", "xx")
    with pytest.raises(ValueError, match="nothing to draw for f"):
        interpret_figure.figure([], "x", tmp_path / "f")


# --- the page, without a browser


def write_page(path) -> str:
    prompts, rewrites, answers, verdicts = rows()
    reads = interpret.read(prompts, rewrites)
    return interpret_page.page(f"miniature {HOSTILE}", prompts, answers, verdicts, reads, path).read_text("utf-8")


def test_texts_stay_data_nothing_is_loaded_and_the_bytes_repeat(tmp_path):
    text = write_page(tmp_path / "examples.html")
    assert re.findall("<script[^>]*>", text) == ['<script type="application/json" id="data">', "<script>"]
    assert text.count("</script") == 2 and "<img" not in text and "innerHTML" not in text
    data = json.loads(re.search('id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["label"] == f"miniature {HOSTILE}" and f"weak on 3 {HOSTILE}" in data["texts"]
    plain = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\ssrc=(?!x)|<link|<iframe", plain)
    policy = re.search('Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert text == write_page(tmp_path / "again.html") and text.count("weak better on 7") == 1


def test_long_texts_are_cut_only_where_all_together_are_too_long():
    texts = ["short", "x" * 900, "y" * 900]
    assert interpret_page.shortened(texts) == (texts, None)
    cut, longest = interpret_page.shortened(texts, most=1400)
    assert longest == 600 and cut[0] == "short" and cut[1] == "x" * 600 + "… [300 more characters]"


# --- the page, in the browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "examples.html"
    write_page(path)
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """The page, freshly loaded; its console must have stayed empty at the end."""
    told(browser)
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert told(browser) == []


def shown(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('article')].map(each => each.dataset.key)")


def count(browser) -> str:
    return browser.find_element("id", "count").text


def bars(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('svg a')].map(a => a.getAttribute('href'))")


def behind(panel: str, group: str, model: str, judge: str) -> list[str]:
    prompts, rewrites, _, verdicts = rows()
    keys = interpret.members(interpret.read(prompts, rewrites))[panel][group]
    judged = {(row.test_set, row.id) for row in verdicts if (row.answer_model, row.judge) == (model, judge)}
    return [f"{' '.join(key)} {model}" for key in keys if key in judged]


def test_the_page_opens_with_bars_and_no_examples(page):
    assert (
        page.title.startswith("Examples behind the bars: miniature")
        and "miniature" in page.find_element("id", "run").text
    )
    assert shown(page) == [] and count(page) == "" and not page.find_element("id", "filters").is_displayed()
    assert page.execute_script("return [typeof hacked, document.images.length, document.scripts.length]") == [
        "undefined",
        0,
        2,
    ]
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_every_bar_of_every_panel_shows_exactly_the_examples_behind_it(page, address):
    prompts, rewrites, _, verdicts = rows()
    panels = interpret.panels(interpret.read(prompts, rewrites), verdicts)
    for panel in panels:
        page.get(f"{address}#{interpret_figure.fragment(panel['panel'])}")
        WebDriverWait(page, 5).until(
            lambda _, name=panel["panel"]: all(f"panel={name}&" in each for each in bars(page))
        )
        expected = [(group["group"], one) for group in panel["groups"] for one in group["bars"]]
        assert len(bars(page)) == len(expected)
        for group, one in expected:
            names = (panel["panel"], group, one["answer_model"], one["judge"])
            fragment = f"#{interpret_figure.fragment(*names)}"
            assert parse_qs(fragment[1:]) in [parse_qs(each[1:]) for each in bars(page)]
            page.get(address + fragment)
            ending = f"{one['n']} of the {one['n']} example{'s' if one['n'] > 1 else ''} behind this bar"
            WebDriverWait(page, 5).until(lambda _, text=ending, model=names[2]: count(page) == text)
            while page.find_element("id", "more").is_displayed():
                page.find_element("id", "more").click()
            assert shown(page) == behind(*names) and len(shown(page)) == one["n"]


def test_a_click_and_the_enter_key_open_a_bar_and_the_address_names_it(page, address):
    anchor = page.find_element("css selector", "svg a[href*='group=safety'][href*='model=strong'][href*='judge=two']")
    assert "judge two: net win" in anchor.get_attribute("aria-label")
    anchor.find_element("css selector", ".hit").click()
    WebDriverWait(page, 5).until(lambda _: shown(page))
    assert shown(page) == behind("strategy", "safety", "strong", "two")
    assert page.current_url == f"{address}#{interpret_figure.fragment('strategy', 'safety', 'strong', 'two')}"
    assert page.execute_script("return document.querySelector('svg a[aria-current]').href.baseVal") in page.current_url
    other = page.find_element("css selector", "svg a[href*='group=hints'][href*='model=weak'][href*='judge=one']")
    page.execute_script("arguments[0].focus()", other)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(page, 5).until(lambda _: shown(page) == behind("strategy", "hints", "weak", "one"))
    assert page.execute_script("return document.activeElement.id") == "bar"
    page.back()
    WebDriverWait(page, 5).until(lambda _: shown(page) == behind("strategy", "safety", "strong", "two"))


def test_text_and_verdict_filter_the_examples_and_stay_in_the_address(page, address):
    names = ("category", ODD, "weak", "one")
    page.get(f"{address}#{interpret_figure.fragment(*names)}")
    WebDriverWait(page, 5).until(lambda _: len(shown(page)) == 12)
    page.find_element("id", "q").send_keys("BETTER ON 7")
    assert shown(page) == ["dolly dolly-07 weak"] and count(page) == "1 of the 12 examples behind this bar"
    page.refresh()
    assert shown(page) == ["dolly dolly-07 weak"]
    page.find_element("id", "q").clear()
    page.find_element("css selector", "#verdict option[value='A']").click()
    verdicts = [row for row in rows()[3] if row.rewriter == "bpo"]
    lost = [
        f"dolly {row.id} weak" for row in verdicts if (row.answer_model, row.judge, row.verdict) == ("weak", "one", "A")
    ]
    assert shown(page) == [key for key in lost if key in behind(*names)] != []
    assert page.current_url.endswith("&verdict=A")


def test_a_card_marks_the_differences_and_shows_answers_and_verdicts_with_words(page, address):
    page.get(f"{address}#{interpret_figure.fragment('category', ODD, 'weak', 'two')}")
    WebDriverWait(page, 5).until(lambda _: len(shown(page)) == 12)
    card = page.find_element("css selector", "article[data-key='dolly dolly-00 weak']")
    texts = [part.get_property("textContent") for part in card.find_elements("css selector", ".text")]
    assert texts[:2] == [f"Write on {HOSTILE}", f"Write on {HOSTILE} Please be accurate."]
    assert texts[2:4] == [f"weak on 0 {HOSTILE}", "weak better on 0"]
    added = [part.get_property("textContent").strip() for part in card.find_elements("css selector", "ins")]
    assert added == ["Please be accurate."]
    assert [part.text for part in card.find_elements("css selector", ".verdict strong")] == ["two", "one"]
    assert any(text.startswith("two says ") and HOSTILE in text for text in texts[4:6])
    assert "adds a quality: accurate" in card.find_element("css selector", "details").get_property("textContent")
    assert page.execute_script("return typeof hacked") == "undefined"


def test_chinese_is_shown_and_an_unknown_bar_is_said_to_be_none(page, address):
    page.get(f"{address}#{interpret_figure.fragment('strategy', 'not_read', 'weak', 'one')}")
    WebDriverWait(page, 5).until(lambda _: shown(page) == ["vicuna vicuna-25 weak"])
    assert [part.text for part in page.find_elements("css selector", "article ins")] == ["？请详细解释，并举例说明。"]
    page.get(f"{address}#panel=strategy&group=nothing&model=weak&judge=one")
    WebDriverWait(page, 5).until(lambda _: not shown(page))
    assert page.find_element("id", "bar").text == "No such bar in this run; click one above"
