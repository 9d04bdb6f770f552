"""What comes from elsewhere is data, never code: images, weights and configurations are read by few
functions, which refuse what could start a program, and nothing else in the tree reads them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("platform", "pipelines", "tune_spaces", "cluster")
IMAGES = "platform/diffadapt/data/image.py"
WEIGHTS = "platform/diffadapt/models/pretrained.py"
DRAWING = {"Image", "ImageChops", "ImageDraw", "ImageEnhance", "ImageFilter", "ImageFont", "ImageOps"}
"""Modules of Pillow that open no images (ImageFont opens fonts, which the package or the system has)."""
READERS = {
    "imread", "imopen", "mimread", "imdecode", "load_image", "read_image", "read_file", "decode_image",
    "decode_jpeg", "decode_png", "decode_gif", "decode_webp", "default_loader", "pil_loader", "ImageFolder",
}  # fmt: skip
"""What OpenCV, imageio, matplotlib, scikit-image, torchvision, diffusers and transformers call a reader."""
MODULES = {
    "cv2", "imageio", "skimage", "matplotlib.image", "torchvision.io", "torchvision.datasets", "joblib",
    "dill", "shelve", "marshal", "torch.package",
}  # fmt: skip
"""Modules that read images past our function, or that unpickle."""
IN_MEMORY = {"datasets", "datasets.Dataset", "datasets.Dataset.from_dict", "datasets.Dataset.from_pandas"} | {
    f"datasets.{feature}" for feature in ("ClassLabel", "Features", "Image", "Value")
}
"""Names of Hugging Face's datasets that hold what is handed to them; others fetch, read files or run
loading scripts."""
OWN_MESSAGES = {
    "platform/diffadapt/api/apart.py",
    "platform/diffadapt/orchestrate/desk.py",
    "platform/diffadapt/orchestrate/pool.py",
    "platform/diffadapt/run/local_worker.py",
}
"""Files that unpickle: what the processes of one run tell each other."""
PLAIN = {"DiTTransformer2DModel", "UNet2DModel", "AutoencoderKL", "cls"}
"""Classes of diffusers whose from_config makes the class itself from numbers and takes no such argument
(``cls``: a scheduler)."""


@cache
def trees() -> dict[str, ast.Module]:
    files = [f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))]
    return {f.relative_to(ROOT).as_posix(): ast.parse(f.read_text(encoding="utf-8")) for f in files}


def names(tree: ast.Module) -> dict[str, str]:
    """What a name at any place of a file stands for: {alias: "package.module.object"}."""
    result = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                result[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                result[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return result


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """ "PIL.Image.open" of ``I.open`` after ``from PIL import Image as I``; "" of other expressions; "?.x" of
    an attribute x of such."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, known) or '?'}.{node.attr}"
    return ""


