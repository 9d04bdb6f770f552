"""Trained classifiers of a run as torch modules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.api.given import encoded
from diffadapt.core.errors import StoreError, suggest
from diffadapt.core.runs import Run
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.roles import CLASSIFIERS

if TYPE_CHECKING:
    import torch

    from diffadapt.models.classifier import Classifier


@dataclass(frozen=True)
class Transform:
    """What a classifier sees of an image: a file, encoded bytes, a Picture, a PIL image, or an array uint8
    (H, W), (H, W, 1) or (H, W, 3) -> normalised float32 (C, H, W). DataError for anything else, and for what
    cannot be read."""

    config: ClassifierConfig

    def __call__(self, image: Any) -> torch.Tensor:
        from diffadapt.data.image import decode
        from diffadapt.models.preprocess import to_input

        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "the image"
        return to_input([decode(encoded(image, name), self.config.in_channels, name)], self.config)[0]


def model(run: Run, name: str, seed: int | None) -> Classifier:
    """The classifier that ``name`` means; see :meth:`diffadapt.api.run.Run.model`."""
    from diffadapt.models.classifier import load_classifier
    from diffadapt.systems.predict import model_config

    manifest = run.manifest()
    node = node_of(run, manifest, name, seed)
    if manifest["nodes"][node]["kind"] not in CLASSIFIERS:
        raise StoreError(
            f"{name!r} of {run.name} is no classifier ({manifest['nodes'][node]['kind']}): take it as a"
            f" folder with `diffadapt export {run.name} --what {node} --out <folder>`."
        )
    names: Sequence[str] = tuple(manifest["class_names"])
    loaded: Any = load_classifier(model_config(run, manifest, node), len(names) or None)
    loaded.transform, loaded.class_names = Transform(loaded.config), names
    return loaded.eval()


def node_of(run: Run, manifest: Mapping[str, Any], name: str, seed: int | None) -> str:
    """The stage that trained what ``name`` (a stage, a role, a row) means. StoreError for none."""
    nodes, outputs, name = manifest["nodes"], manifest["outputs"], str(name)
    trained = [n for n, v in nodes.items() if v["kind"] in CLASSIFIERS]
    found = [n for n in trained if n == name or n.partition(".s")[0] == name]
    if not found and name == "model":
        found = [n for n in (outputs.get("model"), outputs.get("finetuned")) if n][:1]
        if found and seed is not None:  # of its own seed alone is it said
            found = [n for n in trained if n.partition(".s")[0] == found[0].partition(".s")[0]]
    if not found and name in nodes:
        found = [name]
    if not found:
        rows = [r for r in manifest.get("rows") or () if r["name"].casefold() == name.casefold()]
        found = [m for r in rows for m in _behind(nodes, r, trained)]
    if seed is not None:
        found = [n for n in found if n.endswith(f".s{seed}")]
    if not found:
        known = [*dict.fromkeys(n.partition(".s")[0] for n in trained)]
        which = f"{name!r}" if seed is None else f"{name!r} of the seed {seed}"
        raise StoreError(
            f"The run {run.name} has no trained model {which}.{suggest(name, known)} It has:"
            f" {', '.join(known) or 'none'}."
        )
    return found[0]


def _behind(nodes: Mapping[str, Any], row: Mapping[str, Any], trained: Sequence[str]) -> list[str]:
    """The model of a row: of an ensemble that of its last member."""
    return [i for i in nodes[row["members"][-1]]["inputs"] if i in trained]
