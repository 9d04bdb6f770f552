"""Captions of drawn glyphs: which words name the subject, which name how it looks, and which mean nothing.

Words without meaning are there on purpose: prompts are longer and richer than any small vocabulary, and a
generator must not lose its subject among words that it does not know.
"""

from __future__ import annotations

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvwxyz"

STYLES: dict[str, tuple[str, ...]] = {
    "handwritten": ("handwritten", "hand drawn", "handwriting", "scribbled", "written", "handmade"),
    "printed": ("printed", "typed", "typeset", "font"),
    "serif": ("serif", "roman", "classical"),
    "sans": ("sans", "modern", "plain"),
    "mono": ("typewriter", "monospaced", "mechanical"),
    "thin": ("thin", "fine", "slender", "pencil", "delicate", "line", "technical"),
    "thick": ("thick", "bold", "heavy", "brush", "marker", "chunky", "crayon", "carved"),
    "slanted": ("slanted", "italic", "leaning", "cursive"),
    "rotated": ("rotated", "tilted", "crooked"),
    "blurry": ("blurry", "blurred", "soft", "hazy", "watercolor", "watercolour", "wash", "misty"),
    "sharp": ("sharp", "crisp", "clear", "engraved", "hard", "vector"),
    "faint": ("faint", "pale", "dim", "faded", "night", "shadow", "candlelight"),
    "bright": ("bright", "glowing", "neon", "vivid", "overexposed", "sunlight"),
    "foggy": ("foggy", "dusty", "cloudy", "gray", "grey"),
    "noisy": ("noisy", "grainy", "rough", "textured", "chalk", "charcoal", "embroidered"),
    "small": ("small", "tiny", "distant", "far", "distance"),
    "large": ("large", "big", "huge", "close", "closeup", "macro", "filling"),
    "wobbly": ("wobbly", "wavy", "shaky", "childish", "child", "sketchy", "messy", "amateur"),
    "narrow": ("narrow", "condensed", "tall"),
    "wide": ("wide", "broad", "stretched"),
    "coarse": ("pixelated", "blocky", "coarse", "scanned", "pixels"),
    "inverted": ("inverted", "negative"),
}
"""What a word says of the picture."""

MEDIA = (
    "photo",
    "photograph",
    "picture",
    "image",
    "drawing",
    "painting",
    "sketch",
    "print",
    "scan",
    "rendering",
    "illustration",
    "sign",
    "poster",
    "view",
    "interpretation",
    "depiction",
    "portrait",
    "study",
    "version",
)
PLACES = (
    "paper",
    "wall",
    "table",
    "canvas",
    "screen",
    "board",
    "glass",
    "wood",
    "stone",
    "fabric",
    "metal",
    "floor",
    "street",
    "garden",
    "room",
    "studio",
    "window",
    "sky",
    "field",
    "background",
    "surface",
    "light",
    "style",
    "scene",
    "colors",
    "white",
    "black",
    "red",
    "blue",
    "green",
    "yellow",
    "gold",
    "wooden",
    "old",
    "new",
    "abstract",
    "vintage",
    "minimal",
    "simple",
    "detailed",
    "beautiful",
    "realistic",
    "digital",
    "art",
    "ink",
    "oil",
    "pen",
    "paint",
    "texture",
    "morning",
    "evening",
    "warm",
    "cold",
    "natural",
    "top",
    "side",
    "front",
    "above",
    "below",
    "angle",
    "quality",
    "high",
    "low",
    "resolution",
    "contrast",
    "centered",
    "single",
    "isolated",
    "digits",
    "numbers",
    "letters",
    "characters",
    "symbols",
    "glyphs",
)
GLUE = (
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "with",
    "and",
    "at",
    "by",
    "from",
    "to",
    "for",
    "is",
    "it",
    "as",
    "its",
    "this",
    "that",
    "style",
    "digit",
    "number",
    "numeral",
    "figure",
    "letter",
    "capital",
    "character",
    "shape",
    "symbol",
    "up",
    "out",
    "over",
    "under",
    "near",
    "very",
)
_NUMERAL_NOUNS = ("digit", "digit", "number", "numeral", "figure")
MAX_WORDS = 34
"""Longest caption; a tokenizer for 40 positions keeps two for its marks."""


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption uses, each once, in a fixed order."""
    words = [*DIGITS, *"0123456789", *LETTERS, *GLUE, *MEDIA, *PLACES]
    words += [w for options in STYLES.values() for option in options for w in option.split()]
    return tuple(dict.fromkeys(words))


def caption(character: str, styles: list[str], rng: np.random.Generator) -> str:
    """A caption in lower case for ``character`` (0-9, a-z, A-Z), naming most of ``styles`` among words that
    mean nothing.

    A third of the captions has no such words; the others up to two dozen, half of them made up.
    """
    named = [str(rng.choice(STYLES[s])) for s in styles if rng.random() < 0.75]
    rng.shuffle(named)
    before, after = named[: len(named) // 2 + 1], named[len(named) // 2 + 1 :]
    subject = _subject(character, before, rng)
    medium = str(rng.choice(MEDIA))
    form = rng.random()
    if form < 0.3:
        words = [*_article(rng), medium, "of", *subject]
    elif form < 0.4:
        words = [medium, "of", *subject]
    else:
        words = subject
    if after:
        words += [*(("in", "a") if rng.random() < 0.3 else ()), *after]
    fillers = 0 if rng.random() < 0.35 else int(rng.integers(1, 25))
    lead = int(rng.integers(0, fillers + 1)) if rng.random() < 0.6 else 0
    lead = min(lead, MAX_WORDS - len(words))
    return " ".join([*_fill(lead, rng), *words, *_fill(fillers - lead, rng)][:MAX_WORDS])


def _subject(character: str, styles: list[str], rng: np.random.Generator) -> list[str]:
    if character.isdigit():
        name = DIGITS[int(character)] if rng.random() < 0.7 else character
        nouns = [str(rng.choice(_NUMERAL_NOUNS))] if rng.random() < 0.6 else []
        return [*_article(rng), *styles, *nouns, name]
    case = ["capital"] if character.isupper() else []
    return [*_article(rng), *styles, *case, "letter", character.lower()]


def _article(rng: np.random.Generator) -> list[str]:
    pick = rng.random()
    return ["a"] if pick < 0.4 else ["the"] if pick < 0.7 else ["an"] if pick < 0.8 else []


def _fill(count: int, rng: np.random.Generator) -> list[str]:
    """``count`` words that say nothing: glue, places, and made-up words, which a tokenizer does not know."""
    words = []
    for kind in rng.random(count):
        if kind < 0.25:
            words.append(str(rng.choice(GLUE[:15])))
        elif kind < 0.5:
            words.append(str(rng.choice(PLACES)))
        else:
            words.append(
                "".join(rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(3))
            )
    return words
