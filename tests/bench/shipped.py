"""``python -m tests.bench.shipped digits`` and ``counts``: write the files of the package that are computed.

``digits``: data/digits.npz, scikit-learn's digits. ``counts``: models/counted.json, what one pass of every
network of the recipes costs (core/flops.py), so that a plan of them needs no torch; the others are counted
when a plan asks for them.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.flops import Call, Network
from diffadapt.core.leniency import lenient
from diffadapt.core.recipes import load, recipes
from diffadapt.core.store import Store
from diffadapt.data import embedded
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.models import architectures, counts
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.source import shell
from diffadapt.stages.align import Align
from diffadapt.stages.calls import of_classifier
from diffadapt.stages.text_to_image import TextToImage
from diffadapt.stages.translate import TransferScenes
from diffadapt.tasks.segmentation.config import SegmentTraining

CITYSCAPES = 19
BACKBONES = ("resnet50.tv_in1k", "vit_base_patch16_224.augreg_in1k")
CLASSES = (12, 31, 65, 126, 345)
"""Of VisDA-2017, Office-31, Office-Home, DomainNet's subset and DomainNet."""


def digits() -> bytes:
    """digits.npz; its bytes do not depend on when it is made."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in (("images", bunch.images), ("labels", bunch.target)):
            data = io.BytesIO()
            np.save(data, array.astype(np.uint8))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def calls() -> Iterator[Call]:
    """Those of every recipe that can be planned without its data, and of the published backbones."""
    with tempfile.TemporaryDirectory() as folder, lenient():
        for name in recipes():
            try:
                plans = load(name).pipeline().plan(Store(folder))
            except (DiffadaptError, OSError):
                continue
            for plan in plans.values():
                yield from plan.calls or ()
    for backbone in BACKBONES:
        for classes in CLASSES:
            for mode in ("forward", "training"):
                yield from of_classifier(ClassifierConfig(name=backbone), classes, mode=mode) or ()
    for stage in (TransferScenes(), TextToImage(num_classes=31), Align(AlignConfig(guidance="none"))):
        yield from stage.calls({}) or ()
    yield Call(shell(SegmenterConfig(), CITYSCAPES, SegmentTraining().crop), mode="training")
    yield Call(shell(SegmenterConfig(), CITYSCAPES, SegmenterConfig().size))
    for weights in ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"):
        yield Call(architectures.clip_images(weights) or Network("", ""))


def main() -> None:
    if sys.argv[1:] == ["digits"]:
        (counts.SHIPPED.parent.parent / "data" / "digits.npz").write_bytes(digits())
        assert embedded.digits_native()[0].shape == (1797, 8, 8)
        return
    known = json.loads(counts.SHIPPED.read_text())["counts"] if counts.SHIPPED.is_file() else {}
    found = {}
    for call in {call.key: call for call in calls()}.values():
        entry = known.get(call.key) if "--all" not in sys.argv else None
        if entry is None:
            try:
                entry = {"name": call.network.name, **asdict(counts.count(call.network, call.mode))}
            except Exception as error:
                print(f"{call.network.name} ({call.mode}) cannot be counted: {type(error).__name__}: {error}")
                continue
        found[call.key] = entry
        print(call.network.name, call.mode, f"{entry['flops'] / 1e9:.3g} GFLOP", flush=True)
    value = {
        "about": "Written by `python -m tests.bench.shipped counts`; see models/counts.py.",
        "counts": dict(sorted(found.items())),
    }
    counts.SHIPPED.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
