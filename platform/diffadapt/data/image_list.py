"""Image lists of the public tools: text files with lines ``relative/path label``, where the path may hold
spaces."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Sequence
from typing import Any

from diffadapt.core.errors import DataError
from diffadapt.data.labels import bind_names


def list_places(names: Sequence[str], split: str) -> list[str]:
    """Where the list of a domain may lie below a benchmark's root. ``names``: spellings of the domain;
    ``split``: '', or 'train' or 'test' where the benchmark has both."""
    if split:
        return [place for n in names for place in (f"{n}_{split}.txt", f"image_list/{n}_{split}.txt")]
    return [
        place
        for n in names
        for place in (
            f"image_list/{n}.txt",
            f"{n}.txt",
            f"{n}/image_list.txt",
            f"list/{n}List.txt",
            f"{n}List.txt",
            f"{n}_list.txt",
        )
    ]


def read_image_list(fs: Any, path: str) -> list[tuple[str, str]]:
    """(relative path, label as it stands there) of every line. Raises DataError for a line without both."""
    try:
        text = fs.cat_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The image list {path} cannot be read ({error}).") from None
    result = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        image, _, label = line.strip().rpartition(" ")
        if not image or not label.isdigit():
            raise DataError(
                f"Line {number} of the image list {path} is {line.strip()[:80]!r}, but must be a relative"
                " path and a number."
            )
        result.append((posixpath.normpath(image.strip().replace("\\", "/")), label))
    if not result:
        raise DataError(f"The image list {path} is empty.")
    return result


def name_labels(rows: Sequence[tuple[str, str]], names: tuple[str, ...] | None, path: str) -> list[str]:
    """The class name of every row of a list: the deepest folder of its path that is one of ``names`` (None:
    the folder that holds the image). Where no path has a class folder, the numbers count in the order of
    ``names``.

    Raises DataError when the class of a row is not told, or numbers and names do not go one to one.
    """
    if names is None:
        result: list[str | None] = [posixpath.basename(posixpath.dirname(image)) or None for image, _ in rows]
    else:
        known = set(names)
        result = [_class_folder(image, names, known) for image, _ in rows]
        if not any(result):
            result = [names[int(label)] if int(label) < len(names) else None for _, label in rows]
    if None in result:
        image, label = rows[result.index(None)]
        raise DataError(
            f"The image list {path} does not tell the class of {image!r}: no folder of its path is a class,"
            f" nor is the number {label}."
        )
    pairs = {(label, name) for (_, label), name in zip(rows, result, strict=True)}
    if len(pairs) > min(len({label for label, _ in pairs}), len({name for _, name in pairs})):
        raise DataError(
            f"The numbers in the image list {path} do not go with the class folders one to one: it is damaged"
            " or mixes two lists."
        )
    return result  # type: ignore[return-value]


def find_files(
    rows: Sequence[tuple[str, str]], files: dict[str, str], folders: Sequence[str]
) -> list[str | None]:
    """The key in ``files`` of every row, or None where there is no such file.

    Keys begin with one of ``folders``; paths of a list may, may be relative to that folder, or may lead there
    from elsewhere ('/data/office/amazon/...').
    """
    result = []
    for image, _ in rows:
        tries = [image, *(f"{folder}/{image}" for folder in folders)]
        tries += [
            f"{folder}/" + image.split(f"/{folder}/", 1)[1] for folder in folders if f"/{folder}/" in image
        ]
        result.append(next((t for t in tries if t in files), None))
    return result


def _class_folder(image: str, names: tuple[str, ...], known: set[str]) -> str | None:
    folders = image.split("/")[:-1]
    exact = next((f for f in reversed(folders) if f in known), None)
    return exact or (_bound(folders[-1], names) if folders else None)


@functools.lru_cache(maxsize=4096)
def _bound(folder: str, names: tuple[str, ...]) -> str | None:
    try:
        return names[bind_names([folder], names, folder, subset=True)[1][folder]]
    except DataError:
        return None
