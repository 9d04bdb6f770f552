"""Stages of the model-adaptation baselines: MEMO image by image, Tent along a stream (SDA Tables 1 and 8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffadapt.core.artifact import Failure, Input, Rows, Shard
from diffadapt.core.config import to_dict
from diffadapt.core.errors import ItemError
from diffadapt.core.flops import Call
from diffadapt.core.identity import digest, item_seed
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.models.config import ClassifierConfig
from diffadapt.stages.calls import STATES, of_classifier
from diffadapt.stages.models import (
    classifier_identity,
    classifier_notes,
    classifier_revisions,
    logits_rows,
    open_classifier,
)


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

        self.stage = stage
        model = open_classifier(stage.classifier, context.fitted, stage.num_classes, context.device)
        self.method = Method(model, stage.config, stage.classifier)

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np

        from diffadapt.stages.decoding import decode_rows

        decoded = decode_rows(inputs[0], self.stage.classifier.in_channels)
        lost = [f.key for f in decoded.failures]
        # Unreadable images take their place too.
        chosen = set(sorted([*decoded.keys, *lost], key=digest)[: shard.params["take"]])
        keys, labels, logits, failures = [], [], [], [f for f in decoded.failures if f.key in chosen]
        for i, key in enumerate(decoded.keys):
            if key not in chosen:
                continue
            seed = item_seed(self.stage.seed, "memo", key, self.stage.kind)
            try:
                logits.append(np.asarray(self.method.predict(decoded.images[i], seed)))
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            keys.append(key)
            labels.append(decoded.labels[i])
        return logits_rows(keys, labels, logits, failures)


@dataclass(frozen=True)
class Tent(_Adapting):
    """Tent over one stream a group, or over one stream of all groups when ``config.mixed_types``."""

    config: TentConfig = TentConfig()

    kind = "tent"

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


class _Tent:
    def __init__(self, stage: Tent, context: WorkContext):
        self.stage, self.context = stage, context

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        import numpy as np

        from diffadapt.methods.tta.tent import Tent as Method
        from diffadapt.methods.tta.tent import stream_order
        from diffadapt.models.preprocess import to_input
        from diffadapt.stages.decoding import decode_rows

        stage, c = self.stage, self.stage.config
        model = open_classifier(stage.classifier, self.context.fitted, stage.num_classes, self.context.device)
        method = Method(model, c)
        parts = [decode_rows(rows, stage.classifier.in_channels) for rows in inputs]
        items = [
            (key, label, image)
            for d in parts
            for key, label, image in zip(d.keys, d.labels, d.images, strict=True)
        ]
        described = [
            ("/".join(key.split("/", 2)[:2]), -1 if label is None else label) for key, label, _ in items
        ]
        # One shard is one stream.
        (order,) = stream_order(described, c.mixed_classes, True, stage.seed) or [np.zeros(0, np.int64)]
        order = order[: c.limit]
        cuts = [order[start : start + c.batch_size] for start in range(0, len(order), c.batch_size)]
        batches = (
            to_input([items[i][2] for i in part], stage.classifier, self.context.device) for part in cuts
        )
        logits = np.asarray(method.forward_stream(batches))
        failures = [f for d in parts for f in d.failures] if c.limit is None else []
        return logits_rows([items[i][0] for i in order], [items[i][1] for i in order], logits, failures)
