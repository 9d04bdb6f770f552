"""``python -m tests.bench.level_rules <root> [run]``: label-free rules for the level of the one-step aligner
beside labels, on the target of a finished quickstart.

Every level projects 480 images a corruption. Ten times, a rule sees 30 of each and the level that it chooses
is scored on the others: projection alone, and the sum of the source classifier's probabilities before and
after it (without fine-tuning); one level for all images, and one a corruption.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch

from diffadapt.core.config import from_dict
from diffadapt.core.record import softmax
from diffadapt.core.runs import Root, Run
from diffadapt.diffusion.network import load_unconditional
from diffadapt.diffusion.projector import Projector
from diffadapt.metrics.validators import OF_CANDIDATES, of_candidates
from diffadapt.models.inputs import with_inputs
from diffadapt.models.preprocess import to_input
from diffadapt.stages.decoding import decode_rows
from diffadapt.stages.models import open_classifier
from diffadapt.systems.predict import _folder
from diffadapt.systems.sda.recipe import SDA

LEVELS = (0, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500)
IMAGES, SEEN, DRAWS = 480, 30, 10
AGREEMENT, LABELS, ENSEMBLE = "agreement with the source", "labels, projection", "labels, ensemble"
Group = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Labels (N,), probabilities before (N, K), logits after projection (L, N, K)."""


def groups(run: Run) -> dict[str, Group]:
    """Every corruption of the run's target."""
    manifest = run.manifest()
    recipe = from_dict(SDA, manifest["config"])
    view, network = with_inputs(recipe.classifier), load_unconditional(recipe.align.weights)
    fitted = {"classifier": _folder(run, manifest, "classifier")}
    model = open_classifier(recipe.classifier, fitted, len(manifest["class_names"]), "cpu")
    config = recipe.cheap_align("one-step")
    found: dict[str, list[list]] = defaultdict(lambda: [[], [], []])
    for _, _, _, path in manifest["nodes"]["target"]["shards"]:
        rows = decode_rows(run.root.store.load(path), network.channels)
        for values, new in zip(
            found[rows.keys[0].split("/")[0]], (rows.images, rows.labels, rows.keys), strict=True
        ):
            values += new

    @torch.inference_mode()
    def logits(images: np.ndarray) -> np.ndarray:
        return model(to_input(list(images), view, torch.device("cpu"))).float().numpy()

    out = {}
    for name, (images, labels, _) in found.items():
        taken = np.random.default_rng(0).permutation(len(images))[:IMAGES]
        x = np.stack([images[i] for i in taken])
        pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
        after = [Projector(network, config.at(n)).project(pixels, taken.tolist()) for n in LEVELS]
        after = np.stack([logits(p.permute(0, 2, 3, 1).numpy()) for p in after])
        out[name] = np.array([labels[i] for i in taken]), softmax(logits(x)), after
    return out


def right(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Accuracy by level, percent."""
    return 100 * (p.argmax(-1) == y).mean(-1)


def scores(rule: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    if rule == AGREEMENT:
        return (after.argmax(2) == before.argmax(1)).mean(1)
    return of_candidates(rule, after)


def main() -> None:
    root, *name = sys.argv[1:]
    data = groups(Root(root).run(*(name or ["last"])))
    out: Mapping[str, list[list[float]]] = defaultdict(list)
    chosen: Mapping[str, list[int]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        parts = {g: np.split(rng.permutation(len(d[0])), [SEEN]) for g, d in data.items()}
        alone, both = [], []
        for g, (y, p, z) in data.items():
            rest = parts[g][1]
            alone.append(right(z[:, rest], y[rest]))
            both.append(right(p[rest] + softmax(z[:, rest]), y[rest]))
        alone, both = np.array(alone), np.array(both)
        for rule in (*OF_CANDIDATES, AGREEMENT, LABELS, ENSEMBLE):
            if rule in (LABELS, ENSEMBLE):
                each = alone if rule == LABELS else both
                one = each.mean(0)
            else:
                seen = [(p[parts[g][0]], z[:, parts[g][0]]) for g, (_, p, z) in data.items()]
                each = np.array([scores(rule, p, z) for p, z in seen])
                one = scores(
                    rule, np.concatenate([p for p, _ in seen]), np.concatenate([z for _, z in seen], 1)
                )
            best, own = int(one.argmax()), (np.arange(len(data)), each.argmax(1))
            out[rule].append(
                [alone[:, best].mean(), both[:, best].mean(), alone[own].mean(), both[own].mean()]
            )
            chosen[rule].append(LEVELS[best])
    print(f"{'rule':26s} one level: alone ensemble   one a corruption: alone ensemble   levels chosen")
    for rule, values in out.items():
        a, b, c, d = np.mean(values, axis=0)
        levels = " ".join(map(str, sorted(set(chosen[rule]))))
        print(f"{rule:26s} {a:16.1f} {b:8.1f} {c:24.1f} {d:8.1f}   {levels}")


if __name__ == "__main__":
    main()
