"""Class names from a text file, how a prompt says them, and how folders or other lists are bound to them."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from diffadapt.core.errors import DataError
from diffadapt.core.location import open_place

_SEPARATORS = re.compile(r"[\s_\-]+")


def read_class_names(path: str) -> tuple[str, ...]:
    """The class names of a UTF-8 text file, one a line, in label order, exactly as written (Unicode NFC,
    spaces around removed).

    Blank lines, lines that begin with #, a byte-order mark and Windows line ends are allowed; ``path`` is any
    fsspec location.
    Raises DataError for a file that is missing, not text or empty, for a single class, and for names that are
    the same but for case, spaces, hyphens and underscores.
    """
    try:
        with open_place(path, "rb", DataError) as stream:
            data = stream.read()
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"The class list {path} cannot be read ({reason}): give a text file with one class name a line."
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The class list {path} is not UTF-8 text (byte {error.start}): save it as UTF-8 with one class"
            " name a line."
        ) from None
    if "\0" in text:
        raise DataError(f"The class list {path} is not text: give a UTF-8 file with one class name a line.")
    lines = (unicodedata.normalize("NFC", line.strip()) for line in text.splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    check_class_names(names, f"The class list {path}")
    return names


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise DataError unless ``names`` are at least two, not blank, and different also after
    :func:`normalise`.

    ``where`` begins the sentence, such as 'The class list classes.txt'.
    """
    if not names:
        raise DataError(f"{where} is empty: it needs one class name a line.")
    if len(names) == 1:
        raise DataError(f"{where} names one class only ({names[0]!r}): a classifier needs at least two.")
    seen: dict[str, str] = {}
    for name in names:
        plain = normalise(name)
        if not plain:
            raise DataError(
                f"{where} has the name {name!r}, which is of spaces, hyphens and underscores alone: give the"
                " class a name that a prompt can say."
            )
        if plain in seen:
            same = (
                "twice"
                if seen[plain] == name
                else f"and {seen[plain]!r}, which differ only in case, spaces, hyphens or underscores"
            )
            raise DataError(f"{where} names {name!r} {same}: each class needs one name of its own.")
        seen[plain] = name


def normalise(name: str) -> str:
    """What is compared when names differ in writing: Unicode NFKC, case folded, one space for spaces, hyphens
    and underscores."""
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFKC", name).casefold()).strip()


@functools.lru_cache(maxsize=4096)
def spoken(name: str) -> str:
    """What a prompt says for a class: 'back_pack' -> 'back pack'. Case, hyphens and letters of any script
    stay."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def match_names(
    listed: Sequence[str], folders: Iterable[str], where: str, every: bool = False
) -> dict[str, int]:
    """Bind names found in data (class folders, a column of a table) to the listed names: found name -> label.

    A name is bound to the one that is written exactly so, else to the one that :func:`normalise` makes equal,
    else to the only one that is equal without spaces too ('backpack' and 'back_pack'). ``where`` begins the
    sentence of an error, such as 'The target folder webcam'. Raises DataError naming what has no listed name,
    what is bound twice, and, with ``every``, listed names that were not found.
    """
    exact = {unicodedata.normalize("NFC", name): i for i, name in enumerate(listed)}
    plain = {normalise(name): i for i, name in enumerate(listed)}
    squeezed: dict[str, list[int]] = {}
    for name, i in plain.items():
        squeezed.setdefault(name.replace(" ", ""), []).append(i)
    result: dict[str, int] = {}
    unknown: list[str] = []
    for folder in folders:
        key = normalise(folder)
        label = exact.get(unicodedata.normalize("NFC", folder), plain.get(key))
        near = squeezed.get(key.replace(" ", ""), [])
        if label is None and len(near) == 1:
            label = near[0]
        if label is None:
            unknown.append(folder)
        else:
            result[folder] = label
    if unknown:
        near = difflib.get_close_matches(normalise(unknown[0]), list(plain), n=1)
        hint = f" (did you mean {listed[plain[near[0]]]!r}?)" if near else ""
        raise DataError(
            f"{where} has {_some(unknown)}{hint}, which the class list does not name: mend the names or the"
            " list."
        )
    by_label: dict[int, str] = {}
    for folder, label in result.items():
        if label in by_label:
            raise DataError(
                f"{where} has both {by_label[label]!r} and {folder!r} for the class {listed[label]!r}: merge"
                " or rename one of them."
            )
        by_label[label] = folder
    missing = [name for i, name in enumerate(listed) if i not in by_label]
    if every and missing:
        raise DataError(
            f"{where} lacks {_some(missing)}, which the class list names: add the images or shorten the list."
        )
    return result


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
