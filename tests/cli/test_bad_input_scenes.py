"""ZoDi's bad input through the command line: label maps, class tables, folders, weights, thresholds. One
clear sentence each, finished work kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffadapt.data.scenes.classes import builtin
from diffadapt.worlds.streets.scenes import StreetScene
from tests.cli.badinput import Result, diffadapt
from tests.cli.sceneplace import ScenePlace
from tests.scenekit import fake_acdc, fake_cityscapes

LENIENT = ("--execution.max-failed-fraction", "0.4")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[ScenePlace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "200")
        yield ScenePlace(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize(
    "words, parts",
    [
        (
            "--domain nite",
            ["'nite' is not known", "transfer.prompt and transfer.strength", "Did you mean 'night'"],
        ),
        ("--domain dusk --transfer.prompt dusk", ["'dusk' is not known", "transfer.strength"]),
        ("--transfer.strength 0", ["transfer.strength is 0", "0.001 to 1"]),
        ("--transfer.strength 2", ["transfer.strength is 2", "0.001 to 1"]),
        ("--transfer.strength nan", ["transfer.strength is nan", "finite"]),
        ("--transfer.strength 0.01", ["strength 0.01 in 3 steps has no step"]),
        ("--transfer.palette ade20k", ["says nothing of ADE20K", "column ade", "'own'"]),
        ("--transfer.multiple 10", ["transfer.multiple is 10", "multiple of 8"]),
        ("--transfer.method edit_friendly --transfer.eta 0", ["edit_friendly", "transfer.eta"]),
        ("--training.crop 64 64", ["training.crop (64, 64) is larger than segmenter.size (32, 32)"]),
        ("--training.crop 0 64", ["training.crop is (0, 64)", "both height and width"]),
        ("--segmenter.size 10 10 --training.crop 0 0", ["segmenter.size is (10, 10)", "at least 32"]),
        ("--scale 0.1", ["segmenter.size is (3, 3)", "at least 32"]),
        ("--methods zodii", ["no 'zodii'", "Did you mean 'zodi'"]),
        ("--methods zodi zodi", ["methods has 'zodi' twice"]),
        ("--methods", ["methods is empty"]),
        ("--variants img2im", ["variants has no 'img2im'", "Did you mean 'img2img'"]),
        ("--training.select best_source", ["best_source", "--source-test"]),
        ("--quality.clip-score 0.5", ["quality.clip_score is set", "quality.clip is empty"]),
        ("--quality.luminance 200 100", ["quality.luminance is 200 100", "darkest"]),
        ("--quality.retries 20 --quality.retry strength", ["quality.retries is 20", "no step"]),
        ("--backbone resnet55", ["resnet55", "Did you mean 'resnet50'"]),
        ("--training.batch-size 1", ["training.batch_size is 1", "at least two pairs"]),
        ("--training.batch-size 3 --execution.train-workers 2", ["training.batch_size is 3", "2 workers"]),
        ("--seeds 0 0", ["seeds is [0, 0]", "each once"]),
        ("--training.seed 4", ["training.seed is 4", "--seeds 4"]),
        ("--training.jitter 0.5 0.5 0.5 0.9", ["hue of 0.9"]),
        ("--source.labels nope", ["'nope'", "does not exist"]),
        ("--source.labels images", ["images and label maps in one folder"]),
        ("--source.labels=", ["source.labels is empty"]),
        ("--source.classes cityscape", ["cityscape", "Did you mean 'cityscapes'"]),
        (
            "--target.classes cityscapes",
            ["classes of target", "'sidewalk' stands where the source has 'pavement'"],
        ),
        ("--source.only-size 10 10", ["No image of good is 10 x 10", "64 x 64"]),
        ("--source.layout parquet", ["good", "parquet"]),
        ("--estimate -1", ["estimate is -1"]),
    ],
)
def test_settings_that_cannot_work(place: ScenePlace, words: str, parts: list[str]) -> None:
    place.plan(*words.split()).sentence(*parts)


def test_places_that_are_not_there(place: ScenePlace, tmp_path: Path) -> None:
    place.plan(source=tmp_path / "nope").sentence("nope does not exist")
    place.plan(target=tmp_path / "nope").sentence("nope does not exist")
    place.plan(source=None).sentence("no labelled scenes", "--source")
    place.plan(source_test=place.good).sentence("source_test names the very scenes", "--source-test")
    place.plan("--training.select", "oracle", target=None).sentence("oracle", "--target")
    bare = place.copy(tmp_path / "bare")
    (bare / "classes.csv").unlink()
    place.plan(source=bare).sentence("no class table", "classes.csv")
    for sub in ("labels", "images"):
        empty = place.copy(tmp_path / f"no {sub}")
        for file in (empty / sub).iterdir():
            file.unlink()
        place.plan(source=empty).sentence(f"folder '{sub}'", "holds no image files")


def test_weights_that_are_none(place: ScenePlace, tmp_path: Path) -> None:
    place.run(generator=tmp_path / "nope").sentence("No weights at", "nope")
    place.run(generator=place.good).sentence("no model_index.json", "no diffusers pipeline")
    place.run(generator="no/such").sentence("no/such", "local hub cache")
    place.run(generator="embedded:digits-dit").sentence("no controlnet folder")
    place.run("--transfer.variant", "fp16").sentence("no files of the variant 'fp16'", "transfer.variant")
    place.run("--controlnet", tmp_path / "nope").sentence("No weights at", "nope")
    place.run("--controlnet", place.good).sentence("is no ControlNet", "no readable config.json")
    place.run("--controlnet", place.generator / "unet").sentence("is no ControlNet", "UNet2DConditionModel")
    place.run("--quality.clip", place.good, "--quality.clip-score", "0.5").sentence(
        "no config.json", "no CLIP"
    )
    place.run("--quality.clip", "no/such-clip", "--quality.clip-score", "0.5").sentence(
        "no/such-clip", "local hub cache"
    )
    place.run("--segmenter.weights", tmp_path / "nope.pth").sentence("There are no weights at", "nope.pth")
    alone = place.copy(tmp_path / "alone", place.generator)
    (alone / "controlnet" / "config.json").unlink()
    place.run(generator=alone).sentence("no controlnet folder of its own", "transfer.controlnet", "img2img")


TABLE = "value,name,red,green,blue"


@pytest.mark.parametrize(
    "lines, parts",
    [
        ([], ["is empty", "value, name, red, green, blue"]),
        ([TABLE, "0,road,1,2,3", "0,sky,4,5,6"], ["Line 3", "value 0 a second time"]),
        ([TABLE, "0,road,1,2,300"], ["Line 2", "blue is '300'"]),
        ([TABLE, "0,road,1,2"], ["Line 2", "no blue"]),
        ([TABLE.replace("name", "nam"), "0,road,1,2,3"], ["column 'nam'", "Did you mean 'name'"]),
        (["a,road,1,2,3"], ["Line 1", "the value is 'a'"]),
        ([TABLE, "0,road,1,2,3"], ["classes of target", "8 against 1"]),
        ([TABLE, "0,ignore,1,2,3"], ["0 classes"]),
    ],
)
def test_class_tables(place: ScenePlace, tmp_path: Path, lines: list[str], parts: list[str]) -> None:
    (tmp_path / "own.csv").write_text("\n".join(lines))
    place.plan("--source.classes", tmp_path / "own.csv").sentence(*parts)


def test_pairs_that_are_incomplete(place: ScenePlace, tmp_path: Path) -> None:
    bare, orphan = place.copy(tmp_path / "bare"), place.copy(tmp_path / "orphan")
    (bare / "labels" / "1.png").unlink()
    (orphan / "images" / "1.png").unlink()
    place.run(source=bare).sentence("1 image without a label map", "'1.png'", "partial")
    place.run(source=orphan).sentence("1 label map without an image", "'1.png'")
    place.run("--source.partial", "true", source=bare).sentence(
        "source/0/1: 1 has no label map", "--execution.max-failed-fraction"
    )
    assert place.run("--source.partial", "true", *LENIENT, source=bare).status == 0
    assert list(place.failed()) == ["source/0/1"]


def damage(place: ScenePlace, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy of the good scenes, changed."""
    copy = place.copy(folder)
    change(copy)
    return copy


