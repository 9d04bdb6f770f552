"""What a language model is asked, and what is taken from its answer: JSON read leniently, doubles out, the
class named."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

TEXT_VERSION = 1
"""Raised when the wording of the request or the rules below change: it is part of the prompts' identity."""

LONGEST = 300
"""Characters of the longest prompt that is accepted; a text encoder reads about as many."""

BRACKETS = 50
"""Opening brackets of an answer at which a JSON value is looked for."""

_REQUEST = """Write {count} different prompts for a text-to-image model. Every picture shows: {category}.
{domain}Rules:
- Every prompt is one English phrase of 6 to 30 words and contains the words "{category}".
- Mix descriptions of the category (kind, colour, material, state) with style, background, \
viewpoint and light, as in "Abstract expressionist interpretation of a rocking chair". \
No two prompts share style and background.
- The {category} is the main subject; no text, no logos.
Ideas for this list (vary them, do not copy them):
{ideas}
{seen}Answer with a JSON list of {count} strings and nothing else."""
_DOMAIN = (
    "The pictures train a classifier for: {domain}. About half of the prompts look like these, the others"
    " differ widely.\n"
)

_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_FENCE = re.compile(r"```[\w-]*")
_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.S)
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*\u2022])\s+(.+)$", re.M)


def request_text(
    category: str, domain: str, count: int, ideas: Sequence[str], seen: Sequence[str] = ()
) -> str:
    """The request for ``count`` prompts of a class; ``ideas`` differ between requests, ``seen`` must not come
    again."""
    before = "Already written, write others:\n" + "".join(f"- {s}\n" for s in seen) if seen else ""
    about = _DOMAIN.format(domain=domain) if domain else ""
    return _REQUEST.format(
        count=count, category=category, domain=about, ideas="\n".join(f"- {i}" for i in ideas), seen=before
    )


def parse_answer(text: str) -> list[str]:
    """The strings of a model's answer: a JSON list, an object that holds one, objects with a 'prompt', a list
    that was cut off, or numbered lines; in code fences or among other text. Empty when there is nothing of
    the kind.
    """
    text = _FENCE.sub(" ", _THOUGHTS.sub(" ", text))
    decoder = json.JSONDecoder()
    for start in (m.start() for m in itertools.islice(re.finditer(r"[\[{]", text), BRACKETS)):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if result := _strings(value):
            return result
    if "[" in text:
        cut = [_unescape(s) for s in _STRING.findall(text[text.index("[") :])]
        if cut:
            return cut
    return [line.strip().strip('"') for line in _ITEM.findall(text)]


def usable(answers: Iterable[str], category: str, seen: Iterable[str]) -> list[str]:
    """The answers that name the category, are of sensible length, and differ from ``seen`` and from each
    other in more than case, punctuation and spaces; spaces cleaned, in their order.
    """
    known = {_plain(s) for s in seen}
    kept = []
    for answer in answers:
        text = " ".join(answer.split()).strip(" \"'")
        plain = _plain(text)
        if (
            len(text) <= LONGEST
            and text.isprintable()
            and plain not in known
            and plain != _plain(category)
            and names_category(text, category)
        ):
            known.add(plain)
            kept.append(text)
    return kept


def names_category(prompt: str, category: str) -> bool:
    """Whether ``prompt`` names ``category`` as whole words: any case, 'back pack' also as 'backpack' or
    'back-pack', the last word also in its plural or singular. In scripts without spaces the name only has to
    occur.
    """
    prompt, category = (unicodedata.normalize("NFKC", s).casefold() for s in (prompt, category))
    if _UNSPACED.search(category):
        return category in prompt
    words = re.findall(r"[^\s_\-]+", category)
    last = "|".join(map(re.escape, sorted(_numbers(words[-1]), key=len, reverse=True)))
    joined = r"[\s_\-]*".join([*map(re.escape, words[:-1]), f"(?:{last})"])
    return re.search(rf"(?<!\w){joined}(?:['\u2019]s)?(?!\w)", prompt) is not None


def _numbers(word: str) -> set[str]:
    """A word with its likely plurals and, when it may be a plural, its likely singulars."""
    if len(word) < 3 or not word[-1].isalpha():
        return {word}
    result = {word, word + "s", word + "es"}
    if word.endswith("y"):
        result.add(word[:-1] + "ies")
    if word.endswith(("f", "fe")):
        result.add(word.rstrip("e")[:-1] + "ves")
    if word.endswith("man"):
        result.add(word[:-2] + "en")
    if word in ("mouse", "goose", "tooth", "foot"):
        result.add({"mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet"}[word])
    if len(word) > 3 and re.search(r"[^siu]s$", word):
        result.add(word[:-1])
    return result


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return next(
            (result for v in value.values() if isinstance(v, (list, dict)) and (result := _strings(v))), []
        )
    if not isinstance(value, list):
        return []
    taken = [v.get("prompt", v.get("text")) if isinstance(v, dict) else v for v in value]
    return [v for v in taken if isinstance(v, str)]


def _unescape(text: str) -> str:
    try:
        return json.loads(f'"{text}"')
    except ValueError:
        return text


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
