"""``diffadapt weights``: the original authors' checkpoints -> diffusers and timm folders, each with a numeric self-check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from diffadapt.core.errors import WeightsError


@dataclass(frozen=True)
class ImportAdm:
    """guided-diffusion's unconditional ADM (256x256_diffusion_uncond.pt) -> a diffusers UNet2DModel folder."""

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
class Ls:
    """Embedded weights and what else is at hand, with revisions."""

    paths: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders, files or hub ids whose revision to print."""


def weights(argv: Sequence[str]) -> int:
    from diffadapt.cli import example

    options = tyro.extras.subcommand_cli_from_dict(
        {"import-adm": ImportAdm, "import-dit": ImportDit, "import-openmmlab": ImportOpenmmlab, "ls": Ls},
        prog="diffadapt weights", args=list(argv), description=f"Weights.\n\n{example('weights')}",
    )  # fmt: skip
    if not isinstance(options, Ls):
        if not options.checkpoint:
            raise WeightsError("Give the checkpoint file to import, as its authors published it.")
        if not Path(options.checkpoint).is_file():
            raise WeightsError(f"There is no file {options.checkpoint!r}: download the checkpoint from its authors first.")
    return {ImportAdm: _adm, ImportDit: _dit, ImportOpenmmlab: _openmmlab, Ls: _ls}[type(options)](options)


def _adm(options: ImportAdm) -> int:
    from diffadapt.models.import_adm import import_adm

    print(import_adm(options.checkpoint, options.out))
    return 0


def _dit(options: ImportDit) -> int:
    from diffadapt.models.import_dit import SELF_CHECK_GATE, import_dit

    heads = {"num_heads": options.num_heads} if options.num_heads else None
    report = import_dit(options.checkpoint, options.out, options.vae, config=heads)
    print(
        f"{report.folder}: {report.parameters:,} parameters; output within {report.max_relative_error:.1e} (relative) of the original "
        f"graph, gate {SELF_CHECK_GATE:.0e}; source sha256 {report.source_sha256[:16]}"
    )
    return 0


def _openmmlab(options: ImportOpenmmlab) -> int:
    from diffadapt.models.export import import_openmmlab

    names = None
    if options.classes:
        try:
            names = [n.strip() for n in Path(options.classes).read_text(encoding="utf-8").splitlines() if n.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"The class list {options.classes!r} cannot be read ({type(error).__name__}).") from None
    print(import_openmmlab(options.checkpoint, options.out, names))
    return 0


def _ls(options: Ls) -> int:
    from diffadapt.models.weights import ASSETS, revision

    names = [f"embedded:{p.name}" for p in sorted(ASSETS.iterdir()) if p.is_dir()] if ASSETS.is_dir() else []
    for name in (*names, *options.paths):
        print(f"{name:<40} {revision(name)}")
    return 0
