"""What the training stages of adaptation (stage 1 and stage 2) share."""

from __future__ import annotations

from typing import Any

from diffadapt.core.config import to_dict
from diffadapt.core.stage import FitJob
from diffadapt.stages.models import classifier_identity


def training_identity(stage: Any) -> dict[str, Any]:
    """Identity of a FitUda or FitSsl: the chosen method's settings, the backbone's, the classes, and how the
    epoch is chosen."""
    select = to_dict(stage.select, identity_only=True) if stage.select.rule != "last" else {"rule": "last"}
    return {
        "config": stage.config.identity(),
        "backbone": classifier_identity(stage.backbone),
        "classes": list(stage.class_names) or stage.num_classes,
        "select": select,
    }


def make_chooser(stage: Any, job: FitJob, target: Any, source: Any, classes: int) -> Any:
    """Whoever picks the epoch (train/candidates.py); None keeps the last. Only the oracle is shown the
    target's labels."""
    rule = stage.select.rule
    if rule == "last":
        return None
    from diffadapt.train.candidates import Chooser, candidate_steps

    steps = candidate_steps(stage.config.epochs, stage.config.steps_per_epoch, stage.select.candidates)
    labels = target.labels if rule == "oracle" else None
    return Chooser(
        rule,
        job.checkpoints,
        steps,
        target,
        source,
        classes,
        job.context.device,
        labels,
        seed=stage.config.seed,
    )


def make_watcher(stage: Any, job: FitJob, target: Any) -> Any:
    """Whoever scores the target's predictions after every epoch (train/watch.py), or None."""
    name = stage.select.watch
    if not name:
        return None
    from diffadapt.train.watch import Watcher

    return Watcher(
        name,
        target,
        stage.config.steps_per_epoch,
        job.context.device,
        target.labels if name == "oracle" else None,
    )
