"""Where the files of a benchmark's domain lie, in the layouts of the public tools."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Any

from diffadapt.core.errors import DataError, RecipeError, suggest
from diffadapt.core.location import locate
from diffadapt.data.benchmark import TEST, Benchmark
from diffadapt.data.benchmarks import benchmark
from diffadapt.data.config import DataConfig
from diffadapt.data.idx import open_idx
from diffadapt.data.image_list import find_files, list_places, name_labels, read_image_list
from diffadapt.data.items import Item, Source
from diffadapt.data.labels import bind_names, read_class_list, some
from diffadapt.data.readers import SUFFIXES, FileReader, in_archive, list_tree
from diffadapt.data.reading import is_file, is_folder
from diffadapt.data.source import scan


def find_domain(config: DataConfig, known: Benchmark, domain: str, partial: bool) -> Source:
    """All images of ``domain`` (or of its ``_test`` part), labels bound to the benchmark's class names.
    Raises DataError."""
    name = domain.removesuffix(TEST)
    split = "test" if domain != name else ("train" if known.test_split(name) else "")
    try:
        fs, root = locate(config.path, DataError)
        fs, root = in_archive(fs, root) or (fs, root)
        if not is_folder(fs, root):
            raise DataError(f"{config.path} is not a folder: give the root folder of {known.title}.")
        if name in known.idx:
            source = open_idx(config.path, split, domain, config.fingerprint)
            return replace(source, name=f"{known.name}-{domain}")
        source = _parquet(config, known, fs, root, name, split) or _listed(
            config, known, fs, root, name, split, partial
        )
        source = source or _folder(config, known, fs, root, name, split, partial)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{config.path} cannot be read ({error}): check data.path.") from None
    if source is None:
        what = (
            f"{name}_{split}.txt (the official list)"
            if split and known.listed
            else f"folder {known.folders(name)[0]!r}"
        )
        raise DataError(f"{config.path} has no {what}: unpack {known.title} there, or correct data.path.")
    return replace(source, name=f"{known.name}-{domain}", fingerprint_mode=config.fingerprint)


def _parquet(
    config: DataConfig, known: Benchmark, fs: Any, root: str, name: str, split: str
) -> Source | None:
    """<domain>.parquet, or <domain>/<split>.parquet."""
    for spelling in known.folders(name):
        place = (
            posixpath.join(root, spelling, f"{split}.parquet")
            if split
            else posixpath.join(root, f"{spelling}.parquet")
        )
        if not is_file(fs, place):
            continue
        source = scan(replace(config, path=fs.unstrip_protocol(place), classes=None, labels="auto"))
        names, label = bind_names(source.class_names, _names(config, known), place, subset=True)
        items = tuple(
            Item(i.key, None if i.label is None else label[source.class_names[i.label]]) for i in source.items
        )
        if any(i.label is None for i in items):
            raise DataError(f"{place} has no labels: a benchmark needs a column label or class_name.")
        return replace(source, class_names=names, items=items)
    return None


def _listed(
    config: DataConfig, known: Benchmark, fs: Any, root: str, name: str, split: str, partial: bool
) -> Source | None:
    """The images of a list. With ``partial``, files that do not exist are left out."""
    place = next(
        (
            p
            for p in (posixpath.join(root, p) for p in list_places(known.folders(name), split))
            if is_file(fs, p)
        ),
        None,
    )
    if place is None:
        return None
    rows = read_image_list(fs, place)
    below = [f for f in known.folders(name) if is_folder(fs, posixpath.join(root, f))]
    files = {
        f"{folder}/{key}": path
        for folder in below
        for key, path in list_tree(fs, posixpath.join(root, folder))[1].items()
    }
    names = _names(config, known)
    keys = find_files(rows, files, below)
    absent = [image for (image, _), key in zip(rows, keys, strict=True) if key is None]
    if absent and (not partial or len(absent) == len(rows)):
        raise DataError(
            f"{place} names {len(absent):,} images that do not exist under {config.path}, such as"
            f" {some(absent, 3)}: unpack {known.title} fully."
        )
    named = [
        (key, name)
        for key, name in zip(keys, name_labels(rows, names, place), strict=True)
        if key is not None
    ]
    if len({key for key, _ in named}) != len(named):
        raise DataError(f"The image list {place} names an image twice: it is damaged.")
    if names is None:
        names = _folder_names(known, fs, root)
    names, label = bind_names(sorted({c for _, c in named}), names, place, subset=True)
    items = tuple(Item(key, label[c]) for key, c in sorted(named))
    return Source(
        name, names, items, FileReader(fs, root, {k: files[k] for k, _ in named}), config.fingerprint
    )


def _folder(
    config: DataConfig, known: Benchmark, fs: Any, root: str, name: str, split: str, partial: bool
) -> Source | None:
    """<domain>/<class>, <domain>/images/<class>, or <domain>/<split>/<class>."""
    if split and known.listed:
        return None  # its folders hold both splits
    for spelling in known.folders(name):
        base = posixpath.join(root, spelling, split) if split else posixpath.join(root, spelling)
        if not is_folder(fs, base):
            continue
        if is_folder(fs, posixpath.join(base, "images")):
            base = posixpath.join(base, "images")
        folders, files = list_tree(fs, base)
        images = {k: p for k, p in files.items() if k.lower().endswith(SUFFIXES) and "/" in k}
        filled = [f for f in folders if any(k.startswith(f"{f}/") for k in images)]
        if not filled:
            raise DataError(f"{base} holds no class folders with images: unpack {known.title} there.")
        names, label = bind_names(filled, _names(config, known), base, subset=partial)
        items = tuple(Item(k, label[k.split("/", 1)[0]]) for k in sorted(images))
        return Source(name, names, items, FileReader(fs, base, images), config.fingerprint)
    return None


def _names(config: DataConfig, known: Benchmark) -> tuple[str, ...] | None:
    """The class names in label order: the recipe's list, else the published ones; None: as the folders
    say."""
    if config.classes:
        return read_class_list(config.classes)
    return known.class_names or None


def _folder_names(known: Benchmark, fs: Any, root: str) -> tuple[str, ...]:
    """Class folders of all domains at hand, so that their labels agree also where a copy is incomplete."""
    result: set[str] = set()
    for domain in known.domains:
        for spelling in known.folders(domain):
            place = posixpath.join(root, spelling)
            if is_folder(fs, place):
                result |= {
                    posixpath.basename(p.rstrip("/")) for p in fs.ls(place, detail=False) if is_folder(fs, p)
                }
    return tuple(sorted(result))


def open_domain(config: DataConfig, name: str, domain: str, partial: bool = False) -> Source:
    """The images of one domain under the benchmark's root ``config.path``, cut to ``config.part`` and
    ``limit_per_class``.

    Read are, in this order: ``<domain>.parquet``, an image list (data/image_list.py), a folder
    ``<domain>/<class>`` or ``<domain>/images/<class>``; for digits idx files and Parquet. ``partial`` accepts
    other counts and absent classes.
    Raises DataError for files that are missing or, unless ``partial``, fewer or more than published;
    RecipeError for an unknown benchmark or domain.
    """

    known = benchmark(name)
    if domain not in known.counts:
        raise RecipeError(
            f"{known.title} has no domain {domain!r}.{suggest(domain, known.counts)} It has:"
            f" {', '.join(known.domains)}."
        )
    if not config.path:
        raise DataError(f"data.path is empty: give the root folder of {known.title}.")
    source = find_domain(config, known, domain, partial)
    found = (len(source.items), len({item.label for item in source.items}))
    wanted = (known.counts[domain], known.classes)
    if not partial and found != wanted:
        raise DataError(
            f"{known.title}'s {domain} under {config.path} holds {found[0]:,} images in {found[1]:,} classes,"
            f" but {wanted[0]:,} in {wanted[1]:,} are published: complete it, or accept it with partial true."
        )
    return source.select(config.part, config.limit_per_class)
