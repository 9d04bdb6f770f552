"""The deterministic prompt bank: style x background x viewpoint x light, and the target domain in every other
prompt.

Adapt Anything section 3: "photo of a [Category]" alone leads to mode collapse, so prompts mix descriptions of
domain and category ("Abstract expressionist interpretation of a rocking chair"). The bank needs no language
model and no random
state: the k-th prompt of a class is a function of k, the class's name, the seed, the lists and the domain.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest, item_seed
from diffadapt.data.class_names import spoken
from diffadapt.prompts.sources.base import PromptSource

BANK_VERSION = 1
"""Raised when the shipped lists or the walk change: it is part of the prompts' identity."""


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


STYLES = _phrases("""
    a photo; a close-up photo; a smartphone snapshot; a product photo; a documentary photograph; a
    black-and-white photo; a faded analog photograph; a catalogue picture; a grainy security-camera
    picture; a macro photograph; a high-resolution studio photograph; an amateur photo; an overexposed
    photo; a slightly blurred photo; an abstract expressionist interpretation; an oil painting; a
    watercolour painting; an impressionist painting; a pop-art print; a cubist painting; a gouache
    illustration; an ink wash painting; a pencil sketch; a charcoal drawing; a line drawing; a technical
    drawing; a child's crayon drawing; a comic-book panel; a cartoon; a flat vector illustration; a
    clip-art picture; an icon; a 3D rendering; a low-poly model; an isometric rendering; a video-game
    screenshot; a clay model; a paper cut-out; a wooden carving; an embroidered picture; a stained-glass
    picture; a vintage poster
""")
"""Nouns that 'of a <category>' can follow: a third photographic, the others painted, drawn, rendered or made.
"""

BACKGROUNDS = _phrases("""
    on a plain white background; on a plain grey background; on a dark background; on a wooden table; on
    a cluttered desk; on a shelf; on the floor; on a patterned carpet; on a marble counter; in an
    office; in a living room; in a kitchen; in a workshop; in a classroom; in a shop window; in a
    laboratory; in front of a brick wall; in front of a window; in a garden; on a lawn; in a street; in
    a park; on a beach; in a forest; in a crowded room; among other objects; against a colourful
    background; against a cloudy sky
""")

VIEWPOINTS = _phrases("""
    seen from the front; seen from the side; seen from behind; seen from above; seen from slightly
    above; seen from below; at eye level; at an angle; from a distance; filling the frame; off-centre in
    the frame; partly cut off by the frame; slightly rotated
""")

LIGHTS = _phrases("""
    in soft daylight; in bright sunlight; in warm evening light; in cold morning light; in dim light; in
    neon light; in fluorescent office light; lit from the side; lit from behind; in hard light with
    strong shadows; in candlelight
""")

DOMAIN_FORMS = (
    "{a}, in the manner of {domain}",
    "{domain}: {a}",
    "a picture of {a}, as in {domain}",
    "{a} in the style of {domain}",
)
"""How a prompt says the target's domain; {a} is the category with its article."""


