"""Images as they are shown: EXIF orientation, and 10 to 14 bits a sample in files of 16."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from diffadapt.core.identity import digest
from diffadapt.core.stage import WorkContext
from diffadapt.data.config import DataConfig
from diffadapt.data.image import decode, encode_png, image_size
from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.label_maps import label_values, read_label_map
from diffadapt.data.scenes.rows import decode_colours, decode_scenes
from diffadapt.data.source import open_source
from diffadapt.stages.images import Images
from diffadapt.stages.scenes import Scenes

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
TABLE = TABLES["cityscapes"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def saved(array: np.ndarray, form: str, turn: int = 0, **options) -> bytes:
    if turn:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turn
    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **options)
    return out.getvalue()


def chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    whole = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + whole + png[33:]


def rows_of(stage):
    (shard, *_) = stage.plan({})
    return stage.open(WorkContext("cpu")).run(shard, [])


def photos(root: Path, images: list[np.ndarray], **options) -> DataConfig:
    root.mkdir(parents=True)
    for i, image in enumerate(images):
        (root / f"{i}.png").write_bytes(saved(image, "PNG", **options))
    return DataConfig(str(root))


class TestTurns:
    @pytest.mark.parametrize("turn", range(1, 9))
    @pytest.mark.parametrize(
        ("form", "options"),
        [
            ("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True}),
            ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ],
    )  # fmt: skip
    def test_images_are_upright_as_viewers_show_them(self, form, options, turn):
        data = saved(COLOUR, form, turn, **options)
        with Image.open(io.BytesIO(data)) as opened:
            wanted = np.asarray(ImageOps.exif_transpose(opened))
        assert np.array_equal(decode(data, 3, "k"), wanted)
        assert image_size(data, "k") == wanted.shape[:2]

    @pytest.mark.parametrize("turn", range(1, 9))
    def test_so_are_label_maps(self, turn):
        ids = RNG.choice(np.array([7, 11, 24], np.uint8), (5, 8))
        data = saved(ids, "PNG", turn)
        with Image.open(io.BytesIO(data)) as opened:
            wanted = np.asarray(ImageOps.exif_transpose(opened))
        assert np.array_equal(label_values(data, "k"), wanted)
        plain = read_label_map(encode_png(np.ascontiguousarray(wanted)), TABLE, "k")
        assert np.array_equal(read_label_map(data, TABLE, "k").classes, plain.classes)
        painted = np.dstack([COLOUR, np.full((9, 13), 255, np.uint8)])
        assert np.array_equal(
            decode_colours(saved(painted, "PNG", turn), "k"), decode(saved(COLOUR, "PNG", turn), 3, "k")
        )

    def test_xmp_counts_and_damaged_exif_does_not(self):
        xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
        data = saved(COLOUR, "JPEG", xmp=xmp)
        assert decode(data, 3, "k").shape == (13, 9, 3) and image_size(data, "k") == (13, 9)
        assert decode(saved(COLOUR, "JPEG", exif=b"Exif\0\0nonsense"), 3, "k").shape == (9, 13, 3)

    @pytest.mark.parametrize("upright", [(64, 64), (64, 96)])
    @pytest.mark.parametrize("small", [(0, 0), (32, 32)])
    def test_photos_lie_under_labels_that_were_drawn_upright(self, tmp_path, upright, small):
        label = np.zeros(upright, np.uint8)
        label[24:] = 1
        image = np.where(label[..., None] > 0, (90, 60, 30), (70, 130, 180)).astype(np.uint8)
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        (tmp_path / "images/a.jpg").write_bytes(
            saved(np.ascontiguousarray(np.rot90(image)), "JPEG", 6, quality=95)
        )
        (tmp_path / "labels/a.png").write_bytes(encode_png(label))
        (tmp_path / "classes.csv").write_text(
            "value,name,red,green,blue\n0,sky,70,130,180\n1,ground,90,60,30\n"
        )
        stage = Scenes(SceneConfig(path=str(tmp_path), classes=str(tmp_path / "classes.csv"), size=small))
        (scene,), failures = decode_scenes(rows_of(stage))
        assert not failures
        ground = scene.annotation == 1
        assert np.abs(scene.image[ground].mean(0) - (90, 60, 30)).max() < 4
        assert np.abs(scene.image[~ground].mean(0) - (70, 130, 180)).max() < 4
        assert any("1 file of" in note and "EXIF" in note for note in stage.notes())

    def test_labels_of_the_size_before_the_turn_keep_it_away(self, tmp_path):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        (tmp_path / "images/a.png").write_bytes(saved(COLOUR, "PNG", 6))
        (tmp_path / "labels/a.png").write_bytes(encode_png(np.zeros((9, 13), np.uint8)))
        (tmp_path / "classes.csv").write_text("value,name,red,green,blue\n0,sky,70,130,180\n")
        rows = rows_of(Scenes(SceneConfig(path=str(tmp_path), classes=str(tmp_path / "classes.csv"))))
        (scene,), failures = decode_scenes(rows)
        assert not failures and np.array_equal(scene.image, COLOUR) and "before the turn" in rows.warnings[0]

    @pytest.mark.parametrize("mode", ["content", "size"])
    def test_only_sets_with_a_turn_get_another_fingerprint(self, tmp_path, mode):
        def before(source) -> str:
            keys = [i.key for i in source.items]
            return digest(
                {
                    "by": mode, "classes": [], "items": [[k, None] for k in keys],
                    "files": source.reader.identities(keys, mode == "content"),
                }
            )  # fmt: skip

        plain = photos(tmp_path / "plain", [COLOUR, COLOUR[::-1]])
        turned = photos(tmp_path / "turned", [COLOUR, COLOUR[::-1]], turn=6)
        for config, same in ((plain, True), (turned, False)):
            source = open_source(DataConfig(config.path, fingerprint=mode))
            assert (source.fingerprint == before(source)) == same
            assert bool(Images(source_config(config, mode)).notes()) != same


def source_config(config: DataConfig, mode: str) -> DataConfig:
    return DataConfig(config.path, fingerprint=mode)


class TestDepth:
    def test_samples_of_twelve_bits_fill_the_range(self, tmp_path):
        images = [RNG.integers(0, top, (16, 16)).astype(np.uint16) for top in (4096, 900, 4096)]
        images[0][0, 0] = 4095
        stage = Images(photos(tmp_path / "photos", images))
        rows = rows_of(stage)
        for image, row in zip(images, rows.column("image"), strict=True):
            wanted = np.floor(image / 4095 * 255 + 0.5).astype(np.uint8)
            assert np.array_equal(decode(row["bytes"], 1, "k")[..., 0], wanted)
        (note,) = stage.notes()
        assert "3 images of photos" in note and "0..4,095" in note

    def test_sixteen_bits_stay_what_they_were_to_the_bit_and_digest(self, tmp_path):
        image = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
        config = photos(tmp_path / "photos", [image, image // 100])
        source = open_source(config)
        assert not source.looked.depth and not Images(config).notes() and source.looked.identity() == {}
        assert source.encoded("0.png") == source.read("0.png")
        assert np.array_equal(decode(source.read("0.png"), 1, "k")[..., 0], image // 257)

    def test_what_a_file_declares_counts_where_it_keeps_to_it(self):
        dark = RNG.integers(0, 900, (4, 4)).astype(np.uint16)
        data = chunk(saved(dark, "PNG"), b"sBIT", b"\x0c")
        assert np.array_equal(
            decode(data, 1, "k")[..., 0], np.floor(dark / 4095 * 255 + 0.5).astype(np.uint8)
        )
        scaled = chunk(saved(dark * 16 + 50_000, "PNG"), b"sBIT", b"\x0c")  # as PNG's own text wants it
        assert np.array_equal(decode(scaled, 1, "k"), decode(saved(dark * 16 + 50_000, "PNG"), 1, "k"))
        used = saved(dark, "TIFF", tiffinfo={281: 4095})
        assert np.array_equal(decode(used, 1, "k"), decode(data, 1, "k"))

    def test_the_declaration_of_one_file_holds_for_its_set(self, tmp_path):
        dark = np.full((4, 4), 100, np.uint16)
        config = photos(tmp_path / "photos", [dark, dark])
        first = tmp_path / "photos/0.png"
        first.write_bytes(chunk(first.read_bytes(), b"sBIT", b"\x0c"))
        assert open_source(config).looked.depth == 12
        for row in rows_of(Images(config)).column("image"):
            assert decode(row["bytes"], 1, "k").max() == 6

    def test_parquet_is_looked_into(self, tmp_path):
        images = [saved(np.full((4, 4), 4095, np.uint16), "PNG"), saved(COLOUR, "JPEG", 6)]
        table = pa.table({"image": pa.array(images, pa.binary())})
        pq.write_table(table, tmp_path / "set.parquet")
        for mode in ("content", "size"):
            source = open_source(DataConfig(str(tmp_path / "set.parquet"), fingerprint=mode))
            assert source.looked[:3] == (1, 1, 12)

    def test_colour_whose_upper_bits_are_empty_is_said(self, tmp_path):
        (tmp_path / "photos").mkdir()
        raw = b"".join(b"\0" + (RNG.integers(0, 4096, 12).astype(">u2")).tobytes() for _ in range(4))
        head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n"
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
            png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        (tmp_path / "photos/a.png").write_bytes(png)
        (note,) = Images(DataConfig(str(tmp_path / "photos"))).notes()
        assert "1 colour image" in note and "nearly black" in note


def test_the_first_fingerprint_reads_each_file_once(tmp_path, monkeypatch):
    """Its hash, and what there is to mind in it, of one pass."""
    from fsspec.implementations.local import LocalFileSystem

    opened: list[str] = []
    plain = LocalFileSystem._open
    monkeypatch.setattr(
        LocalFileSystem, "_open", lambda fs, path, *a, **o: opened.append(path) or plain(fs, path, *a, **o)
    )
    config = photos(tmp_path / "photos", [COLOUR, COLOUR[::-1]], exif=turned(6))
    source = open_source(config)
    opened.clear()
    first = source.fingerprint
    assert sorted(Path(p).name for p in opened) == ["0.png", "1.png"] and source.looked.turned == 2
    (tmp_path / "photos" / "1.png").write_bytes(saved(COLOUR, "PNG"))
    assert open_source(config).fingerprint != first


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_are_counted_and_the_first_picture_is_read(tmp_path, form):
    (tmp_path / "photos").mkdir()
    pictures = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    ending = {"TIFF": "tif"}.get(form, form.lower())
    for name, more in (("one", []), ("two", pictures[1:])):
        lossless = {"lossless": True} if form == "WEBP" else {}
        pictures[0].save(
            tmp_path / f"photos/{name}.{ending}", form, save_all=True, append_images=more, **lossless
        )
    stage = Images(DataConfig(str(tmp_path / "photos")))
    (note,) = stage.notes()
    assert "1 file of" in note and "more than one picture" in note and "the first is taken" in note
    one, two = (decode((tmp_path / f"photos/{n}.{ending}").read_bytes(), 3, n) for n in ("one", "two"))
    assert np.array_equal(one, two)


def turned(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif
