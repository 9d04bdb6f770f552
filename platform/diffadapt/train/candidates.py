"""Choosing among the weights of several epochs without target labels (or, as an upper bound that says so,
with them).

At each candidate step the target is predicted once; the predictions ("evidence") and the weights are written
to storage, so that a killed training goes on without computing a candidate again and ends in the same choice.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from diffadapt.compute.distributed import rank, world_size
from diffadapt.core.errors import DataError, RecipeError, StoreError, TrainingError, suggest
from diffadapt.metrics import validators
from diffadapt.metrics.classification import accuracy, mean_class_accuracy
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.views import Views

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
SOURCE_LIMIT = 10_000
"""Source items that 'dev' looks at: a fixed random part of a larger set."""
NEEDS = {name: v.needs for name, v in validators.VALIDATORS.items()} | {"oracle": "labels"}
NOTES = {
    "dev": (
        "DEV weighs the model's errors on the source images that it is trained on; where they are synthetic"
        " it measures synthetic accuracy."
    ),
    "oracle": "Chosen on target labels: an upper bound, not a result of unsupervised adaptation.",
}


def candidate_steps(epochs: int, steps_per_epoch: int, candidates: int) -> list[int]:
    """The finished steps at which weights become candidates: ends of at most ``candidates`` epochs, evenly
    spread, the last among them."""
    count = max(1, min(candidates, epochs))
    return [math.ceil(epochs * i / count) * steps_per_epoch for i in range(1, count + 1)]


class Judge(Protocol):
    """What a rule looks at. Every rank of a process group makes one and calls the same methods."""

    @property
    def rule(self) -> str: ...

    @property
    def compares(self) -> bool:
        """Whether a candidate's score depends on the predictions of the others (EnsV)."""
        ...

    def __len__(self) -> int:
        """Items that are predicted."""
        ...

    def evidence(self, forward: Forward) -> dict[str, np.ndarray]:
        """What the present weights give, the same on every rank; with ``logits`` where it ``compares``."""
        ...

    def score(self, found: dict[str, np.ndarray]) -> float:
        """The score of one candidate's evidence; NaN where its outputs are not finite."""
        ...