def uses(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Everything that a file names: imported, called or passed on."""
    known = names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base = getattr(node, "module", None)
            for alias in node.names:
                yield f"{base}.{alias.name}" if base else alias.name, node
        elif isinstance(node, (ast.Attribute, ast.Name)):
            yield dotted(node, known), node


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    known = names(tree)
    return ((dotted(n.func, known), n) for n in ast.walk(tree) if isinstance(n, ast.Call))


def given(call: ast.Call, name: str) -> object:
    """The constant that a call passes as ``name``; None where it passes none, ``...`` for an expression."""
    value = next((k.value for k in call.keywords if k.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else None if value is None else ...


def image_readers(tree: ast.Module) -> list[str]:
    """Names by which a file could read images otherwise than through data/image.py."""
    found = []
    for name, node in uses(tree):
        parts = name.split(".")
        if name == "PIL.Image.open" or (parts[0] == "PIL" and len(parts) > 1 and parts[1] not in DRAWING):
            found.append(name)
        elif name.startswith("PIL.Image.") and parts[2] in ("preinit", "init", "register_open", "OPEN"):
            found.append(name)
        elif parts[-1] in READERS and parts[0] != "diffadapt" and not isinstance(node, ast.Name):
            found.append(name)
    return [n for n in found if n not in ("PIL.__version__", "PIL.UnidentifiedImageError")]


def code_runners(tree: ast.Module, file: str = "") -> list[str]:
    """Names and calls by which a file could run what it reads."""
    found = []
    for name, _ in uses(tree):
        head, _, last = name.rpartition(".")
        if any(name == m or name.startswith(f"{m}.") for m in MODULES):
            found.append(name)
        if name.startswith("datasets.") and name not in IN_MEMORY:
            found.append(name)
        if head.endswith("pickle") and last in ("load", "loads", "Unpickler") and file not in OWN_MESSAGES:
            found.append(name)
        if name in (
            "torch.hub.load",
            "torch.jit.load",
            "torch.hub.load_state_dict_from_url",
            "pandas.read_pickle",
        ):
            found.append(name)
        if head == "yaml" and last in (
            "load",
            "load_all",
            "unsafe_load",
            "full_load",
            "Loader",
            "UnsafeLoader",
        ):
            found.append(name)
        if last == "from_single_file" and file != WEIGHTS:
            found.append(name)
        if name == "transformers.pipeline" or last in (
            "load_dataset",
            "load_custom_generate",
        ):
            found.append(name)
    for name, call in calls(tree):
        owner, _, last = name.rpartition(".")
        foreign = owner and not owner.startswith("diffadapt")
        if name == "torch.load" and given(call, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name == "numpy.load" and given(call, "allow_pickle") not in (None, False):
            found.append("numpy.load with allow_pickle")
        if name in ("eval", "exec") and not all(isinstance(a, ast.Constant) for a in call.args):
            found.append(name)
        if foreign and last == "from_pretrained" and given(call, "trust_remote_code") is not False:
            found.append("from_pretrained without trust_remote_code=False")
        if foreign and last == "from_config" and owner.rpartition(".")[2] not in PLAIN:
            if given(call, "trust_remote_code") is not False:
                found.append("from_config without trust_remote_code=False")
        for key in ("custom_pipeline", "custom_generate", "trust_remote_code", "allow_all_kernels"):
            if given(call, key) not in (None, False):
                found.append(f"{key} of {last}")
    return found


def guilty(look, *allowed: str) -> dict[str, list[str]]:
    return {
        file: found for file, tree in trees().items() if file not in allowed and (found := look(tree, file))
    }


def test_one_function_opens_images():
    assert guilty(lambda tree, _: image_readers(tree), IMAGES) == {}
    opened = [c for name, c in calls(trees()[IMAGES]) if name == "PIL.Image.open"]
    assert len(opened) == 1 and ast.unparse(opened[0].keywords[0]) == "formats=tuple(FORMATS)"
    assert set(image_readers(trees()[IMAGES])) == {"PIL.Image.open"}


def test_nothing_that_is_read_is_run():
    assert guilty(code_runners) == {}


def test_weights_are_loaded_in_one_place():
    """Every from_pretrained of the tree is the one call there, which passes trust_remote_code=False. Models,
    schedulers and ControlNets of diffusers ignore it: they make the class that is asked for, whatever the
    folder says; timm.create_model and load_lora_weights read tensors alone and have no such argument."""
    where = [
        (file, given(call, "trust_remote_code"))
        for file, tree in trees().items()
        for name, call in calls(tree)
        if name.endswith(".from_pretrained") and not name.startswith("diffadapt.")
    ]
    assert where == [(WEIGHTS, False)]


@pytest.mark.parametrize(
    "text",
    [
        "import PIL.Image\nPIL.Image.open(x)",
        "from PIL import Image as I\nI.open(x)",
        "from PIL.Image import open as look\nlook(x)",
        "def f():\n    from PIL import Image\n    return map(Image.open, x)",
        "from PIL import ImageFile",
        "from PIL import EpsImagePlugin",
        "import PIL.ImageShow",
        "import cv2\ncv2.imread(x)",
        "import imageio.v3 as iio\niio.imread(x)",
        "from matplotlib.pyplot import imread",
        "from torchvision.io import read_image",
        "from diffusers.utils import load_image",
    ],
)
def test_the_guard_of_images_sees(text):
    assert image_readers(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(x)",
        "from torch import load\nload(x, weights_only=False)",
        "import torch as t\nt.load(x, weights_only=safe)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import pickle\npickle.loads(x)",
        "from pickle import Unpickler",
        "import cloudpickle\ncloudpickle.load(x)",
        "import joblib",
        "import yaml\nyaml.load(x)",
        "import torch\ntorch.hub.load(x, y)",
        "from datasets import load_dataset",
        "import datasets as d\nd.Dataset.from_generator(x)",
        "import datasets.load",
        "from transformers import pipeline",
        "from diffusers import P\nP.from_single_file(x)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(x)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(x, trust_remote_code=wanted)",
        "from transformers import AutoModel\nAutoModel.from_config(x)",
        "import diffusers as d\nd.P.from_pretrained(x, trust_remote_code=False, custom_pipeline=y)",
        "eval(x)",
    ],
)
def test_the_guard_of_code_sees(text):
    assert code_runners(ast.parse(text))
