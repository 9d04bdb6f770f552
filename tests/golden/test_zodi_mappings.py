"""Class numbers and colours of driving data against reference numbers: ids to trainIds, raw colours, GTA5,
ADE20K."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffadapt.core.artifact import IGNORED
from diffadapt.data.scenes.classes import builtin
from diffadapt.data.scenes.label_maps import read_label_map
from diffadapt.data.scenes.palettes import ADE20K, paint, paint_ids
from diffadapt.data.scenes.resize import resize_image

GOLDEN = Path(__file__).parent / "zodi"


@pytest.fixture(scope="module")
def mappings():
    return dict(np.load(GOLDEN / "mappings.npz"))


def png(array: np.ndarray, palette: list[int] | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(out, "PNG")
    return out.getvalue()


def test_label_ids_become_train_ids(mappings):
    ids = np.arange(34, dtype=np.uint8)[None]
    found = read_label_map(png(ids), builtin("cityscapes"), "x")
    assert np.array_equal(found.classes[0], mappings["id_to_trainid_255"]) and found.unknown == ()
    assert np.array_equal(
        np.where(found.classes[0] == IGNORED, 19, found.classes[0]), mappings["id_to_trainid_19"]
    )


def test_gta5_reads_every_value_of_its_palette_files(mappings):
    """The official labels are palette PNGs: the index counts, whatever the palette's colours."""
    values = np.arange(256, dtype=np.uint8)[None]
    palette = np.random.default_rng(0).integers(0, 256, 768).tolist()
    found = read_label_map(png(values, palette), builtin("gta5"), "x")
    assert np.array_equal(np.where(found.classes[0] == IGNORED, 19, found.classes[0]), mappings["gta5_lut"])
    assert found.unknown == tuple(range(35, 255))


def test_colours(mappings):
    ids = np.arange(34, dtype=np.uint8)[None]
    assert np.array_equal(paint_ids(png(ids), "x")[0], mappings["color_by_id"])
    assert np.array_equal(np.array(builtin("cityscapes").colours), mappings["color_by_trainid"][:19])
    classes = np.r_[np.arange(19), IGNORED].astype(np.uint8)[None]
    for palette in ("own", "cityscapes"):
        assert np.array_equal(paint(classes, builtin("acdc"), palette)[0], mappings["color_by_trainid"])


def test_a_raw_colour_map_resized_by_area(mappings):
    """cond_resized_area is OpenCV's INTER_AREA at half size; halves may round either way."""
    painted = paint_ids(png(mappings["cond_ids"]), "x")
    found = resize_image(painted, mappings["cond_resized_area"].shape[:2])
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - mappings["cond_resized_area"]).max() <= 1


def test_ade20k():
    golden = np.load(GOLDEN / "ade_palette.npz")
    assert np.array_equal(np.array(ADE20K), golden["ade_palette"])
    assert list(builtin("cityscapes").ade) == golden["cityscapes_trainid_to_ade_index"].tolist()
    painted = paint(np.arange(19, dtype=np.uint8)[None], builtin("cityscapes"), "ade20k")[0]
    for colour, index in zip(painted, golden["cityscapes_trainid_to_ade_index"], strict=True):
        assert colour.tolist() == (golden["ade_palette"][index].tolist() if index >= 0 else [0, 0, 0])
