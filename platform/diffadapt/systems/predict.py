"""The deployed form of a system as a recipe type: a finished run's models applied to new, unlabelled
images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffadapt.core.artifact import Shard
from diffadapt.core.config import from_dict
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.runs import Run
from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import InputFile
from diffadapt.data.config import DataConfig
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.run.executor import fetch_folder
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.align import Align
from diffadapt.stages.choose_level import LEVEL, chosen_level
from diffadapt.stages.images import Images
from diffadapt.systems.adapt_anything.graph import plain
from diffadapt.systems.checks import check_known
from diffadapt.systems.predict_scenes import ScenePrediction, of_segmenter
from diffadapt.systems.sda.recipe import SDA
from diffadapt.tasks.classification.predict import Predict

SOURCE, PROJECTED, MODEL = "source_on_images", "finetuned_on_projected", "model_on_images"


@dataclass(frozen=True)
class ModelPrediction:
    """The predictions of one adapted classifier (Adapt Anything) on ``data``."""

    run: str
    data: DataConfig
    model: ClassifierConfig
    num_classes: int
    class_names: tuple[str, ...] = ()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig()

    def pipeline(self) -> Pipeline:
        """images -> logits."""
        nodes = (
            Node("images", Images(self.data, (("target/0", ""),))),
            Node(MODEL, Predict(self.model, self.num_classes), ("images",)),
        )
        return Pipeline(nodes, (), self.class_names, {"target": "images"})


@dataclass(frozen=True)
class Prediction:
    """SDA: projection and both predictions of ``data``, with the weights of a finished run."""

    run: str
    data: DataConfig
    source: ClassifierConfig
    finetuned: ClassifierConfig
    project: AlignConfig
    num_classes: int
    class_names: tuple[str, ...] = ()
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig()

    def pipeline(self) -> Pipeline:
        """images -> source logits; images -> projected -> fine-tuned logits."""
        nodes = (
            Node("images", Images(self.data, (("target/0", ""),))),
            Node(SOURCE, Predict(self.source, self.num_classes), ("images",)),
            Node("projected", Align(self.project, self.seed), ("images",)),
            Node(PROJECTED, Predict(self.finetuned, self.num_classes), ("projected",)),
        )
        return Pipeline(nodes, (), self.class_names, {"target": "images"})


def from_run(
    run: Run, images: str, execution: ExecutionConfig, block: int, row: str = ""
) -> Prediction | ModelPrediction | ScenePrediction:
    """The prediction recipe of a finished run for ``images`` (a folder, glob or Parquet file): of the adapted
    classifier or segmenter, or for SDA of source and fine-tuned model, those of ``row`` and its aligner (by
    default SDA's own, else the last row of ``cheap``).

    Raises StoreError when the run is of another system, did not fine-tune, or its models were deleted;
    RecipeError for a row that has no models of its own.
    """
    manifest = run.manifest()
    outputs = manifest["outputs"]
    if row and "model" in outputs:
        raise RecipeError(
            f"--row chooses among the rows of SDA, and {run.name} is another system's: leave it out."
        )
    if "model" in outputs:
        kind = manifest["nodes"][outputs["model"]]["kind"]
        if kind == "segmenter":
            return of_segmenter(
                run.name, _folder(run, manifest, outputs["model"]), images, execution, block, manifest["seed"]
            )
        if kind == "detector":
            raise StoreError(
                f"The run {run.name} holds a detector, which predict does not apply: take it with `diffadapt"
                f" export {run.name} --out <folder>`."
            )
        return _of_model(run, manifest, images, execution, block)
    rows = _ensembles(manifest)
    if not rows:
        raise StoreError(
            f"The run {run.name} has no adapted model to predict with: give a run of Adapt Anything or ZoDi,"
            " or an SDA run whose methods include sda."
        )
    check_known("--row", [row] if row else [], list(rows))
    projected, finetuned = rows[row or ("SDA" if "SDA" in rows else list(rows)[-1])]
    recipe = from_dict(
        SDA, {**manifest["config"], "classifier": _as_it_was(manifest["config"]["classifier"])}
    )
    names = tuple(manifest["class_names"])
    classes = recipe.num_classes or len(names)

    def weights(role: str, otherwise: str) -> str:
        return _folder(run, manifest, outputs[role]) if role in outputs else otherwise

    project = replace(_aligner(recipe, run, manifest, projected), storage=recipe.project_storage)
    return Prediction(
        run=run.name,
        data=DataConfig(
            path=images,
            channels=recipe.classifier.in_channels,
            image_size=recipe.target.data.image_size,
            labels="none",
            block=block,
        ),
        source=_named(recipe.classifier, weights("classifier", recipe.classifier.name)),
        finetuned=_named(recipe.classifier, _folder(run, manifest, finetuned)),
        project=project.through(weights(*project.network_role)),
        num_classes=classes,
        class_names=names,
        seed=recipe.seed,
        execution=execution,
    )


def _ensembles(manifest: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Row -> the nodes of its projection and of its fine-tuned classifier: SDA's rows, no controls."""
    nodes, outputs, out = manifest["nodes"], manifest["outputs"], {}
    for row in manifest.get("rows") or ():
        if row["control"] or len(row["members"]) != 2:
            continue
        images, *fitted = nodes[row["members"][1]]["inputs"]
        if fitted and images.partition("_")[0] == "projected" and fitted[0].partition("_")[0] == "finetuned":
            out[row["name"]] = images, fitted[0]
    if not out and "finetuned" in outputs and "projected" in outputs:  # manifests without rows
        out["SDA"] = outputs["projected"], outputs["finetuned"]
    return out


def rows_by_aligner(run: Run) -> dict[str, str]:
    """Aligner -> the row of an SDA run that projects with it and has models of its own."""
    manifest = run.manifest()
    published = manifest["config"].get("align", {}).get("guidance", "")
    names = {row: images.partition("_")[2] for row, (images, _) in _ensembles(manifest).items()}
    return {name.replace("_", "-") or published: row for row, name in names.items()}


def _aligner(recipe: SDA, run: Run, manifest: Mapping[str, Any], projected: str) -> AlignConfig:
    """What the run projected with, at the level that it chose."""
    info, name = manifest["nodes"][projected], projected.partition("_")[2].replace("_", "-")
    config = recipe.cheap_align(name) if name else recipe.align
    if config.chooses:
        level = next(n for n in info["inputs"] if manifest["nodes"][n]["kind"] == LEVEL)
        config = config.at(chosen_level(_folder(run, manifest, level)))
    return config


def _of_model(
    run: Run, manifest: Mapping[str, Any], images: str, execution: ExecutionConfig, block: int
) -> ModelPrediction:
    config = model_config(run, manifest, manifest["outputs"]["model"])
    names = tuple(manifest["class_names"])
    return ModelPrediction(
        run=run.name,
        data=DataConfig(
            path=images,
            channels=config.in_channels,
            image_size=(manifest["config"].get("target") or {}).get("image_size"),  # as the run's own target
            labels="none",
            block=block,
        ),
        model=config,
        num_classes=len(names),
        class_names=names,
        seed=manifest["seed"],
        execution=execution,
    )


def model_config(run: Run, manifest: Mapping[str, Any], node: str) -> ClassifierConfig:
    """What loads the classifier of ``node`` with the view that the run's predictions saw. StoreError where it
    is no longer in the store."""
    folder, settings = _folder(run, manifest, node), manifest["config"]
    if backbone := settings.get("backbone"):
        return replace(plain(from_dict(BackboneConfig, _as_it_was(backbone))), name=folder, arch=None)
    return _named(from_dict(ClassifierConfig, _as_it_was(settings["classifier"])), folder)


def _as_it_was(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's classifier settings; runs of before these fields existed saw this view."""
    return {"interpolation": "bicubic", "crop_mode": "center", **settings}


def _named(config: ClassifierConfig, name: str) -> ClassifierConfig:
    return replace(config, name=name, arch=config.arch if name == config.name else None)


def _folder(run: Run, manifest: Mapping[str, Any], node: str) -> str:
    """A local folder with a fitted artefact of the run."""
    ((key, digest, _, path),) = manifest["nodes"][node]["shards"]
    store = run.root.store
    if not Sealed(store, path).exists():
        raise StoreError(
            f"The trained model {path} of the run {run.name} is no longer in the store: run its recipe again"
            " to remake it."
        )
    return str(Path(fetch_folder(store, InputFile(node, digest, path, Shard(key, {}), fitted=True))))
