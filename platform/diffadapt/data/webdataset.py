"""Image sets in the form of webdataset: files of one sample have one name, up to its first dot; the label is
in ``.cls`` or in ``.json``."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Any

from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.foreign import parse
from diffadapt.data.archive_files import IMAGES
from diffadapt.data.config import DataConfig
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, read_class_list, some
from diffadapt.data.readers import FileReader

LABELS = ("class_name", "label", "cls", "class", "category")
"""Fields of a sample's JSON that hold its label, as a number or a name."""


def has_labels(fs: Any, files: dict[str, str]) -> bool:
    """Whether the files (key -> path) are samples that bring a label: images beside .cls files, or beside
    JSON with one of the fields LABELS."""
    samples = _samples(files)
    both = [parts for parts in samples.values() if _image(parts)]
    if any("cls" in parts for parts in both):
        return True
    first = next((parts for parts in both if "json" in parts), None)
    return first is not None and _label(fs, files, first) is not None


def scan_samples(config: DataConfig, fs: Any, files: dict[str, str], name: str, subset: bool) -> Source:
    """The labelled samples among ``files``. A key is the image's. Numbers count as class numbers, names are
    bound as folders' are. Raises DataError where some samples lack a label."""
    everything = _samples(files)
    samples = {k: parts for k, parts in everything.items() if _image(parts)}
    images = {_image(parts): parts for parts in samples.values()}
    found = {key: _label(fs, files, parts) for key, parts in images.items()}
    lacking = [key for key, label in found.items() if label is None]
    if lacking:
        raise DataError(
            f"{config.path} has {len(lacking):,} samples without a label, such as {some(lacking, 3)}: add"
            " their .cls, or set data.labels to none."
        )
    listed = read_class_list(config.classes) if config.classes else None
    values = {str(label) for label in found.values()}
    numbered = all(v.isascii() and v.isdigit() for v in values)
    if numbered:
        numbers = {v: int(v) for v in values}
        names = listed or tuple(str(i) for i in range(max(numbers.values()) + 1))
        if max(numbers.values()) >= len(names):
            raise DataError(
                f"{config.path} has the label {max(numbers.values())}, but there are {len(names)} class"
                " names."
            )
    else:
        names, numbers = bind_names(sorted(values), listed, config.path, subset)
    items = tuple(Item(key, numbers[str(found[key])]) for key in sorted(found))
    said = _notes(config.path, everything)
    if not numbered and (odd := sorted(v for v in values if not v.isdigit())) and len(odd) < len(values):
        said += (f"{config.path}: labels count as names, since {some(odd, 3)} is no class number.",)
    reader = FileReader(fs, fs.root, {key: files[key] for key in found})
    source = Source(name, names, items, reader, config.fingerprint, notes=said)
    return replace(source, numbered=numbered and listed is None)


def _notes(path: str, samples: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """What of the samples is not used."""
    bare = sorted(k for k, parts in samples.items() if not _image(parts) and {"cls", "json"} & set(parts))
    more = {k: [e for e in parts if f".{e}".endswith(IMAGES)] for k, parts in samples.items()}
    more = {k: sorted(endings) for k, endings in more.items() if len(endings) > 1}
    notes = []
    if bare:
        notes.append(
            f"{path}: {len(bare):,} sample{'s' * (len(bare) != 1)} with a label and no image"
            f" {'is' if len(bare) == 1 else 'are'} left out, such as {some(bare, 3)}."
        )
    if more:
        first = next(iter(more))
        notes.append(
            f"{path}: {len(more):,} sample{'s have' if len(more) != 1 else ' has'} several images, of which"
            f" one is used ({first!r} has {', '.join(more[first])}): names of images end at their first dot."
        )
    return tuple(notes)


def _samples(files: dict[str, str]) -> dict[str, dict[str, str]]:
    """Sample -> what it has: ending (small letters, without its dot) -> key of the file."""
    result: dict[str, dict[str, str]] = {}
    for key in files:
        folder, name = posixpath.split(key)
        stem, _, ending = name.partition(".")
        if stem and ending:
            result.setdefault(posixpath.join(folder, stem), {})[ending.lower()] = key
    return result


def _image(parts: dict[str, str]) -> str:
    """The key of a sample's image; empty: it has none."""
    return next((key for ending, key in parts.items() if f".{ending}".endswith(IMAGES)), "")


def _label(fs: Any, files: dict[str, str], parts: dict[str, str]) -> str | None:
    """A sample's label as text; None: it has none."""
    try:
        if "cls" in parts:
            return fs.cat_file(files[parts["cls"]]).decode("utf-8-sig").strip() or None
        if "json" in parts:
            values = parse(fs.cat_file(files[parts["json"]]))
            found = [values[k] for k in LABELS if isinstance(values, dict) and values.get(k) is not None]
            return str(found[0]) if found and isinstance(found[0], (int, str)) else None
    except (ItemError, ValueError):
        return None
    return None
