"""``python -m tests.bench.class_balance <office31 folder> <backbone> <cache folder> [golden.npz]``: Office-31,
amazon to webcam, heads on frozen features (200 steps, one view an image), five draws of ten classes.

First the ten are not in the target: how far estimated shares are off, and how good the split's pseudo-labels
are. Then they are in it and not listed: what the energy rejects. The lines of KNOWN of metrics/class_shares
and metrics/rejection, and of ATC in metrics/unlabelled_accuracy.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffadapt.core.stage import WorkContext
from diffadapt.data.config import DataConfig
from diffadapt.methods.ssl.config import SplitConfig
from diffadapt.methods.uda.config import UdaConfig
from diffadapt.metrics import class_shares, rejection, unlabelled_accuracy
from diffadapt.models.config import BackboneConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.stages.images import Images
from diffadapt.tasks.classification.adaptation import fit_uda
from diffadapt.tasks.classification.feature_table import feature_arrays
from diffadapt.tasks.classification.features import Features
from diffadapt.tasks.classification.hold_out import chosen
from diffadapt.tasks.classification.split import choose
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.views import FeatureViews

CLASSES, TEN, DRAWS, HELD_OUT, STEPS = 31, 10, 4, 0.2, 500
METHODS = ("source_only", "mcc")
RUNS = "Office-31, amazon to webcam, frozen MobileNetV2, ten classes taken out"
Domain = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features (N, D), labels (N,), keys (N,)."""


def features(folder: str, backbone: str, domain: str) -> Domain:
    """The test views of a domain."""
    parquet = Path(folder) / f"{domain}.parquet"
    data = DataConfig(path=str(parquet if parquet.exists() else parquet.with_suffix("")), block=64)
    images = Images(data, ((f"{domain}/0", ""),))
    config = with_inputs(
        BackboneConfig(name=backbone, frozen=True, weak_views=0, strong_views=0, batch_size=32)
    )
    read, extract = images.open(WorkContext("cpu")), Features(config).open(WorkContext("cpu"))
    x, y, keys = [], [], []
    for shard in images.plan({}):
        rows = extract.run(shard, [read.run(shard, ())])
        x.append(feature_arrays(rows)["test"])
        y += rows.column("label")
        keys += rows.column("key")
    return np.concatenate(x), np.array(y), np.array(keys)


def domains(folder: str, backbone: str, cache: Path) -> tuple[Domain, Domain]:
    """Source and target, from the cache if it is there."""
    if not cache.exists():
        parts = {n: features(folder, backbone, n) for n in ("amazon", "webcam")}
        np.savez(cache, **{f"{n}_{i}": part for n, found in parts.items() for i, part in enumerate(found)})
    with np.load(cache) as found:
        s, t = (tuple(found[f"{n}_{i}"] for i in range(3)) for n in ("amazon", "webcam"))
    return s, t  # type: ignore[return-value]


def trained(
    method: str, source: Domain, target: Domain, classes: int, seed: int
) -> Callable[[np.ndarray], Any]:
    """The logits of a head after stage 1."""

    def views(part: Domain, labels: np.ndarray) -> FeatureViews:
        none = part[0][:, None][:, :0]
        return FeatureViews(np.asarray(labels, np.int64), list(part[2]), part[0], none, none)

    config = replace(UdaConfig(), method=method, epochs=1, steps_per_epoch=STEPS, seed=seed)
    sets = views(source, source[1]), views(target, np.full(len(target[1]), -1))
    run = TrainingRun(LocalReporter("cpu"))
    net, _ = fit_uda(*sets, nn.Identity(), source[0].shape[1], classes, config, run)
    with torch.no_grad():
        return lambda x: net.logits(torch.from_numpy(x)).detach().numpy()


def held_out(source: Domain, seed: int) -> np.ndarray:
    """bool (N,)."""
    held = [chosen(list(source[2][source[1] == c]), HELD_OUT, seed) for c in np.unique(source[1])]
    return np.isin(source[2], [key for keys in held for key in keys])


def part(domain: Domain, mask: np.ndarray) -> Domain:
    return domain[0][mask], domain[1][mask], domain[2][mask]


def fits(source: Domain, target: Domain, kind: str, seed: int) -> dict[str, np.ndarray]:
    """The logits of both methods of one draw, on the target, the held-out and the training images of the
    source. ``kind``: whole; absent (ten classes are not in the target); unlisted (nor are they in the
    source, and the target has them: label -1)."""
    gone = np.sort(np.random.default_rng(seed).choice(CLASSES, TEN, replace=False))
    classes, number = CLASSES, np.arange(CLASSES)
    if kind == "absent":
        target = part(target, ~np.isin(target[1], gone))
    if kind == "unlisted":
        classes, number = CLASSES - TEN, np.full(CLASSES, -1)
        number[np.setdiff1d(np.arange(CLASSES), gone)] = np.arange(classes)
        source = part(source, ~np.isin(source[1], gone))
    source, y = (source[0], number[source[1]], source[2]), number[target[1]]
    held = held_out(source, seed)
    out = {"y": y, "gone": gone, "held_y": source[1][held], "train_y": source[1][~held]}
    for method in METHODS:
        logits = trained(method, part(source, ~held), target, classes, seed)
        out |= {f"{method}_target": logits(target[0]), f"{method}_held": logits(source[0][held])}
        out[f"{method}_train"] = logits(source[0][~held])
    return out


