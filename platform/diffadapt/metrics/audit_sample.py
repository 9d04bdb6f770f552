"""Which images to label so that a few labels say most about the accuracy of many models: strata by how much
the models agree and how sure they are together, and a random sample of each with known probabilities. No
torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTS = 3
"""Strata by confidence among the images on which all rows agree, and as many among the others."""
EVEN = 0.5
"""The share of the labels that is spread in proportion to the images, whatever the models say of themselves:
an overconfident model errs where it is sure."""
FEWEST = 5
"""Labels in every stratum (all of it where it has fewer images)."""


@dataclass(frozen=True)
class Sample:
    """``stratum`` (N,): of every image, 0..H-1; ``sizes`` and ``drawn`` (H,): images and labels of each;
    ``chosen``: positions of the drawn images, in random order; ``probability`` (n,): theirs of being
    drawn."""

    stratum: np.ndarray
    sizes: np.ndarray
    drawn: np.ndarray
    chosen: np.ndarray
    probability: np.ndarray


def strata(confidence: np.ndarray, disagreement: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Stratum 0..H-1 of every image: first the images on which all rows agree (``disagreement`` 0), then the
    others; each part by ``confidence`` into at most CUTS strata of equal total ``doubt`` (the standard
    deviation that an image's value is expected to have) and at least FEWEST images. All (N,)."""
    out = np.zeros(len(confidence), np.int64)
    count = 0
    for part in (np.flatnonzero(disagreement <= 0), np.flatnonzero(disagreement > 0)):
        if not len(part):
            continue
        order = part[np.lexsort((part, -confidence[part]))]
        cuts = min(CUTS, max(len(order) // (2 * FEWEST), 1))
        mass = np.cumsum(doubt[order] + 1e-3)
        borders = np.searchsorted(mass, mass[-1] * np.arange(1, cuts) / cuts)
        last = 0
        for c, border in enumerate(borders.tolist(), 1):  # each keeps FEWEST images
            last = min(max(border, last + FEWEST), len(order) - (cuts - c) * FEWEST)
            out[order[last:]] = c
        out[order] += count
        count += cuts
    return out


def allocate(sizes: np.ndarray, doubt: np.ndarray, n: int) -> np.ndarray:
    """Labels for each stratum (H,), together min(n, images): EVEN of them as the images are spread, the
    others where most doubt is (Neyman: size times ``doubt``, the stratum's root mean square); at least FEWEST
    each."""
    sizes = np.asarray(sizes, np.int64)
    n = min(n, int(sizes.sum()))
    mass = sizes * np.maximum(doubt, 1e-6)
    want = n * (EVEN * sizes / sizes.sum() + (1 - EVEN) * mass / mass.sum())
    least = np.minimum(sizes, min(FEWEST, max(n // len(sizes), 1)))
    out = np.clip(np.floor(want).astype(np.int64), least, sizes)
    while out.sum() != n:
        room = (out < sizes) if out.sum() < n else (out > least)
        gap = np.where(room, want - out, -np.inf if out.sum() < n else np.inf)
        out[int(np.argmax(gap) if out.sum() < n else np.argmin(gap))] += 1 if out.sum() < n else -1
    return out


def draw(stratum: np.ndarray, doubt: np.ndarray, n: int, seed: int) -> Sample:
    """``n`` images (all, where there are fewer): of every stratum as many as :func:`allocate` says, each set
    equally likely. Their order is random too, so that those labelled first are a sample by themselves."""
    rng = np.random.default_rng(seed)
    count = int(stratum.max()) + 1
    places = [np.flatnonzero(stratum == h) for h in range(count)]
    sizes = np.array([len(p) for p in places])
    rms = np.array([np.sqrt(np.mean(doubt[p] ** 2)) for p in places])
    drawn = allocate(sizes, rms, n)
    chosen = np.concatenate([rng.choice(p, k, replace=False) for p, k in zip(places, drawn, strict=True)])
    chosen = rng.permutation(chosen)
    probability = (drawn / sizes)[stratum[chosen]]
    return Sample(stratum, sizes, drawn, chosen, probability)
