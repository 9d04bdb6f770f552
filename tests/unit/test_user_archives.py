"""Archives as data: read in place, the same items as the files that are in them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.stage import WorkContext
from diffadapt.data.archives import base
from diffadapt.data.config import DataConfig
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.source import braces, open_source
from diffadapt.stages.images import Images
from diffadapt.stages.scenes import Scenes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))


def png(value: int) -> bytes:
    return encode_png(np.full((8, 8, 3), value % 256, np.uint8))


def images(*names: str) -> dict[str, bytes]:
    return {name: png(17 * i) for i, name in enumerate(names)}


CLASSES = images("cat/1.png", "cat/2.png", "dog/1.png", "dog/b/2.png")


def packed(path: Path, members: dict[str, bytes]) -> str:
    """An archive of the kind that ``path`` is called as."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        kind = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
        with tarfile.open(path, f"w:{kind}") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(path)


def loose(root: Path, members: dict[str, bytes]) -> str:
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def opened(place: str, **changes):
    return open_source(DataConfig(place, **changes))


def rows(config: DataConfig):
    stage = Images(config)
    return [stage.open(WorkContext("cpu")).run(shard, ()) for shard in stage.plan({})]


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("mode", ["content", "size"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, ending, mode):
    folder = opened(loose(tmp_path / "photos", CLASSES), fingerprint=mode)
    for wrapper in ("", "photos/", "some/where/"):
        place = tmp_path / f"{len(wrapper)}" / f"photos{ending}"
        source = opened(packed(place, {wrapper + n: d for n, d in CLASSES.items()}), fingerprint=mode)
        assert source.items == folder.items and source.class_names == ("cat", "dog")
        assert source.fingerprint == folder.fingerprint and source.name == folder.name == "photos"
        assert all(source.read(item.key) == CLASSES[item.key] for item in source.items)
        assert ("counts as the top" in " ".join(source.notes)) == bool(wrapper)
    assert pickle.loads(pickle.dumps(source.reader)).read("cat/1.png") == CLASSES["cat/1.png"]


def test_what_folders_can_archives_can(tmp_path):
    flat = packed(tmp_path / "flat.zip", images("a.png", "b.jpg") | {"notes.txt": b"x", "c.heic": b"x"})
    source = opened(flat)
    assert [i.label for i in source.items] == [None, None] and "1 .heic" in " ".join(source.notes)
    splits = packed(
        tmp_path / "s.tar", images("train/x/1.png", "train/y/1.png", "val/x/1.png", "val/y/1.png")
    )
    assert len(opened(splits, split="val").items) == 2
    with pytest.raises(DataError, match="splits train, val"):
        opened(splits)
    inside = io.BytesIO()
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": png(1), "path": "a.png"}], "label": [0]}), inside)
    table = packed(tmp_path / "p.zip", {"train.parquet": inside.getvalue()})
    assert opened(table).read("a.png") == png(1)
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/bucket/photos.zip", Path(packed(tmp_path / "m.zip", CLASSES)).read_bytes())
    assert opened("memory://bucket/photos.zip").fingerprint == opened(str(tmp_path / "m.zip")).fingerprint
    bucket.rm("/bucket", recursive=True)


def test_one_class_is_a_class_unless_the_archive_is_called_so(tmp_path):
    one = images("cat/1.png", "cat/2.png")
    assert opened(packed(tmp_path / "photos.zip", one)).class_names == ("cat",)
    assert {i.label for i in opened(packed(tmp_path / "cat.zip", one)).items} == {None}


def test_what_is_no_file_of_its_own_is_left_out_and_said(tmp_path):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "/etc/b.png", "../c.png", "x/../../d.png", "C:/e.png", "sub\\f.png"):
            archive.writestr(name, png(1))
        archive.writestr("__MACOSX/._a.png", b"x")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    source = opened(str(path), labels="none")
    assert [i.key for i in source.items] == ["a.png", "sub/f.png"]
    said = " ".join(source.notes)
    assert "4 members with a name that leads out of it are left out" in said and "'/etc/b.png'" in said
    assert "1 member that is no file of its own is left out" in said
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("a.png", tarfile.SYMTYPE),
            ("b.png", tarfile.LNKTYPE),
            ("c.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("d.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
    source = opened(str(path))
    assert [i.key for i in source.items] == ["d.png"] and "3 members that" in " ".join(source.notes)


def test_bombs_and_damaged_archives_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "SLACK", 100_000)
    zeros = {"a.png": b"\0" * 5_000_000}
    for name in ("bomb.zip", "bomb.tar.gz", "bomb.tar.xz"):
        with pytest.raises(DataError, match="as no archive of images does"):
            opened(packed(tmp_path / name, zeros))
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive at all")
        with pytest.raises(DataError, match="cannot be read as an archive"):
            opened(str(tmp_path / name))
    whole = Path(packed(tmp_path / "cut.tar.gz", CLASSES)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as an archive"):
        opened(str(tmp_path / "cut.tar.gz"))
    locked = Path(packed(tmp_path / "locked.zip", {"a.png": png(1)}))
    data = bytearray(locked.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + at] |= 1  # the flag of an encrypted member
    locked.write_bytes(bytes(data))
    with pytest.raises(DataError, match="holds no images"):
        opened(str(locked))


def test_a_damaged_member_is_set_apart_and_the_rest_is_read(tmp_path):
    path = Path(packed(tmp_path / "photos.zip", CLASSES))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("dog/1.png")
    start = info.header_offset + 30 + len("dog/1.png")
    data[start : start + info.compress_size] = bytes(info.compress_size)
    path.write_bytes(bytes(data))
    (made,) = rows(DataConfig(str(path), fingerprint="size"))
    assert len(made.column("key")) == 3
    (failure,) = made.failures
    assert failure.key.endswith("dog/1.png") and "damaged member of photos.zip" in failure.reason
    with pytest.raises(ItemError):
        opened(str(path), fingerprint="size").read("dog/1.png")
    assert opened(str(path), fingerprint="content").fingerprint  # it counts as what it is


@pytest.mark.parametrize("end, said", [(1500, "breaks off after 1 members"), (1024, "")])
def test_a_tar_file_that_was_cut_is_no_smaller_set(tmp_path, end, said):
    path = Path(packed(tmp_path / "x.tar", images("1.png", "2.png", "3.png")))
    whole = path.read_bytes()
    path.write_bytes(whole[:end])
    if said:
        with pytest.raises(DataError, match=said):
            opened(str(path))
    else:
        assert "it may have been cut" in " ".join(opened(str(path)).notes)
    path.write_bytes(whole * 2)
    assert "what comes after its end mark, behind 3 members" in " ".join(opened(str(path)).notes)
    path.write_bytes(whole)
    assert not opened(str(path)).notes


def test_names_that_stand_there_twice_are_said(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            archive.addfile(info, io.BytesIO(png(1)))
    source = opened(str(path))
    assert len(source.items) == 2 and "1 name of members, such as 'a.png'" in " ".join(source.notes)


def test_an_archive_of_which_nothing_is_left_says_why(tmp_path):
    with pytest.raises(DataError, match="holds no images.* 2 members with a name that leads out"):
        opened(packed(tmp_path / "x.zip", images("../a.png", "/b.png")))


class TestShards:
    @staticmethod
    def sample(number: int, label: object, form: str) -> dict[str, bytes]:
        files = {f"{number:06d}.png": png(number)}
        if form == "json":
            files[f"{number:06d}.json"] = json.dumps({"label": label, "width": 8}).encode()
        elif form:
            files[f"{number:06d}.{form}"] = str(label).encode()
        return files

    def shards(self, root: Path, form: str, labels=(0, 1, 2, 0), same: bool = False) -> Path:
        for shard in range(2):
            members: dict[str, bytes] = {}
            for i, label in enumerate(labels):
                members |= self.sample(i if same else i + len(labels) * shard, label, form)
            packed(root / f"train-{shard:04d}.tar", members)
        return root

    @pytest.mark.parametrize("form", ["cls", "json"])
    def test_labels_are_those_of_the_samples(self, tmp_path, form):
        root = self.shards(tmp_path / "shards", form)
        for place in (root, root / "train-{0000..0001}.tar", root / "*.tar"):
            source = opened(str(place))
            assert [i.label for i in source.items] == [0, 1, 2, 0] * 2 and source.numbered
            assert source.items[5].key == "000005.png" and source.read("000005.png") == png(5)
        (tmp_path / "names.txt").write_text("a\nb\nc\n")
        named = opened(str(root), classes=str(tmp_path / "names.txt"))
        assert named.class_names == ("a", "b", "c") and not named.numbered
        assert {i.label for i in opened(str(root), labels="none").items} == {None}
        (made, *_) = rows(DataConfig(str(root), block=64))
        assert made.column("label") == [0, 1, 2, 0] * 2 and not made.failures

    def test_names_are_sorted_and_bound(self, tmp_path):
        root = self.shards(tmp_path / "shards", "json", labels=("dog", "cat"))
        source = opened(str(root))
        assert source.class_names == ("cat", "dog") and [i.label for i in source.items] == [1, 0] * 2

    def test_names_that_shards_share_are_told_apart(self, tmp_path):
        source = opened(str(self.shards(tmp_path / "shards", "cls", same=True)))
        assert len(source.items) == 8 and source.items[0].key == "train-0000-000000.png"
        assert "called after their archive" in " ".join(source.notes)

    def test_what_a_sample_has_too_much_or_not_is_said(self, tmp_path):
        members = self.sample(0, 0, "cls") | self.sample(1, 1, "cls") | {"000002.cls": b"1"}
        members["000000.depth.png"] = png(5)
        source = opened(packed(tmp_path / "x.tar", members))
        said = " ".join(source.notes)
        assert len(source.items) == 2 and "1 sample with a label and no image is left out" in said
        assert "1 sample has several images, of which one is used ('000000' has depth.png, png)" in said

    def test_numbers_beside_names_are_said(self, tmp_path):
        source = opened(str(self.shards(tmp_path / "shards", "cls", labels=(0, 1, "2.5"))))
        assert source.class_names == ("0", "1", "2.5")
        assert "labels count as names, since '2.5' is no class number" in " ".join(source.notes)

    def test_what_is_wrong_is_one_sentence(self, tmp_path):
        root = self.shards(tmp_path / "shards", "cls")
        with pytest.raises(DataError, match="3 archives, of which 1 are not there.*train-0002"):
            opened(f"{root}/train-{{0000..0002}}.tar")
        packed(root / "train-0002.tar", self.sample(99, 0, ""))
        with pytest.raises(DataError, match=r"1 samples without a label, such as '000099.png'"):
            opened(str(root))
        assert len(opened(str(root), labels="none").items) == 9
        assert braces("a{08..11}b{0..1}") == [f"a{i:02d}b{j}" for i in range(8, 12) for j in range(2)]
        assert braces("{train,val-{0..1}}.tar") == ["train.tar", "val-0.tar", "val-1.tar"]


def test_scenes_are_read_in_place_too(tmp_path):
    members = {"classes.csv": b"value,name,red,green,blue\n0,a,0,0,0\n1,b,9,0,0\n"}
    for i in range(3):
        members[f"images/{i}.png"] = png(i)
        members[f"labels/{i}.png"] = encode_png(np.full((8, 8), i % 2, np.uint8))
    folder = Scenes(SceneConfig(loose(tmp_path / "set", members)))
    for name in ("set.zip", "set.tar.gz"):
        inside = Scenes(SceneConfig(packed(tmp_path / name, members)))
        assert inside.identity() == folder.identity() and inside.source().name == "set"
        (shard,) = inside.plan({})
        assert not inside.open(WorkContext("cpu")).run(shard, ()).failures


def test_a_kind_of_ones_own_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "lines.py").write_text(
        '''"""Base64 lines."""
import base64
from dataclasses import dataclass
from diffadapt.data.archives.base import Archive, Member


@dataclass(frozen=True)
class Lines(Archive):
    endings = (".b64",)

    def members(self, handle):
        handle.seek(0)
        for line in handle.read().decode().splitlines():
            name, data = line.split()
            yield Member(name, len(base64.b64decode(data)), data)

    def read(self, handle, member):
        return base64.b64decode(member.place)
'''
    )
    monkeypatch.setenv("DIFFADAPT_ARCHIVES", str(tmp_path / "kinds"))
    base.endings.cache_clear()
    import base64

    text = "".join(f"{name} {base64.b64encode(data).decode()}\n" for name, data in CLASSES.items())
    (tmp_path / "photos.b64").write_text(text)
    folder = opened(loose(tmp_path / "photos", CLASSES))
    assert opened(str(tmp_path / "photos.b64")).fingerprint == folder.fingerprint
    base.endings.cache_clear()


def test_gzip_alone_is_no_archive(tmp_path):
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(png(1)))
    with pytest.raises(DataError, match="neither Parquet nor an archive"):
        opened(str(tmp_path / "a.png.gz"))
