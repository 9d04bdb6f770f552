"""COCO-format data: a folder of images and an instances JSON; boxes as objects, masks (or boxes) painted as a
label map."""

from __future__ import annotations

import functools
import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.foreign import parse
from diffadapt.core.redact import redact
from diffadapt.core.store import is_local
from diffadapt.data.hashes import file_stamp
from diffadapt.data.image import as_stored, encode_png, image_size, stored_size
from diffadapt.data.labels import some
from diffadapt.data.looks import Look
from diffadapt.data.readers import FileReader, open_location, source_name
from diffadapt.data.reading import is_file, reading
from diffadapt.data.scenes.annotations import Apart, corners, identifier, sort_out
from diffadapt.data.scenes.classes import MAX_CLASSES, class_table
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import Layout
from diffadapt.data.scenes.pairs import by_stem, image_files
from diffadapt.data.scenes.rle import decode_rle
from diffadapt.data.scenes.scene import RawScene, SceneItem, SceneSource
from diffadapt.data.scenes.table import ClassTable, plain_table


@dataclass(frozen=True)
class Coco(Layout):
    """A folder of images and an instances JSON."""

    def classes(self, config: SceneConfig) -> ClassTable:
        """The categories of the instances JSON, in the order of their ids. Raises DataError."""
        names = [name for _, name in _document(config).categories]
        return plain_table("coco", [(name, _colour(c + 1)) for c, name in enumerate(names)])

    def open(self, config: SceneConfig) -> SceneSource:
        return open_coco(config)


LAYOUT = Coco("COCO")


def open_coco(config: SceneConfig) -> SceneSource:
    """The images that ``{path}/{labels}`` lists, in ``{path}/{images}``. With a class table of one's own,
    categories are bound to it by name, and those that it does not name are left out. Annotations that cannot
    be used are set apart and named in the notes. Raises DataError for a JSON that is damaged or names what is
    not there.
    """
    fs, root = open_location(config.path)
    if not config.labels:
        files = image_files(fs, root, config.images, f"{config.path}: the images")
        names = {posixpath.relpath(name, posixpath.normpath(config.images)): name for name in files}
        items = tuple(
            SceneItem(scene, names[name])
            for scene, name in by_stem(names, (), "an image of the scene").items()
        )
        table = class_table(config) if config.classes else plain_table("coco", [])
        return SceneSource(
            source_name(root),
            items,
            table,
            table,
            CocoReader(FileReader(fs, root, files), {}),
            labelled=False,
        )
    document = _document(config)
    annotations = document.annotations
    table = class_table(config)
    files = {
        posixpath.relpath(n, posixpath.normpath(config.images)): (n, p)
        for n, p in image_files(fs, root, config.images, f"{config.path}: the images").items()
    }
    # Label Studio and others write names from the root: images/1.png.
    top = f"{posixpath.normpath(config.images)}/"
    images = {
        key: i if (n := i["file_name"]) in files else {**i, "file_name": n.removeprefix(top)}
        for key, i in document.images.items()
    }
    number = _bind(document.categories, table, config)
    lost = sorted(i["file_name"] for i in images.values() if i["file_name"] not in files)
    if lost and (not config.partial or len(lost) == len(images)):
        raise DataError(
            f"{config.labels} names {len(lost):,} images that do not lie in {config.images!r}, such as"
            f" {some(lost, 3)}: add them, or allow a partial copy."
        )
    listed = {i["file_name"]: (key, i) for key, i in images.items() if i["file_name"] in files}
    stems = by_stem(listed, (), "an image of the scene")
    truth: dict[str, _Truth] = {}
    for scene, name in stems.items():
        key, image = listed[name]
        truth[scene] = _Truth(
            image.get("height"),
            image.get("width"),
            tuple(
                (number[a["category_id"]], a) for a in annotations.get(key, ()) if a["category_id"] in number
            ),
        )
    items = tuple(SceneItem(scene, files[name][0], scene) for scene, name in stems.items())
    reader = CocoReader(
        FileReader(fs, root, {files[name][0]: files[name][1] for name in stems.values()}), truth
    )
    return SceneSource(
        source_name(root),
        items,
        table,
        plain_table("coco", list(zip(table.names, table.colours, strict=True))),
        reader,
        notes=document.apart.notes(config.labels),
    )


