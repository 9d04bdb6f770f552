"""What the prediction stages share: the classifier of a recipe or of an earlier fit, and logits as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from diffadapt.core.artifact import LOGITS_SCHEMA, Failure, Rows
from diffadapt.core.config import to_dict
from diffadapt.core.errors import ItemError, RecipeError, WeightsError
from diffadapt.core.leniency import missing
from diffadapt.models.config import BackboneConfig, ClassifierConfig
from diffadapt.models.inputs import differences, with_inputs
from diffadapt.stages.decoding import Decoder

if TYPE_CHECKING:
    from diffadapt.stages.batching import Batcher


def classifier_identity(config: ClassifierConfig) -> dict[str, Any]:
    """Identity fields without the name: weights count by revision, not by path; and the input that they want
    themselves counts as if it had been given."""
    fields = to_dict(with_inputs(config), identity_only=True)
    fields.pop("name")
    return fields


def classifier_revisions(
    config: ClassifierConfig, fitted: bool, num_classes: int | None = None
) -> dict[str, str]:
    """The revision of the classifier's weights, unless an earlier fit provides them. Raises WeightsError or
    DataError for those of a file or folder that are of another network or number of classes."""
    from diffadapt.models.classifier_source import classifier_revision

    if fitted or config.name == "train":
        return {}
    try:
        revision = classifier_revision(config)
    except WeightsError as error:
        missing(error)
        return {"classifier": f"missing:{config.name}"}
    _said[config] = _looked_at(config, revision, num_classes)
    return {"classifier": revision}


_said: dict[ClassifierConfig, str] = {}
"""What was said of the weights of a configuration when their revision was last asked for."""


def classifier_notes(config: ClassifierConfig, fitted: bool = False) -> tuple[str, ...]:
    """What a user should know of the input of a recipe's classifier, and of what is chosen of a checkpoint
    file that holds more than it, as :func:`classifier_revisions` found it when it was last asked."""
    if fitted:
        return ()
    if config not in _said:
        with suppress(WeightsError):  # the stage's revisions say so
            classifier_revisions(config, fitted)
    return tuple(said for said in (differences(config), _said.get(config, "")) if said)


@lru_cache(maxsize=64)
def _looked_at(config: ClassifierConfig, revision: str, num_classes: int | None) -> str:
    """What models/classifier.look_at says of weights on the disk; those that are shipped are not doubted."""
    if not revision.startswith("sha256:") or config.name.startswith("embedded:"):
        return ""
    from diffadapt.models.classifier import look_at

    if isinstance(config, BackboneConfig):
        config = replace(config, num_classes=None)  # its head is replaced
    return look_at(config, num_classes)


def check_backbone(config: ClassifierConfig) -> None:
    """Raise RecipeError or WeightsError for a network that cannot be loaded, as far as that shows before
    anything is made.

    Weights that are not at hand are for :func:`classifier_revisions` to miss; timm is imported only to look
    up a name of its own.
    """
    from diffadapt.models.classifier_source import folder_config, locate

    try:
        source = locate(config)
        if source.kind == "folder":
            folder_config(source.place)
    except WeightsError as error:
        missing(error)
        return
    if source.kind != "train":
        return
    if not config.arch:
        raise RecipeError(
            "backbone.name is 'train' but backbone.arch is empty: name the timm architecture to train."
        )
    if not config.arch.startswith("cifar_resnet"):
        from diffadapt.models.classifier import demand_known

        demand_known(config.arch, RecipeError)


def open_classifier(
    config: ClassifierConfig,
    fitted: Mapping[str, str],
    num_classes: int | None,
    device: str,
    drop_path: float = 0.0,
) -> Any:
    """The loaded classifier: of the fitted input if there is one, else the recipe's."""
    from diffadapt.models.classifier import load_classifier

    if fitted:
        config = replace(config, name=next(iter(fitted.values())), arch=None)
    return load_classifier(config, num_classes, device, drop_path)


def predicted_logits(
    batcher: Batcher,
    rows: Rows,
    decoder: Decoder,
    predict: Callable[[list[np.ndarray]], np.ndarray],
    what: str,
) -> Rows:
    """``predict(images)`` -> float (n, K) for every image of ``rows``, as rows. ``what`` says whose output is
    not finite, and what to do about it."""
    decoded = decoder.open(rows, batcher.batch_size)

    def process(batch: Sequence[int]) -> list[np.ndarray]:
        logits = predict([decoded.images[i] for i in batch])
        if not np.isfinite(logits).all():
            raise ItemError(what)
        return list(logits)

    done, failures = batcher.run(range(len(rows)), decoded.keys, process, decoded.reach)
    keys, labels = [decoded.keys[i] for i, _ in done], [decoded.labels[i] for i, _ in done]
    return logits_rows(keys, labels, [made for _, made in done], decoded.failures + failures)


def logits_rows(
    keys: Sequence[str],
    labels: Sequence[int | None],
    logits: np.ndarray | Sequence[np.ndarray],
    failures: Sequence[Failure],
) -> Rows:
    """Logits (N, K) as rows."""
    values = [np.asarray(row, np.float32) for row in logits]
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "label": pa.array(labels, pa.int64()),
            "logits": pa.array(values, pa.list_(pa.float32())),
        },
        schema=LOGITS_SCHEMA,
    )
    return Rows(table, list(failures))
