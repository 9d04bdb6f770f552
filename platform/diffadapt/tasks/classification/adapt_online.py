"""Stages of the model-adaptation baselines: MEMO image by image, Tent along a stream (SDA Tables 1 and 8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.core.artifact import Failure, Input, Rows, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import ItemError
from diffadapt.core.flops import Call
from diffadapt.core.identity import digest, item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.stages.calls import STATES, of_classifier
from diffadapt.stages.models import (
    classifier_identity,
    classifier_notes,
    classifier_revisions,
    logits_rows,
    open_classifier,
)
from diffadapt.stages.roles import only

if TYPE_CHECKING:
    from diffadapt.stages.decoding import Decoding


@dataclass(frozen=True)
class _Adapting(Stage):
    """Inputs: images, then the fitted classifier if ``fitted``."""

    config: Any = None
    classifier: ClassifierConfig = ClassifierConfig()
    num_classes: int | None = None
    fitted: bool = False
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        return {
            "config": to_dict(self.config, identity_only=True),
            "classifier": classifier_identity(self.classifier),
            "fitted": self.fitted,
            "seed": self.seed,
        }

    def revisions(self) -> dict[str, str]:
        return classifier_revisions(self.classifier, self.fitted, self.num_classes)

    def notes(self) -> tuple[str, ...]:
        return classifier_notes(self.classifier, self.fitted)


@dataclass(frozen=True)
class Memo(_Adapting):
    """MEMO on the first ``config.limit`` images (in the order of a hash of their keys) of each shard's share
    of a group."""

    config: MemoConfig = MemoConfig()

    kind = "memo"

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        del fields["config"]["limit"]  # it is in the shards
        return fields

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        images, *fitted = inputs.values()
        also = tuple(n.as_input() for n in fitted)
        left: dict[str, int] = {}
        shards = []
        for p in images.shards:
            group = p.shard.params.get("group", "")
            quota = p.shard.items
            if self.config.limit is not None:
                quota = min(quota, left.setdefault(group, self.config.limit))
                left[group] -= quota
            if quota:
                params = {"group": group, "take": quota}
                shards.append(Shard(p.shard.key, params, (Input(images.name, p.digest), *also), quota))
        return shards

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        c = self.config
        views = of_classifier(
            self.classifier, self.num_classes, passes=c.views * c.steps, mode="training", batch=c.chunk,
            states=STATES[c.optimizer],
        )  # fmt: skip
        answer = of_classifier(self.classifier, self.num_classes, batch=1)
        return None if views is None or answer is None else (*views, *answer)

    def open(self, context: WorkContext) -> _Memo:
        return _Memo(self, context)


class _Memo:
    def __init__(self, stage: Memo, context: WorkContext):
        from diffadapt.methods.tta.memo import Memo as Method
        from diffadapt.stages.decoding import Decoder

        self.stage = stage
        model = open_classifier(stage.classifier, context.fitted, stage.num_classes, context.device)
        self.method = Method(model, stage.config, stage.classifier, context.readers)
        self.decoder = Decoder(
            self.method.preprocess.in_channels,
            lambda image, key: (image, self.method.begin(image, self._seed(key))),
            1 if context.readers else 0,  # it gives the views to the method's own readers
        )

    def _seed(self, key: str) -> int:
        return item_seed(self.stage.seed, "memo", key, self.stage.kind)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        # Unreadable images take their place too.
        every = [*inputs[0].column("key"), *(f.key for f in inputs[0].failures)]
        chosen = set(sorted(every, key=digest)[: shard.params["take"]])
        decoded = self.decoder.open(only(inputs[0], chosen), 1)
        keys, labels, logits, failures = [], [], [], []
        place = 0
        while decoded.reach(place, place + 1) > place:
            key, label, (image, views) = decoded.keys[place], decoded.labels[place], decoded.images[place]
            place += 1
            try:
                logits.append(self.method.predict(image, self._seed(key), views))
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            keys.append(key)
            labels.append(label)
        return logits_rows(keys, labels, logits, decoded.failures + failures)


@dataclass(frozen=True)
class Tent(_Adapting):
    """Tent over one stream a group, or over one stream of all groups when ``config.mixed_types``."""

    config: TentConfig = TentConfig()

    kind = "tent"

    def identity(self) -> dict[str, Any]:
        """With a limit also that images are ordered before they are decoded: one that cannot be read keeps
        its place, where it had none until then."""
        return super().identity() | ({"version": 2} if self.config.limit is not None else {})

    def label(self) -> str:
        order = "mixed" if self.config.mixed_classes else "sorted"
        types = "alltypes" if self.config.mixed_types else "onetype"
        return f"b{self.config.batch_size}-{order}-{types}"

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        images, *fitted = inputs.values()
        streams: dict[str, list] = defaultdict(list)
        for p in images.shards:
            streams["all" if self.config.mixed_types else p.shard.params.get("group", "target")].append(p)
        also = tuple(n.as_input() for n in fitted)
        return [
            Shard(
                name.replace("/", "-"),
                {"group": name},
                (*(Input(images.name, p.digest) for p in parts), *also),
                self._count(parts),
            )
            for name, parts in streams.items()
        ]

    def _count(self, parts: Sequence) -> int:
        total = sum(p.shard.items for p in parts)
        return total if self.config.limit is None else min(total, self.config.limit)

    def calls(self, inputs: Mapping[str, NodePlan]) -> Sequence[Call] | None:
        """Only the affine parameters of norms are trained, which costs what a gradient of the input does."""
        c = self.config
        return of_classifier(
            self.classifier, self.num_classes, passes=c.steps, mode="gradient", batch=c.batch_size
        )

    def open(self, context: WorkContext) -> _Tent:
        return _Tent(self, context)


class _Unreadable(Exception):
    """A stream met an image that cannot be decoded."""


class _Tent:
    """Images are decoded as the stream comes to them; what is held of a corruption is its encoded images."""

    def __init__(self, stage: Tent, context: WorkContext):
        from diffadapt.models.preprocess import prepare_image
        from diffadapt.stages.decoding import Decoder

        self.stage, self.context = stage, context
        config = with_inputs(stage.classifier)
        self.decoder = Decoder(
            config.in_channels, lambda image, key: prepare_image(image, config), context.readers
        )

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np
        import pyarrow as pa

        from diffadapt.methods.tta.tent import Tent as Method
        from diffadapt.methods.tta.tent import stream_order
        from diffadapt.models.preprocess import stacked_input

        stage, c, device = self.stage, self.stage.config, self.context.device
        model = open_classifier(stage.classifier, self.context.fitted, stage.num_classes, device)
        method = Method(model, c)

        def batches(found: Decoding) -> Iterator[Any]:
            """The stream's batches as they are decoded; _Unreadable where it has to be another stream."""
            start, lost = 0, len(found.failures)
            while (stop := found.reach(start, start + c.batch_size)) > start and len(found.failures) == lost:
                yield stacked_input(found.images[start:stop], stage.classifier, device)
                start = stop
            if len(found.failures) > lost:
                raise _Unreadable

        # One shard is one stream.
        tables = [rows.table.select(["key", "label", "image"]).replace_schema_metadata() for rows in inputs]
        every = Rows(pa.concat_tables(tables))
        keys, labels = every.column("key"), every.column("label")
        described = [
            ("/".join(key.split("/", 2)[:2]), -1 if label is None else label)
            for key, label in zip(keys, labels, strict=True)
        ]
        lost: dict[str, Failure] = {}
        while True:
            good = np.array([i for i, key in enumerate(keys) if key not in lost], np.int64)
            among = [described[i] for i in good]
            (order,) = stream_order(among, c.mixed_classes, True, stage.seed) or [np.zeros(0, np.int64)]
            order = good[order[: c.limit]]
            try:
                logits = method.forward_stream(batches(self.decoder.open(every, c.batch_size, order=order)))
                break
            except _Unreadable:  # the order is one of the readable images: all are looked at, none is kept
                lost = self._unreadable(every)
                method.reset()
        failures: list[Failure] = []
        for rows in inputs if c.limit is None else ():
            failures += [*rows.failures, *(lost[key] for key in rows.column("key") if key in lost)]
        return logits_rows([keys[i] for i in order], [labels[i] for i in order], logits, failures)

    def _unreadable(self, rows: Rows) -> dict[str, Failure]:
        found = self.decoder.open(rows, self.stage.config.batch_size)
        place = 0
        while (stop := found.reach(place, place + 1)) > place:
            place = stop
        return {f.key: f for f in found.failures}
