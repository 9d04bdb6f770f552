"""Prompts from template, bank and file, and the stage that makes shards of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from diffadapt.core.artifact import PROMPT_SCHEMA
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import WorkContext, plan_node
from diffadapt.core.store import Store
from diffadapt.prompts.config import PromptConfig
from diffadapt.prompts.prompts import make_prompts, prompt_count, prompt_table, prompt_warnings
from diffadapt.prompts.sources import bank as prompt_bank
from diffadapt.prompts.sources.bank import bank, with_article
from diffadapt.prompts.text import FALLBACK, fill, prompt_index
from diffadapt.stages.prompts import Prompts

NAMES = ("back_pack", "mug", "apple", "scissors", "grüner_Tee")
DOMAIN = "webcam photos of office objects"
BANK = PromptConfig()


def test_the_kth_prompt_does_not_depend_on_how_many_are_asked_for():
    whole = make_prompts(BANK, "mug", DOMAIN, 0, 60, 3)
    assert [make_prompts(BANK, "mug", DOMAIN, k, k + 1, 3)[0] for k in range(60)] == whole
    assert make_prompts(BANK, "mug", DOMAIN, 0, 60, 4) != whole
    assert make_prompts(BANK, "pen", DOMAIN, 0, 60, 3) != [p.replace("mug", "pen") for p in whole]


@pytest.mark.parametrize("domain", ["", DOMAIN])
def test_the_bank_never_repeats_itself_until_it_is_used_up(domain):
    small = replace(
        BANK,
        styles=("a photo", "a photo", "an icon", "{category}, drawn"),
        backgrounds=("", "on a table"),
        viewpoints=("from above", "from below", "askew"),
        lights=("",),
    )
    phrases = bank(small, domain)
    assert phrases.size == (3 + (4 if domain else 0)) * 2 * 3
    prompts = make_prompts(small, "mug", domain, 0, phrases.size, 0)
    assert len(set(prompts)) == phrases.size
    with pytest.raises(RecipeError, match=f"make {phrases.size} different prompts"):
        make_prompts(small, "mug", domain, 0, phrases.size + 1, 0)
    assert len(set(make_prompts(BANK, "mug", domain, 0, 5000, 0))) == 5000


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_names_the_class_and_half_say_the_domain(name):
    prompts = make_prompts(BANK, name, DOMAIN, 0, 200, 0)
    assert all(with_article(name.replace("_", " ")) in p for p in prompts)
    assert sum(DOMAIN in p for p in prompts) == 100
    assert not any("_" in p or "{" in p or "  " in p for p in prompts)
    assert not any("webcam" in p for p in make_prompts(BANK, name, "", 0, 200, 0))


def test_two_hundred_prompts_vary_in_every_respect():
    prompts = make_prompts(BANK, "mug", "", 0, 200, 0)
    for phrases in (prompt_bank.STYLES, prompt_bank.BACKGROUNDS, prompt_bank.VIEWPOINTS, prompt_bank.LIGHTS):
        used = {phrase: sum(phrase in p for p in prompts) for phrase in phrases}
        assert all(used.values()), used
    heads = [p.split(" of ")[0] for p in prompts]
    n = len(prompt_bank.STYLES)
    assert len(set(heads[:n])) == n


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mug", "a mug"),
        ("apple", "an apple"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("unimportant thing", "an unimportant thing"),
        ("hourglass", "an hourglass"),
        ("8", "an 8"),
        ("7", "a 7"),
        ("11", "an 11"),
        ("18", "an 18"),
        ("80s car", "an 80s car"),
        ("F", "an F"),
        ("U", "a U"),
        ("LED lamp", "an LED lamp"),
        ("TV", "a TV"),
        ("USB stick", "a USB stick"),
        ("scissors", "scissors"),
        ("headphones", "headphones"),
        ("bus", "a bus"),
        ("lens", "a lens"),
        ("Eiffel Tower", "an Eiffel Tower"),
        ("European shorthair", "a European shorthair"),
        ("glass", "a glass"),
        ("one-way sign", "a one-way sign"),
        ("the moon", "the moon"),
        ("écharpe", "an écharpe"),
        ("猫", "a 猫"),
        ("A", "an A"),
        ("utensil", "a utensil"),
    ],
)
def test_articles(name, said):
    assert with_article(name) == said


def test_template_is_taken_as_it_is():
    config = PromptConfig(source="template", template="photo of a {category}, {domain} {x}")
    assert make_prompts(config, "apple_pie", " my  domain", 0, 1, 0) == [
        "photo of a apple pie, my domain {x}"
    ]
    assert prompt_count(config) == 1 and prompt_count(BANK) == 200
    assert fill("{category}", "a_b", "") == "a b"
    assert [prompt_index(i, 3) for i in range(5)] == [0, 1, 2, 0, 1]


def file_config(tmp_path, name, text, **more):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return PromptConfig(source="file", file=str(path), **more)


def test_files_of_three_forms(tmp_path):
    csv = file_config(
        tmp_path,
        "p.csv",
        'category,prompt\r\nMug,"a mug, red"\r\nmug,a {category} on {domain}\r\npen,a pen\r\n',
    )
    assert make_prompts(csv, "mug", "d", 0, 3, 0) == ["a mug, red", "a mug on d", "a mug, red"]
    by_name = file_config(tmp_path, "p.json", json.dumps({"mug": ["m1", "m2"], "pen": ["p1"]}))
    assert make_prompts(by_name, "mug", "", 1, 3, 0) == ["m2", "m1"]
    objects = file_config(tmp_path, "q.json", json.dumps([{"category": "pen", "prompt": "p"}]))
    assert make_prompts(objects, "pen", "", 0, 1, 0) == ["p"]
    lines = file_config(tmp_path, "p.txt", "# mine\n\na {category}\nold {category}, {domain}\n")
    assert make_prompts(lines, "desk_lamp", "x", 0, 3, 0) == [
        "a desk lamp",
        "old desk lamp, x",
        "a desk lamp",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "mug,a\npen,b\ncar,c\n", "'car'"),
        ("p.csv", "mug,a\n", "no prompts for the class 'pen'"),
        ("p.csv", "mug,a,b\npen,c\n", "3 columns"),
        ("p.csv", "category,prompt\n", "holds no prompts"),
        ("p.json", "{", "is not JSON"),
        ("p.json", '{"mug": "a"}', "another form"),
        ("p.txt", "a {category}\na mug\n", "Line 2"),
    ],
)
def test_bad_files_are_refused_when_planning(tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        Prompts(file_config(tmp_path, name, text), ("mug", "pen")).plan({})


def test_a_missing_file_is_refused_when_planning(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Prompts(PromptConfig(source="file", file=str(tmp_path / "none.csv")), ("mug", "pen")).plan({})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (PromptConfig(source="template", template="a photo"), "names no class"),
        (PromptConfig(source="file"), "prompts.file is empty"),
        (
            replace(BANK, styles=("a photo",), backgrounds=("",), viewpoints=("",), lights=("",)),
            "make 1 different",
        ),
        (replace(BANK, prompts_per_class=0), "at least 1"),
        (replace(BANK, source="llm", llm=replace(BANK.llm, backend="openai")), "endpoint is empty"),
        (
            replace(BANK, source="llm", llm=replace(BANK.llm, backend="openai", endpoint="localhost:80")),
            "not a URL",
        ),
        (
            replace(
                BANK, source="llm", llm=replace(BANK.llm, backend="openai", endpoint="http://h/v1", ask=0)
            ),
            "ask",
        ),
    ],
)
def test_bad_settings_are_refused_when_planning(config, said):
    with pytest.raises(RecipeError, match=said):
        Prompts(config, ("mug", "pen")).plan({})


def planned(tmp_path, stage):
    return {
        p.shard.key: p.digest for p in plan_node("prompts", stage, {}, Store(str(tmp_path / "store"))).shards
    }


def test_more_prompts_or_classes_make_missing_shards_only(tmp_path):
    stage = Prompts(replace(BANK, prompts_per_class=100), NAMES[:4], DOMAIN, classes_per_shard=2)
    base = planned(tmp_path, stage)
    assert len(base) == 4
    more = planned(tmp_path, replace(stage, config=replace(stage.config, prompts_per_class=200)))
    classes = planned(tmp_path, replace(stage, class_names=NAMES))
    assert base.items() <= more.items() and len(more) == 8
    assert base.items() <= classes.items() and len(classes) == 6
    renamed = planned(tmp_path, replace(stage, class_names=("back_pack", "cup", "apple", "scissors")))
    assert {k for k in base if base[k] == renamed[k]} == {k for k in base if "-c0002-0004" in k}
    other = planned(tmp_path, replace(stage, domain="sketches"))
    assert not set(base.values()) & set(other.values())


def test_only_what_matters_enters_the_identity(tmp_path):
    stage = Prompts(PromptConfig(source="template"), NAMES, DOMAIN)
    assert planned(tmp_path, stage) == planned(tmp_path, replace(stage, domain="", seed=7))
    a = file_config(tmp_path, "a.csv", "mug,a\npen,b\n", prompts_per_class=2)
    b = file_config(tmp_path, "b.csv", "pen,b\nmug,a\n", prompts_per_class=2)
    assert planned(tmp_path, Prompts(a, ("mug", "pen"))) == planned(tmp_path, Prompts(b, ("mug", "pen")))
    llm = replace(BANK.llm, backend="openai", endpoint="http://u:secret@host/v1/?key=secret")
    with_llm = Prompts(replace(BANK, source="llm", llm=llm), NAMES, DOMAIN)
    assert "secret" not in json.dumps(with_llm.identity())
    slower = replace(llm, timeout=1.0, retries=9, endpoint="http://host/v1")
    assert planned(tmp_path, with_llm) == planned(
        tmp_path, replace(with_llm, config=replace(with_llm.config, llm=slower))
    )


def test_rows_of_a_shard():
    stage = Prompts(replace(BANK, prompts_per_class=5, block=3), NAMES[:3], DOMAIN, classes_per_shard=2)
    shards = {s.key: s for s in stage.plan({})}
    assert sum(s.items for s in shards.values()) == 15
    rows = stage.open(WorkContext("cpu")).run(shards["p000003-000005-c0000-0002"], ())
    assert rows.table.schema == PROMPT_SCHEMA and len(rows) == shards["p000003-000005-c0000-0002"].items
    assert rows.column("key") == ["c0000/p000003", "c0000/p000004", "c0001/p000003", "c0001/p000004"]
    assert rows.column("label") == [0, 0, 1, 1] and set(rows.column("source")) == {"bank"}
    assert rows.column("category") == ["back_pack"] * 2 + ["mug"] * 2
    assert rows.column("prompt")[2:] == make_prompts(BANK, "mug", DOMAIN, 3, 5, 0)
    table = prompt_table(reversed(rows.table.to_pylist()))
    assert table[0] == ("back_pack", 3, rows.column("prompt")[0], "bank") and [t[1] for t in table] == [
        3,
        4,
        3,
        4,
    ]


def test_a_file_that_changes_after_planning_is_noticed(tmp_path):
    config = file_config(tmp_path, "p.csv", "mug,a\npen,b\n", prompts_per_class=1)
    stage = Prompts(config, ("mug", "pen"))
    (shard,) = stage.plan({})
    assert stage.open(WorkContext("cpu")).run(shard, ()).column("prompt") == ["a", "b"]
    file_config(tmp_path, "p.csv", "mug,a\npen,c\n")
    with pytest.raises(DataError, match="has changed"):
        stage.open(WorkContext("cpu")).run(shard, ())


def test_warnings_name_the_reason_once():
    rows = [{"label": i % 3, "source": f"{FALLBACK}no answer)" if i < 4 else "llm (m)"} for i in range(10)]
    (sentence,) = prompt_warnings(rows)
    assert sentence.startswith(
        "4 of 10 prompts (3 classes) are the bank's, because the language model failed: no answer;"
    )
    assert prompt_warnings(rows[4:]) == []
