"""Translation stage: labelled scenes taken to another domain, measured, judged, and tried again where they
are refused (ZoDi section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Input, Rows, Shard, scene_table
from diffadapt.core.config import stated_precision, to_dict
from diffadapt.core.errors import ItemError, RecipeError, ResourceError, WeightsError
from diffadapt.core.flops import Call
from diffadapt.core.identity import item_seed
from diffadapt.core.leniency import missing
from diffadapt.core.stage import NodePlan, Stage, WorkContext, Worker
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.palettes import check_palette
from diffadapt.data.scenes.resize import resize_nearest, scale_objects
from diffadapt.data.scenes.rows import decode_scenes, judged
from diffadapt.data.scenes.table import ClassTable
from diffadapt.diffusion.generators.base import generator_of, silence_of
from diffadapt.diffusion.translation.checks import check_settings, uses_layout, variant_of
from diffadapt.diffusion.translation.config import QualityConfig, TransferConfig
from diffadapt.diffusion.translation.levels import steps_and_guidance, transfer_levels
from diffadapt.diffusion.translation.quality import DomainScore, compare
from diffadapt.diffusion.translation.sizes import generated_size
from diffadapt.diffusion.translation.verdict import Verdict, judge
from diffadapt.models.architectures import decoder, part
from diffadapt.models.clip_folder import check_clip
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.weights import resolve, revision
from diffadapt.stages.batching import Batcher
from diffadapt.stages.image_grid import grid_label, grid_revisions

CLIP_BATCH = 64
GENERATOR, SEGMENTER = "layout-generator", "segmenter"
"""Kinds of the stages that make the fitted inputs."""


@dataclass(frozen=True)
class TransferScenes(Stage):
    """Inputs: the scenes; the fitted generator (``config.weights`` 'train'); the fitted source-only segmenter
    where quality asks for it.

    One shard for each shard of the scenes, or several of at most ``images_per_shard`` images. Rows of
    SCENE_SCHEMA under the scenes' own keys: the transferred image, its label map (nearest) and boxes at the
    generated size, without a colour map of their own; further columns ``accepted``, ``attempts`` (how many
    were made), ``strength`` (that of the stored one) and ``scores`` (JSON: diffusion/translation/quality.py,
    diffusion/translation/consistency.py, ``reasons``, and of several attempts ``tried``, the reasons of each
    in turn, 'failed' where it gave no image). A scene that is refused every time is stored as its best
    attempt with ``accepted`` false.
    """

    config: TransferConfig = TransferConfig()
    quality: QualityConfig = QualityConfig()
    classes: ClassTable = ClassTable()
    segmenter: SegmenterConfig = SegmenterConfig()
    seed: int = 0

    kind = "transferred"
    may_warn = True

    def label(self) -> str:
        return f"{grid_label(self.config.weights)}-{self.config.method.replace('_', '-')}"

    def identity(self) -> dict[str, Any]:
        """What acts on the images and the decisions: prompt and strength as they are resolved, weights by
        revision, no path."""
        c, domain = to_dict(self.config, identity_only=True), self.config.resolved
        for name in ("weights", "controlnet", "lora", "images_per_shard", "domain"):
            c.pop(name)
        c |= {"prompt": domain.prompt, "strength": domain.strength, "variant": self._variant()}
        method = self.config.method
        unused = {
            "aligned": method != "stochastic",
            "strength": method == "layout",
            "source_prompt": method != "edit_friendly" and not self.quality.clip,
            "control_scale": not self.needs_layout,
            "palette": not self.needs_layout,
        }
        for name in (n for n, no in unused.items() if no):
            c.pop(name)
        own: dict[str, Any] = {"config": c, "quality": self._quality_identity(), "seed": self.seed}
        if self.needs_layout or self.quality.needs_model:
            own["classes"] = to_dict(self.classes, identity_only=True)
        if self.quality.needs_model:
            own["segmenter"] = {
                "size": list(self.segmenter.size),
                "precision": stated_precision(self.segmenter),
            }
        return own

    def _variant(self) -> str:
        try:
            return variant_of(self.config)
        except WeightsError:  # weights that are not there, as their revision says, or no files at all
            return ""

    def _quality_identity(self) -> dict[str, Any]:
        q = to_dict(self.quality, identity_only=True)
        q.pop("clip")
        if not q["retries"]:
            q.pop("retry")
            q.pop("strength_step")
        elif self.quality.retry == "seed":
            q.pop("strength_step")
        return q

    def revisions(self) -> dict[str, str]:
        c = self.config
        weights = {
            "controlnet": c.controlnet if self.needs_layout and c.weights != "train" else "",
            "lora": c.lora,
            "clip": self.quality.clip,
        }
        mine = grid_revisions(c.weights)
        return mine | {role: revision(name) for role, name in weights.items() if name}

    @property
    def needs_layout(self) -> bool:
        """Whether the generator sees the label map: all methods but plain img2img."""
        return uses_layout(self.config)

    def strength(self, attempt: int) -> float:
        """The strength of an attempt, counted from 0."""
        first = self.config.resolved.strength
        return (
            round(first - attempt * self.quality.strength_step, 6)
            if self.quality.retry == "strength"
            else first
        )

    def attempt_seed(self, key: str, attempt: int) -> int:
        """The seed of one attempt at one scene; the first one's does not depend on the quality settings."""
        return item_seed(self.seed, "scenes", key, f"{self.kind}/{attempt}" if attempt else self.kind)

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        scenes, *fitted = inputs.values()
        _check_generator(self)
        _check_quality(self)
        wanted = (self.config.weights == "train") + self.quality.needs_model
        if len(fitted) != wanted:
            raise RecipeError(
                f"The transfer needs {wanted} fitted models (a trained generator where transfer.weights is"
                " 'train', the source-only segmenter where quality.consistency is above 0), but the recipe"
                f" gives it {len(fitted)}."
            )
        also = tuple(node.as_input() for node in fitted)
        shards = []
        for p in scenes.shards:
            count = self.config.images_per_shard or max(p.shard.items, 1)
            group = {"group": p.shard.params["group"]} if "group" in p.shard.params else {}
            read = (Input(scenes.name, p.digest), *also)
            if p.shard.items <= count:
                shards.append(Shard(p.shard.key, group, read, p.shard.items))
                continue
            for first in range(0, p.shard.items, count):
                last = min(first + count, p.shard.items)
                shards.append(
                    Shard(
                        f"{p.shard.key}-{first:04d}",
                        {**group, "first": first, "last": last},
                        read,
                        last - first,
                    )
                )
        return shards

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        """One attempt at a scene of the segmenter's proportions; judging it is not counted."""
        c = self.config
        if c.weights == "train":
            return None
        steps = len(transfer_levels(c, c.resolved.strength).decode)
        halves = 2 if steps_and_guidance(c)[1] > 1 else 1
        plain = {"stochastic": 1, "edit_friendly": steps}.get(c.method, 0)
        passes, shared = halves * steps + plain, {"precision": c.precision, "casts": True}
        sides = generated_size(*self.segmenter.size, c)
        latent = {"height": sides[0] // 8, "width": sides[1] // 8}
        networks = [part(c.weights, "unet", **latent)]
        if self.needs_layout:
            place, name = (c.controlnet, "") if c.controlnet else (c.weights, "controlnet")
            networks.append(part(place, name, **latent))
        vae = [decoder(c.weights, "vae", *sides, encode=encode) for encode in (False, True)]
        if None in networks or None in vae:
            return None
        return (
            *(Call(net, passes, batch=halves * c.batch_size, **shared) for net in networks if net),
            *(Call(net, 1.0, **shared) for net in vae[: 1 if c.method == "layout" else 2] if net),
        )

    def open(self, context: WorkContext) -> Worker:
        return Translator(self, context)


def _check_generator(stage: TransferScenes) -> None:
    """Raise RecipeError or WeightsError for settings and weights that no image could be transferred with."""
    c = stage.config
    check_settings(c)
    if stage.needs_layout:
        check_palette(stage.classes, c.palette)
    try:
        if c.weights != "train":
            generator_of(c.weights).check(c)
        if c.lora:
            resolve(c.lora)
    except WeightsError as error:
        missing(error)


def _check_quality(stage: TransferScenes) -> None:
    """Raise RecipeError or WeightsError for thresholds that cannot be measured, and for retries that cannot
    be made."""
    q, c = stage.quality, stage.config
    low, high = q.luminance
    if not low < high:
        raise RecipeError(
            f"quality.luminance is {low:g} {high:g}, but its first number is the darkest mean luma that is"
            " accepted and its second the brightest."
        )
    if q.clip_score > 0 and not q.clip:
        raise RecipeError(
            "quality.clip_score is set, but quality.clip is empty: name the CLIP folder or hub id that"
            " measures it, or set the score to 0."
        )
    if q.clip:
        check_clip(q.clip)
    if not q.retries or q.retry == "seed":
        return
    if c.method == "layout":
        raise RecipeError(
            "quality.retry is strength, but transfer.method layout starts from noise whatever the strength:"
            " set quality.retry to seed."
        )
    if q.strength_step <= 0:
        raise RecipeError(
            "quality.retry is strength, but quality.strength_step is 0: give the strength that each retry"
            " takes off, or set quality.retry to seed."
        )
    last = stage.strength(q.retries)
    try:
        transfer_levels(c, last)
    except RecipeError:
        raise RecipeError(
            f"quality.retries is {q.retries}: the last retry would have a strength of {last:g}, which leaves"
            f" no step; take fewer, or a smaller quality.strength_step than {q.strength_step:g}."
        ) from None


@dataclass
class _Attempt:
    image: np.ndarray
    png: bytes
    seed: int
    strength: float
    scores: dict[str, Any]
    verdict: Verdict = Verdict((), 0.0)


@dataclass
class _Made:
    """One scene's attempts so far."""

    best: _Attempt | None = None
    tried: list[tuple[str, ...]] = field(default_factory=list)
    """Why each attempt was refused, in turn; 'failed' where it gave no image."""
    problem: str = ""
    """Why the last attempt gave no image."""

    @property
    def open(self) -> bool:
        return self.best is None or not self.best.verdict.accepted

    def fail(self, problem: str) -> None:
        self.tried.append(("failed",))
        self.problem = problem

    def take(self, attempt: _Attempt) -> None:
        self.tried.append(attempt.verdict.reasons)
        if (
            self.best is None
            or attempt.verdict.shortfall < self.best.verdict.shortfall
            or attempt.verdict.accepted
        ):
            self.best = attempt


class Translator:
    """Holds the generator and the judges; makes shards: translates in batches, measures beside the device,
    judges, tries again."""

    def __init__(self, stage: TransferScenes, context: WorkContext):
        c, q = stage.config, stage.quality
        generator, segmenter = (next(iter(context.fitted_by(kind)), "") for kind in (GENERATOR, SEGMENTER))
        if generator:
            c = replace(c, weights=generator, controlnet="")
        self.stage = stage
        self.silence = silence_of(c.weights)
        self.translate = generator_of(c.weights).from_scenes(c, context.device, stage.classes)
        self.model: Any = None
        if q.needs_model:
            from diffadapt.diffusion.translation.consistency import SourceModel

            self.model = SourceModel(segmenter, stage.segmenter, context.device)
        self.domain = (
            DomainScore(q.clip, c.resolved.prompt, c.source_prompt, context.device) if q.clip else None
        )
        self.batcher = Batcher(context.batch_size or c.batch_size)
        self.model_batcher, self.clip_batcher = Batcher(stage.segmenter.batch_size), Batcher(CLIP_BATCH)
        self.beside = ThreadPoolExecutor(1, thread_name_prefix="measure")

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        c = self.stage.config
        scenes, failures = decode_scenes(
            inputs[0], annotation=True, colours=self.stage.needs_layout and c.palette == "cityscapes"
        )
        scenes, failures = _part(scenes, failures, shard.params)
        scenes, failures = self._usable(scenes, failures)
        made = {s.key: _Made() for s in scenes}
        originals = self._originals(scenes)
        for attempt in range(1 + self.stage.quality.retries):
            pending = [s for s in scenes if made[s.key].open]
            if not pending:
                break
            self._attempt(attempt, pending, made, originals)
        good = [s for s in scenes if made[s.key].best]
        failures += [Failure(s.key, made[s.key].problem) for s in scenes if not made[s.key].best]
        return Rows(_table(good, made), failures, list(inputs[0].warnings))

    def _usable(self, scenes: Sequence[Any], failures: list[Failure]) -> tuple[list[Any], list[Failure]]:
        """Scenes with what the method needs, and why the others are left out."""
        if not self.stage.needs_layout:
            return list(scenes), failures
        method = self.stage.config.method
        bare = [
            Failure(
                s.key,
                f"it has no label map, which the transfer method {method} draws from: use transfer.method"
                " img2img for unlabelled images.",
            )
            for s in scenes
            if s.annotation is None
        ]
        return [s for s in scenes if s.annotation is not None], failures + bare

    def _attempt(
        self,
        attempt: int,
        scenes: Sequence[Any],
        made: Mapping[str, _Made],
        originals: Mapping[str, np.ndarray],
    ) -> None:
        """One more image of each scene."""
        strength = self.stage.strength(attempt)
        given = None if self.stage.config.method == "layout" else strength
        seeds = {s.key: self.stage.attempt_seed(s.key, attempt) for s in scenes}
        silent: list[str] = []

        def process(batch: Sequence[Any]) -> list[Future | ItemError]:
            try:
                images = self.translate(batch, [seeds[s.key] for s in batch], given)
            except self.silence as error:
                silent.append(f"the generator gives no answer ({type(error).__name__}: {error})")
                raise ItemError(silent[-1]) from error
            return [
                x if isinstance(x, ItemError) else self.beside.submit(_finish, s.image, x)
                for s, x in zip(batch, images, strict=True)
            ]

        done, lost = self.batcher.run(scenes, [s.key for s in scenes], process)
        if silent and not done:
            raise ResourceError(f"T{silent[0][1:]}: run the same command again once it does.")
        for failure in lost:
            made[failure.key].fail(failure.reason)
        found = []
        for i, result in done:
            if isinstance(result, ItemError):
                made[scenes[i].key].fail(str(result))
            else:
                image, png, scores = result.result()
                found.append((scenes[i], _Attempt(image, png, seeds[scenes[i].key], strength, scores)))
        self._measure(found, originals)
        for scene, one in found:
            one.verdict = judge(one.scores, self.stage.quality)
            made[scene.key].take(one)

    def _originals(self, scenes: Sequence[Any]) -> dict[str, np.ndarray]:
        """The source model's IoUs on the scenes as they are."""
        return (
            self._ious([(s, s.image, s.annotation) for s in scenes if s.annotation is not None])
            if self.model
            else {}
        )

    def _measure(self, found: Sequence[tuple[Any, _Attempt]], originals: Mapping[str, np.ndarray]) -> None:
        """Add what networks say of the images to their scores."""
        if self.domain:
            done, _ = self.clip_batcher.run(
                found, [s.key for s, _ in found], lambda some: self.domain([one.image for _, one in some])
            )
            for i, probability in done:
                found[i][1].scores["clip"] = probability
        if self.model:
            seen = self._ious(
                [
                    (s, one.image, resize_nearest(s.annotation, one.image.shape[:2]))
                    for s, one in found
                    if s.key in originals
                ]
            )
            for scene, one in found:
                if scene.key in seen:
                    one.scores |= self.model.compare(originals[scene.key], seen[scene.key])

    def _ious(self, triples: Sequence[tuple[Any, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        done, _ = self.model_batcher.run(
            triples,
            [s.key for s, _, _ in triples],
            lambda some: self.model.ious([x for _, x, _ in some], [y for _, _, y in some]),
        )
        return {triples[i][0].key: values for i, values in done}


def _part(
    scenes: list[Any], failures: list[Failure], params: Mapping[str, Any]
) -> tuple[list[Any], list[Failure]]:
    """The scenes (and unreadable ones) of this part of the source's shard, in the order of their keys."""
    if "first" not in params:
        return scenes, failures
    keys = sorted({s.key for s in scenes} | {f.key for f in failures})
    mine = set(keys[params["first"] : params["last"]])
    return [s for s in scenes if s.key in mine], [f for f in failures if f.key in mine]


def _finish(source: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, bytes, dict[str, Any]]:
    return image, encode_png(image), dict(compare(source, image))


def _table(scenes: Sequence[Any], made: Mapping[str, _Made]) -> pa.Table:
    stored = [made[s.key].best for s in scenes]
    assert all(a is not None for a in stored)
    sizes = [a.image.shape[:2] for a in stored]
    table = scene_table(
        [s.key for s in scenes],
        [a.png for a in stored],
        [
            None if s.annotation is None else encode_png(resize_nearest(s.annotation, size))
            for s, size in zip(scenes, sizes, strict=True)
        ],
        [a.seed for a in stored],
        objects=[
            scale_objects(s.objects, s.image.shape[:2], size) for s, size in zip(scenes, sizes, strict=True)
        ],
    )
    return judged(
        table,
        [a.verdict.accepted for a in stored],
        [len(made[s.key].tried) for s in scenes],
        [a.strength for a in stored],
        [_scores(a, made[s.key]) for s, a in zip(scenes, stored, strict=True)],
    )


def _scores(stored: _Attempt, made: _Made) -> str:
    more: dict[str, Any] = {"reasons": list(stored.verdict.reasons)} | (
        {"tried": [list(r) for r in made.tried]} if len(made.tried) > 1 else {}
    )
    return json.dumps(
        {k: v if not isinstance(v, float) or np.isfinite(v) else None for k, v in stored.scores.items()}
        | more,
        sort_keys=True,
    )
