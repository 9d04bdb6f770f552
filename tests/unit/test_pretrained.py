"""Weights whose folders bring Python code: refused in one sentence, whoever loads them, and never run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tinypipelines as tiny
import torch

from diffadapt.core.errors import WeightsError
from diffadapt.models.pretrained import from_config, from_pretrained
from diffadapt.models.weights import ASSETS

SENTENCE = "want Python code of their own"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that the code of :func:`code` makes; at a question the user says yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "executed"
    assert asked == [] and not (tmp_path / "executed").exists()


def code(file: Path, marker: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast\n"
        "class Config(PretrainedConfig):\n    model_type = 'foreign'\n"
        "class Model(PreTrainedModel):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )


def change(file: Path, **values) -> None:
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(known | values))


@pytest.fixture
def foreign(tmp_path, marker):
    """A folder of transformers whose classes are its own."""
    folder = tmp_path / "foreign"
    code(folder / "own.py", marker)
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoModel": "own.Model"}
    change(folder / "config.json", model_type="foreign", auto_map=auto, architectures=["Model"])
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Tokenizer",
        auto_map={"AutoTokenizer": [None, "own.Tokenizer"]},
    )
    change(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Model"})
    return folder


def test_a_language_model(foreign):
    from diffadapt.prompts.backends.transformers import TransformersBackend
    from diffadapt.prompts.config import LlmConfig

    with pytest.raises(WeightsError, match=SENTENCE) as caught:
        TransformersBackend(LlmConfig(model=str(foreign)), "cpu")
    text = str(caught.value)
    assert (
        str(foreign) in text and "auto_map" in text and "trust_remote_code" not in text and "\n" not in text
    )


@pytest.mark.parametrize("what", ["clip", "detector"])
def test_clip_and_detectors(foreign, what):
    from diffadapt.models.clip import load_clip
    from diffadapt.models.detection.build import _transformers
    from diffadapt.models.detection.config import DetectorConfig

    change(foreign / "config.json", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(WeightsError, match=SENTENCE):
        if what == "clip":
            load_clip(str(foreign))
        else:
            _transformers(DetectorConfig(arch="transformers", backbone=str(foreign), weights="coco"), 3, None)


def test_a_detector_folder_cannot_name_code(foreign):
    from diffadapt.models.detection.build import _transformers
    from diffadapt.models.detection.config import DetectorConfig

    facts = {
        "transformers": {
            "model_type": "bert",
            "auto_map": {"AutoModelForObjectDetection": "own.Model"},
            "name_or_path": str(foreign),
        }
    }
    with pytest.raises(WeightsError, match=SENTENCE):
        _transformers(DetectorConfig(arch="transformers", backbone="some/detector"), 3, facts)


def test_an_auto_map_that_is_not_needed_changes_nothing(tmp_path, marker):
    """Many folders keep one beside a class that transformers has by now."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(shutil.copytree(tiny.clip(tmp_path / "clip"), tmp_path / "copy"))
    code(folder / "own.py", marker)
    change(folder / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    config = from_pretrained(AutoConfig, str(folder))
    model = from_pretrained(AutoModel, str(folder), dtype=torch.float32)
    assert type(model).__name__ == "CLIPModel" and config.model_type == "clip"
    assert type(from_config(AutoModel, config, "here")).__name__ == "CLIPModel"
    from_pretrained(AutoTokenizer, str(folder))


def test_what_older_versions_run_unasked_is_refused(tmp_path, marker):
    from transformers import CLIPModel

    folder = Path(shutil.copytree(tiny.clip(tmp_path / "clip"), tmp_path / "copy"))
    from_pretrained(CLIPModel, str(folder))
    kept = (folder / "config.json").read_text()
    for value in ("someone/kernel", {"text_config": "someone/kernel"}):
        change(folder / "config.json", attn_implementation=value)
        with pytest.raises(WeightsError, match=SENTENCE):
            from_pretrained(CLIPModel, str(folder))
    (folder / "config.json").write_text(kept)
    code(folder / "custom_generate" / "generate.py", marker)
    with pytest.raises(WeightsError, match=SENTENCE):
        from_pretrained(CLIPModel, str(folder))


@pytest.fixture
def pipeline(tmp_path):
    return Path(shutil.copytree(ASSETS / "glyphs", tmp_path / "pipeline"))


def load(pipeline: Path):
    from diffadapt.diffusion.generators.config import TextToImageConfig
    from diffadapt.diffusion.generators.text_to_image import load_text_to_image

    return load_text_to_image(TextToImageConfig(weights=str(pipeline)))


def test_a_pipeline_as_it_is_shipped_loads(pipeline):
    (pipeline / "example.py").write_text("raise SystemExit")
    assert load(pipeline)


@pytest.mark.parametrize("kind", ["component", "class", "unnamed", "module", "kernel"])
def test_pipelines_with_code(pipeline, marker, kind, monkeypatch):
    if kind == "component":
        code(pipeline / "unet" / "own.py", marker)
        change(pipeline / "model_index.json", unet=["own", "Model"])
    elif kind == "class":
        code(pipeline / "own.py", marker)
        change(pipeline / "model_index.json", _class_name=["own", "Model"])
    elif kind == "unnamed":
        code(pipeline / "None.py", marker)
    elif kind == "module":
        code(pipeline.parent / "own_module.py", marker)
        monkeypatch.syspath_prepend(str(pipeline.parent))
        change(pipeline / "model_index.json", unet=["own_module", "Model"])
    else:
        change(pipeline / "text_encoder" / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(WeightsError, match=SENTENCE):
        load(pipeline)


def test_a_part_of_a_pipeline_needs_no_code_of_the_whole(pipeline, marker):
    from diffusers import AutoencoderKL

    from diffadapt.models.diffusers_folder import load_component

    code(pipeline / "own.py", marker)
    change(pipeline / "model_index.json", _class_name=["own", "Model"])
    assert load_component(AutoencoderKL, str(pipeline), "vae")


@pytest.mark.parametrize(
    "args",
    [
        {"checkpoint_path": "/elsewhere/weights.pth"},
        {"model_name": "hf-hub:someone/else"},
        {"pretrained": True},
        {"backbone": "hf-hub:someone/else"},
    ],
)
def test_a_classifier_folder_names_no_other_weights(tmp_path, args):
    from diffadapt.models.classifier_source import folder_config

    change(tmp_path / "config.json", architecture="cifar_resnet8", num_classes=3, model_args=args)
    with pytest.raises(WeightsError, match=f"{next(iter(args))}.*not trusted"):
        folder_config(str(tmp_path))
