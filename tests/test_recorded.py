"""The real BPO rows, from the folder BPO_DATA_DIR; skipped where it is not set."""

import os
from collections import Counter
from statistics import median

import pytest

from bpo_utils import data, describe, filters, pairs, profile, published, teacher

pytestmark = pytest.mark.skipif(not os.environ.get("BPO_DATA_DIR"), reason="BPO_DATA_DIR is not set: no real BPO rows")


@pytest.fixture(scope="module")
def recorded():
    return profile.load("recorded")


@pytest.fixture(scope="module")
def rows(recorded):
    return data.load_preferences(recorded)


def test_every_file_has_the_pinned_content():
    assert {data.fetch(name).name for name in data.FILES} == set(data.FILES)


def test_the_sets_have_their_sizes(recorded, rows):
    sets = data.load_test_sets(recorded)
    assert {name: len(prompts) for name, prompts in sets.items()} == recorded.data.test_rows
    ids = [prompt.id for prompts in sets.values() for prompt in prompts] + [row.id for row in rows]
    assert len(set(ids)) == len(ids) == 732 + 300
    assert all(prompt.prompt.strip() for prompts in sets.values() for prompt in prompts)
    assert sum(bool(prompt.context) for prompt in sets["dolly"]) == 63


def test_sources_and_growth_are_the_published_ones(rows):
    assert {source: len(group) for source, group in describe.by_source(rows).items()} == {
        "Chatbot_Arena_Conversation": 99,
        "alpaca-gpt4": 98,
        "oasst1": 63,
        "hh-rlhf": 40,
    }
    theirs = data.load_published()
    grown = [(theirs[row.id].final_input, theirs[row.id].final_output) for row in rows]
    assert median(describe.growth(grown)) == pytest.approx(1.33, abs=0.05)
    assert max(describe.growth(grown)) == pytest.approx(25.1, abs=0.05)
    assert round(describe.unchanged_share(grown) * 300) == 11


def test_every_teacher_prompt_can_be_read_back(rows):
    for row in rows:
        fields = teacher.parse_teacher_prompt(teacher.teacher_prompt(row))
        assert fields == (row.prompt, row.context, row.bad, row.good)


def test_our_parser_agrees_with_the_published_columns(rows):
    result = published.agreement(rows, data.load_published())
    kinds = Counter(difference["kind"] for difference in result.pop("differences"))
    # 12 quotes and 1 commentary that upstream left in, 4 spaces at the end, 2 rows that its rule does not explain
    assert kinds == {"quotes": 12, "white space": 4, "pair": 2, "commentary": 1}
    assert result == {
        "rows": 300,
        "parsed": 300,
        "with_context": 44,
        "optimized_exact": 283,
        "optimized_same": 299,  # 99.7 %: all but the one where upstream took a remark for the prompt
        "upstream_exact": 300,
        "pair_exact": 260,
        "pair_same_pieces": 281,
        "rule_same_pieces": 298,
    }


def test_the_filters_on_the_real_replies(rows, recorded):
    passed, dropped = filters.before(rows, recorded.filters)
    kept, refused = pairs.build_pairs(passed, teacher.replay(passed), recorded.filters)
    rejected = dropped + refused
    waterfall = filters.waterfall(len(rows), rejected, recorded.filters, (*filters.BEFORE, *pairs.AFTER))
    assert Counter(row.reason for row in rejected) == {"shrinks too much": 3, "grows too much": 17}
    assert len(kept) == waterfall[-1]["kept"] == 280


def test_the_test_split_was_published_with_its_optimized_prompts(recorded):
    prompts = [prompt for part in data.load_test_sets(recorded).values() for prompt in part]
    rewrites = data.load_published_rewrites(prompts)
    assert len(rewrites) == 200 and {row.test_set for row in rewrites} == {"bpo_test"}
    assert {row.rewriter for row in rewrites} == {"published"}
    grown = [(row.prompt, row.optimized_prompt) for row in rewrites]
    assert median(describe.growth(grown)) == pytest.approx(1.3025, abs=0.0005)
    assert describe.unchanged_share(grown) == pytest.approx(0.04)
