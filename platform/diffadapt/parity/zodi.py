"""Parity of ZoDi's losses, mean IoU, label maps and palettes with its authors' modules; the transfer is next
door (parity_zodi_transfer).

Files are recognised by their keys, never by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diffadapt.core.artifact import IGNORED
from diffadapt.parity.check import EXACT_GATE, NumberFile, ParityRow, compare

Rows = Iterator[ParityRow]
AUTHORS_VOID = 19
"""What the authors call void in label maps of Cityscapes' 19 classes."""


def checks(file: NumberFile, siblings: Sequence[NumberFile]) -> Rows:
    """All rows for the forms that ``file`` has; none when it has no known form."""
    forms = {
        _similarity: {"feat_src", "feat_syn", "weight", "loss"},
        _task: {"logits", "labels", "loss", "grad"},
        _scores: {"gt", "pred", "confusion", "iou"},
        _mappings: {"id_to_trainid_255", "color_by_id"},
        _ade: {"ade_palette"},
    }
    for form, keys in forms.items():
        if keys <= set(file.arrays):
            yield from form(file)


def _similarity(file: NumberFile) -> Rows:
    import torch

    from diffadapt.tasks.segmentation.losses import cosine, similarity_loss

    a = file.arrays
    f, g = (torch.from_numpy(a[name]).requires_grad_(True) for name in ("feat_src", "feat_syn"))
    loss = similarity_loss(f, g, float(a["weight"]))
    loss.backward()
    yield compare(file, "similarity loss", loss.detach().numpy(), a["loss"])
    found = {"gap_cos": cosine(f, g).detach(), "grad_src": f.grad, "grad_syn": g.grad}
    for name, value in found.items():
        if name in a:
            yield compare(file, name, value.numpy(), a[name])
    if "grad_flows_to_both" in a:
        yield compare(
            file,
            "gradient flows",
            np.array([bool(x.grad.abs().sum() > 0) for x in (f, g)]),
            a["grad_flows_to_both"],
            EXACT_GATE,
        )


def _task(file: NumberFile) -> Rows:
    import torch

    from diffadapt.tasks.segmentation.losses import task_loss

    a = file.arrays
    logits = torch.from_numpy(a["logits"]).requires_grad_(True)
    labels = np.where(a["labels"] == AUTHORS_VOID, IGNORED, a["labels"])
    loss = task_loss(logits, torch.from_numpy(labels))
    loss.backward()
    yield compare(file, "task loss", loss.detach().numpy(), a["loss"])
    yield compare(file, "gradient", logits.grad.numpy(), a["grad"])


def _scores(file: NumberFile) -> Rows:
    from diffadapt.metrics.segmentation import confusion, iou, mean_iou, pixel_accuracy, total

    a = file.arrays
    classes = len(a["iou"])
    matrix = total((confusion(g, p, classes) for g, p in zip(a["gt"], a["pred"], strict=True)), classes)
    yield compare(file, "confusion", matrix, a["confusion"], EXACT_GATE)
    got, present = iou(matrix), np.isfinite(a["iou"])
    yield compare(file, "classes that are absent", np.isfinite(got), present, EXACT_GATE)
    yield compare(file, "IoU of each class", got[present], a["iou"][present])
    yield compare(file, "mean IoU", np.float64(mean_iou(matrix)), a["miou"])
    if "pixel_acc" in a:
        yield compare(file, "pixel accuracy", np.float64(pixel_accuracy(matrix)), a["pixel_acc"])


def _mappings(file: NumberFile) -> Rows:
    from diffadapt.data.scenes.classes import builtin

    a, table = file.arrays, builtin("cityscapes")
    ids = len(a["id_to_trainid_255"])
    yield compare(file, "labelId to trainId", _lookup("cityscapes")[:ids], a["id_to_trainid_255"], EXACT_GATE)
    for key, name in ((f"id_to_trainid_{AUTHORS_VOID}", "cityscapes"), ("gta5_lut", "gta5")):
        if key in a:
            found = _lookup(name)[: len(a[key])]
            yield compare(file, key, np.where(found == IGNORED, AUTHORS_VOID, found), a[key], EXACT_GATE)
    painted = dict(zip(table.values, table.codes, strict=True))
    colours = np.array([painted[i] for i in range(ids)])
    yield compare(file, "colour of each labelId", colours, a["color_by_id"], EXACT_GATE)
    if "color_by_trainid" in a:
        yield compare(
            file,
            "colour of each trainId",
            np.array([*table.colours, (0, 0, 0)]),
            a["color_by_trainid"],
            EXACT_GATE,
        )


def _ade(file: NumberFile) -> Rows:
    from diffadapt.data.scenes.classes import builtin
    from diffadapt.data.scenes.palettes import ADE20K

    yield compare(file, "ADE20K's colours", np.asarray(ADE20K), file.arrays["ade_palette"], EXACT_GATE)
    key = "cityscapes_trainid_to_ade_index"
    if key in file.arrays:
        yield compare(file, key, np.asarray(builtin("cityscapes").ade), file.arrays[key], EXACT_GATE)


def _lookup(name: str) -> np.ndarray:
    """uint8 (256,): the class number of each value of a label file, IGNORED where there is none."""
    from diffadapt.data.scenes.classes import builtin

    table = builtin(name)
    result = np.full(256, IGNORED, np.uint8)
    result[list(table.values)] = table.classes
    return result
