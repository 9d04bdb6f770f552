"""Data sets of Hugging Face into recipes and out of runs; predictions of what a caller holds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import diffadapt as da

hf = pytest.importorskip("datasets")


@pytest.fixture
def pictures(library):
    return library[1].images("target", n=4)


def test_images_go_out_and_come_back(library, tmp_path):
    """The same bytes, labels and class names; equal data sets are one file."""
    root, run = library
    images = run.images("target")
    dataset = images.to_dataset()
    assert dataset.features["label"].names == list("0123456789") and len(dataset) == len(images)
    assert dataset[3]["label"] == images[3].label and dataset[3]["key"] == images[3].key
    assert np.array_equal(np.asarray(dataset[3]["image"].convert("RGB")), np.asarray(images[3].image))
    stored = da.from_dataset(dataset, root=tmp_path)
    assert da.from_dataset(dataset, root=tmp_path) == stored and stored.rows == len(images)
    assert da.from_dataset(dataset.shuffle(seed=1), root=tmp_path) != stored
    back = hf.Dataset.from_parquet(stored.path, cache_dir=str(tmp_path / "cache"))
    back = back.cast_column("image", hf.Image(decode=False))
    assert [row["image"]["bytes"] for row in back] == [p.data for p in images]
    assert back["label"] == dataset["label"] and back.features["label"].names == list("0123456789")


def test_a_dataset_is_a_target(library, pictures, tmp_path):
    stored = da.from_dataset(pictures.to_dataset(), root=tmp_path)
    recipe = da.recipe(
        "adapt_anything/digits", target=stored, classes=stored.classes, **{"seeds": (0,), "controls": ()}
    )
    table = da.plan(recipe, root=tmp_path).table()
    assert table.loc["mcc_on_target", "images"] == len(pictures)
    with pytest.raises(da.DiffadaptError, match="da.from_dataset"):
        da.recipe("adapt_anything/digits", target=pictures.to_dataset())


def test_scores_as_a_dataset(library):
    run = library[1]
    assert run.to_dataset().to_pandas()["value"].tolist() == run.scores["value"].tolist()
    assert len(run.to_dataset("synth")) == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: hf.DatasetDict(train=d), "give one of its splits, train"),
        (lambda d: None, "the type NoneType"),
        (lambda d: d.remove_columns("image"), "no column of images"),
        (lambda d: d.select([]), "holds no images"),
    ],
)
def test_what_is_no_data_set(pictures, tmp_path, change, said):
    with pytest.raises(da.DiffadaptError, match=said):
        da.from_dataset(change(pictures.to_dataset()), root=tmp_path)


def test_columns_that_do_not_fit(pictures, tmp_path):
    dataset = pictures.to_dataset()
    for given, said in (
        ({"image": "im"}, "no column of images 'im'"),
        ({"label": "lab"}, "Did you mean 'label'"),
        ({"label": "key"}, "no whole numbers: dataset.class_encode_column"),
    ):
        with pytest.raises(da.DiffadaptError, match=said):
            da.from_dataset(dataset, root=tmp_path, **given)
    features = hf.Features({"image": hf.Image(), "label": hf.Value("int64")})
    empty = hf.Dataset.from_dict({"image": [None], "label": [0]}, features=features)
    with pytest.raises(da.DiffadaptError, match="a row without an image"):
        da.from_dataset(empty, root=tmp_path)


def test_predictions_of_what_a_caller_holds(library, pictures, tmp_path):
    """A folder and a list of its files are answered alike; lists keep their order; what cannot be read is
    there with its reason."""
    root, run = library
    (tmp_path / "new").mkdir()
    files = [tmp_path / "new" / f"{name}.png" for name in "cabd"]
    for file, picture in zip(files, pictures, strict=True):
        picture.image.save(file)
    whole = da.predict(run, tmp_path / "new", progress=False)
    listed = da.predict(run, files, progress=False)
    assert listed["path"].tolist() == [str(f) for f in files]
    assert sorted(whole["path"]) == whole["path"].tolist() == ["a.png", "b.png", "c.png", "d.png"]
    same = listed.assign(path=[f.name for f in files]).sort_values("path", ignore_index=True)
    assert same.equals(whole)
    assert da.predict(run.name, files, root=root, progress=False).equals(listed)

    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    mixed = da.predict(run, [bad, files[0], files[0]], progress=False)
    assert mixed["path"].tolist() == [str(bad), str(files[0]), str(files[0])]
    assert "not a readable image" in mixed["reason"][0] and mixed["label"].notna().tolist() == [
        False,
        True,
        True,
    ]

    held = [pictures[0], pictures[1].data, pictures[2].image, np.asarray(pictures[3].image)]
    found = da.predict(run, held, progress=False)
    assert found["source_label"].tolist() == listed["source_label"].tolist()
    assert found["path"][0] == pictures[0].key and len(da.predict(run, pictures, progress=False)) == 4
    dataset = pictures.to_dataset()
    assert da.predict(run, dataset, progress=False)["source_label"].tolist() == found["source_label"].tolist()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "Give the images"),
        (None, "the type NoneType"),
        (3, "the type int"),
        ([3], "int is no image"),
        (b"x", "the type bytes"),
        ("/nowhere", "does not exist"),
        (["/nowhere.png"], "does not exist"),
    ],
)
def test_what_holds_no_images(library, images, said):
    with pytest.raises(da.DiffadaptError, match=said):
        da.predict(library[1], images, progress=False)


def test_questions_that_a_run_cannot_be_asked(library):
    run = library[1]
    for given, said in (
        ({"row": "SDAA"}, "Did you mean 'SDA'"),
        ({"reject": "energy"}, "leave it out"),
        ({"runner": "foo"}, "must be one of"),
    ):
        with pytest.raises(da.DiffadaptError, match=said):
            da.predict(run, [np.zeros((8, 8), np.uint8)], progress=False, **given)
    with pytest.raises(da.DiffadaptError, match="is no run"):
        da.predict(None, "x")  # type: ignore[arg-type]


def test_few_images_need_no_processes(library):
    """auto would start a process a core; one shard has work for one."""
    from diffadapt.api.runners import for_work
    from diffadapt.core.stage import NodePlan
    from diffadapt.run.runner import ExecutionConfig

    def plans(count):
        return {"a": NodePlan("a", None, "", (), ("shard",) * count)}  # type: ignore[arg-type]

    auto = ExecutionConfig(device="cpu")
    assert for_work(auto, plans(1)).runner == "local"
    assert for_work(auto, plans(2)) is auto
    for own in (ExecutionConfig(runner="ray"), ExecutionConfig(actors=2, device="cpu")):
        assert for_work(own, plans(1)) is own


def test_one_way_to_decode():
    """A PIL image keeps its turn and its depth as its file would."""
    from diffadapt.api.given import encoded
    from diffadapt.data.image import decode

    drawn = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert decode(encoded(opened), 1, "x").shape == (4, 3, 1)
    deep = Image.fromarray(np.full((2, 2), 65535, np.uint16))
    assert decode(encoded(deep), 1, "x").max() == 255
    assert decode(encoded(drawn.convert("CMYK")), 3, "x").shape == (3, 4, 3)
    with pytest.raises(da.DiffadaptError, match="floating-point"):
        encoded(drawn.convert("F"))