@dataclass(frozen=True)
class _Truth:
    height: int | None
    width: int | None
    annotations: tuple[tuple[int, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class CocoReader:
    """Images with their boxes; label maps are painted when they are read, larger objects first."""

    files: FileReader
    truth: Mapping[str, _Truth]

    def read(self, item: SceneItem) -> RawScene:
        image = self.files.read(item.image)
        truth = self.truth.get(item.key)
        if truth is None:
            return RawScene(image)
        size = image_size(image, item.key)
        stored = stored_size(image, item.key)
        if (truth.height, truth.width) == stored != size:
            # Whoever drew the boxes saw the pixels as they are stored.
            image, size = as_stored(image, item.key), stored
        if truth.height is not None and (truth.height, truth.width) != size:
            raise ItemError(
                f"{item.key} is {size[0]} x {size[1]} pixels (height x width), but its JSON says"
                f" {truth.height} x {truth.width}, so that its boxes do not fit: correct the entry."
            )
        objects = [
            {"category": number, "bbox": corners(a), "crowd": bool(a.get("iscrowd", 0))}
            for number, a in truth.annotations
        ]
        return RawScene(
            image, encode_png(_painted(truth.annotations, objects, size, item.key)), None, objects
        )

    def image(self, item: SceneItem) -> bytes:
        return self.files.read(item.image)

    def total_bytes(self, items: Sequence[SceneItem]) -> int:
        return self.files.total_bytes([i.image for i in items])

    def identities(self, items: Sequence[SceneItem], content: bool) -> list[Any]:
        sha = hashlib.sha256()
        for item in items:
            truth = self.truth.get(item.key)
            sha.update(
                json.dumps(
                    [item.key, truth and [truth.height, truth.width, truth.annotations]], sort_keys=True
                ).encode()
            )
        return [self.files.identities([i.image for i in items], content), sha.hexdigest()]

    def looked(self, items: Sequence[SceneItem], content: bool) -> Look:
        return self.files.looked([i.image for i in items], content)


def _painted(
    annotations: Sequence[tuple[int, Mapping[str, Any]]],
    objects: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    key: str,
) -> np.ndarray:
    canvas = Image.new("L", (size[1], size[0]), IGNORED)
    order = sorted(range(len(objects)), key=lambda i: (-_area(objects[i]["bbox"]), i))
    for i in order:
        number, annotation = annotations[i]
        shape = annotation.get("segmentation")
        if isinstance(shape, Mapping):
            mask = decode_rle(shape)
            if mask.shape != size:
                raise ItemError(
                    f"The mask of annotation {annotation.get('id')} of {key} is {mask.shape[0]} x"
                    f" {mask.shape[1]} pixels but the image {size[0]} x {size[1]}: correct the JSON."
                )
            canvas.paste(number, mask=Image.fromarray(mask))
            continue
        draw = ImageDraw.Draw(canvas)
        rings = [ring for ring in shape or () if len(ring) >= 6]
        for ring in rings:
            draw.polygon([float(v) for v in ring], fill=number)
        if not rings:
            x1, y1, x2, y2 = objects[i]["bbox"]
            draw.rectangle(
                (round(x1), round(y1), max(round(x2) - 1, round(x1)), max(round(y2) - 1, round(y1))),
                fill=number,
            )
    return np.asarray(canvas)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _bind(categories: list[tuple[int, str]], table: ClassTable, config: SceneConfig) -> dict[int, int]:
    known = {name.casefold(): c for c, name in enumerate(table.names)}
    result = {number: known[name.casefold()] for number, name in categories if name.casefold() in known}
    if not result:
        raise DataError(
            f"No category of {config.labels} ({some([n for _, n in categories], 3)}) is a class of the table"
            f" {table.name}: give a class table with these names, or leave classes empty."
        )
    return result


@dataclass(frozen=True)
class _Document:
    """``categories`` by id, ``images`` by id, the usable ``annotations`` by image, and those set apart."""

    categories: list[tuple[int, str]]
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]
    apart: Apart


def _document(config: SceneConfig) -> _Document:
    """What the instances JSON holds. Raises DataError."""
    if not config.path:
        raise DataError("The path of the scenes is empty: give the root folder of the COCO-format data.")
    if not config.labels:
        raise DataError(
            f"Without an instances JSON (labels is empty) {config.path} has no classes: give a class table in"
            " classes."
        )
    fs, root = open_location(config.path)
    path = posixpath.join(root, config.labels)
    if not is_file(fs, path):
        raise DataError(
            f"{config.path} has no instances JSON {config.labels!r}: give its path in labels, relative to the"
            " root."
        )
    with reading(posixpath.join(config.path, config.labels)):
        stamp = json.dumps(file_stamp(fs, path))
    return _parse(fs, path, stamp)


@functools.lru_cache(maxsize=4)
def _parse(fs: Any, path: str, stamp: str) -> _Document:
    with reading(redact(path if is_local(fs) else fs.unstrip_protocol(path))):
        data = fs.cat_file(path)
    try:
        document = parse(data, largest=None)
        categories = sorted((int(c["id"]), str(c["name"])) for c in document["categories"])
        images = {
            identifier(i["id"]): {
                **i,
                "file_name": posixpath.normpath(str(i["file_name"])),
                **{side: int(i[side]) for side in ("height", "width") if i.get(side) is not None},
            }
            for i in document["images"]
        }
        entries = [a if isinstance(a, dict) else {} for a in document["annotations"]]
    except (ValueError, TypeError, KeyError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path} is not a COCO instances file ({what}): it needs images, annotations and categories."
        ) from None
    names = [name for _, name in categories]
    if (
        len(set(names)) != len(names)
        or len({n for n, _ in categories}) != len(names)
        or not 1 <= len(names) <= MAX_CLASSES
    ):
        raise DataError(
            f"{path} has {len(names)}"
            f" categories{', some of them twice' if len(set(names)) != len(names) else ''}: it needs 1 to"
            f" {MAX_CLASSES} with distinct ids and names."
        )
    if len(images) != len(document["images"]) or len({i["file_name"] for i in images.values()}) != len(
        images
    ):
        raise DataError(f"{path} lists an image twice: ids and file names must be distinct.")
    annotations, apart = sort_out(entries, images, {number for number, _ in categories})
    if entries and not annotations:
        raise DataError(
            f"None of the {len(entries):,} annotations of {path} can be used; the first: {apart.first}."
        )
    return _Document(categories, images, annotations, apart)


def _colour(number: int) -> tuple[int, int, int]:
    """Colour ``number`` of the usual bit-interleaved palette (Pascal VOC's): bits 0, 1, 2 of each base-8
    digit go to red, green, blue."""
    red = green = blue = 0
    for digit in range(3):
        bits = number >> 3 * digit
        red |= (bits & 1) << 7 - digit
        green |= (bits >> 1 & 1) << 7 - digit
        blue |= (bits >> 2 & 1) << 7 - digit
    return red, green, blue
