"""The miniature's world: size, readability, and that prompts are read as they were meant."""

import random

import pytest

from bpo_utils import records
from bpo_utils.mini import lessons, prompts, reference, rubric, teacher, world
from bpo_utils.pairs import MalformedReply, parse_reply
from bpo_utils.teacher import teacher_prompt

FACETS = len(world.FACETS)
ALL = {"bpo_test": 200, "dolly": 200, "vicuna": 80, "self_instruct": 252}


def test_world_has_the_promised_size():
    assert len(world.topics()) >= 64 and len(world.threats()) >= 24
    assert all(tuple(facets) == world.FACETS for facets in world.topics().values()) and FACETS >= 8
    assert len(world.language()["intents"]) >= 12 and len(world.REGISTERS) >= 4


def test_every_fact_is_one_sentence_of_8_to_20_words_and_recognised():
    for topic, facets in (world.topics() | world.threats()).items():
        for facet, sentence in facets.items():
            assert 8 <= len(sentence.split()) <= 20, (topic, facet)
            assert world.facts_in(sentence) == [(topic, facet)]


def test_garbled_sentence_is_recognised_and_foreign_one_is_not():
    sentence = world.topics()["photosynthesis"]["definition"]
    assert world.facts_in(sentence.replace("green", "blue")) == [("photosynthesis", "definition")]
    assert world.facts_in("The moon is made of very old green cheese.") == [("", "")]


@pytest.mark.parametrize("intent", list(world.language()["intents"]))
def test_every_way_of_asking_is_read_back(intent):
    forms = world.language()["intents"][intent]
    for register in world.REGISTERS:
        for template in forms[register]:
            for topic in world.topics():
                reading = world.read(f"{prompts.fill(template, topic)}\n{prompts.passage(topic)}")
                assert (reading.topic, reading.intent, reading.unsafe) == (topic, intent, False), template
                assert reading.passage == world.topics()[topic]["detail"]


@pytest.mark.parametrize("intent", list(world.language()["intents"]))
def test_optimized_prompts_are_read_back(intent):
    rng = random.Random(0)
    asked = (*world.language()["intents"][intent]["needs"], "detail")
    for topic in world.topics():
        reading = world.read(prompts.optimized(topic, intent, asked, rng))
        assert (reading.topic, reading.intent, reading.asked) == (topic, intent, asked)


def test_unsafe_requests_are_read_as_unsafe_and_their_counterparts_as_safe():
    rng = random.Random(0)
    for threat in world.threats():
        for register in world.REGISTERS:
            for template in world.language()["unsafe"][register]:
                assert world.read(prompts.fill(template, threat)).unsafe, template
        safe = world.read(prompts.optimized(threat, "", ("definition", "protection"), rng))
        assert not safe.unsafe and safe.asked == ("definition", "protection")


def test_shipped_test_sets_have_the_real_sizes_and_no_prompt_twice():
    sets = world.test_sets()
    assert {name: len(rows) for name, rows in sets.items()} == ALL
    texts = [records.joined(row.prompt, row.context).lower() for rows in sets.values() for row in rows]
    assert len(set(texts)) == len(texts)


def test_half_of_the_test_topics_never_occur_in_training_and_no_prompt_is_in_both():
    rows, sets = world.preferences(), world.test_sets()
    tested = {world.read(row.prompt).topic for part in sets.values() for row in part}
    trained = {world.read(row.prompt).topic for row in rows}
    for kind, seen in ((world.topics(), world.training_topics()), (world.threats(), world.training_threats())):
        assert trained & set(kind) <= set(seen) and len(seen) == len(kind) / 2
    assert tested & set(world.topics()) == set(world.topics())
    unseen_threats = (tested & set(world.threats())) - set(world.training_threats())
    assert len(unseen_threats) >= 0.4 * len(tested & set(world.threats()))
    texts = {records.joined(row.prompt, row.context).lower() for row in rows}
    assert not texts & {records.joined(row.prompt, row.context).lower() for part in sets.values() for row in part}


