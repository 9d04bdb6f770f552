"""Stage 1 as a fit: folders that load, classes and labels that do not fit, filters, and what planning
finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from udakit import CLASSES, NAMES, feature_rows, image_rows, job, planned, vectors, views

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.identity import digest
from diffadapt.core.recipes import load
from diffadapt.methods.uda.config import METHODS, UdaConfig
from diffadapt.models.classifier import load_classifier
from diffadapt.models.config import BackboneConfig, SelectConfig
from diffadapt.models.mlp_head import load_head
from diffadapt.tasks.classification.fit_uda import FitUda

FROZEN = BackboneConfig(frozen=True)
SMALL = BackboneConfig(name="train", arch="cifar_resnet8", crop=12, resize=12)
QUICK = UdaConfig(
    method="dann",
    batch_size=12,
    epochs=2,
    steps_per_epoch=4,
    augment="none",
    dann=METHODS["dann"](hidden=16, bottleneck=8),
)
LABELS = [i % 3 for i in range(30)]


def stage(config=QUICK, backbone=FROZEN, **more) -> FitUda:
    return FitUda(config, backbone, CLASSES, NAMES, **more)


def frozen_job(tmp_path: Path, labelled_target: bool = True, **more):
    (xs, ys), (xt, yt) = vectors(60)
    return job(
        tmp_path,
        feature_rows(views(xs, ys, "s")),
        feature_rows(views(xt, yt if labelled_target else np.full(60, -1), "t")),
        **more,
    )


def test_a_frozen_fit_writes_a_head(tmp_path):
    metrics = stage().fit(frozen_job(tmp_path))
    head, info = load_head(tmp_path / "out")
    assert info["label_names"] == list(NAMES) and info["diffadapt"]["selection"] == "last"
    assert head(torch.zeros(2, 8)).shape == (2, CLASSES)
    assert (
        metrics["images"] == 60
        and metrics["source_per_class"] == dict.fromkeys(NAMES, 20)
        and metrics["warnings"] == []
    )
    assert {"loss", "task", "domain"} <= set(metrics) and "step_seconds" not in metrics
    json.dumps(metrics)


@pytest.mark.parametrize("method", ["source_only", "dann", "mcd", "symnets"])
def test_an_image_fit_writes_a_classifier_that_timm_loads(tmp_path, method):
    small = {"mcd": METHODS["mcd"](hidden=8), "dann": QUICK.dann}.get(method, METHODS[method]())
    config = replace(QUICK, method=method, epochs=1, **{method: small})
    source, target = image_rows(LABELS, "s"), image_rows([None] * 20, "t", dark=True, seed=1)
    stage(config, SMALL).fit(job(tmp_path, source, target))
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["label_names"] == list(NAMES) and values["architecture"] == (
        "cifar_resnet8" if method in ("source_only", "symnets") else "mlp_head"
    )
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    loaded = load_classifier(BackboneConfig(name=str(tmp_path / "out")), CLASSES, "cpu")
    x = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.allclose(plain(x), loaded.model(x), atol=1e-5) and plain(x).shape == (2, CLASSES)


def test_cdtrans_as_published_writes_a_plain_vision_transformer(tmp_path):
    """Epochs of one pass, drop path, random crops; the neck's batch norm is part of the Linear layer."""
    uda = load("adapt_anything/cdtrans/office31").uda
    method = METHODS["cdtrans"](pretrain_epochs=1, warmup_epochs=1, pair_every=1)
    config = replace(uda, batch_size=6, epochs=2, cdtrans=method)
    vit = BackboneConfig(name="train", arch="test_vit", resize=36, crop=32)
    source, target = (
        image_rows(LABELS, "s", side=36),
        image_rows([None] * 20, "t", side=36, dark=True, seed=1),
    )
    fit = stage(config, vit)
    metrics = fit.fit(job(tmp_path, source, target))
    assert metrics["steps"] == 2 * ((30 + 20) // 6)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["architecture"] == "test_vit"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert type(model.head) is torch.nn.Linear and model.head.bias.abs().sum() > 0
    (said,) = stage(replace(config, cdtrans=METHODS["cdtrans"](), epochs=20), vit).notes()
    assert "within its warm-up" in said


def test_target_labels_change_nothing(tmp_path):
    with_labels = stage().fit(frozen_job(tmp_path / "a"))
    without = stage().fit(frozen_job(tmp_path / "b", labelled_target=False))
    assert with_labels == without
    assert (tmp_path / "a/out/head.safetensors").read_bytes() == (
        tmp_path / "b/out/head.safetensors"
    ).read_bytes()


def test_what_a_filter_rejected_is_not_trained_on(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    keys = [f"s/{i}" for i in range(60)]
    write = lambda good: pq.write_table(pa.table({"key": keys, "kept": good}), kept / "kept.parquet")  # noqa: E731
    write([i >= 15 for i in range(60)])
    metrics = stage().fit(frozen_job(tmp_path / "a", fitted={"filtered": str(kept)}))
    assert metrics["images"] == 45
    write([i % 3 != 1 for i in range(60)])
    with pytest.raises(DataError, match="no image of 'green ball': the filters left none"):
        stage().fit(frozen_job(tmp_path / "b", fitted={"filtered": str(kept)}))


def test_labels_that_do_not_fit(tmp_path):
    (xs, ys), (xt, yt) = vectors(30)
    target = feature_rows(views(xt, yt, "t"))
    for labels, said in (
        (np.where(np.arange(30) < 4, -1, ys), "4 of 30 source images have no label"),
        (ys + 1, "labels run to 3, but there are 3"),
        (ys * 0, "no image of 'green ball', 'blue ball'"),
    ):
        with pytest.raises(DataError, match=said):
            stage().fit(job(tmp_path, feature_rows(views(xs, labels, "s")), target))


def test_fewer_target_images_than_a_batch(tmp_path):
    (xs, ys), (xt, yt) = vectors(30)
    metrics = stage().fit(
        job(tmp_path, feature_rows(views(xs, ys, "s")), feature_rows(views(xt[:5], yt[:5], "t")))
    )
    assert metrics["target_images"] == 5 and "fewer than a batch of 12" in metrics["warnings"][0]


def test_a_validator_and_the_oracle_are_recorded(tmp_path):
    metrics = stage(select=SelectConfig("im", candidates=2)).fit(frozen_job(tmp_path / "im"))
    assert metrics["selection"]["rule"] == "im" and metrics["selection"]["chosen_step"] in (4, 8)
    stage(select=SelectConfig("oracle", candidates=2)).fit(frozen_job(tmp_path / "oracle"))
    assert load_head(tmp_path / "oracle/out")[1]["diffadapt"]["selection"] == "oracle"
    with pytest.raises(DataError, match="no target image has one"):
        stage(select=SelectConfig("oracle")).fit(frozen_job(tmp_path / "none", labelled_target=False))


def test_planning_finds_what_cannot_work(tmp_path):
    inputs = {"source": planned("source", FitUda()), "target": planned("target", FitUda())}
    assert len(stage().plan(inputs)) == 1
    bad = {
        "no UDA method 'dan'. Did you mean 'dann'": stage(replace(QUICK, method="dan")),
        "at least two classes, but there is one": FitUda(QUICK, FROZEN, 1, ("ball",)),
        "mcd makes 6 updates a step": stage(replace(QUICK, method="mcd", sdat=0.05)),
        "cached features will not do": stage(replace(QUICK, method="cdtrans", epochs=20)),
        "the backbone is 'resnet50'": stage(replace(QUICK, method="cdtrans", epochs=20), BackboneConfig()),
    }
    for said, wrong in bad.items():
        with pytest.raises(RecipeError, match=said.replace(".", r"\.").replace("?", r"\?")):
            wrong.plan(inputs)
    vit = BackboneConfig(name="train", arch="deit_tiny_patch16_224")
    assert stage(replace(QUICK, method="cdtrans", epochs=20), vit).plan(inputs)


def test_identity_knows_the_method_and_not_the_machine():
    def name(config):
        return digest(stage(config).identity())

    assert name(QUICK) == name(replace(QUICK, checkpoint_every=7))
    assert name(QUICK) == name(replace(QUICK, mcd=METHODS["mcd"](hidden=5)))
    assert (
        len(
            {
                name(QUICK),
                name(replace(QUICK, seed=1)),
                name(replace(QUICK, dann=METHODS["dann"](hidden=5))),
                name(replace(QUICK, method="cdan")),
            }
        )
        == 4
    )