def halve(copy: Path) -> None:
    with Image.open(copy / "labels" / "5.png") as image:
        half = image.crop((0, 0, 64, 32))
    half.save(copy / "labels" / "5.png")


@pytest.mark.parametrize(
    "change, said",
    [
        (halve, "is 32 x 64 pixels but its image 64 x 64"),
        (lambda c: (c / "images" / "5.png").write_bytes(b"hello"), "is not a readable image"),
        (lambda c: (c / "labels" / "5.png").write_bytes(b""), "labels/5.png is empty"),
        (
            lambda c: (c / "images" / "5.png").write_bytes((c / "images" / "5.png").read_bytes()[:500]),
            "truncated",
        ),
    ],
    ids=["label of another size", "no image", "empty label", "truncated"],
)
def test_one_bad_file_is_set_apart_and_the_rest_is_kept(
    place: ScenePlace, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    copy = damage(place, tmp_path / "damaged", change)
    before, blocks = place.stored("transferred"), ("--source.block", "2")
    place.run(*blocks, source=copy).sentence(
        "1 of 6 items", "source/0/5", said, "--execution.max-failed-fraction"
    )
    kept = {name: data for name, data in place.stored("transferred").items() if name not in before}
    assert len(kept) == 2, "the blocks without a bad file are kept"
    result = place.run(*blocks, *LENIENT, source=copy)
    assert result.status == 0 and "quarantine.jsonl" in result.text, result.text
    assert (
        place.stored("transferred").items() >= kept.items()
        and len(place.stored("transferred")) == len(before) + 3
    ), "and served"
    assert list(place.failed()) == ["source/0/5"] and said in place.failed()["source/0/5"]
    assert json.loads((place.last() / "model" / "segmenter.json").read_text())["extra"]["pairs"] == 5


def test_a_jpeg_of_labels(place: ScenePlace, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "jpeg")
    with Image.open(copy / "labels" / "1.png") as image:
        image.save(copy / "labels" / "1.jpg")
    (copy / "labels" / "1.png").unlink()
    place.run(source=copy).sentence("labels/1.jpg is a JPEG", "PNG")


def test_unknown_ids_are_said_and_ignored(place: ScenePlace, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "unknown")
    for name in ("1", "2"):
        labels = np.asarray(Image.open(copy / "labels" / f"{name}.png")).copy()
        labels[:4] = 77
        Image.fromarray(labels).save(copy / "labels" / f"{name}.png")
    result = place.run(source=copy)
    said = "holds the value 77, which the class table classes does not list"
    assert result.status == 0 and result.text.count(f"labels/1.png {said}") >= 1, result.text
    assert [w for w in place.warnings() if said in w] and said in (place.last() / "report.html").read_text(
        encoding="utf-8"
    )


def test_labels_that_fit_no_class(place: ScenePlace, tmp_path: Path) -> None:
    """Training on nothing is refused; a target without a labelled pixel has no score, and it is said."""
    void = place.copy(tmp_path / "void")
    for file in (void / "labels").iterdir():
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(file)
    place.run(source=void).sentence("No pixel of the 6 source scenes has a class")
    result = place.run(target=void)
    assert (
        result.status == 0
        and "nan" not in result.output
        and "No pixel of the 6 label maps from night/0/0 on" in result.text
    ), result.text
    assert any("no score" in w for w in place.warnings())
    assert place.run("--target.labels=", target=void).status == 0 and not place.warnings(), (
        "a target without labels is no mistake"
    )


def test_colours_palettes_and_odd_sizes_are_read(place: ScenePlace, tmp_path: Path) -> None:
    """RGBA, palette, grey and 16-bit files; sizes that no network likes. The labels mean what they meant."""
    table = builtin("streets")
    copy = place.copy(tmp_path / "kinds")
    labels = {i: np.asarray(Image.open(copy / "labels" / f"{i}.png")) for i in range(6)}
    painted = np.zeros((64, 64, 4), np.uint8)
    for number, colour in enumerate(table.colours):
        painted[labels[0] == number, :3] = colour
    painted[..., 3] = 255
    Image.fromarray(painted).save(copy / "labels" / "0.png")
    palette = Image.fromarray(labels[1]).convert("P")
    palette.putpalette(
        [v for c in range(256) for v in (table.colours[c] if c < len(table.colours) else (c, 0, 0))]
    )
    palette.save(copy / "labels" / "1.png")
    Image.fromarray(labels[2].astype(np.uint16)).save(copy / "labels" / "2.png")
    for name, mode in (("1", "RGBA"), ("2", "P"), ("3", "L"), ("4", "LA")):
        with Image.open(copy / "images" / f"{name}.png") as image:
            image.convert(mode).save(copy / "images" / f"{name}.png")
    assert place.run(source=copy).status == 0 and not place.failed()
    assert all("colour" not in w and "does not list" not in w for w in place.warnings()), place.warnings()
    model = json.loads((place.last() / "model" / "segmenter.json").read_text())
    assert model["extra"]["pairs"] == 6
    odd = place.copy(tmp_path / "odd")
    for i, size in enumerate(((97, 65), (65, 97), (33, 200), (200, 33), (50, 1), (3, 300))):
        for sub, how in (("images", Image.Resampling.BICUBIC), ("labels", Image.Resampling.NEAREST)):
            with Image.open(odd / sub / f"{i}.png") as image:
                image.resize(size, how).save(odd / sub / f"{i}.png")
    result = place.run(source=odd, target=odd)
    assert result.status == 0 and not place.failed(), result.text


def test_all_images_refused(place: ScenePlace) -> None:
    before = place.stored("transferred")
    place.run("--quality.edges", "0.99").sentence(
        "quality control refused all 6", "6 by edges", "lower the thresholds", "transfer.strength"
    )
    made = len(place.stored("transferred")) - len(before)
    place.run("--quality.edges", "0.99").sentence("quality control refused all 6")
    assert made == 1 and len(place.stored("transferred")) == len(before) + 1, (
        "the images are kept, and not made again"
    )


def cityscapes(place: ScenePlace, *words: object) -> Result:
    return diffadapt(
        "plan",
        "zodi/cityscapes_acdc",
        "--generator",
        place.generator,
        "--controlnet",
        "",
        "--segmenter.weights",
        "none",
        "--execution.runner",
        "local",
        "--root",
        place.root,
        *words,
    )


def test_official_layouts_that_are_none(place: ScenePlace, tmp_path: Path) -> None:
    def run(*words: object) -> Result:
        return diffadapt(
            "run",
            *(
                "zodi/cityscapes_acdc",
                "--generator",
                place.generator,
                "--controlnet",
                "",
                "--segmenter.weights",
                "none",
            ),
            "--root",
            place.root,
            *words,
        )

    run("--data", place.good).sentence("no folder leftImg8bit/train", "Cityscapes")
    tree = tmp_path / "cityscapes"
    fake_cityscapes(tree)
    run("--data", tree).sentence("3 images", "2,975 are published")
    run("--data", tree, "--partial", "true").sentence("no folder leftImg8bit/val")
    fake_cityscapes(tree, {"frankfurt": 1}, split="val")
    fake_acdc(tmp_path / "acdc", {"fog": 1})
    run("--data", tree, "--partial", "true", "--target", tree).sentence(
        "no folder rgb_anon/night/val", "ACDC"
    )
    run("--data", tree, "--partial", "true", "--target", tmp_path / "acdc").sentence(
        "no folder rgb_anon/night/val", "condition"
    )
    run(
        "--data", tree, "--partial", "true", "--target.condition", "nigth", "--target", tmp_path / "acdc"
    ).sentence("nigth", "Did you mean 'night'")
    assert cityscapes(place, "--data", tree, "--partial", "true").status == 0


DETECTION = (
    "--controlnet",
    "",
    "--transfer.size",
    "32",
    "--transfer.multiple",
    "16",
    "--transfer.steps",
    "2",
    "--transfer.guidance",
    "1",
    "--transfer.palette",
    "own",
    "--detector.arch",
    "fcos",
    "--detector.backbone",
    "tiny",
    "--detector.weights",
    "none",
    "--detector.size",
    "32",
    "32",
    "--epochs",
    "1",
    "--training.batch-size",
    "2",
    "--methods",
    "both",
    "--figures",
    "False",
)


class CocoPlace:
    """Streets as a COCO set, and detection on it."""

    def __init__(self, place: ScenePlace, folder: Path):
        self.place, self.folder = place, folder

    def data(
        self, name: str, change: Callable[[dict], object] = lambda document: None, count: int = 6
    ) -> Path:
        root = self.folder / name
        (root / "images").mkdir(parents=True)
        document: dict = {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": 1, "name": "pole"},
                {"id": 2, "name": "pedestrian"},
                {"id": 3, "name": "car"},
            ],
        }
        for i in range(count):
            scene = StreetScene("day", "train", i)
            Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
            document["images"].append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
            for o in scene.objects:
                x1, y1, x2, y2 = o["bbox"]
                number = {3: 1, 6: 2, 7: 3}[o["category"]]
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]),
                        "image_id": i,
                        "category_id": number,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "iscrowd": 0,
                    }
                )
        text = change(document)
        (root / "annotations.json").write_text(text if isinstance(text, str) else json.dumps(document))
        return root

    def run(self, source: Path, *words: object, target: object = None) -> Result:
        return self.place.words(
            "run", *DETECTION, *words, recipe="zodi/detection/coco", source=source, target=target
        )


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda d: "{not", ["not a COCO instances file", "images, annotations and categories"]),
        (lambda d: "[]", ["not a COCO instances file"]),
        (lambda d: d.update(categories=[]), ["0 categories"]),
        (
            lambda d: d["images"][0].update(file_name="../../x.png"),
            ["names 1 images that do not lie in 'images'", "../../x.png"],
        ),
        (lambda d: d.update(annotations=[{"id": 7}]), ["None of the 1 annotations", "annotation 7 of image"]),
        (lambda d: d["images"][0].update(width=32), ["its JSON says 64 x 32"]),
        (lambda d: d.update(annotations=[]), ["None of the 6 training images has an object"]),
    ],
    ids=[
        "no JSON",
        "a list",
        "no category",
        "escape",
        "no good annotation",
        "size",
        "no boxes",
    ],
)
def test_coco_files(
    place: ScenePlace, tmp_path: Path, change: Callable[[dict], object], parts: list[str]
) -> None:
    coco = CocoPlace(place, tmp_path)
    coco.run(coco.data("source", change)).sentence(*parts)


def test_detection_that_cannot_work(place: ScenePlace, tmp_path: Path) -> None:
    coco = CocoPlace(place, tmp_path)
    good = coco.data("good")
    coco.run(place.good).sentence("no instances JSON 'annotations.json'", "labels")
    coco.run(good, "--quality.consistency", "0.5").sentence("quality.consistency asks a segmenter")
    coco.run(good, "--generator", "train").sentence("detection trains no generator")
    coco.run(good, "--methods", "zodi").sentence("methods has no 'zodi'", "both")
    coco.run(good, "--quality.edges", "0.99").sentence("quality control refused all 6")
    turned = coco.data(
        "turned",
        lambda d: d["categories"].reverse() or [c.update(id=i + 1) for i, c in enumerate(d["categories"])],
    )
    coco.run(good, target=turned).sentence("classes of target", "'car' stands where the source has 'pole'")
    broken = coco.data("broken")
    (broken / "images" / "1.png").write_bytes(b"no image")
    coco.run(broken).sentence("1 of 6 items", "source/0/1", "is not a readable image")
    assert coco.run(broken, *LENIENT).status == 0 and list(place.failed()) == ["source/0/1"]
