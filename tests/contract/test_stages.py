"""What every stage promises, found by looking: a new stage file is covered by itself."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pickle
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffadapt  # noqa: E402
from diffadapt.core.artifact import Failure, Rows, image_table  # noqa: E402
from diffadapt.core.config import to_dict  # noqa: E402
from diffadapt.core.identity import digest  # noqa: E402
from diffadapt.core.leniency import lenient  # noqa: E402
from diffadapt.core.stage import Stage, WorkContext  # noqa: E402
from diffadapt.data.config import DataConfig  # noqa: E402
from diffadapt.data.image import encode_png  # noqa: E402
from diffadapt.data.scenes.config import SceneConfig  # noqa: E402
from diffadapt.methods.config import MemoConfig, TentConfig  # noqa: E402
from diffadapt.models.config import BackboneConfig, ClassifierConfig, ClipConfig  # noqa: E402
from diffadapt.stages.align import Align  # noqa: E402
from diffadapt.stages.corrupt import Corrupt  # noqa: E402
from diffadapt.stages.images import Images  # noqa: E402
from diffadapt.stages.scenes import Scenes  # noqa: E402
from diffadapt.tasks.classification.adapt_online import Memo, Tent  # noqa: E402
from diffadapt.tasks.classification.clip_features import ClipFeatures  # noqa: E402
from diffadapt.tasks.classification.features import Features  # noqa: E402
from diffadapt.tasks.classification.predict import Predict  # noqa: E402
from diffadapt.tasks.classification.zero_shot import ZeroShot  # noqa: E402
from tests.unit import tinypipelines  # noqa: E402

PACKAGE = Path(diffadapt.__file__).parent
ROOMS = ("stages", "tasks", "worlds")
STREETS = SceneConfig(path="embedded:streets", layout="streets", limit=2)
DIGITS = DataConfig(path="embedded:digits", split="test", image_size=16, channels=1)


def stage_classes() -> list[type[Stage]]:
    found: set[type[Stage]] = set()
    for file in (f for room in ROOMS for f in sorted((PACKAGE / room).rglob("[!_]*.py"))):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        module = importlib.import_module(name)
        here = {
            c
            for _, c in inspect.getmembers(module, inspect.isclass)
            if issubclass(c, Stage) and c.__module__ == module.__name__
        }
        found |= {c for c in here if c.kind != Stage.kind}  # a base has no kind of its own
    return sorted(found, key=lambda c: (c.kind, c.__name__))


def sample(cls: type[Stage]) -> Stage:
    return cls(data=DIGITS) if issubclass(cls, Images) else cls(data=STREETS) if cls is Scenes else cls()


def identity(stage: Stage) -> str:
    with lenient():
        return digest({"identity": stage.identity(), "revisions": stage.revisions()})


def executions(config: Any) -> list[Any]:
    """Copies of ``config`` with one execution field changed, at any depth."""
    copies = []
    for f in fields(config):
        value = getattr(config, f.name)
        if f.metadata.get("execution"):
            flag = value is None or isinstance(value, bool)
            other = "im" if isinstance(value, str) else (not value) if flag else value + 1
            copies.append(replace(config, **{f.name: other}))
        elif is_dataclass(value):
            copies += [replace(config, **{f.name: inner}) for inner in executions(value)]
    return copies


SHARED_KINDS = {
    "synth": {"Synthesize", "TextToImage"},
    "figures": {"Figures", "AdaptationFigures", "SceneFigures", "DetectionFigures"},
    "transferred": {"TransferScenes", "RelightScenes"},
    "segments": {"PredictSegments", "PredictTogether"},
}
"""Kinds of two stages that make the same kind of thing; their digests differ by their settings."""
NEED_NO_GPU = {
    "Images",
    "Corrupt",
    "CorruptTraining",
    "CorruptScenes",
    "Prompts",
    "FilterImages",
    "HoldOut",
    "Split",
    "Validate",
    "PredictHead",
    "MergeHead",
    "AdaptationFigures",
    "Scenes",
    "Photos",
    "Quality",
    "RelightScenes",
    "SceneFigures",
    "DetectionFigures",
}


def test_all_stages_were_found():
    names = {c.__name__ for c in stage_classes()}
    assert names >= {
        "Images",
        "Corrupt",
        "Synthesize",
        "Align",
        "FitClassifier",
        "FitGenerator",
        "Predict",
        "Memo",
        "Tent",
        "Figures",
    }
    assert names >= {
        "Prompts",
        "TextToImage",
        "FilterImages",
        "Features",
        "FitUda",
        "FitSsl",
        "Split",
        "PredictHead",
        "MergeHead",
        "ZeroShot",
        "Validate",
        "AdaptationFigures",
    }
    assert names >= {
        "Scenes",
        "TransferScenes",
        "Quality",
        "FitLayout",
        "FitSegmenter",
        "PredictSegments",
        "SceneFigures",
        "FitDetector",
        "PredictBoxes",
        "DetectionFigures",
    }
    by_kind: dict[str, set[str]] = {}
    for cls in stage_classes():
        by_kind.setdefault(cls.kind, set()).add(cls.__name__)
    assert {
        kind: names for kind, names in by_kind.items() if len(names) > 1
    } == SHARED_KINDS and "stage" not in by_kind
    for cls in stage_classes():
        alike = [c for c in stage_classes() if c.kind == cls.kind]
        assert len({(c.fit_stage, c.stored) for c in alike}) == 1 and len(
            {identity(sample(c)) for c in alike}
        ) == len(alike)


def test_work_without_networks_takes_no_gpu():
    assert {c.__name__ for c in stage_classes() if sample(c).resources() == "cpu"} == NEED_NO_GPU
    from diffadapt.diffusion.generators.config import FilterConfig
    from diffadapt.prompts.config import LlmConfig, PromptConfig
    from diffadapt.stages.filter_images import FilterImages
    from diffadapt.stages.prompts import Prompts

    assert FilterImages(FilterConfig(clip="hub/clip")).resources() == "gpu"
    asked = {
        b: Prompts(PromptConfig(source="llm", llm=LlmConfig(backend=b, model="hub/model"))).resources()
        for b in ("transformers", "openai")
    }
    assert asked == {"transformers": "gpu", "openai": "cpu"}
    assert {c.__name__ for c in stage_classes() if c.fit_stage and not c.trains} == {
        "FilterImages",
        "Figures",
        "AdaptationFigures",
        "Quality",
        "SceneFigures",
        "DetectionFigures",
        "HoldOut",
        "ChooseLevel",
    }, "others that train nothing run on CPUs alone"


PLACES = ("weights", "name", "path", "folder", "file", "clip", "root", "model", "classes", "fonts")
"""Fields that may hold a path."""


def moved(config: Any, place: str) -> Any:
    """``config`` with every field that may hold a path set to ``place``, at any depth."""
    changed = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changed[f.name] = moved(value, place)
        elif isinstance(value, str) and f.name in PLACES:
            changed[f.name] = place
    return replace(config, **changed)


@pytest.mark.parametrize("cls", stage_classes(), ids=lambda c: c.__name__)
class TestEveryStage:
    def test_is_a_frozen_value(self, cls):
        stage = sample(cls)
        assert cls.__dataclass_params__.frozen and stage == sample(cls) and hash(stage) == hash(sample(cls))
        assert isinstance(cls.version, int) and cls.version >= 1 and cls.__doc__

    def test_identity_is_json_and_stable(self, cls):
        with lenient():
            value = sample(cls).identity()
        assert json.loads(json.dumps(value)) == json.loads(json.dumps(to_dict(value))) and identity(
            sample(cls)
        ) == identity(sample(cls))

    def test_execution_fields_stay_outside(self, cls):
        stage = sample(cls)
        for other in executions(stage):
            assert other != stage and identity(other) == identity(stage)

    def test_paths_stay_outside(self, cls):
        with lenient():
            stage = (
                moved(sample(cls), "/disk/elsewhere.txt")
                if not issubclass(cls, (Images, Scenes))
                else sample(cls)
            )
            assert "/disk" not in json.dumps(stage.identity())

    def test_pickles(self, cls):
        stage = sample(cls)
        assert pickle.loads(pickle.dumps(stage)) == stage

    def test_says_what_it_needs(self, cls):
        stage = sample(cls)
        assert stage.resources() in ("cpu", "gpu") and stage.label() and "/" not in stage.label()
        overridden = {n for n in ("open", "fit") if getattr(cls, n) is not getattr(Stage, n)}
        assert overridden == ({"fit"} if cls.fit_stage else {"open"})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> ClassifierConfig:
    """A random small classifier of ten classes in timm's folder format."""
    from diffadapt.models.classifier import create_model
    from diffadapt.models.export import export_classifier

    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = ClassifierConfig(
        name="train",
        arch="cifar_resnet8",
        in_channels=1,
        resize=0,
        crop=16,
        mean=(0.5,),
        std=(0.5,),
        batch_size=4,
    )
    export_classifier(
        create_model("cifar_resnet8", 10, in_channels=1),
        str(folder),
        "cifar_resnet8",
        config,
        [str(i) for i in range(10)],
        {},
    )
    return replace(config, name=str(folder), arch=None)


