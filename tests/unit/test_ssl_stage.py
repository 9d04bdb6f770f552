"""Stage 2 as a fit: from rows, a split and stage 1's folder to a folder of the same kind."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from diffadapt.core.artifact import FEATURES_SCHEMA, Rows, Shard, image_table
from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.stage import FitJob, InputFile, WorkContext
from diffadapt.data.image import decode, encode_png
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.methods.ssl.fixmatch import FixMatch
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.mlp_head import load_head, save_head
from diffadapt.stages.models import logits_rows
from diffadapt.tasks.classification.fit_ssl import FitSsl
from diffadapt.tasks.classification.split import Split, split_metrics
from diffadapt.train.reporter import LocalReporter
from tests.unit import sslkit

NAMES = ("back pack", "Stühle", "mug", "pen")
FROZEN = BackboneConfig(name="train", arch="cifar_resnet8", frozen=True)
SMALL = BackboneConfig(
    name="train", arch="cifar_resnet8", in_channels=1, resize=0, crop=16, mean=(0.5,), std=(0.5,)
)


def feature_rows(views, start, stop, labels=True) -> Rows:
    part = slice(start, stop)
    columns = {
        "key": list(views.keys[part]),
        "label": views.labels[part] if labels else [None] * (stop - start),
        **{kind: [v.ravel() for v in views.cached[kind][part]] for kind in ("test", "weak", "strong")},
    }
    return Rows(pa.table(columns, schema=FEATURES_SCHEMA))


def image_rows(count=48, broken=()) -> Rows:
    """Bars of four directions, one a class."""
    rng, images = np.random.default_rng(0), []
    for i in range(count):
        picture = rng.integers(0, 60, (16, 16, 1), dtype=np.uint8)
        label = i % 4
        if label < 2:
            picture[4 * label + 2 : 4 * label + 5] = 220
        else:
            picture[:, 4 * (label - 2) + 2 : 4 * (label - 2) + 5] = 220
        images.append(b"no picture" if i in broken else encode_png(picture))
    return Rows(
        image_table(
            [f"t/0/{i:03d}.png" for i in range(count)], [i % 4 for i in range(count)], images, [0] * count
        )
    )


def job(tmp_path: Path, name: str, parts: list[Rows], fitted: dict[str, str], node="target") -> FitJob:
    files = [InputFile(node, f"{node}{i}", f"p{i}", Shard(f"s{i}", {})) for i in range(len(parts))]
    rows = dict(zip((f.digest for f in files), parts, strict=True))
    also = [InputFile(n, n, folder, Shard("all", {}), fitted=True) for n, folder in fitted.items()]
    output = tmp_path / name
    output.mkdir()
    context = WorkContext("cpu", fitted, kinds={"split": "split", "stage1": "uda"})
    return FitJob(
        "ssl",
        lambda n: files,
        None,
        str(tmp_path / f"{name}-checkpoints"),
        str(output),
        context,
        LocalReporter(),
        lambda f: rows[f.digest],
        files=[*files, *also],
    )


def stage(backbone, **changes) -> FitSsl:
    config = sslkit.config(
        "fixmatch",
        threshold=0.9,
        **{
            "epochs": 2,
            "steps_per_epoch": 20,
            "batch_size": 16,
            "augment": "shift",
            "flip": False,
            **changes,
        },
    )
    return FitSsl(config, backbone, 4, NAMES)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """(views, stage 1's head folder, the split's folder) with cached features."""
    folder = tmp_path_factory.mktemp("frozen")
    views = sslkit.clusters(seed=2)
    head = sslkit.biased_head(views, seed=2, hidden=8)
    save_head(
        folder / "stage1", head, sslkit.WIDTH, NAMES, {"stage1": {"method": "dann"}, "selection": "last"}
    )
    with torch.no_grad():
        logits = head(torch.from_numpy(views.cached["test"][:, 0])).numpy()
    Split(SplitConfig(), 4, NAMES).fit(
        job(folder, "split", [logits_rows(views.keys, [None] * len(views), logits, [])], {})
    )
    return views, str(folder / "stage1"), str(folder / "split")


def test_cached_features_give_a_head_of_the_same_layers(frozen, tmp_path):
    views, start, split = frozen
    parts = [feature_rows(views, 0, 100), feature_rows(views, 100, 240)]
    metrics = stage(FROZEN).fit(job(tmp_path, "out", parts, {"split": split, "stage1": start}))
    before, after = load_head(start)[0], load_head(tmp_path / "out")[0]
    assert [type(m) for m in before] == [type(m) for m in after] and sslkit.accuracy(
        after, views
    ) > sslkit.accuracy(before, views)
    info = json.loads((tmp_path / "out" / "head.json").read_text())
    assert info["label_names"] == list(NAMES) and info["diffadapt"]["stage1"] == {"method": "dann"}
    assert info["diffadapt"]["stage2"]["method"] == "fixmatch" and info["diffadapt"]["selection"] == "last"
    assert (
        metrics["images"] == 240
        and metrics["confident"] + metrics["unconfident"] == 240
        and json.dumps(metrics)
    )


def test_labels_and_the_order_of_shards_change_nothing(frozen, tmp_path):
    views, start, split = frozen
    states = []
    for name, labels in (("a", True), ("b", False)):
        parts = [feature_rows(views, 0, 240, labels)]
        stage(FROZEN, epochs=1).fit(job(tmp_path, name, parts, {"stage1": start, "split": split}))
        states.append((tmp_path / name / "head.safetensors").read_bytes())
    assert states[0] == states[1]


def test_images_missing_from_either_side_are_left_out(frozen, tmp_path):
    views, start, split = frozen
    metrics = stage(FROZEN, epochs=1).fit(
        job(tmp_path, "out", [feature_rows(views, 0, 90)], {"stage1": start, "split": split})
    )
    assert metrics["images"] == 90
    renamed = sslkit.clusters(40)
    renamed.keys = [f"other/{k}" for k in renamed.keys]
    with pytest.raises(DataError, match="No image of the target has a prediction of stage 1"):
        stage(FROZEN).fit(
            job(tmp_path, "none", [feature_rows(renamed, 0, 40)], {"stage1": start, "split": split})
        )


def test_the_oracle_is_stamped(frozen, tmp_path):
    views, start, split = frozen
    made = replace(stage(FROZEN), select=SelectConfig("oracle", 2))
    metrics = made.fit(job(tmp_path, "out", [feature_rows(views, 0, 240)], {"stage1": start, "split": split}))
    info = load_head(tmp_path / "out")[1]["diffadapt"]
    assert info["selection"] == "oracle" and info["chosen_step"] == metrics["selection"]["chosen_step"]
    again = stage(FROZEN).fit(
        job(
            tmp_path,
            "later",
            [feature_rows(views, 0, 240)],
            {"stage1": str(tmp_path / "out"), "split": split},
        )
    )
    assert "selection" not in again and load_head(tmp_path / "later")[1]["diffadapt"]["selection"] == "oracle"


def test_images_give_a_classifier_of_the_same_architecture(tmp_path):
    rows = image_rows(broken=(7,))
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", 4, in_channels=1)
    start = export_classifier(
        model, tmp_path / "stage1", "cifar_resnet8", SMALL, NAMES, {"stage1": {"method": "mcc"}}
    )
    pseudo = np.eye(4)[np.arange(48) % 4] * np.linspace(2, 6, 48)[:, None]
    keys = rows.column("key")
    Split(SplitConfig(), 4, NAMES).fit(
        job(tmp_path, "split", [logits_rows(keys, [None] * 48, pseudo, [])], {})
    )
    metrics = stage(SMALL, lr=0.1, backbone_lr=1.0).fit(
        job(tmp_path, "out", [rows], {"split": str(tmp_path / "split"), "stage1": str(start)})
    )
    assert [q[0] for q in metrics["quarantined"]] == ["t/0/007.png"] and metrics["images"] == 47
    loaded = load_classifier(replace(SMALL, name=str(tmp_path / "out"), arch=None), 4)
    assert loaded.arch.startswith("cifar_resnet8")
    before, after = (
        load_file(tmp_path / "stage1" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["label_names"] == list(NAMES) and values["diffadapt"]["stage1"] == {"method": "mcc"}
    assert metrics["labelled"] < 1.0


def test_planning_finds_settings_that_do_not_fit():
    with pytest.raises(RecipeError, match="never moves the averaged weights"):
        made = stage(FROZEN)
        replace(made, config=replace(made.config, fixmatch=FixMatch(ema=1.0))).plan({})
    with pytest.raises(RecipeError, match="needs the labelled source"):
        replace(stage(FROZEN), select=SelectConfig("dev")).plan({})
    for scale in ((0.9, 0.5), (0.0, 1.0)):
        with pytest.raises(RecipeError, match="ssl.scale is"):
            stage(FROZEN, scale=scale).plan({})


def test_views_of_images_show_at_least_half_of_the_area(tmp_path):
    made = stage(SMALL, augment="uda")
    given = job(tmp_path, "a", [image_rows(8)], {})
    views, _ = made.views(given, given.files, "target")
    assert views.augments["weak"].scale == views.augments["strong"].weak.scale == (0.5, 1.0)


def test_views_of_cached_features_are_stage_2s_own():
    from diffadapt.core.leniency import lenient
    from diffadapt.core.recipes import load
    from diffadapt.methods.uda.config import UdaTraining

    recipe = replace(load("adapt_anything/office31/frozen"), transfers=("amazon-webcam",), seeds=(0,))
    recipe = replace(recipe, data=replace(recipe.data, path="absent"))
    with lenient():
        nodes = {n.name: n for n in recipe.pipeline().nodes}
    first, second = nodes["features.webcam"].stage, nodes["ssl_features.webcam"].stage
    assert first.scale == UdaTraining.scale and "scale" not in first.identity()
    assert second.identity() == {**first.identity(), "scale": [0.5, 1.0]}
    assert nodes["mcc_fixmatch.amazon-webcam.s0"].inputs[0] == "ssl_features.webcam"
    assert nodes["mcc_fixmatch_on_target.amazon-webcam.s0"].inputs[0] == "features.webcam"
    recipe = replace(recipe, ssl=replace(recipe.ssl, scale=UdaTraining.scale))
    with lenient():
        assert "ssl_features.webcam" not in {n.name for n in recipe.pipeline().nodes}


def test_only_what_is_used_enters_the_identity():
    made = stage(FROZEN)
    assert replace(made, select=SelectConfig("last", 3)).identity() == made.identity()
    assert (
        replace(made, select=SelectConfig("im", 3)).identity()
        != replace(made, select=SelectConfig("im", 4)).identity()
    )
    assert replace(made, backbone=replace(FROZEN, name="elsewhere")).identity() == made.identity()
    assert replace(made, config=replace(made.config, seed=1)).identity() != made.identity()


def test_stage_2_without_a_stage_1_starts_from_the_backbones_own_weights(tmp_path):
    """Pseudo-labels of a teacher that is no network of ours teach a network that has seen no source."""
    rows = image_rows()
    sure = np.eye(4)[[i % 4 for i in range(48)]] * 5
    Split(SplitConfig(), 4, NAMES, "CLIP zero-shot").fit(
        job(tmp_path, "split", [logits_rows(rows.column("key"), [None] * 48, sure, [])], {})
    )
    given = {"split": str(tmp_path / "split")}
    learner = replace(stage(SMALL, epochs=1, steps_per_epoch=25, lr=0.1, backbone_lr=1.0, mu=1), bottleneck=8)
    learner.fit(job(tmp_path, "out", [rows], given))
    loaded = load_classifier(replace(SMALL, name=str(tmp_path / "out"), arch=None), 4)
    assert [layer["kind"] for layer in loaded.model_args["layers"]][:2] == ["linear", "batch_norm"]
    images = torch.stack(
        [
            torch.from_numpy(decode(value["bytes"], 1, "x")).permute(2, 0, 1).float() / 127.5 - 1
            for value in rows.column("image")
        ]
    )
    with torch.inference_mode():
        right = loaded.model(images).argmax(1).numpy() == np.arange(48) % 4
    assert right.mean() > 0.9
    assert learner.identity()["bottleneck"] == 8 and "bottleneck" not in stage(SMALL).identity()


def test_stage_2_on_cached_features_without_a_stage_1(frozen, tmp_path):
    views, _, split = frozen
    learner = replace(stage(FROZEN, epochs=1, steps_per_epoch=5), bottleneck=0)
    learner.fit(job(tmp_path, "out", [feature_rows(views, 0, 240)], {"split": split}))
    head = load_head(tmp_path / "out")[0]
    assert [type(m).__name__ for m in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_what_a_split_of_clip_says_names_clip():
    p = np.array([0, 0, 1])
    said = split_metrics(p, p * 0 + 0.3, p == 0, SplitConfig(), NAMES, "CLIP zero-shot")["warnings"]
    assert "CLIP zero-shot hardly knows" in said[0] and said[1].startswith(
        "CLIP zero-shot predicts only 2 of"
    )
    assert all("tage 1" not in sentence and "synthetic" not in sentence for sentence in said)
