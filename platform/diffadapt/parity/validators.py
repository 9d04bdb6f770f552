"""Parity of the label-free validators (EnsV's, pytorch-adapt's, DEV's and MaNo's reference implementations).

Stored risks (entropy, DEV, DEVN) are compared with the sign turned, because here higher is always better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffadapt.core.record import softmax
from diffadapt.metrics import validators as v
from diffadapt.metrics.classification import accuracy, mean_class_accuracy, per_class_accuracy
from diffadapt.parity.check import NumberFile, ParityRow, compare

GATE = 1e-9
ENTROPY_GATE = 1e-7
"""Entropy-type scores add a constant inside the logarithm, which references do in several ways."""
ACCURACY_GATE = 1e-6
"""The reference counts in float32."""


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Iterator[ParityRow]:
    """All rows for a file with logits and validators' outputs; none for other files."""
    a = file.arrays
    logits, features = a.get("in_logits"), a.get("in_feat")
    of_logits: dict[str, tuple[Callable[[np.ndarray], float], float]] = {
        "out_entropy": (lambda z: -v.entropy(z), ENTROPY_GATE),
        "out_im": (v.im, ENTROPY_GATE),
        "out_corrc": (v.corrc, GATE),
        "out_snd_logits_T005": (v.snd, ENTROPY_GATE),
        "out_snd_softmax_T005": (lambda z: v.of_logits("snd", z), ENTROPY_GATE),
        "out_bnm": (v.bnm, GATE),
        "out_mano_criterion": (v.mano_criterion, GATE),
        "out_mano_is_taylor": (lambda z: float(v.mano_criterion(z) <= 5), GATE),
        "out_mano_score": (v.mano, GATE),
    }
    if logits is not None:
        for name, (score, gate) in of_logits.items():
            if name in a:
                yield _row(file, name, score(logits), gate)
    if features is not None and "out_snd_feat_T005" in a:
        yield _row(file, "out_snd_feat_T005", v.snd(features), ENTROPY_GATE)
    if logits is not None and features is not None and "out_classami_centroidinit" in a:
        yield _row(file, "out_classami_centroidinit", v.classami(logits, features), GATE)
    if "in_ensv_logits" in a:
        yield _row(file, "out_ensv_score", v.ensv(a["in_ensv_logits"]), GATE)
    if "in_dev_weight" in a:
        weights, errors = a["in_dev_weight"], a["in_dev_error"]
        yield _row(file, "out_dev_risk", -v.dev(weights, errors), GATE)
        for how in ("max", "standardize"):
            if f"out_devn_risk_{how}" in a:
                yield _row(file, f"out_devn_risk_{how}", -v.devn(weights.ravel(), errors.ravel(), how), GATE)
    if logits is not None and "in_gt" in a and "out_acc_global" in a:
        predicted, labels, classes = softmax(logits).argmax(1), a["in_gt"], logits.shape[1]
        yield _row(file, "out_acc_global", accuracy(predicted, labels), ACCURACY_GATE)
        yield _row(file, "out_acc_per_class", per_class_accuracy(predicted, labels, classes), ACCURACY_GATE)
        yield _row(file, "out_acc_class_mean", mean_class_accuracy(predicted, labels, classes), ACCURACY_GATE)


def _row(file: NumberFile, name: str, got: float | np.ndarray, gate: float) -> ParityRow:
    return compare(file, name.removeprefix("out_"), np.asarray(got), file.arrays[name], gate)
