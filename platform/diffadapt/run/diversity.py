"""How varied a run's synthetic images are beside its real ones, from the features that its nodes hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffadapt.core.sealed import Sealed
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.metrics.diversity import SIZES, WHOLE, drawn, of_samples
from diffadapt.stages.roles import FILTERS, KEPT

FEATURES, CLIP = "features", "clip-features"
"""Kinds of the stages that hold features: cached ones of a frozen backbone, and CLIP's."""
SHARE = 0.9
"""Figures of a sample size stand on classes that have so many images; at least this share of them does."""


@dataclass(frozen=True)
class Features:
    """A set: ``labels`` (N), -1 where unknown; ``values`` (N, D)."""

    keys: Sequence[str]
    labels: np.ndarray
    values: np.ndarray

    def taken(self, index: Sequence[int]) -> Features:
        return Features([self.keys[i] for i in index], self.labels[index], self.values[index])


def diversity(
    manifest: Mapping[str, Any],
    load: Callable[[str], Features],
    kept: Callable[[str], set[str]],
    *,
    synthetic_only: bool = False,
) -> dict[str, Any] | None:
    """``features``: of which network; ``sets``: name, kind (synthetic, source, target), images, filtered,
    ``classes`` (sample size -> mean Vendi score and distance, classes left out, each class's own figures; of
    the target none, for its labels are not looked at) and ``whole`` (sample size -> both); ``missing``: what
    the run lacks. None for a run that trains on no synthetic images. ``load``: features node -> features;
    ``kept``: filter node -> keys of the images that training sees."""
    nodes = manifest["nodes"]
    fits = [info for info in nodes.values() if info["kind"] == "uda" and len(info["inputs"]) > 1]
    sources = {_images(nodes, info["inputs"][0]) for info in fits}
    if not any(nodes[s]["kind"] == "synth" for s in sources if s):
        return None
    held = dict(_held(nodes))
    targets = {_images(nodes, info["inputs"][1]) for info in fits}
    order = sorted(sources | targets, key=lambda s: (nodes[s]["kind"] != "synth", s not in sources, s))
    sets = []
    for images in order:
        kind = (
            "synthetic" if nodes[images]["kind"] == "synth" else "source" if images in sources else "target"
        )
        if images not in held or (synthetic_only and kind != "synthetic"):
            continue
        found, filtered = load(held[images]), ""
        if kind == "synthetic":
            filtered = next(
                (n for n, i in nodes.items() if i["kind"] in FILTERS and images in i["inputs"]), ""
            )
        if filtered:
            good = kept(filtered)
            found = found.taken([i for i, key in enumerate(found.keys) if key in good])
        found = found.taken(drawn(found.keys))
        sets.append({
            "name": _name(images, kind),
            "kind": kind,
            "images": len(found.keys),
            "filtered": bool(filtered),
            "classes": {} if kind == "target" else _by_class(found, len(manifest.get("class_names") or ())),
            "whole": {} if synthetic_only else _whole(found),
        })  # fmt: skip
    return {"features": _described(manifest, held), "sets": sets, "missing": _missing(sets)}


def of_store(
    store: Store, manifest: Mapping[str, Any], plans: Mapping[str, NodePlan], *, synthetic_only: bool = False
) -> dict[str, Any] | None:
    """:func:`diversity` of a run whose work is done, read from the store. StoreError for what is damaged."""
    import pyarrow.parquet as pq

    def load(node: str) -> Features:
        keys: list[str] = []
        labels: list[int] = []
        values: list[np.ndarray] = []
        for p in plans[node].shards:
            rows = store.load(p.path or "")
            keys += rows.column("key")
            labels += [-1 if label is None else label for label in rows.column("label")]
            flat = np.asarray(rows.table.column("test").combine_chunks().flatten(), np.float32)
            values.append(flat.reshape(len(rows), -1) if len(rows) else np.zeros((0, 0), np.float32))
        whole = [v for v in values if len(v)]
        return Features(
            keys, np.asarray(labels, np.int64), np.concatenate(whole) if whole else np.zeros((0, 1))
        )

    def kept(node: str) -> set[str]:
        data = Sealed(store, plans[node].shards[0].path or "").read(KEPT)
        table = pq.read_table(io.BytesIO(data), columns=["key", "kept"]).to_pydict()
        return {key for key, good in zip(table["key"], table["kept"], strict=True) if good}

    return diversity(manifest, load, kept, synthetic_only=synthetic_only)


def _held(nodes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(images node, node of its features), the first of several views last, so that it counts."""
    for name, info in reversed(list(nodes.items())):
        if info["kind"] in (FEATURES, CLIP):
            yield info["inputs"][0], name


def _images(nodes: Mapping[str, Any], name: str) -> str:
    """The images behind what a fit reads: itself, or what cached features are of."""
    return nodes[name]["inputs"][0] if nodes[name]["kind"] == FEATURES else name


def _by_class(found: Features, classes: int) -> dict[str, Any]:
    index = {int(c): np.flatnonzero(found.labels == c) for c in np.unique(found.labels) if c >= 0}
    count, out = max(classes, len(index)), {}
    for size in SIZES:
        large = {c: at for c, at in index.items() if len(at) >= size}
        if not large or len(large) < SHARE * count:
            continue
        own = {str(c): [round(v, 4) for v in of_samples(found.values[at], size)] for c, at in large.items()}
        vendi, distance = np.mean(list(own.values()), axis=0)
        out[str(size)] = {
            "vendi": round(float(vendi), 4),
            "distance": round(float(distance), 4),
            "left_out": count - len(own),
            "by_class": own,
        }
    return out


def _whole(found: Features) -> dict[str, list[float]]:
    return {
        str(size): [round(v, 4) for v in of_samples(found.values, size)]
        for size in WHOLE
        if len(found.keys) >= size
    }


def _name(images: str, kind: str) -> str:
    """'synthetic (webcam)' of synth.webcam, 'amazon' of images.amazon, else the node's own name."""
    _, _, tag = images.partition(".")
    return (f"synthetic ({tag})" if tag else "synthetic") if kind == "synthetic" else tag or images


def _described(manifest: Mapping[str, Any], held: Mapping[str, str]) -> str:
    config = manifest.get("config") or {}
    kinds = {manifest["nodes"][n]["kind"] for n in held.values()}
    if FEATURES in kinds:
        backbone = str((config.get("backbone") or {}).get("name") or "backbone")
        return f"cached features of {backbone.rstrip('/').split('/')[-1]}"
    return f"image features of CLIP ({(config.get('clip') or {}).get('weights')})" if kinds else ""


def _missing(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    if not any(s["kind"] == "synthetic" for s in sets):
        return [
            "the run holds no features of its synthetic images: give a CLIP (clip.weights) with diversity"
            " true, or a frozen backbone"
        ]
    return [
        f"the classes of {s['name']} are too small: {100 * SHARE:.0f} % of them must have {SIZES[0]} images"
        " or more"
        for s in sets
        if s["kind"] == "synthetic" and not s["classes"]
    ]
