"""``python -m tests.bench.class_balance <office31 folder> <backbone> <cache folder> [golden.npz]``:
Office-31, amazon to webcam, heads on frozen features (200 steps, one view an image), five draws of ten
classes.

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

from diffadapt.core.record import softmax
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

CLASSES, TEN, DRAWS, HELD_OUT, STEPS = 31, 10, 3, 0.2, 300
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


def balance(made: dict[str, np.ndarray], kind: str, method: str, out: dict[str, list[Any]]) -> None:
    """Shares of one draw, the pseudo-labels that they give, and the guess of the accuracy."""
    z, y, held, held_y = (made[n] for n in (f"{method}_target", "y", f"{method}_held", "held_y"))
    true, prior = (np.bincount(v, minlength=CLASSES) for v in (y, made["train_y"]))
    true, gone, keys = true / len(y), true == 0, [f"{i:05d}" for i in range(len(y))]
    p, predicted = softmax(z), np.bincount(z.argmax(1), minlength=CLASSES) / len(z)
    calibration = class_shares.calibrate(held, held_y)
    calibrated = calibration.probabilities(z), calibration.probabilities(held).mean(0)
    found = {
        "predicted": predicted,
        class_shares.MLLS: class_shares.mlls(p, prior),
        class_shares.BCTS: class_shares.mlls(*calibrated),
        class_shares.BBSE: class_shares.bbse(softmax(held), held_y, p),
    }
    for how, shares in found.items():
        named = class_shares.absent(shares)
        figures = 100 * class_shares.distance(shares, true), 100 * shares[gone].sum()
        out[f"{kind} {method} {how}"].append((*figures, (named & gone).sum(), (named & ~gone).sum()))
    for how, shares in found.items():
        label = p.argmax(1)
        good = choose(label, p.max(1), keys, SplitConfig(), None if how == "predicted" else shares)
        right, classes = 100 * (label[good] == y[good]).mean(), len(np.unique(y[good]))
        out[f"{kind} {method} split by {how}"].append((good.sum(), right, gone[label[good]].sum(), classes))
    sure, of_target = unlabelled_accuracy.certainty(held), unlabelled_accuracy.certainty(z)
    limit = unlabelled_accuracy.threshold(sure, held.argmax(1) == held_y)
    guess, accuracy = 100 * unlabelled_accuracy.above(of_target, limit), 100 * (z.argmax(1) == y).mean()
    out[f"{kind} {method} ATC, accuracy"].append((guess, accuracy))


def unlisted(made: dict[str, np.ndarray], method: str, out: dict[str, list[Any]]) -> None:
    """What the energy says of one draw's images of ten classes that are not listed."""
    z, y = made[f"{method}_target"], made["y"]
    energies, unsure = rejection.energy(z), -softmax(z).max(1)
    known, other = energies[y >= 0], energies[y < 0]
    figures = [rejection.auroc(known, other), rejection.fpr(known, other)]
    figures.append(rejection.auroc(unsure[y >= 0], unsure[y < 0]))
    for values in (made[f"{method}_held"], made[f"{method}_train"], z):
        limit = rejection.limit(rejection.energy(values))
        figures += [(other > limit).mean(), (known > limit).mean()]
    out[f"unlisted {method}"].append([100 * f for f in figures])


def main() -> None:
    folder, backbone, cache, *golden = sys.argv[1:]
    fitted = all_fits(folder, backbone, Path(cache))
    out: dict[str, list[Any]] = defaultdict(list)
    for method in METHODS:
        for (kind, _), made in fitted.items():
            if kind == "unlisted":
                unlisted(made, method, out)
            else:
                balance(made, kind, method, out)
    for name, rows in sorted(out.items()):
        print(f"{name:36s}", " ".join(f"{m:7.1f} ({s:4.1f})" for m, s in zip(*_moments(rows), strict=True)))
    _known(out)
    if golden:
        first, second = fitted["absent", 0], fitted["unlisted", 0]
        names = ("y", "gone", "mcc_target", "mcc_held", "held_y", "train_y")
        kept = {f"absent_{n}": first[n] for n in names} | {f"unlisted_{n}": second[n] for n in names}
        np.savez_compressed(
            golden[0], **{k: v.astype(np.int8 if v.ndim == 1 else np.float16) for k, v in kept.items()}
        )


def _known(out: dict[str, list[Any]]) -> None:
    """The lines of KNOWN."""
    for how, methods in (("MLLS", ("mcc",)), ("BCTS-MLLS", METHODS), ("BBSE", METHODS)):
        rows = [(kind, r) for kind in ("whole", "absent") for m in methods for r in out[f"{kind} {m} {how}"]]
        counted = [
            r[0] for kind in ("whole", "absent") for m in methods for r in out[f"{kind} {m} predicted"]
        ]
        gone = TEN * sum(kind == "absent" for kind, _ in rows)
        figures = np.array([r for _, r in rows])
        error, found, wrong = figures[:, 0].mean(), int(figures[:, 2].sum()), int(figures[:, 3].sum())
        print(f"Known({how}, {len(rows)}, {error:.1f}, {np.mean(counted):.1f}, {gone}, {found}, {wrong})")
    for m in METHODS:
        auroc, fpr95, _, *by_held_out, _, _, others, listed = np.mean(out[f"unlisted {m}"], axis=0)
        figures = auroc, fpr95, *by_held_out[:2], others, listed
        print(f"Known({m}, {DRAWS}, {', '.join(f'{v:.1f}' for v in figures)})")
        off = np.diff([r for kind in ("whole", "absent") for r in out[f"{kind} {m} ATC, accuracy"]])
        print(f"Known(ATC, {m}, {len(off)}, {abs(off).mean():.1f}, {abs(off).max():.1f}, {-off.mean():.1f})")


def _moments(rows: list[Any]) -> tuple[Any, Any]:
    return np.mean(rows, axis=0), np.std(rows, axis=0)


if __name__ == "__main__":
    main()
