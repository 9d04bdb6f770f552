"""What the rows of a finished run answered on its target, from the logits that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from diffadapt.core.errors import DataError
from diffadapt.core.pipeline import MethodRow, Role
from diffadapt.core.record import group_of, predictions_by_key, softmax
from diffadapt.core.runs import Run

IMAGES = ("images", "corrupted")
"""Kinds of nodes that hold what a person can look at."""


@dataclass(frozen=True)
class Answer:
    """One row: ``places`` (n,) of its images among all, its ``predicted`` class and ``trust`` there: the
    probability that all rows together give to that class. ``scale`` (n,): the weight of an image where groups
    count once and have different sizes; 1 otherwise."""

    title: str
    row: MethodRow
    places: np.ndarray
    predicted: np.ndarray
    trust: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Answers:
    """All rows on the images ``keys`` (N). ``confidence``: the largest probability that the rows' mean gives;
    ``disagreement``: the share of the rows that do not answer as most do; ``doubt``: the standard deviation
    that being right is expected to have, the root of its mean square over the rows. ``truth``: labels of the
    data, -1 where there is none. ``nodes``: the node of the manifest that holds each image. ``together``
    (N, K): the mean of the rows' probabilities."""

    keys: tuple[str, ...]
    answers: tuple[Answer, ...]
    confidence: np.ndarray
    disagreement: np.ndarray
    doubt: np.ndarray
    truth: np.ndarray
    nodes: tuple[str, ...]
    class_names: tuple[str, ...]
    together: np.ndarray
    left_out: tuple[str, ...] = ()
    """Rows that cannot be audited, a clause each."""


def read_answers(run: Run, group: str = "") -> Answers:
    """The answers of a finished run of classification; with ``group`` those of one transfer's rows alone, on
    its target. Raises StoreError for a run that is not finished or whose predictions were removed, DataError
    for one of another task and for a group that it has not."""
    manifest = run.manifest()
    rows, left_out = _rows(manifest)
    groups = sorted({row.group for row, _ in rows if row.group})
    if group and group not in groups:
        has = f"its transfers are {', '.join(groups)}" if groups else "it has but one target"
        raise DataError(f"The run {run.name} has no transfer {group!r}: {has}.")
    rows = [found for found in rows if not group or found[0].group == group]
    if not rows:
        raise DataError(
            f"The run {run.name} has no row that predicts classes of its target ({manifest['recipe']}):"
            f" audit takes"
            " runs of SDA and Adapt Anything."
        )
    nodes = manifest["nodes"]

    @lru_cache(maxsize=3)
    def load(node: str) -> dict[str, tuple[int | None, np.ndarray]]:
        return predictions_by_key([run.root.store.load(path) for _, _, _, path in nodes[node]["shards"]])

    place: dict[str, int] = {}
    owner: list[str] = []
    truth: list[int] = []
    for row, images in rows:  # every image of the target that a row answered, in the order of the rows
        for key, (label, _) in load(row.members[0]).items():
            if key not in place:
                place[key] = len(place)
                owner.append(images)
                truth.append(-1 if label is None else label)
    if not place:
        raise DataError(f"No image of the target of {run.name} was predicted: there is nothing to audit.")
    names = tuple(manifest.get("class_names") or ())
    order = np.argsort(np.array(list(place)), kind="stable")  # by key, whatever the rows
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    found: list[tuple[MethodRow, np.ndarray, np.ndarray, np.ndarray]] = []
    together, counted = None, np.zeros(len(place))
    for row, _ in rows:
        where, p, groups = _answers(row, load, place)
        if not len(where):
            left_out.append(f"{_title(row, rows)} answered on no image")
            continue
        where = rank[where]
        if together is None:
            together = np.zeros((len(place), p.shape[1]), np.float32)
        together[where] += p
        counted[where] += 1
        found.append((row, where, p.argmax(1), _scale(groups)))
    assert together is not None
    together /= np.maximum(counted, 1)[:, None]
    votes = np.zeros_like(together, dtype=np.int32)
    square = np.zeros(len(place))
    answers = []
    for row, where, predicted, scale in found:
        trust = np.clip(together[where, predicted].astype(np.float64), 0, 1)
        votes[where, predicted] += 1
        square[where] += trust * (1 - trust)
        answers.append(Answer(_title(row, rows), row, where, predicted, trust, scale))
    names = names or tuple(map(str, range(together.shape[1])))
    many = np.maximum(counted, 1)
    keys = np.array(list(place))[order]
    return Answers(
        tuple(keys.tolist()),
        tuple(answers),
        together.max(1).astype(np.float64),
        1 - votes.max(1) / many,
        np.sqrt(square / many),
        np.array(truth)[order],
        tuple(owner[i] for i in order),
        names,
        together,
        tuple(left_out),
    )


def _rows(manifest: Mapping[str, Any]) -> tuple[list[tuple[MethodRow, str]], list[str]]:
    """(rows with the node of the images that they answer on, what is left out and why)."""
    rows, left_out = [], []
    several = "target" in manifest["outputs"] and not any(r.get("group") for r in manifest.get("rows") or ())
    for raw in manifest.get("rows") or ():
        row = MethodRow(**{**raw, "members": tuple(raw["members"]), "role": Role(**(raw.get("role") or {}))})
        images = image_node(manifest["nodes"], row.members[0])
        if images is None:
            left_out.append(f"{row.name} predicts no classes of images")
        elif several and images != manifest["outputs"]["target"]:
            continue  # on the source's clean images, which is no row of the target
        else:
            rows.append((row, images))
    return rows, left_out


def image_node(nodes: Mapping[str, Any], node: str) -> str | None:
    """The node whose images a prediction node answers on: the first inputs upwards; None for other kinds."""
    if nodes[node]["kind"] in ("segments", "boxes"):
        return None
    while nodes[node]["kind"] not in IMAGES:
        if not nodes[node]["inputs"]:
            return None
        node = nodes[node]["inputs"][0]
    return node


def _answers(
    row: MethodRow, load: Callable[[str], dict[str, tuple[int | None, np.ndarray]]], place: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(places, probabilities (n, K), groups) of the images that all members, and ``images_of``, predicted."""
    members = [load(m) for m in row.members]
    others = [*members[1:], *([load(row.images_of)] if row.images_of else [])]
    keys = [k for k in members[0] if k in place and all(k in m for m in others)]
    if not keys:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.float32), []
    p = np.zeros((len(keys), len(members[0][keys[0]][1])), np.float32)
    for m in members:
        p += softmax(np.stack([m[k][1] for k in keys])) / len(members)
    return np.array([place[k] for k in keys]), p, [group_of(row, k) for k in keys]


def _scale(groups: list[str]) -> np.ndarray:
    """The weight of each image, mean 1, where every group counts once, as in the score table."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return len(groups) / (len(counts) * counts[index])


def _title(row: MethodRow, rows: list[tuple[MethodRow, str]]) -> str:
    """The row's name, with transfer and seed where the run has several rows of that name."""
    alike = [r for r, _ in rows if r.name == row.name]
    parts = [row.group] if len({r.group for r in alike}) > 1 else []
    parts += [f"seed {row.seed}"] if len({r.seed for r in alike}) > 1 else []
    return f"{row.name} ({', '.join(parts)})" if parts else row.name
