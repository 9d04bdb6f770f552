"""Which label an image has: class lists, names found in the data bound to them, and labels from a CSV
file."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from diffadapt.core.errors import DataError
from diffadapt.core.location import open_place
from diffadapt.core.spreadsheet import plain, read_rows
from diffadapt.data.class_names import match_names
from diffadapt.data.items import Item, Source

HEADERS = {"path", "file", "filename", "file_name", "image", "key", "name"}
LABEL_HEADERS = ("class", "class_name", "class name", "classname", "label", "category")


def read_class_list(location: str) -> tuple[str, ...]:
    """The class names of a text file, one a line in label order; blank lines and lines that begin with # do
    not count.

    Unlike class_names.read_class_names it allows names that differ in case alone, as folders may, and a
    single class.
    Raises DataError for doubles or an empty file.
    """
    lines = (
        unicodedata.normalize("NFC", line.strip()) for line in _text(location, "class list").splitlines()
    )
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise DataError(f"The class list {location} is empty: it needs one class-folder name a line.")
    if len(set(names)) != len(names):
        double = next(n for n in names if names.count(n) > 1)
        raise DataError(f"The class list {location} names {double!r} twice: each class needs one line.")
    return names


FOLDERS_IGNORED = "data.labels none ignores the folders of a target"


def bind_names(
    found: Sequence[str],
    listed: tuple[str, ...] | None,
    where: str,
    subset: bool = False,
    hint: str = FOLDERS_IGNORED,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """(class names in label order, label of each name of ``found``): ``listed`` if given, else ``found``
    sorted.

    A name that is not listed exactly so is bound by class_names.match_names ('back pack' to back_pack).
    Raises DataError naming the difference when the list and what was found do not match (``subset``: classes
    of the list may be absent), with ``hint`` where a name is not listed.
    """
    if listed is None:
        names = tuple(sorted(found))
        return names, {name: i for i, name in enumerate(names)}
    exact = {name: i for i, name in enumerate(listed)}
    labels: dict[str, int] = {}
    extra: list[str] = []
    for name in found:
        try:
            labels[name] = exact[name] if name in exact else match_names(listed, [name], where)[name]
        except DataError:
            extra.append(name)
    by_label: dict[int, str] = {}
    for name, label in labels.items():
        if label in by_label:
            raise DataError(
                f"{where} has both {by_label[label]!r} and {name!r} for the class {listed[label]!r}: merge or"
                " rename one of them."
            )
        by_label[label] = name
    missing = [] if subset else sorted(set(listed) - {listed[i] for i in by_label})
    if missing or extra:
        parts = [f"{where} lacks {some(missing)}"] if missing else []
        parts += [f"the list lacks {some(sorted(extra))}"] if extra else []
        raise DataError(
            f"The class list does not match {'the images' if hint is FOLDERS_IGNORED else where}:"
            f" {' and '.join(parts)}{f' ({hint})' if extra else ''}."
        )
    return listed, labels


def label_from_csv(source: Source, location: str, listed: tuple[str, ...] | None) -> Source:
    """``source`` with the labels of a CSV file of lines ``path,class name``; paths are keys of the source.

    A first line such as ``path,class`` is a header; with one, further columns are allowed. Names are bound to
    ``listed`` (see :func:`bind_names`; classes may be absent), else sorted. Raises DataError for lines that
    cannot be understood, for images named twice differently, and when the file names absent images or lacks
    some.
    """
    keys = {item.key for item in source.items}
    composed = {unicodedata.normalize("NFC", key): key for key in sorted(keys)}  # a Mac's disk decomposes
    names: dict[str, str] = {}
    for path, name in _read_rows(location).items():
        path = path if path in keys else plain(path)
        names[path if path in keys else composed.get(unicodedata.normalize("NFC", path), path)] = name
    absent = [path for path in names if path not in keys]
    if len(absent) == 1 and absent[0] == next(iter(names)) and "." not in absent[0]:
        raise DataError(
            f"The label file {location} begins with {absent[0]!r}, which is no image: if that line is a"
            " header, write path,class name; else mend the path."
        )
    if absent:
        raise DataError(
            f"The label file {location} names {len(absent):,} images that {source.name} has not, such as"
            f" {some(absent, 3)}: write paths relative to data.path."
        )
    lacking = [item.key for item in source.items if item.key not in names]
    if lacking:
        raise DataError(
            f"The label file {location} lacks {len(lacking):,} of {len(keys):,} images, such as"
            f" {some(lacking, 3)}: add them, or set data.labels to none."
        )
    class_names, labels = bind_names(
        sorted(set(names.values())), listed, f"the label file {location}", True, "mend its names, or the list"
    )
    items = tuple(Item(item.key, labels[names[item.key]]) for item in source.items)
    return replace(source, class_names=class_names, items=items)


def without_others(source: Source, names: Sequence[str]) -> Source:
    """``source`` in which images of classes that ``names`` lacks have no label, and a note that counts
    them."""
    labels = {item.label for item in source.items if item.label is not None}
    if source.numbered:
        extra = {label: str(label) for label in labels if label >= len(names)}
    else:
        extra = {c: source.class_names[c] for c in labels if not _known(source.class_names[c], names)}
    if not extra:
        return source
    items = tuple(replace(i, label=None) if i.label in extra else i for i in source.items)
    count = sum(item.label in extra for item in source.items)
    note = (
        f"{count:,} images of {source.name} are of {len(extra)} class{'es' if len(extra) > 1 else ''} that"
        f" {'are' if len(extra) > 1 else 'is'} not listed ({some(sorted(extra.values()))}): they are kept,"
        " without a"
        " label."
    )
    return replace(source, items=items, notes=(*source.notes, note))


def bind_source(source: Source, names: Sequence[str], hint: str = FOLDERS_IGNORED) -> Source:
    """``source`` with its labels as positions in ``names``, the classes of what is trained on: the names that
    were found are bound by class_names.match_names, and classes may be absent. Labels that are numbers alone
    stay, and a source whose labels are right already, or that has none, is given back as it is.

    Raises DataError for names that ``names`` lacks (NoClasses where it lacks all) and numbers beyond it.
    """
    used = {item.label for item in source.items if item.label is not None}
    if not used or not names:
        return source
    if source.numbered:
        if max(used) >= len(names):
            raise DataError(
                f"The images of {source.name} have the label {max(used)}, but what is trained on has"
                f" {len(names)} classes ({some(names)}): mend the labels ({hint})."
            )
        return source
    found = {source.class_names[label]: label for label in used}
    extra = sorted(name for name in found if not _known(name, names))
    if extra:
        raise (NoClasses if len(extra) == len(found) else DataError)(
            f"The images of {source.name} have the class{'es' if len(extra) > 1 else ''} {some(extra)}, which"
            f" what is trained on has not (its classes: {some(names)}): rename or take out what is no class"
            f" ({hint})."
        )
    label = {found[name]: place for name, place in match_names(names, sorted(found), source.name).items()}
    if all(label[before] == before for before in used):
        return source
    items = tuple(i if i.label is None else replace(i, label=label[i.label]) for i in source.items)
    return replace(source, class_names=tuple(names), items=items)


class NoClasses(DataError):
    """None of the names that were found is one of the classes."""


def _known(name: str, names: Sequence[str]) -> bool:
    try:
        return bool(match_names(names, [name], ""))
    except DataError:
        return False


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    shown = ", ".join(map(repr, names[:limit]))
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _read_rows(location: str) -> dict[str, str]:
    rows = read_rows(_bytes(location, "label file"), f"The label file {location}")
    path_at, class_at = 0, 1
    if rows and rows[0][1][0].strip().lower() in HEADERS:
        head = [cell.strip().lower() for cell in rows.pop(0)[1]]
        class_at = next((head.index(name) for name in LABEL_HEADERS if name in head), 1)
    elif odd := [(line, row) for line, row in rows if len(row) != 2]:
        raise DataError(
            f"Line {odd[0][0]} of the label file {location} has {len(odd[0][1])} columns: write path,class"
            " name, or begin with a header that names both."
        )
    if not rows:
        raise DataError(f"The label file {location} is empty: write one line path,class name for each image.")
    result: dict[str, str] = {}
    for i, row in rows:
        cells = [unicodedata.normalize("NFC", cell.strip()) for cell in row]
        if len(cells) <= class_at or not cells[path_at] or not cells[class_at]:
            raise DataError(
                f"Line {i} of the label file {location} has no path or no class name: write path,class name."
            )
        cells[class_at] = plain(cells[class_at])
        path = posixpath.normpath(row[path_at].strip().replace("\\", "/"))
        if result.setdefault(path, cells[class_at]) != cells[class_at]:
            raise DataError(
                f"The label file {location} gives {path!r} both {result[path]!r} and {cells[class_at]!r}:"
                " keep one."
            )
    return result


def _text(location: str, what: str) -> str:
    try:
        return _bytes(location, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The {what} {location} cannot be read as UTF-8 text (byte {error.start}): save it as UTF-8."
        ) from None


def _bytes(location: str, what: str) -> bytes:
    try:
        with open_place(location, "rb", DataError) as stream:
            return stream.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"The {what} {location} cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None