def all_fits(folder: str, backbone: str, cache: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Every draw, from the cache as far as it is there."""
    made = {}
    sets: Any = None
    for seed in range(DRAWS):
        for kind in ("whole", "absent", "unlisted"):
            file = cache / f"{kind}-{seed}.npz"
            if not file.exists():
                sets = sets or domains(folder, backbone, cache / "features.npz")
                np.savez(file, **fits(*sets, kind, seed))  # pyright: ignore[reportArgumentType]
            with np.load(file) as found:
                made[kind, seed] = dict(found)
    return made


def balance(source: Domain, target: Domain, gone: np.ndarray, seed: int, out: dict[str, list[Any]]) -> dict:
    """One draw with the classes ``gone`` not in the target (none: the whole target)."""
    held = held_out(source, seed)
    x, y, keys = target = part(target, ~np.isin(target[1], gone))
    true, kind = np.bincount(y, minlength=CLASSES) / len(y), "absent" if len(gone) else "whole"
    made: dict[str, Any] = {}
    for method in METHODS:
        logits_of = trained(method, part(source, ~held), target, CLASSES, seed)
        z, on_held = logits_of(x), (logits_of(source[0][held]), source[1][held])
        prior = np.bincount(source[1][~held], minlength=CLASSES)
        predicted = np.bincount(z.argmax(1), minlength=CLASSES) / len(z)
        found = {"predicted": predicted}
        estimates = {e.how: e for e in (class_shares.estimate(z, prior, h) for h in (None, on_held))}
        found |= {how: e.shares for how, e in estimates.items()}
        for soft in (False, True):
            p, q = (class_shares.softmax(v) for v in (on_held[0], z))
            try:
                found["BBSE" + " soft" * soft] = class_shares.bbse(p, on_held[1], q, soft)
            except class_shares.DataError:
                pass
        for how, shares in found.items():
            named, off = class_shares.absent(shares), class_shares.distance(shares, true)
            mass, right = shares[gone].sum(), named[gone].sum()
            out[f"{kind} {method} {how}"].append((100 * off, 100 * mass, right, named.sum() - right))
        right = 100 * (z.argmax(1) == y).mean()
        limit = unlabelled_accuracy.threshold(
            unlabelled_accuracy.certainty(on_held[0]), on_held[0].argmax(1) == on_held[1]
        )
        above = 100 * unlabelled_accuracy.above(unlabelled_accuracy.certainty(z), limit)
        out[f"{kind} {method} accuracy, ATC"].append((right, above))
        for how, e in {"fixed fraction": None, **estimates}.items():
            for adjusted in (False, True) if e else (False,):
                p = e.adjusted if e and adjusted else e.probabilities if e else class_shares.softmax(z)
                label = p.argmax(1)
                good = choose(label, p.max(1), list(keys), SplitConfig(), e.shares if e else None)
                figures = (
                    good.sum(),
                    100 * (label[good] == y[good]).mean(),
                    np.isin(label[good], gone).sum(),
                )
                out[f"{kind} {method} split {how}{' adjusted' * adjusted}"].append(
                    (*figures, len(np.unique(y[good])), 100 * (label == y).mean())
                )
        made = {"target": z, "labels": y, "held": on_held[0], "held_labels": on_held[1]}
    return made


def unlisted(source: Domain, target: Domain, gone: np.ndarray, seed: int, out: dict[str, list[Any]]) -> dict:
    """One draw with the classes ``gone`` in the target and not listed."""
    listed = np.setdiff1d(np.arange(CLASSES), gone)
    number = np.full(CLASSES, -1)
    number[listed] = np.arange(len(listed))
    source = part(source, ~np.isin(source[1], gone))
    source = source[0], number[source[1]], source[2]
    y, held = number[target[1]], held_out(source, seed)
    made: dict[str, Any] = {}
    for method in METHODS:
        logits_of = trained(method, part(source, ~held), target, len(listed), seed)
        z, on_held, on_trained = (logits_of(v) for v in (target[0], source[0][held], source[0][~held]))
        e = rejection.energy(z)
        known, other = e[y >= 0], e[y < 0]
        surely = -class_shares.softmax(z).max(1)
        row = [rejection.auroc(known, other), rejection.fpr(known, other)]
        for values in (on_held, on_trained, z):
            limit = rejection.limit(rejection.energy(values))
            row += [(other > limit).mean(), (known > limit).mean()]
        row += [rejection.auroc(surely[y >= 0], surely[y < 0]), (z.argmax(1) == y)[y >= 0].mean()]
        out[f"unlisted {method}"].append([100 * v for v in row])
        made = {"target": z, "labels": y, "held": on_held}
    return made


def main() -> None:
    folder, backbone, cache, *golden = sys.argv[1:]
    source, target = domains(folder, backbone, Path(cache))
    out: dict[str, list[Any]] = defaultdict(list)
    kept: dict[str, np.ndarray] = {}
    for seed in range(DRAWS):
        gone = np.sort(np.random.default_rng(seed).choice(CLASSES, TEN, replace=False))
        balance(source, target, gone[:0], seed, out)
        first, second = balance(source, target, gone, seed, out), unlisted(source, target, gone, seed, out)
        if not kept:
            kept = {f"absent_{k}": v for k, v in first.items()} | {
                f"listed_{k}": v for k, v in second.items()
            }
            kept["gone"] = gone
        print(f"draw {seed}: without {gone.tolist()}", flush=True)
    for name, rows in out.items():
        mean, worst = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"{name:44s}", " ".join(f"{m:7.1f} ({w:.1f})" for m, w in zip(mean, worst, strict=True)))
    if golden:
        small = {k: v.astype(np.int8 if v.ndim == 1 else np.float16) for k, v in kept.items()}
        np.savez_compressed(golden[0], **small)


if __name__ == "__main__":
    main()