def test_preferences_carry_the_stated_label_noise():
    def worth(row, answer):
        score = rubric.score(records.joined(row.prompt, row.context), answer)
        return not score.harmful, score.points

    rows = world.preferences()
    wrong = sum(worth(row, row.good) < worth(row, row.bad) for row in rows) / len(rows)
    assert 0.07 < wrong < 0.13


def test_score_counts_needs_and_punishes_foreign_sentences_and_harm():
    facts = world.topics()["tides"]
    full = f"{facts['cause']} {facts['definition']} {facts['example']}"
    foreign = world.topics()["jazz"]["example"]
    assert rubric.score("Why are there tides?", full).points == 3
    assert rubric.score("Why are there tides?", f"{facts['cause']} {foreign}").points == 0
    assert rubric.better(rubric.score("Why are there tides?", full), rubric.score("Why are there tides?", full)) == "C"
    harmful = rubric.score("How can I do arson without getting caught?", "Sure, I will help you with arson.")
    safe = rubric.score("How can I do arson without getting caught?", world.threats()["arson"]["definition"])
    assert rubric.better(harmful, safe) == "B" and rubric.better(safe, harmful) == "A"


def test_passage_is_needed_only_where_there_is_one():
    question = f"Why are there tides?\n{prompts.passage('tides')}"
    assert rubric.score(question, world.topics()["tides"]["detail"]).given == ("detail",)
    assert "detail" not in rubric.score("Why are there tides?", "").lacking


def test_rewrite_quality_counts_topic_passage_and_safety():
    unseen = next(topic for topic in world.topics() if topic not in world.training_topics() and topic != "maps")
    passage = prompts.passage(unseen)
    good = f"Explain {unseen} in plain words: say what it means.\n{passage}"
    rows = [
        records.Rewrite("1", "dolly", "bpo", f"{unseen}\n{passage}", good),
        records.Rewrite("2", "dolly", "bpo", f"{unseen}\n{passage}", good.replace(passage[-9:], "else.")),
        records.Rewrite("3", "dolly", "bpo", unseen, "Explain maps in plain words: say what it means."),
        records.Rewrite("4", "bpo_test", "bpo", "how 2 arson n not get caught", "how 2 arson n not get caught"),
    ]
    quality = rubric.rewrite_quality(rows)
    assert (quality["topics_kept_unseen"], quality["n_topics_kept_unseen"]) == (1 / 3, 3)
    assert (quality["unsafe_made_safe"], quality["n_unsafe_made_safe"]) == (0.0, 1)


def test_teacher_asks_for_what_the_good_response_gives_and_not_for_more():
    facts = world.topics()["tides"]
    row = records.Preference("1", "Why are there tides?", "", f"{facts['cause']} {facts['risk']}", facts["cause"], "x")
    asked = world.read(parse_reply(teacher.reply(teacher_prompt(row)))).asked
    assert asked == ("cause", "risk")


def test_teacher_breaks_the_form_at_a_few_percent_of_the_prompts():
    broken = 0
    rows = world.preferences()[:600]
    for row in rows:
        try:
            parse_reply(teacher.reply(teacher_prompt(row)))
        except MalformedReply:
            broken += 1
    assert 0.01 < broken / len(rows) < 0.08


def test_reference_asks_for_all_needs_and_leaves_complete_prompts_alone():
    row = records.TestPrompt("1", "dolly", "tides why", prompts.passage("tides"), "")
    text = reference.rewrite(row)
    assert world.read(text).asked == ("cause", "definition", "example", "detail") and text.endswith(row.context)
    again = records.TestPrompt("2", "dolly", text, "", "")
    assert reference.rewrite(again) == text


def test_lessons_never_teach_the_facts_that_passages_bring():
    from bpo_utils.mini import models

    tokenizer, rng = models.train_tokenizer(list(lessons.tokenizer_texts())), random.Random(0)
    details = [facets["detail"] for facets in world.topics().values()]
    strong = lessons.answer_lesson(lessons.STRENGTHS["strong"])
    for make in (lessons.copying_lesson, lessons.form_lesson, lessons.passage_lesson, strong):
        for _ in range(300):
            text = tokenizer.decode([token for ids in make(rng, tokenizer) for token in ids])
            assert not any(detail in text for detail in details)
