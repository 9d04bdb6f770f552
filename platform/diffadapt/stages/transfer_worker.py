"""The work of :class:`~diffadapt.stages.transfer.TransferScenes`: transfer in batches, measure beside the
device, judge, retry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import Failure, Rows, Shard, scene_table
from diffadapt.core.errors import ItemError
from diffadapt.core.stage import WorkContext
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.resize import resize_nearest, scale_objects
from diffadapt.data.scenes.rows import decode_scenes, judged
from diffadapt.diffusion.translation.quality import DomainScore, compare
from diffadapt.diffusion.translation.verdict import Verdict, judge
from diffadapt.stages.batching import Batcher

if TYPE_CHECKING:
    from diffadapt.stages.transfer import TransferScenes

CLIP_BATCH = 64


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


class Transferrer:
    """Holds the generator and the judges; makes shards."""

    def __init__(self, stage: TransferScenes, context: WorkContext):
        from diffadapt.diffusion.translation.pipeline import load_scene_transfer
        from diffadapt.stages.transfer import fitted_inputs

        c, q = stage.config, stage.quality
        generator, segmenter = fitted_inputs(context)
        self.stage = stage
        self.generator = load_scene_transfer(
            replace(c, weights=generator, controlnet="") if generator else c, stage.classes, context.device
        )
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

        def process(batch: Sequence[Any]) -> list[Future | ItemError]:
            images = self.generator.transfer(batch, [seeds[s.key] for s in batch], given)
            return [
                x if isinstance(x, ItemError) else self.beside.submit(_finish, s.image, x)
                for s, x in zip(batch, images, strict=True)
            ]

        done, lost = self.batcher.run(scenes, [s.key for s in scenes], process)
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
