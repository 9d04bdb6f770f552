"""Images and scenes of many shards: the same in memory and on the disk, whoever reads them again."""

import numpy as np
import pytest

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.stage import InputFile
from diffadapt.data.image import encode_png
from diffadapt.stages.image_table import load_keyed_images


def shards(*sizes):
    rng = np.random.default_rng(0)
    images = [encode_png(rng.integers(0, 255, (*size, 3), np.uint8)) for size in sizes]
    keys = [f"k{i}" for i in range(len(sizes))]
    rows = {"a": Rows(image_table(keys[:2], [0, None], images[:2], [0, 0]), [Failure("gone", "broken")])}
    rows["b"] = Rows(
        image_table([*keys[2:], "bad"], [1] * (len(sizes) - 1), [*images[2:], b"x"], [0] * (len(sizes) - 1))
    )
    files = [
        InputFile("images", f"digest-{n}-{sizes}", None, Shard(n, {}, (), len(r))) for n, r in rows.items()
    ]
    return files, lambda file: rows[file.shard.key]


@pytest.mark.parametrize("last", [(8, 8), (9, 7)])
def test_images_on_the_disk_are_those_in_memory(last, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    files, read = shards((8, 8), (8, 8), (8, 8), last)
    images, labels, keys, failures = load_keyed_images(files, read, 3)
    assert keys == ["k0", "k1", "k2", "k3"] and labels.tolist() == [0, -1, 1, 1]
    assert [f.key for f in failures] == ["gone", "bad"]
    mapped = last != (8, 8)
    assert isinstance(images, np.ndarray) != mapped and bool(LocalCache().entries()) == mapped
    if mapped:
        again, *same = load_keyed_images(files, lambda file: pytest.fail("it lies on the disk"), 3)
        assert again[3][0].shape == (9, 7, 3) and same[1:] == [keys, failures]
        half, *_ = load_keyed_images(files, read, 3, lambda image: image[::2], keep={"k0", "k3"})
        assert len(half) == 2 and np.array_equal(half[1][0], images[3][0][::2]) and half[1][1] == 1
