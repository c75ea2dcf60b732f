"""The real BPO rows, from the folder BPO_DATA_DIR; skipped where it is not set."""

import os
from collections import Counter
from statistics import median

import pytest

from bpo_utils import data, describe, pairs, profile

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
    published = data.load_published()
    grown = [(published[row.id].final_input, published[row.id].final_output) for row in rows]
    assert median(describe.growth(grown)) == pytest.approx(1.33, abs=0.05)
    assert max(describe.growth(grown)) == pytest.approx(25.1, abs=0.05)
    assert round(describe.unchanged_share(grown) * 300) == 11


def test_every_teacher_prompt_can_be_read_back(rows):
    for row in rows:
        fields = pairs.parse_teacher_prompt(pairs.teacher_prompt(row))
        assert fields == (row.prompt, row.context, row.bad, row.good)


def test_our_parser_agrees_with_the_published_columns(rows):
    result = pairs.agreement(rows, data.load_published())
    kinds = Counter(difference["kind"] for difference in result.pop("differences"))
    # 12 quotes and 1 commentary that upstream left in, 4 spaces at the end, 2 rows that its rule does not explain
    assert kinds == {"quotes": 12, "white space": 4, "pair": 2, "commentary": 1}
    assert result == {
        "rows": 300,
        "parsed": 300,
        "with_context": 44,
        "optimized_exact": 283,
        "pair_exact": 260,
        "pair_same_pieces": 281,
        "rule_same_pieces": 298,
    }


def test_the_filters_on_the_real_replies(rows, recorded):
    kept, rejected, waterfall = pairs.build_pairs(rows, pairs.replay(rows), recorded)
    assert Counter(row.reason for row in rejected) == {"shrinks too much": 3, "grows too much": 17}
    assert len(kept) == waterfall[-1]["kept"] == 280
