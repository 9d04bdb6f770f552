"""What segmenters are trained on: sizes, shared crops and flips, jitter, pairs by key, sets in memory and on
the disk; scores of label maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from segmentationkit import INPUTS, QUICK, SIZE, Toy, scene, scene_rows
from torchvision.transforms import functional as TF

from diffadapt.core.artifact import IGNORED, Failure, Rows, Shard
from diffadapt.core.errors import DataError
from diffadapt.core.local_cache import LocalCache
from diffadapt.core.stage import InputFile
from diffadapt.metrics.segmentation import confusion, iou, mean_iou, pixel_accuracy, total
from diffadapt.models.segmentation.inputs import fit_image, fit_labels, normalise, stacked
from diffadapt.tasks.segmentation.augment import PairAugment, draw
from diffadapt.tasks.segmentation.batches import PairedScenes, SegmentBatches, pair, steps_per_epoch
from diffadapt.tasks.segmentation.losses import method_of
from diffadapt.tasks.segmentation.scene_sets import load_scenes
from diffadapt.train.step_batches import Share

NO_JITTER = (0.0, 0.0, 0.0, 0.0)
ZODI = method_of("zodi")


def test_images_are_resized_by_lanczos_and_labels_by_the_nearest_pixel():
    image, labels = scene(0, size=(65, 97))
    assert np.array_equal(
        fit_image(image, (32, 48)),
        np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.LANCZOS)),
    )
    small = fit_labels(labels, (32, 48))
    assert small.shape == (32, 48) and set(np.unique(small)) <= {0, 1, 2, IGNORED}
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * full / n).astype(int) for n, full in ((32, 65), (48, 97))
    )
    assert np.array_equal(small, labels[rows][:, columns])
    assert fit_image(image, (65, 97)) is image


def test_a_pair_shares_its_crop_and_flip():
    """The label map itself as both images: wherever it is cut and however it is turned, all three stay
    one."""
    _, labels = scene(3)
    image = np.repeat(labels[..., None], 3, 2)
    augment = PairAugment(replace(QUICK, jitter=NO_JITTER, crop=(20, 30)))
    seen = set()
    for seed in range(20):
        (x, other), y = augment([image, image], labels, seed)
        assert y.shape == (20, 30) and np.array_equal(x[..., 0], y) and np.array_equal(other[..., 0], y)
        seen.add(y.tobytes())
    assert len(seen) > 15
    flips = [draw(seed).mirrored for seed in range(400)]
    assert 0.4 < np.mean(flips) < 0.6


def test_crops_reach_every_corner():
    places = [draw(seed) for seed in range(4000)]
    tops, lefts = ({int(getattr(p, name) * 5) for p in places} for name in ("top", "left"))
    assert tops == lefts == {0, 1, 2, 3, 4}
    _, labels = scene(0)
    whole = PairAugment(replace(QUICK, jitter=NO_JITTER, crop=(0, 0), flip=False))
    assert np.array_equal(whole([None, None], labels, 1)[1], labels)
    same_size = PairAugment(replace(QUICK, jitter=NO_JITTER, crop=SIZE, flip=False))
    assert np.array_equal(same_size([None, None], labels, 1)[1], labels)


def test_jitter_is_torchvisions_and_independent_in_a_pair():
    image, labels = scene(1)
    augment = PairAugment(replace(QUICK, crop=(0, 0), flip=False))
    (x, other), _ = augment([image, image], labels, 7)
    assert not np.array_equal(x, other)
    wanted = Image.fromarray(image)
    draws = draw(7).jitter
    for change, d, width in zip(
        (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation),
        draws[4:],
        (0.5, 0.5, 0.5),
        strict=False,
    ):
        wanted = change(wanted, 1 + d * width)
    assert np.array_equal(other, np.asarray(TF.adjust_hue(wanted, 0.3 * draws[7])))
    alone = augment([None, image], labels, 7)[0]
    assert alone[0] is None and np.array_equal(alone[1], other), (
        "an ablation sees the same x' as the whole method"
    )
    factors = np.array([draw(seed).jitter for seed in range(500)])
    assert (
        factors.min() < -0.98
        and factors.max() > 0.98
        and abs(np.corrcoef(factors[:, 0], factors[:, 4])[0, 1]) < 0.15
    )


def test_normalisation():
    x = normalise(stacked([np.full((2, 2, 3), 255, np.uint8)]), INPUTS)
    assert x.shape == (1, 3, 2, 2)
    assert x[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - m) / s for m, s in zip(INPUTS.mean, INPUTS.std, strict=True)]
    )


def batches(source, other, training=QUICK, method=ZODI, **more) -> SegmentBatches:
    return SegmentBatches(PairedScenes(source, other, pair(source, other)), training, method, Share(**more))


def test_pairs_are_made_by_key_whatever_the_order():
    source = Toy(9)
    wanted = batches(source, Toy(9, inverted=True)).make(1)
    for seed in range(5):
        got = batches(source, Toy(9, inverted=True).shuffled(seed)).make(1)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    plain = replace(QUICK, jitter=NO_JITTER)
    x, other, _ = batches(source, Toy(9, inverted=True).shuffled(2), plain).make(0)
    assert torch.equal(other, 255 - x)


def test_what_has_no_partner_is_left_out_and_counted():
    pairs = pair(Toy(6), Toy(5, inverted=True, first=2).shuffled())
    assert len(pairs) == 4 and pairs.left_out == {"without_transferred": 2, "without_source": 1}
    assert pair(Toy(6), None).left_out == {} and len(pair(Toy(6), None)) == 6
    twice = Toy(3)
    twice.keys[2] = twice.keys[0]
    with pytest.raises(DataError, match="hold the key 'source/0/000' twice"):
        pair(twice, None)


def test_batches_do_not_depend_on_order_workers_or_readers():
    source, other = Toy(11), Toy(11, inverted=True)
    training = replace(QUICK, batch_size=6)
    wanted = [batches(source, other, training).make(step) for step in range(3)]
    with batches(source, other, training, readers=3) as ahead:
        for step in (0, 1, 2, 0, 2):
            assert all(torch.equal(a, b) for a, b in zip(ahead(step), wanted[step], strict=True))
    parts = [batches(source, other, training, rank=rank, world_size=3)(1) for rank in range(3)]
    assert all(torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), wanted[1], strict=True))


def test_ablations_see_the_same_crops():
    source, other = Toy(8), Toy(8, inverted=True)
    whole = batches(source, other).make(2)
    for name in ("source_only", "transferred_only", "both"):
        method = method_of(name)
        made = batches(source, other, method=method).make(2)
        assert torch.equal(made.labels, whole.labels)
        assert (
            torch.equal(made.source, whole.source) if method.source else made.source.shape == (0, 3, 32, 32)
        )
        assert (
            torch.equal(made.transferred, whole.transferred)
            if method.transferred
            else made.transferred.shape == (0, 3, 32, 32)
        )


def test_the_last_batch_is_dropped_and_a_small_set_repeated():
    assert [steps_per_epoch(n, 4) for n in (1, 3, 4, 7, 8)] == [1, 1, 1, 1, 2]
    small = batches(Toy(3), Toy(3, inverted=True)).make(0)
    assert small.labels.shape == (4, 32, 32)


def files(rows: dict[str, Rows]) -> tuple[list[InputFile], object]:
    return [
        InputFile("scenes", f"{name}-{id(rows)}", None, Shard(name, {}, (), len(r)))
        for name, r in rows.items()
    ], lambda f: rows[f.shard.key]


def test_a_set_on_the_disk_is_the_set_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    listed, read = files(
        {
            "a": scene_rows(Toy(4, size=(33, 70))),
            "b": Rows(scene_rows(Toy(3, first=4)).table, [Failure("source/0/bad", "broken")]),
        }
    )
    memory = load_scenes(listed, read, SIZE, 3)
    disk = load_scenes(listed, read, SIZE, 3, in_memory=20_000)
    again = load_scenes(listed, lambda f: pytest.fail("it lies on the disk"), SIZE, 3, in_memory=20_000)
    assert memory.rows.table is None and disk.rows.table is not None
    for other in (disk, again):
        assert other.keys == memory.keys and other.failures == memory.failures == [
            Failure("source/0/bad", "broken")
        ]
        assert all(
            np.array_equal(a, b) for i in range(7) for a, b in zip(memory.get(i), other.get(i), strict=True)
        )
    assert [c.name[:7] for c in LocalCache().entries()] == ["scenes-"]


def test_scenes_that_cannot_be_trained_on_are_set_apart():
    scenes = Toy(5)
    scenes.scenes[1][1][5, 5] = 3
    rows = scene_rows(scenes)
    truth = rows.column("annotation")
    truth[2] = None
    at = rows.table.schema.get_field_index("annotation")
    rows = Rows(rows.table.set_column(at, rows.table.schema.field(at), [truth]))
    listed, read = files({"a": rows})
    found = load_scenes(listed, read, SIZE, 3)
    assert [k[-1] for k in found.keys] == ["0", "3", "4"] and found.left_out == {"unlabelled": 1}
    assert (
        found.failures[0].key == "source/0/001"
        and "class number 3, but there are 3 classes" in found.failures[0].reason
    )
    images = load_scenes(listed, read, SIZE, 3, annotated=False)
    assert len(images) == 5 and images.get(0)[1] is None and images.left_out == {}


def test_refused_scenes_are_not_trained_on():
    listed, read = files({"a": scene_rows(Toy(4), accepted=[True, False, True, True])})
    assert load_scenes(listed, read, SIZE, 3).left_out == {"refused": 1}
    kept = load_scenes(listed, read, SIZE, 3, keep={"source/0/001"})
    assert kept.keys == ["source/0/001"] and kept.left_out == {"refused": 3}, (
        "quality control decides where there is any"
    )


def test_void_counts_as_the_authors_count_it():
    truth = np.array([[0, 0, 1, 1, IGNORED, IGNORED]], np.uint8)
    found = confusion(truth, np.array([[0, 3, 1, 0, 1, 3]], np.uint8), 3)
    assert found[3].tolist() == [0, 1, 0, 1] and found[:, 3].tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(iou(found), [1 / 3, 1 / 2, np.nan])
    assert mean_iou(found) == pytest.approx(5 / 12) and pixel_accuracy(found) == 0.5
    with pytest.raises(ValueError, match="must be equal"):
        confusion(truth, truth[:, :3], 3)


def test_scores_are_of_one_matrix_and_not_of_images():
    rng = np.random.default_rng(0)
    maps = [
        (rng.integers(0, 4, (5, 7)).astype(np.uint8), rng.integers(0, 5, (5, 7)).astype(np.uint8))
        for _ in range(3)
    ]
    parts = [confusion(t, p, 4) for t, p in maps]
    whole = confusion(np.stack([t for t, _ in maps]), np.stack([p for _, p in maps]), 4)
    assert (
        np.array_equal(total([parts[0].ravel().tolist(), None, *parts[1:]], 4), whole) and whole.sum() == 105
    )
    assert np.isnan(mean_iou(np.zeros((5, 5), int))) and np.isnan(pixel_accuracy(np.zeros((5, 5), int)))
    valid = whole[:4]
    slow = [
        np.sum([((t == c) & (p == c)).sum() for t, p in maps])
        / np.sum([((t < 4) & ((t == c) | (p == c))).sum() for t, p in maps])
        for c in range(4)
    ]
    np.testing.assert_allclose(iou(whole), slow)
    assert pixel_accuracy(whole) == pytest.approx(np.trace(valid[:, :4]) / valid.sum())