def clean_rows(count: int = 6, lost: int = 1) -> Rows:
    """Random pictures, one file that is no picture (number 2), and items that an earlier stage could not
    make."""
    keys = [f"clean/0/c{i}.png" for i in range(count)]
    images = [
        encode_png(
            torch.randint(0, 256, (16, 16, 1), generator=torch.Generator().manual_seed(i))
            .to(torch.uint8)
            .numpy()
        )
        for i in range(count)
    ]
    images[2] = b"no picture"
    return Rows(
        image_table(keys, list(range(count)), images, [0] * count),
        [Failure(f"clean/0/lost{i}.png", "earlier") for i in range(lost)],
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ClipConfig:
    return ClipConfig(
        tinypipelines.clip(tmp_path_factory.mktemp("clip") / "clip"), ("a photo of the {category}",)
    )


def workers(classifier: ClassifierConfig, clip: ClipConfig) -> list[tuple[Stage, dict, int]]:
    """(stage, shard parameters, rows expected) for every stage that makes rows from rows."""
    return [
        (
            Corrupt(channels=1, resize=0, jpeg_quality=0),
            {"group": "contrast/5", "corruption": "contrast", "severity": 5},
            5,
        ),
        (
            Align(replace(Align().config, weights="embedded:digits-unet", respacing=10, start=2, factor=2)),
            {},
            5,
        ),
        (Predict(classifier, 10), {}, 5),
        (Tent(TentConfig(batch_size=2, lr=1e-3), classifier, 10), {"group": "x"}, 5),
        (Memo(MemoConfig(views=2, flip=False), classifier, 10), {"group": "x", "take": 7}, 5),
        (
            Features(BackboneConfig(**vars(classifier), frozen=True, weak_views=1, strong_views=1), "shift"),
            {},
            5,
        ),
        (ZeroShot(clip, ("dog", "cat", "car")), {}, 5),
        (ClipFeatures(clip), {}, 5),
    ]


@pytest.mark.parametrize(
    "index",
    range(8),
    ids=["corrupt", "align", "predict", "tent", "memo", "features", "zero-shot", "clip-features"],
)
def test_bad_images_are_quarantined_once_and_inherited(classifier, clip, index):
    from diffadapt.core.artifact import Shard

    torch.set_num_threads(1)
    stage, params, count = workers(classifier, clip)[index]
    rows = stage.open(WorkContext("cpu")).run(Shard("k", params), [clean_rows()])
    assert len(rows) == count
    keys = sorted(f.key.rpartition("/")[2] for f in rows.failures)
    assert keys == ["c2.png", "lost0.png"]
    groups = {f.key.rpartition("/")[0] for f in rows.failures}
    assert groups == ({"contrast/5"} if isinstance(stage, Corrupt) else {"clean/0"})


def test_memo_takes_the_same_images_whether_or_not_others_can_be_read(classifier):
    from diffadapt.core.artifact import Shard

    torch.set_num_threads(1)
    stage = Memo(MemoConfig(views=2, flip=False, limit=3), classifier, 10)
    worker = stage.open(WorkContext("cpu"))
    chosen = []
    for rows in (
        clean_rows(lost=0),
        Rows(clean_rows().table.take([0, 1, 3, 4, 5]), [Failure("clean/0/c2.png", "lost earlier")]),
    ):
        out = worker.run(Shard("k", {"group": "x", "take": 3}), [rows])
        chosen.append(sorted([*out.column("key"), *(f.key for f in out.failures)]))
        assert len(chosen[-1]) == 3
    assert chosen[0] == chosen[1]


def test_outputs_that_are_not_finite_are_quarantined(classifier):
    from diffadapt.core.artifact import Shard

    worker = Predict(classifier, 10).open(WorkContext("cpu"))
    good = worker.model.forward
    worker.model.forward = lambda x: (
        good(x) * torch.where(x.flatten(1).mean(1, keepdim=True) == x[:1].mean(), float("nan"), 1.0)
    )
    rows = worker.run(Shard("k", {}), [clean_rows(lost=0)])
    assert any("NaN" in f.reason for f in rows.failures) and len(rows) + len(rows.failures) == 6
    assert all(torch.tensor(x).isfinite().all() for x in rows.column("logits"))


def test_a_limited_stream_is_as_long_as_planned(classifier):
    from diffadapt.core.artifact import Shard

    stage = Tent(TentConfig(batch_size=2, limit=3), classifier, 10)
    rows = stage.open(WorkContext("cpu")).run(Shard("k", {"group": "x"}), [clean_rows()])
    assert len(rows) == 3 and rows.failures == []


def test_a_warm_up_longer_than_the_training_is_refused_when_planning():
    from diffadapt.core.errors import RecipeError
    from diffadapt.tasks.classification.fit_classifier import FitClassifier
    from diffadapt.train.config import SWIN_PAPER

    with pytest.raises(RecipeError, match="warm-up of 5 epochs"):
        FitClassifier(replace(SWIN_PAPER, epochs=1)).plan({})
