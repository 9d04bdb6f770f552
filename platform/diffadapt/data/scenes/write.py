"""Scenes as folders that other tools, and this package, read: images, label maps, overlays, a class table."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from diffadapt.core.artifact import IGNORED
from diffadapt.core.place import demand_empty, located, writing
from diffadapt.core.spreadsheet import csv_bytes
from diffadapt.data.export import fitting, safe_key
from diffadapt.data.image import image_size, image_suffix, open_image
from diffadapt.data.scenes.table import ClassTable

TABLE, INSTANCES = "classes.csv", "instances.json"


def class_csv(classes: ClassTable) -> bytes:
    """The table as the CSV that :func:`class_file.read_class_table` reads, for label maps of class
    numbers."""
    rows = enumerate(zip(classes.names, classes.colours, strict=True))
    return csv_bytes(
        [("value", "name", "red", "green", "blue"), *((i, name, *colour) for i, (name, colour) in rows)]
    )


def label_png(labels: np.ndarray, classes: ClassTable) -> bytes:
    """Class numbers, uint8 (H, W), as a PNG whose palette shows the classes' colours; what is no class
    becomes IGNORED (white)."""
    labels = np.where(labels < len(classes.names), labels, IGNORED).astype(np.uint8)
    image = Image.fromarray(labels)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes.colours)] = classes.colours
    palette[IGNORED] = 255
    image.putpalette(palette.tobytes())
    return _png(image)


def overlay(image: np.ndarray, labels: np.ndarray, classes: ClassTable, opacity: float = 0.5) -> np.ndarray:
    """uint8 (H, W, 3): the classes' colours over ``image`` (H, W, 3); pixels of no class show the image
    alone."""
    known = labels < len(classes.names)
    colours = np.asarray(classes.colours, np.float32)[np.where(known, labels, 0)]
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * colours
    return np.where(known[..., None], mixed.round(), image).astype(np.uint8)


def to_size(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W) -> uint8 ``size`` (height, width), by the nearest pixel."""
    return (
        labels
        if labels.shape == tuple(size)
        else np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))
    )


class Places:
    """Names under a folder without suffix, each given once: two images that differ in their suffix alone keep
    it in their name. What is too long for a file's name is shortened."""

    def __init__(self, paths: Iterable[str]):
        self.count: dict[str, int] = {}
        for path in paths:
            stem = _stem(path)
            self.count[stem] = self.count.get(stem, 0) + 1

    def __call__(self, path: str) -> str:
        """Raises DataError for a path that leads out of the folder."""
        stem = _stem(safe_key(path))
        return fitting(stem if self.count[stem] == 1 else path, len(".jpeg"))


class Tree:
    """A new folder on any fsspec location. Raises StoreError when it holds files or cannot be made."""

    def __init__(self, out: str):
        demand_empty(out)
        with writing(out):
            self.fs, self.root = located(out)
            self.fs.makedirs(self.root, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        place = posixpath.join(self.root, name)
        self.fs.makedirs(posixpath.dirname(place), exist_ok=True)
        self.fs.pipe_file(place, data)


def write_scenes(load: Callable[[], Iterable[dict[str, Any]]], out: str, classes: ClassTable) -> int:
    """Rows of SCENE_SCHEMA under ``out`` in the layout 'folder' (images, labels, classes.csv), boxes in the
    layout 'coco' (instances.json); returns how many. ``load`` gives the rows anew at each call. Rows with
    ``accepted`` false are left out.
    """
    tree, kept = Tree(out), lambda: (row for row in load() if row.get("accepted", True) is not False)
    places = Places(_path(row["key"]) for row in kept())
    tree.put(TABLE, class_csv(classes))
    count, boxes = 0, Instances(classes)
    for row in kept():
        data, place = row["image"]["bytes"], places(_path(row["key"]))
        name = f"{place}{image_suffix(data, row['key'])[0]}"
        tree.put(f"images/{name}", data)
        if row.get("objects") is not None:
            boxes.add(name, image_size(data, row["key"]), row["objects"])
        if row["annotation"] is not None:
            with open_image(row["annotation"]["bytes"], f"The label map of {row['key']}") as labels:
                tree.put(f"labels/{place}.png", label_png(np.asarray(labels), classes))
        count += 1
    if boxes.images:
        tree.put(INSTANCES, boxes.json())
    return count


class Instances:
    """Boxes of images as COCO's instances JSON; category c + 1 is class c."""

    def __init__(self, classes: ClassTable):
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": c + 1, "name": name} for c, name in enumerate(classes.names)]

    def add(self, name: str, size: tuple[int, int], objects: Iterable[Mapping[str, Any]]) -> None:
        """``size`` is (height, width); ``objects`` as in SCENE_SCHEMA."""
        self.images.append(
            {"id": len(self.images) + 1, "file_name": name, "height": size[0], "width": size[1]}
        )
        for found in objects:
            x1, y1, x2, y2 = (float(v) for v in found["bbox"])
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": len(self.images),
                    "category_id": found["category"] + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(bool(found["crowd"])),
                }
            )

    def json(self) -> bytes:
        return json.dumps(
            {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        ).encode()


def _path(key: str) -> str:
    return key.split("/", 2)[-1]


def _stem(path: str) -> str:
    head, tail = posixpath.split(path)
    stem, suffix = posixpath.splitext(tail)
    return posixpath.join(
        head,
        (
            stem
            if suffix.lower()
            in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
            else tail
        ),
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
