"""Prefix sharing: 200 images a class after 50 make exactly the missing 150, and the 50 stay as they are."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffadapt.core.pipeline import Node, Pipeline  # noqa: E402
from diffadapt.core.plan import summarise  # noqa: E402
from diffadapt.core.store import Store  # noqa: E402
from diffadapt.diffusion.generators.config import SynthConfig  # noqa: E402
from diffadapt.stages.synthesize import Synthesize  # noqa: E402
from tests.unit.corekit import contents, receipts_of  # noqa: E402

CLASSES = 2
TINY = SynthConfig(
    weights="embedded:digits-dit",
    steps=1,
    sampler="ddim",
    guide_channels="all",
    output="round",
    classes_per_shard=2,
    batch_size=50,
)


def synthesis(per_class: int, per_shard: int, **changes) -> Pipeline:
    config = replace(TINY, images_per_class=per_class, images_per_shard=per_shard, **changes)
    return Pipeline((Node("synth", Synthesize(config, CLASSES)),))


@pytest.mark.parametrize("per_shard", [1, 10])
def test_more_images_make_only_the_missing_ones(tmp_path, per_shard):
    torch.set_num_threads(1)
    store = Store(str(tmp_path))
    first = receipts_of(synthesis(50, per_shard), store)
    before = contents(tmp_path)
    assert sum(r.items for r in first) == 50 * CLASSES
    assert summarise(synthesis(200, per_shard).plan(store), store).nodes[0].missing_items == 150 * CLASSES
    more = receipts_of(synthesis(200, per_shard), store)
    assert {r.status for r in more} == {"made"} and sum(r.items for r in more) == 150 * CLASSES
    after = contents(tmp_path)
    assert {k: after[k] for k in before} == before and len(after) == 200 // per_shard
    assert receipts_of(synthesis(120, per_shard), store) == []


def test_the_same_images_whatever_the_shards(tmp_path):
    """Keys, seeds and labels are those of the image; how images lie in shards is not part of what they
    are."""
    torch.set_num_threads(1)

    def images(name: str, per_shard: int, **changes) -> dict[str, tuple]:
        store = Store(str(tmp_path / name))
        pipeline = synthesis(4, per_shard, **changes)
        receipts_of(pipeline, store)
        found = {}
        for p in pipeline.plan(store)["synth"].shards:
            table = store.load(p.path).table.to_pylist()
            found.update({r["key"]: (r["label"], r["seed"], r["image"]["bytes"]) for r in table})
        return found

    one, other, backwards = (
        images("one", 1),
        images("other", 4, classes_per_shard=1),
        images("small", 2, batch_size=1),
    )
    assert (
        set(one)
        == set(other)
        == set(backwards)
        == {f"synthetic/0/c{c:04d}/i{i:06d}" for c in range(CLASSES) for i in range(4)}
    )
    for key in one:
        assert one[key][:2] == other[key][:2] == backwards[key][:2]
        levels = [decode(x[key][2]) for x in (one, other, backwards)]
        assert max((levels[0] - x).abs().max() for x in levels) <= 1


def decode(data: bytes) -> torch.Tensor:
    import io

    import numpy as np
    from PIL import Image

    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)), np.int16).copy())
