"""ImageNet's benchmark folders: validation, ImageNet-C and ImageNet-W; and pairing a set with its projection.

Labels are the positions in the sorted WordNet ids, as every published ImageNet classifier has them. Counts
are checked against the benchmarks' (1000 classes, 50,000 images) before any ``part`` or limit is applied.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

from diffadapt.core.errors import DataError, suggest
from diffadapt.core.location import locate
from diffadapt.data.config import CORRUPTIONS, DataConfig
from diffadapt.data.items import Source
from diffadapt.data.reading import is_folder
from diffadapt.data.source import scan

CLASSES = 1000
IMAGES = 50_000
_GROUPS = ("noise", "blur", "weather", "digital")


def open_imagenet_val(config: DataConfig, partial: bool = False) -> Source:
    """The validation images, ``{path}/{wnid}/*.JPEG`` or ``{path}/val/{wnid}/*.JPEG``.

    ``partial`` allows other counts; labels are then positions among the classes at hand, unless
    ``config.classes`` lists them. Raises DataError for a missing folder or, unless ``partial``, other counts.
    """
    return _open(config, _first_folder(config.path, ("val", "")), "imagenet-val", partial)


def open_imagenet_c(config: DataConfig, corruption: str, severity: int, partial: bool = False) -> Source:
    """One corruption at one severity: ``{path}/{corruption}/{severity}/{wnid}/*.JPEG`` (the archives' group
    folder, as in ``{path}/noise/gaussian_noise``, may be kept). Keys are relative to the severity's folder.
    Raises as above.
    """
    if corruption not in CORRUPTIONS:
        raise DataError(f"ImageNet-C has no corruption {corruption!r}.{suggest(corruption, CORRUPTIONS)}")
    places = [f"{corruption}/{severity}", *(f"{group}/{corruption}/{severity}" for group in _GROUPS)]
    return _open(config, _first_folder(config.path, places), f"imagenet-c-{corruption}-{severity}", partial)


def open_imagenet_w(config: DataConfig, partial: bool = False) -> Source:
    """Watermarked validation images, ``{path}/val/{wnid}/*.JPEG`` or ``{path}/{wnid}/*.JPEG``. Raises as
    above."""
    return _open(config, _first_folder(config.path, ("val", "")), "imagenet-w", partial)


def pair_by_path(original: Source, projected: Source) -> list[tuple[str, str]]:
    """(key of the original, key of its projection) in the originals' order, by relative path without suffix.

    Suffixes may differ (a JPEG's projection may be PNG). Raises DataError naming the first paths without a
    partner, when two images share a path but for the suffix, or when the labels of a pair differ.
    """
    left, right = _by_stem(original), _by_stem(projected)
    for ours, theirs, name in ((left, right, projected.name), (right, left, original.name)):
        lost = sorted(set(ours) - set(theirs))
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise DataError(
                f"{name} lacks the partner of {', '.join(lost[:3])}{more}: both sets must hold the same"
                " paths."
            )
    pairs = [(left[stem], right[stem]) for stem in left]
    for a, b in pairs:
        if (
            None not in (original.labels[a], projected.labels[b])
            and original.labels[a] != projected.labels[b]
        ):
            raise DataError(
                f"{a} has another label in {projected.name} than in {original.name}: use one class list for"
                " both."
            )
    return pairs


def _by_stem(source: Source) -> dict[str, str]:
    result: dict[str, str] = {}
    for item in source.items:
        stem = posixpath.splitext(item.key)[0]
        if stem in result:
            raise DataError(
                f"{source.name} holds both {result[stem]} and {item.key}, so that path cannot be paired."
            )
        result[stem] = item.key
    return result


def _first_folder(root: str, places: Sequence[str]) -> str:
    if not root:
        raise DataError("data.path is empty: give the benchmark's folder.")
    try:
        fs, base = locate(root, DataError)
        for place in places:
            if is_folder(fs, posixpath.join(base, place) if place else base):
                return posixpath.join(root, place) if place else root
    except (ValueError, ImportError, OSError) as error:
        raise DataError(f"{root} cannot be opened ({error}): check the location and its protocol.") from None
    raise DataError(
        f"{root} has no folder {places[0] or root}: unpack the benchmark there or correct data.path."
    )


def _open(config: DataConfig, path: str, name: str, partial: bool) -> Source:
    source = replace(scan(replace(config, path=path), subset=partial), name=name)
    if any(item.label is None for item in source.items):
        raise DataError(f"{path} has no class folders: the benchmark has one folder per WordNet id.")
    if not partial and (len(source.class_names), len(source.items)) != (CLASSES, IMAGES):
        raise DataError(
            f"{path} holds {len(source.items):,} images in {len(source.class_names):,} classes, but {name}"
            f" has {IMAGES:,} in {CLASSES:,}: unpack it fully, or allow a partial copy."
        )
    return source.select(config.part, config.limit_per_class)
