"""Prompts from language models: reading answers, retries, cache, the bank as stand-in."""

from __future__ import annotations

import json
import logging
import re

import pytest

from diffadapt.prompts.answers import names_category, parse_answer, usable
from diffadapt.prompts.backends.base import Failed
from diffadapt.prompts.config import LlmConfig, PromptConfig
from diffadapt.prompts.prompts import make_prompts
from diffadapt.prompts.sources.llm import AnswerCache, PromptLlm
from diffadapt.prompts.text import FALLBACK

DOMAIN = "webcam photos"
LLM = PromptConfig(source="llm", llm=LlmConfig(backend="openai", model="scribe", ask=4, retries=2))


def asked(text):
    """What a request asks for: (count, category)."""
    return int(re.search(r"Write (\d+) different", text).group(1)), re.search(
        r'contains the words "(.*?)"', text
    ).group(1)


class Scripted:
    """A backend that answers by a function of (count, category, seed) and keeps the requests."""

    identity = {"backend": "scripted"}

    def __init__(self, answer):
        self.answer, self.requests = answer, []

    def complete(self, requests):
        self.requests += requests
        return [self.answer(*asked(r.text), r.seed) for r in requests]


def good(count, category, seed):
    return json.dumps([f"a {category} number {i} of {seed}" for i in range(count)])


def writer(tmp_path, answer, config=LLM):
    backend = Scripted(answer)
    slept = []
    llm = PromptLlm(config, backend, AnswerCache(tmp_path / "cache"), sleep=slept.append)
    llm.slept = slept
    return llm


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('["a", "b"]', ["a", "b"]),
        ('Sure! Here they are:\n```json\n["a", "b\\u00e9"]\n```\nEnjoy [them].', ["a", "bé"]),
        ('{"prompts": ["a", "b"]}', ["a", "b"]),
        ('{"answer": {"list": [{"prompt": "a"}, {"prompt": "b"}]}}', ["a", "b"]),
        ('<think>maybe ["x"]</think>["a"]', ["a"]),
        ('["a", "b", "cut o', ["a", "b"]),
        ('[1] see ["a"]', ["a"]),
        ("1. a red mug\n2) a blue mug\n- third", ["a red mug", "a blue mug", "third"]),
        ("I am sorry.", []),
        ("", []),
        ("[" * 5000, []),
        ('["a", 3, null, "b"]', ["a", "b"]),
    ],
)
def test_answers_are_read_leniently(text, found):
    assert parse_answer(text) == found


def test_what_names_the_class():
    named = [
        ("a red Back Pack", "back pack"),
        ("two backpacks", "back pack"),
        ("a back-pack's strap", "back pack"),
        ("batteries", "battery"),
        ("a headphone", "headphones"),
        ("three mice", "mouse"),
        ("shelves", "shelf"),
        ("eine Tasse grüner Tee", "grüner Tee"),
        ("一只猫在桌上", "猫"),
        ("digit 7!", "7"),
        ("boxes", "box"),
    ]
    assert [pair for pair in named if not names_category(*pair)] == []
    unnamed = [
        ("a smuggler", "mug"),
        ("a penguin", "pen"),
        ("digit 77", "7"),
        ("a pack", "back pack"),
        ("bookcase", "book"),
        ("犬", "猫"),
    ]
    assert [pair for pair in unnamed if names_category(*pair)] == []


def test_usable_drops_doubles_and_what_is_no_prompt():
    answers = [
        "A red mug.",
        "a  red mug",
        "mug",
        "a red car",
        "x" * 400 + " mug",
        'a "mug"\u0007',
        "the blue mug",
        "an old mug",
    ]
    assert usable(answers, "mug", ["An old MUG!"]) == ["A red mug.", "the blue mug"]


def test_a_good_model(tmp_path):
    llm = writer(tmp_path, good)
    bags, mugs = llm.write(["back_pack", "mug"], DOMAIN, 0, 6, 0)
    assert all("back pack" in p for p, _ in bags) and len({p for p, _ in bags + mugs}) == 12
    assert {s for _, s in bags + mugs} == {"llm (scribe)"}
    texts = [r.text for r in llm.backend.requests]
    assert len(texts) == 4 and all(asked(t)[0] == 4 and DOMAIN in t for t in texts) and len(set(texts)) == 4
    assert len({r.seed for r in llm.backend.requests}) == 4


def test_prefix_stable_and_cached(tmp_path):
    llm = writer(tmp_path, good)
    long = llm.write(["mug"], DOMAIN, 0, 10, 0)[0]
    count = len(llm.backend.requests)
    assert writer(tmp_path / "other", good).write(["pen", "mug"], DOMAIN, 0, 5, 0)[1] == long[:5]
    again = writer(tmp_path, lambda *a: pytest.fail("asked although it is in the cache"))
    assert again.write(["mug"], DOMAIN, 0, 10, 0)[0] == long and count == 3
    with pytest.raises(pytest.fail.Exception):
        again.write(["mug"], "another domain", 0, 4, 0)


def test_what_is_missing_is_asked_for_again(tmp_path):
    def half(count, category, seed):
        return json.dumps(
            [f"a {category} {i} {seed}" for i in range(max(1, count // 2))] + ["a lorry", "same mug"]
        )

    llm = writer(tmp_path, half)
    prompts = llm.write(["mug"], DOMAIN, 0, 4, 0)[0]
    assert [asked(r.text)[0] for r in llm.backend.requests] == [4, 1]
    assert {s for _, s in prompts} == {"llm (scribe)"} and prompts[0][0] in llm.backend.requests[1].text
    assert llm.slept == []


def test_the_bank_fills_in_for_rubbish_and_says_so(tmp_path, caplog):
    llm = writer(tmp_path, lambda *a: "I cannot help with that.")
    with caplog.at_level(logging.WARNING):
        prompts = llm.write(["mug"], DOMAIN, 4, 10, 0)[0]
    assert [p for p, _ in prompts] == make_prompts(PromptConfig(), "mug", DOMAIN, 4, 10, 0)
    assert {s for _, s in prompts} == {f"{FALLBACK}its answers are no list of prompts)"}
    assert len(llm.backend.requests) == 2 * 3 and "6 of 6 prompts of mug" in caplog.text
    assert not list((tmp_path / "cache").glob("*.json"))


def test_one_class_may_fail_alone(tmp_path):
    llm = writer(
        tmp_path, lambda n, c, s: good(n, c, s) if c == "pen" else json.dumps(["a mug", "a red mug", "a van"])
    )
    mugs, pens = llm.write(["mug", "pen"], DOMAIN, 0, 4, 0)
    assert [s.startswith(FALLBACK) for _, s in mugs] == [False, False, True, True] and {
        s for _, s in pens
    } == {"llm (scribe)"}


def test_a_dead_model_is_not_asked_for_ever(tmp_path):
    llm = writer(tmp_path, lambda *a: Failed("nobody there"))
    llm.write(["mug", "pen"], DOMAIN, 0, 40, 0)
    assert len(llm.backend.requests) == 2 * 3 and llm.slept == [1.0, 2.0]
    prompts = llm.write(["cup"], DOMAIN, 0, 4, 0)[0]
    assert len(llm.backend.requests) == 6 and {s for _, s in prompts} == {f"{FALLBACK}nobody there)"}
