"""The input that a model wants itself, and the one evaluation view of a recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config

from diffadapt.commands.recipes import show
from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.recipes import load
from diffadapt.core.stage import WorkContext
from diffadapt.core.store import Store
from diffadapt.data.config import DataConfig
from diffadapt.models import inputs as module
from diffadapt.models.classifier import create_model, load_classifier
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.models.export import export_classifier
from diffadapt.models.inputs import Inputs, differences, of_cfg, of_folder, of_processor, with_inputs
from diffadapt.models.preprocess import prepare_image, to_input
from diffadapt.models.timm_inputs import published
from diffadapt.models.timm_table import TABLE
from diffadapt.stages.images import Images
from diffadapt.stages.models import classifier_identity
from diffadapt.tasks.classification.augment_views import make_views
from diffadapt.tasks.classification.features import Features
from diffadapt.tasks.classification.fit_uda import FitUda
from diffadapt.tasks.classification.predict import Predict

VIEWS = Path(__file__).parents[1] / "golden" / "views"
GOLDEN = dict(np.load(VIEWS / "views.npz"))
IMAGE = GOLDEN["in_image"]
PROCESSORS = json.loads((VIEWS / "processors.json").read_text())
TRAIN = dict(name="train", arch="cifar_resnet8")
NAMES = ("mean", "std", "interpolation", "crop_mode")


def given(known: Inputs, **changes) -> ClassifierConfig:
    """A configuration that says all of an input itself."""
    values = {name: getattr(known, name) for name in NAMES}
    return ClassifierConfig(crop=known.crop, resize=known.resize(known.crop), **{**values, **changes})


class TestOwnInputs:
    def test_every_tag_of_timm_gets_what_timm_resolves(self):
        """The yardstick: resolve_model_data_config; the table that is shipped says the same."""
        other, oblong = [], []
        for name in timm.list_pretrained():
            wanted = resolve_model_data_config(None, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
            config = with_inputs(ClassifierConfig(name=name))
            found = {n: getattr(config, n) for n in NAMES} | {"input_size": (3, config.crop, config.crop)}
            if wanted["input_size"][1] != wanted["input_size"][2]:  # no input here is, which is said
                oblong.append(differences(config))
                wanted["input_size"] = (3, *wanted["input_size"][2:] * 2)
            if any(tuple(np.ravel(found[n])) != tuple(np.ravel(wanted[n])) for n in found):
                other.append((name, found, wanted))
            assert config.resize == int(np.floor(config.crop / wanted["crop_pct"]))
        assert other == [] and len(oblong) < 10 and all("height x width" in sentence for sentence in oblong)

    def test_the_table_is_that_of_the_timm_it_names(self):
        table = json.loads(TABLE.read_text())
        if table["timm"] != timm.__version__:
            pytest.skip("timm itself is asked where it is another than the table's")
        assert table == json.loads(json.dumps(published()))

    def test_the_table_is_read_without_timm(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "timm", None)
        assert with_inputs(ClassifierConfig(name="vit_base_patch16_224.augreg_in1k")).mean == (0.5, 0.5, 0.5)

    def test_a_timm_of_another_version_is_asked_itself(self, monkeypatch):
        monkeypatch.setattr(module, "_installed", lambda: "99")
        assert with_inputs(ClassifierConfig(name="vit_base_patch16_224.augreg_in1k")).mean == (0.5, 0.5, 0.5)

    def test_a_folder_says_it_in_config_json(self, tmp_path):
        said = Inputs(40, 40 / 48.5, "lanczos", "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        model = create_model("cifar_resnet8", 3)
        folder = str(export_classifier(model, tmp_path / "m", "cifar_resnet8", given(said), ["a", "b", "c"]))
        config = ClassifierConfig(name=folder)
        assert given(of_folder(folder)) == given(said)
        loaded = load_classifier(config)
        assert to_dict(loaded.config) == to_dict(replace(given(said), name=folder))
        x = to_input([IMAGE], config)
        assert torch.equal(x, to_input([IMAGE], given(said)))
        assert not torch.equal(x, to_input([IMAGE], ClassifierConfig(**TRAIN, crop=40)))

    @pytest.mark.parametrize("resize", [24, 31, 47, 100, 235, 0])
    def test_sizes_survive_a_folder(self, tmp_path, resize):
        config = ClassifierConfig(**TRAIN, crop=24, resize=resize)
        folder = export_classifier(
            create_model("cifar_resnet8", 2), tmp_path / "m", "cifar_resnet8", config, ["a", "b"]
        )
        assert with_inputs(ClassifierConfig(name=str(folder))).resize == (resize or 24)

    @pytest.mark.parametrize("name", PROCESSORS)
    def test_image_processors_see_the_same(self, tmp_path, name):
        """What AutoImageProcessor made of the image, from the folder that save_pretrained wrote."""
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[name]))
        ours = to_input([IMAGE], given(of_folder(tmp_path)))[0].numpy()
        np.testing.assert_allclose(ours, GOLDEN[f"out_processor_{name}"], atol=1e-5)

    def test_what_a_processor_leaves_out(self):
        assert of_processor({"do_normalize": False, "do_resize": False, "crop_size": 32}).mean == (0, 0, 0)
        assert of_processor({"size": 64, "do_rescale": False}).std[0] == pytest.approx(0.229 / 255)
        assert of_processor({"size": {"shortest_edge": 384}, "crop_pct": 0.875}).crop_mode == "squash"

    def test_given_values_win_and_are_said_to_differ(self):
        name = "vit_base_patch16_224.augreg_in1k"
        config = ClassifierConfig(name=name, mean=(0.485, 0.456, 0.406))
        full = with_inputs(config)
        assert full.mean == (0.485, 0.456, 0.406) and full.std == (0.5, 0.5, 0.5)
        sentence = differences(full)
        assert name in sentence and "mean 0.485, 0.456, 0.406 (its own: 0.5, 0.5, 0.5)" in sentence
        assert "std" not in sentence and Predict(full).notes() == (sentence,)
        assert differences(ClassifierConfig(name=name)) == "" == differences(ClassifierConfig(**TRAIN))
        assert Predict(full, fitted=True).notes() == ()

    def test_a_crop_of_ones_own_gets_its_resize(self):
        config = with_inputs(ClassifierConfig(name="vit_base_patch16_224.augreg_in1k", crop=384))
        assert config.resize == 426  # 384 / .9, as timm's evaluation transform takes it

    def test_digests_of_the_constants_are_what_they_were(self):
        before = {
            "arch": None, "num_classes": None, "in_channels": 3, "resize": 256, "crop": 224,
            "eval_resize": "reference", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "precision": "fp32",
        }  # fmt: skip
        assert classifier_identity(ClassifierConfig(name="convnext_tiny.fb_in1k")) == before
        trained = {**before, "arch": "cifar_resnet8"}
        assert classifier_identity(ClassifierConfig(**TRAIN)) == trained
        bilinear = classifier_identity(ClassifierConfig(name="resnet50.tv_in1k"))
        assert bilinear == {**before, "interpolation": "bilinear"}

    def test_pages_of_timm_that_say_nothing_are_timms_defaults(self):
        wanted = resolve_model_data_config(None, pretrained_cfg={"num_classes": 1})
        found = of_cfg({"num_classes": 1})
        assert {n: getattr(found, n) for n in NAMES} == {n: wanted[n] for n in NAMES}
        assert (found.crop, found.crop_pct) == (wanted["input_size"][-1], wanted["crop_pct"])


class TestTheViewOfARecipe:
    @pytest.mark.parametrize(("resize", "crop"), [(64, 56), (256, 224)])
    def test_the_squash_is_transfer_learning_librarys(self, resize, crop):
        config = ClassifierConfig(**TRAIN, resize=resize, crop=crop, crop_mode="squash")
        assert np.array_equal(prepare_image(IMAGE, config), GOLDEN[f"out_tllib_{resize}_{crop}"])

    def test_and_so_is_its_input(self):
        config = ClassifierConfig(**TRAIN, resize=64, crop=56, crop_mode="squash")
        np.testing.assert_allclose(
            to_input([IMAGE], config)[0].numpy(), GOLDEN["out_tllib_normalised"], atol=1e-5
        )

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
    def test_the_centre_crop_is_torchvisions(self, interpolation):
        config = ClassifierConfig(**TRAIN, resize=64, crop=56, interpolation=interpolation)
        assert np.array_equal(prepare_image(IMAGE, config), GOLDEN[f"out_torchvision_{interpolation}"])

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("mode", ["center", "squash", "border"])
    def test_every_crop_mode_is_timms(self, mode, interpolation):
        known = Inputs(56, 0.875, interpolation, mode, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
        ours = to_input([IMAGE], given(known))[0].numpy()
        np.testing.assert_allclose(ours, GOLDEN[f"out_timm_{mode}_{interpolation}"], atol=1e-5)

    @pytest.mark.parametrize("mode", ["squash", "center"])
    @pytest.mark.parametrize("preset", ["uda", "center", "shift", "none"])
    def test_selection_sees_what_prediction_sees(self, preset, mode):
        config = BackboneConfig(**TRAIN, resize=64, crop=56, crop_mode=mode)
        seen = make_views(preset, config, True)["test"](IMAGE, 0).permute(1, 2, 0).numpy()
        assert np.array_equal(seen, prepare_image(IMAGE, config))

    def test_a_label_at_the_edges_is_seen_by_scores_features_and_selection(self, tmp_path):
        """A 2:1 image: what tells its class lies in the outer 6 to 15 % of its width on either side."""
        folder = tmp_path / "photos"
        for label, edge in (("dark", 0), ("light", 255)):
            (folder / label).mkdir(parents=True)
            image = np.full((40, 80, 3), 128, np.uint8)
            image[:, 5:12] = image[:, -12:-5] = edge
            Image.fromarray(image).save(folder / label / "a.png")
        torch.manual_seed(0)
        plain = ClassifierConfig(**TRAIN, resize=32, crop=28)
        model = export_classifier(
            create_model("cifar_resnet8", 2), tmp_path / "m", "cifar_resnet8", plain, ["dark", "light"]
        )
        config = BackboneConfig(name=str(model), resize=32, crop=28)
        images = Images(DataConfig(str(folder)))
        (shard,) = images.plan({})
        rows = images.open(WorkContext("cpu")).run(shard, [])

        def differ(stage, column: str) -> bool:
            made = stage.open(WorkContext("cpu")).run(shard, [rows]).column(column)
            return not np.allclose(made[0], made[1])

        features = Features(replace(config, frozen=True, weak_views=0, strong_views=0))
        assert differ(Predict(replace(config), 2), "logits") and differ(features, "test")
        hidden = replace(config, crop_mode="center")
        assert not differ(Predict(hidden, 2), "logits")
        assert not differ(replace(features, backbone=replace(features.backbone, crop_mode="center")), "test")

    def test_fits_whose_view_was_the_squash_keep_their_digest(self):
        config, names = BackboneConfig(**TRAIN), ("a", "b")
        uda = load("adapt_anything/office31/all").uda
        squash = FitUda(uda, config, 2, names).identity()["backbone"]
        assert "crop_mode" not in squash
        assert FitUda(uda, replace(config, crop_mode="center"), 2, names).identity()["backbone"] == {
            **squash, "crop_mode": "center",
        }  # fmt: skip
        assert classifier_identity(config)["crop_mode"] == "squash", "predictions saw the centre crop before"

    def test_benchmarks_have_the_published_view_whatever_the_weights_say(self):
        recipe = load("adapt_anything/office31/all").resolved.backbone
        assert (recipe.crop_mode, recipe.resize, recipe.crop, recipe.interpolation) == (
            "squash", 256, 224, "bicubic",
        )  # fmt: skip

    def test_show_says_the_view_and_what_is_the_models_own(self, capsys):
        show(["adapt_anything/office31/all", "--backbone.name", "vit_base_patch16_224.augreg_in1k"])
        lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line[:2] == "--"]
        said = {line[0]: line[-1] for line in lines}
        assert said["--backbone.crop-mode"] == "squash"
        assert said["--backbone.mean"] == "0.5 0.5 0.5   (the model's own)"
        assert "execution only" in said["--backbone.batch-size"]


def test_runs_of_before_are_predicted_with_what_they_saw():
    from diffadapt.systems.predict import _as_it_was

    old = to_dict(with_inputs(BackboneConfig(name="resnet50.tv_in1k")))
    del old["interpolation"], old["crop_mode"]
    again = from_dict(BackboneConfig, _as_it_was(old))
    assert (again.interpolation, again.crop_mode) == ("bicubic", "center")


def test_plans_of_the_recipes_hold_no_unknown_input(tmp_path):
    recipe = load("adapt_anything/digits")
    plans = recipe.pipeline().plan(Store(str(tmp_path / "store")))
    for plan in plans.values():
        backbone = getattr(plan.stage, "backbone", None) or getattr(plan.stage, "classifier", None)
        assert backbone is None or None not in [getattr(backbone, n) for n in (*NAMES, "crop", "resize")]
