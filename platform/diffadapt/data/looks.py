"""What there is to mind when image files are decoded: a turn that they state, samples of more than 8 bits,
and further pictures that are not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from diffadapt.core.errors import ItemError
from diffadapt.data.image import DEPTHS, depth_of, is_marked, open_image, orientation

LOOKED_AT = 64
"""Files, evenly spread, that are looked at where a set is too large to be read for its fingerprint."""
LOOKS = "looks-2"
"""What is found is remembered under this name; more to look for takes another."""
T = TypeVar("T")


class Look(NamedTuple):
    """What was found in a number of files."""

    turned: int = 0
    """Files that are stored turned or mirrored and say so."""
    deep: int = 0
    """Images of one channel with 16 bits a sample."""
    bits: int = 0
    """The bits that the samples of these use: the most that any of them declares or needs."""
    coarse: int = 0
    """Images of three channels with 16 bits a sample of which the upper ones are empty."""
    many: int = 0
    """Animations and files of several pages, of which the first picture is read."""

    def __add__(self, other: Any) -> Look:
        turned, deep, bits, coarse, many = Look(*other)
        return Look(
            self.turned + turned,
            self.deep + deep,
            max(self.bits, bits),
            self.coarse + coarse,
            self.many + many,
        )

    @property
    def depth(self) -> int:
        """The bits a sample by which the 16-bit images of the set are scaled, one of DEPTHS; 0: nothing to
        mind, all 16."""
        bits = next((b for b in DEPTHS if self.bits <= b), 16) if self.deep else 16
        return 0 if bits == 16 else bits

    def identity(self) -> dict[str, Any]:
        """What a fingerprint has to say of it: nothing of ordinary files."""
        return {
            **({"upright": True} if self.turned else {}),
            **({"bits": self.depth} if self.depth else {}),
        }

    def notes(self, name: str, whole: bool) -> list[str]:
        """What a user should know of it, a sentence each; ``whole``: every file was looked at."""
        result = []
        some = "" if whole else f" of the {LOOKED_AT} that were looked at"
        if self.turned:
            are, say = ("is", "says") if self.turned == 1 else ("are", "say")
            result.append(
                f"{self.turned:,} file{'s' * (self.turned != 1)} of {name}{some} {are} stored turned or"
                f" mirrored and {say} so (EXIF orientation): read upright, as viewers show them."
            )
        if self.depth:
            result.append(
                f"{self.deep:,} image{'s' * (self.deep != 1)} of {name}{some} with 16 bits a sample use"
                f" {self.depth} of them: 0..{(1 << self.depth) - 1:,} is scaled to 0..255 in all of this set."
            )
        if self.coarse:
            result.append(
                f"{self.coarse:,} colour image{'s' * (self.coarse != 1)} of {name}{some} with 16 bits a"
                " sample use only the lower ones, but the upper 8 are all that is read of them, so that they"
                " are nearly black: convert them to 8 bits a sample."
            )
        if self.many:
            result.append(
                f"{self.many:,} file{'s' * (self.many != 1)} of {name}{some}"
                f" {'holds' if self.many == 1 else 'hold'} more than one picture (an animation, or pages):"
                " the first is taken. Split them where the others count."
            )
        return result


def look(data: bytes) -> Look | None:
    """What there is to mind in one image file; None: nothing, or it cannot be read, which is said when it
    is."""
    if not is_marked(data):
        return None
    try:
        with open_image(data, "An image") as image:
            deep, bits = depth_of(image, data)
            turned = int(orientation(image, data) != 1)
            many = int(getattr(image, "n_frames", 1) > 1 and image.format != "MPO")
    except ItemError:
        return None
    if deep == "colour":
        found = Look(turned, 0, 0, int(bits <= DEPTHS[-2]), many)
    else:
        found = Look(turned, int(deep == "grey"), bits, 0, many)
    return found if any(found) else None


def total(looks: Iterable[Sequence[int] | None]) -> Look:
    """All of them together."""
    result = Look()
    for one in looks:
        if one is not None:
            result += Look(*one)
    return result


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of ``values``, evenly spread."""
    n = len(values)
    return list(values) if n <= count else [values[i * n // count] for i in range(count)]
