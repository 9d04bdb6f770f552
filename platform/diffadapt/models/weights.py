"""Where weights are and which revision they are: embedded, a local folder or file, or a hub id. Knows no
torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from diffadapt.core.errors import UnfitError, WeightsError, suggest
from diffadapt.core.files import file_sha256, read_own, write_whole
from diffadapt.core.foreign import parse
from diffadapt.core.leniency import missing
from diffadapt.core.local_cache import cache_home
from diffadapt.core.sealed import OWN, SUCCESS, unsealed

ASSETS = Path(__file__).resolve().parent.parent / "assets"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?$")
_SKIPPED = {"README.md", ".gitattributes", ".DS_Store"}


def resolve(weights: str) -> str:
    """The local path of ``embedded:<name>`` or of an existing file or folder, else the hub id unchanged.

    Raises WeightsError when it is none of the three.
    """
    if weights.startswith("embedded:"):
        name = weights.removeprefix("embedded:")
        folder = ASSETS / name
        if not re.fullmatch(r"[\w.-]+", name) or not folder.is_dir():
            have = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
            raise WeightsError(
                f"There are no embedded weights {name!r}; shipped are:"
                f" {', '.join(have) or 'none'}.{suggest(name, have)}"
            )
        return str(folder)
    path = Path(weights).expanduser()
    if path.exists():
        return local_path(path)
    if weights == "adm-256-uncond":
        raise WeightsError(
            "The unconditional ADM has no hub repository: download 256x256_diffusion_uncond.pt from its"
            " authors, run `diffadapt weights import-adm 256x256_diffusion_uncond.pt --out adm-256-uncond`,"
            " and run this again beside that folder."
        )
    if re.fullmatch(r"(openai/)?glide([-_][\w-]+)?", weights, re.IGNORECASE):
        raise WeightsError(
            "GLIDE's checkpoints cannot be read here, because diffusers has no pipeline for them"
            " (platform/docs/adr/0018-glide.md): give DeepFloyd/IF-I-XL-v1.0, a pixel-space model of the same"
            " kind, any other text-to-image pipeline, or a diffusers folder of your own conversion."
        )
    if _HUB_ID.match(weights):
        return weights
    raise WeightsError(
        f"No weights at {weights!r}: it is neither a file or folder, nor a hub id like 'org/name', nor"
        " 'embedded:<name>'."
    )


def local_path(path: Path) -> str:
    """The absolute path of an existing file or folder, links followed; but not those of a Hugging Face cache
    to a file without a suffix, which says what the file is."""
    real = path.resolve()
    return str(real if real.is_dir() or real.suffix else path.absolute())


def is_hub_id(resolved: str) -> bool:
    """Whether what :func:`resolve` returned is a hub id rather than a local path."""
    return not os.path.exists(resolved)


def weights_label(weights: str) -> str:
    """The readable name of weights in the store; 'trained' where a recipe trains them."""
    name = "trained" if weights == "train" else weights.rstrip("/").replace("\\", "/").split("/")[-1]
    return name.removeprefix("embedded:")


def revision(weights: str) -> str:
    """A string that changes when the weights do: ``sha256:...`` of local content, or ``hub:<commit>``."""
    try:
        resolved = resolve(weights)
        return _hub_revision(resolved) if is_hub_id(resolved) else content_revision(resolved)
    except WeightsError as error:
        missing(error)
        return f"missing:{weights}"


def content_revision(path: str) -> str:
    """``sha256:`` and 16 hex characters over the names and bytes of a file or of a folder's files."""
    root = Path(path)
    files = (
        [root]
        if root.is_file()
        else sorted(p for p in root.rglob("*") if p.is_file() and p.name not in _SKIPPED)
    )
    if not files:
        raise UnfitError(f"The weights folder {path!r} is empty: give a folder with a model in it.")
    total, stored = hashlib.sha256(), root.is_dir() and (root / SUCCESS).is_file()
    for file in files:
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        own = stored and name in OWN
        digest = hashlib.sha256(unsealed(name, file.read_bytes())).hexdigest() if own else _file_digest(file)
        total.update(f"{name}\0{digest}\n".encode())
    return "sha256:" + total.hexdigest()[:16]


def _file_digest(file: Path) -> str:
    stat = file.stat()
    if stat.st_size < 1 << 20:
        return file_sha256(file)
    cache = cache_home() / "weights.json"
    try:
        known = dict(parse(read_own(cache)))
    except (OSError, ValueError, TypeError):
        known = {}
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in known:
        known[key] = file_sha256(file)
        try:
            write_whole(cache, json.dumps(known).encode())
        except OSError:
            pass  # the cache only saves time
    return known[key]


def _hub_revision(repo: str) -> str:
    from huggingface_hub import HfApi, constants

    name, _, wanted = repo.partition("@")
    wanted = wanted or "main"
    ref = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / wanted
    if ref.is_file():
        return "hub:" + ref.read_text().strip()[:16]
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"The weights {name!r} are not in the local hub cache and HF_HUB_OFFLINE is set: unset it, "
            f"or run `hf download {name}` where there is a network and give the folder."
        )
    try:
        return "hub:" + (HfApi().model_info(name, revision=wanted).sha or "unknown")[:16]
    except Exception as error:
        raise WeightsError(
            f"The weights {name!r} could not be looked up on the hub ({type(error).__name__}): check the name"
            " and the network, or give a local folder."
        ) from error