@dataclass(frozen=True, eq=False)
class TargetJudge:
    """Looks at the target's predictions by ``rule`` (SelectConfig.rule).

    ``source`` (labelled) is read by 'dev' alone, ``true_labels`` int (N,) of the target, -1 where unknown, by
    'oracle' alone: no other rule sees them. ``metric`` is the oracle's: top1 or class_mean. ``seed`` decides
    MixVal's pairs and DEV's part of a large source. Raises RecipeError for an unknown rule or for what a rule
    lacks, DataError where the oracle finds no label.
    """

    rule: str
    target: Views
    source: Views | None
    classes: int
    device: str | torch.device
    true_labels: np.ndarray | None = None
    metric: str = "top1"
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rule, known = self.rule, ["last", *NEEDS]
        if rule not in known:
            raise RecipeError(
                f"There is no selection rule {rule!r}.{suggest(rule, known)} Known are: {', '.join(known)}."
            )
        if rule == "dev" and self.source is None:
            raise RecipeError(
                "The selection rule 'dev' needs the labelled source, which is not read here; choose ensv, im"
                " or mixval."
            )
        if rule == "oracle":
            if self.true_labels is None:
                raise RecipeError(
                    "The selection rule 'oracle' needs target labels, and the target has none; choose ensv,"
                    " im or mixval."
                )
            if not (np.asarray(self.true_labels) >= 0).any():
                raise DataError(
                    "The selection rule 'oracle' needs target labels, and no target image has one; choose"
                    " ensv, im or mixval."
                )

    @property
    def needs(self) -> str:
        """What of the target and the source the rule reads."""
        return NEEDS.get(self.rule, "")

    @property
    def compares(self) -> bool:
        return self.needs == "candidates"

    def __len__(self) -> int:
        return len(self.target)

    def evidence(self, forward: Forward) -> dict[str, np.ndarray]:
        n, result = len(self.target), dict[str, np.ndarray]()
        result["logits"], features = self._predict(self.target, np.arange(n), forward)
        if self.needs in ("features", "source"):
            result["features"] = features
        if self.needs == "mixed":
            result["partner"] = partners(n, self.seed)
            result["mixed"], _ = self._predict(self.target, np.arange(n), forward, result["partner"])
        if self.needs == "source" and self.source is not None:
            order = np.random.default_rng(self.seed).permutation(len(self.source))[:SOURCE_LIMIT]
            result["source_labels"] = np.asarray(self.source.labels)[order]
            result["source_logits"], result["source_features"] = self._predict(self.source, order, forward)
        return result

    def _predict(
        self, views: Views, items: np.ndarray, forward: Forward, partner: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return predict(views, items, forward, torch.device(self.device), self.batch_size, partner)

    def score(self, found: dict[str, np.ndarray]) -> float:
        logits = found["logits"]
        if not all(np.isfinite(v).all() for v in found.values()):
            return math.nan
        if self.needs == "labels":
            labels = np.asarray(self.true_labels)
            known = labels >= 0
            predicted, labels = logits[known].argmax(1), labels[known]
            if self.metric == "class_mean":
                return mean_class_accuracy(predicted, labels, self.classes)
            return accuracy(predicted, labels)
        if self.needs == "mixed":
            return validators.mixval(logits, found["mixed"], found["partner"])
        if self.needs == "source":
            return validators.dev_of(
                found["source_logits"], found["source_labels"], found["source_features"], found["features"]
            )
        if self.needs == "features":
            return validators.classami(logits, found["features"])
        return validators.of_logits(self.rule, logits)


class Chooser:
    """Keeps candidates under ``<location>/candidates`` and names the best that ``judge`` sees; ties go to the
    later step.

    ``steps`` is empty for the rule 'last', which chooses nothing. Every rank of a process group makes one and
    calls the same methods; rank 0 writes, and all must be able to read ``location``.
    """

    def __init__(self, location: str, steps: Sequence[int], judge: Judge):
        self.judge, self.rule = judge, judge.rule
        self.steps = [] if judge.rule == "last" else sorted(set(steps))
        self._folder = posixpath.join(str(location), "candidates")

    def offer(self, step: int, forward: Forward, state: Callable[[], dict[str, Any]]) -> None:
        """Make the weights after ``step`` finished steps a candidate, unless they are one already.

        ``forward(x)`` gives (logits (b, K), features (b, D)) in evaluation mode; ``state()`` a dictionary of
        tensors and primitives that :meth:`choose` returns; it is called on rank 0 where the candidate may
        win.
        """
        if step not in self.steps:
            return
        if not self._known(step):
            self._add(step, self.judge.evidence(forward), state)

    def choose(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """(the state of the best candidate, or None for 'last'; what was chosen: rule, chosen_step, scores by
        step).

        A score that is not finite never wins. Raises TrainingError if none is finite, StoreError if the
        chosen weights cannot be read.
        """
        if not self.steps:
            return None, {"rule": self.rule, "chosen_step": None, "scores": {}}
        scores = _shared(lambda: self._scores(self._all_evidence()))
        if not scores:
            raise StoreError(
                f"No candidate of {self._folder} can be read, so the rule {self.rule!r} has nothing to choose"
                " from; delete the folder and train again."
            )
        chosen = _best(scores)
        if scores[chosen] is None:
            raise TrainingError(
                f"The outputs of every candidate hold NaN or infinity, so the rule {self.rule!r} cannot"
                " choose; lower the learning rate or use fp32."
            )
        state = self._weights(chosen).latest()
        if state is None:
            raise StoreError(
                f"The weights of the chosen step {chosen} cannot be read from {self._folder}; delete the"
                " folder and train again."
            )
        info: dict[str, Any] = {
            "rule": self.rule,
            "chosen_step": chosen,
            "scores": {str(s): scores[s] for s in sorted(scores)},
        }
        missing = [s for s in self.steps if s not in scores]
        notes = [NOTES[self.rule]] if self.rule in NOTES else []
        notes += [f"Steps {missing} left no readable candidate."] if missing else []
        return state["state"], {**info, "note": " ".join(notes)} if notes else info

    def _add(self, step: int, evidence: dict[str, np.ndarray], state: Callable[[], dict[str, Any]]) -> None:
        if rank() != 0:
            return
        compares = self.judge.compares
        entry: dict[str, Any] = {
            "score": math.nan if compares else self.judge.score(evidence),
            "rule": self.rule,
            "items": len(self.judge),
        }
        if compares:
            entry["logits"] = torch.from_numpy(evidence["logits"])
        before = self._all_evidence()
        best = _best(self._scores({**before, step: entry}))
        # Weights first: evidence says that its weights, where they can still win, are there.
        if compares or best == step:
            self._weights(step).save(step, {"state": state()})
        self._predictions(step).save(step, entry)
        for other in before:
            if not compares and other != best:
                self._weights(other).clear()

    def _scores(self, evidence: dict[int, dict[str, Any]]) -> dict[int, float | None]:
        """Step -> score; None where it is not finite."""
        if not self.judge.compares:
            return {s: e["score"] if math.isfinite(e["score"]) else None for s, e in evidence.items()}
        scores: dict[int, float | None] = dict.fromkeys(evidence)
        sound = {
            s: e["logits"].numpy() for s, e in evidence.items() if bool(torch.isfinite(e["logits"]).all())
        }
        if sound:
            scores.update(zip(sound, validators.ensv(np.stack(list(sound.values()))).tolist(), strict=True))
        return scores

    def _known(self, step: int) -> bool:
        def known() -> bool:
            evidence = self._all_evidence()
            if step not in evidence:
                return False
            may_win = self.judge.compares or _best(self._scores(evidence)) == step
            return not may_win or self._weights(step).latest() is not None

        return _shared(known)

    def _read(self, step: int) -> dict[str, Any] | None:
        """The evidence of one step if it is whole and of this rule and target."""
        entry = self._predictions(step).latest()
        fits = entry is not None and entry["rule"] == self.rule and entry["items"] == len(self.judge)
        return entry if fits else None

    def _all_evidence(self) -> dict[int, dict[str, Any]]:
        result = {step: self._read(step) for step in self.steps}
        return {step: entry for step, entry in result.items() if entry is not None}

    def _predictions(self, step: int) -> Checkpoints:
        return Checkpoints(posixpath.join(self._folder, f"{step:09d}-evidence"), keep=1)

    def _weights(self, step: int) -> Checkpoints:
        return Checkpoints(posixpath.join(self._folder, f"{step:09d}-weights"), keep=1)


@torch.no_grad()
def predict(
    views: Views,
    items: np.ndarray,
    forward: Forward,
    device: torch.device,
    batch_size: int = 64,
    partner: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, K) and features (n, D), float32, of the test views of ``items`` in order, mixed with those
    of ``partner`` (MixVal) if given.

    Ranks take every world-th batch and share what they found, so that all must call it.
    """
    starts = range(0, len(items), batch_size)
    mine = {}
    for start in starts[rank() :: world_size()]:
        part = items[start : start + batch_size]
        x = views.get(part, "test", [0] * len(part)).to(device)
        if partner is not None:
            x = validators.MIX * x + (1 - validators.MIX) * views.get(
                partner[part], "test", [0] * len(part)
            ).to(device)
        mine[start] = tuple(t.detach().float().cpu().numpy() for t in forward(x))
    every = _gathered(mine)
    return np.concatenate([every[s][0] for s in starts]), np.concatenate([every[s][1] for s in starts])


def partners(items: int, seed: int) -> np.ndarray:
    """int64 (N,): whom MixVal mixes into each item, along one random circle, so that (N > 1) none is its own
    partner."""
    order = np.random.default_rng(seed).permutation(items)
    partner = np.empty(items, np.int64)
    partner[order] = np.roll(order, -1)
    return partner


def _best(scores: dict[int, float | None]) -> int:
    return max(scores, key=lambda step: (-math.inf if scores[step] is None else scores[step], step))


def _shared(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every rank."""
    if world_size() == 1:
        return make()
    box = [make() if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _gathered(mine: dict[int, Any]) -> dict[int, Any]:
    """The union of all ranks' entries."""
    if world_size() == 1:
        return mine
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, mine)
    return {key: value for box in boxes for key, value in box.items()}