@dataclass(frozen=True)
class Bank:
    """Two products of phrases: one begins with a style, the other with a form of the domain (empty without a
    domain)."""

    styles: tuple[str, ...]
    forms: tuple[str, ...]
    backgrounds: tuple[str, ...]
    viewpoints: tuple[str, ...]
    lights: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many different prompts each class has."""
        return (len(self.styles) + len(self.forms)) * self._rest

    @property
    def _rest(self) -> int:
        return len(self.backgrounds) * len(self.viewpoints) * len(self.lights)

    def prompt(self, k: int, category: str, seed: int) -> str:
        """The k-th prompt (from 0) of a class, ``category`` as a prompt says it. IndexError from ``size`` on.

        Domain and style take turns as long as both have prompts left; each of the two is a walk without
        repeats in which every run of n prompts uses each of n heads once.
        """
        by_domain, by_style = (len(h) * self._rest for h in (self.forms, self.styles))
        both = min(by_domain, by_style)
        if k < 2 * both:
            heads, i = (self.forms, k // 2) if k % 2 == 0 else (self.styles, k // 2)
        else:
            heads, i = (self.forms if by_domain > by_style else self.styles), k - both
        if i >= len(heads) * self._rest:
            raise IndexError(k)
        axes = (heads, self.backgrounds, self.viewpoints, self.lights)
        kind = "domain" if heads is self.forms else "style"
        chosen = _walk(i, axes, item_seed(seed, "prompts", category, kind))
        named = with_article(category)
        head = chosen[0].replace("{a}", named) if heads is self.forms else _styled(chosen[0], category, named)
        return ", ".join(part for part in (head, *chosen[1:]) if part)


def bank(config: Any, domain: str) -> Bank:
    """The bank of a PromptConfig: its own lists where given (doubles count once), the shipped ones else."""
    phrase = " ".join(domain.split()).rstrip(".!?,;:")
    return Bank(
        styles=_list(config.styles, STYLES),
        forms=tuple(f.replace("{domain}", phrase) for f in DOMAIN_FORMS) if phrase else (),
        backgrounds=_list(config.backgrounds, BACKGROUNDS),
        viewpoints=_list(config.viewpoints, VIEWPOINTS),
        lights=_list(config.lights, LIGHTS),
    )


def with_article(category: str) -> str:
    """'a mug', 'an apple', 'an 8', 'a unicorn', 'an LED lamp'; no article before what looks like a plural
    ('scissors')."""
    words = category.split()
    last, first = words[-1].lower(), words[0]
    if first.lower() in ("a", "an", "the"):
        return category if len(words) > 1 else f"an {category}" if first.lower() == "a" else f"a {category}"
    if len(last) > 3 and re.search(r"[^siu]s$", last) and last not in _SINGULAR_S:
        return category
    return f"{'an' if _vowel_sound(first) else 'a'} {category}"


_SINGULAR_S = frozenset("lens canvas atlas christmas gas trellis species series mars bias pancreas".split())
_LETTER_NAMES = "AEFHILMNORSX"


def _vowel_sound(word: str) -> bool:
    if re.fullmatch(r"[A-Z]{1,3}[0-9]*", word):  # spelt out, letter by letter
        return word[0] in _LETTER_NAMES
    low = word.lower()
    if low[0].isdigit():
        return low[0] == "8" or bool(re.match(r"1[18](\D|$)", low))
    if len(low) == 1:
        return low.upper() in _LETTER_NAMES
    if re.match(r"(uni([^nm]|$)|use|usu|usa|ute|uku|ura|eu|ew|one([^a-z]|$)|once)", low):
        return False
    return low[0] in "aeiouàáâäæèéêëìíîïòóôöøùúûü" or bool(re.match(r"(hour|honest|honou?r|heir)", low))


def _styled(style: str, category: str, named: str) -> str:
    if "{category}" in style:
        return style.replace("{category}", category)
    return f"{style} of {named}" if style else named


def _walk(i: int, axes: tuple[tuple[str, ...], ...], seed: int) -> list[str]:
    """The i-th choice of one phrase an axis: the digits of i in mixed radix, each shifted by an amount that
    the digits before it decide. Shifts make all axes vary from prompt to prompt; that they depend on earlier
    digits only keeps it one to one.
    """
    shifts, orders = _tables(tuple(len(a) for a in axes), seed)
    digits: list[int] = []
    chosen: list[str] = []
    for n, axis in enumerate(axes):
        i, digit = divmod(i, len(axis))
        shift = sum(shifts[n][m][d] for m, d in enumerate(digits))
        chosen.append(axis[orders[n][(digit + shift) % len(axis)]])
        digits.append(digit)
    return chosen


@functools.lru_cache(maxsize=64)
def _tables(lengths: tuple[int, ...], seed: int) -> tuple[list[list[list[int]]], list[list[int]]]:
    rng = random.Random(seed)
    orders = [rng.sample(range(n), n) for n in lengths]
    shifts = [
        [[rng.randrange(n) for _ in range(earlier)] for earlier in lengths[:i]] for i, n in enumerate(lengths)
    ]
    return shifts, orders


def _list(given: tuple[str, ...], shipped: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(entry.split()) for entry in given)) or shipped


class BankSource(PromptSource):
    """The bank: domain x style x background x viewpoint x light, deterministic."""

    @property
    def bank(self) -> Bank:
        return bank(self.config, self.domain)

    def check(self, class_names: Sequence[str]) -> None:
        self._check_size(self.count)

    def identity(self) -> dict[str, Any]:
        lists = {"version": BANK_VERSION, **to_dict(self.bank)}
        return {
            "source": self.config.source,
            "bank": digest(lists),
            "domain": self.domain,
            "seed": self.seed,
        }

    def prompts(self, category: str, start: int, stop: int) -> list[str]:
        self._check_size(stop)
        phrases = self.bank
        return [phrases.prompt(k, spoken(category), self.seed) for k in range(start, stop)]

    def _check_size(self, wanted: int) -> None:
        size = self.bank.size
        if wanted > size:
            raise RecipeError(
                f"prompts.prompts_per_class is {wanted}, but the lists of the prompt bank make {size}"
                f" different prompts a class: ask for at most {size} (several images may share a prompt), or"
                " give longer lists of styles, backgrounds, viewpoints or lights."
            )
