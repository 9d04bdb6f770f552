"""The text-to-image stage: what it plans, that more prompts or images fork nothing, and what becomes of bad
items."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tinypipelines as tiny
from corekit import PlainRunner, receipts_of
from PIL import Image

from diffadapt.core.artifact import PROMPT_SCHEMA, Failure, Rows, Shard, from_parquet, to_parquet
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.stage import Stage, WorkContext, whole
from diffadapt.core.store import Store
from diffadapt.diffusion.generators.config import TextToImageConfig
from diffadapt.prompts.config import PromptConfig
from diffadapt.prompts.prompts import make_prompts
from diffadapt.stages.prompts import Prompts
from diffadapt.stages.text_to_image import TextToImage, _resized

NAMES = ("dog", "cat", "red car")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny.stable_diffusion(tmp_path_factory.mktemp("sd"))


@dataclass(frozen=True)
class Copied(Stage):
    """A 'trained' generator: a copy of a folder."""

    kind: ClassVar[str] = "text-to-image"
    fit_stage: ClassVar[bool] = True
    folder: str = ""

    def plan(self, inputs):
        return whole(inputs)

    def fit(self, job):
        shutil.copytree(self.folder, job.output, dirs_exist_ok=True)
        return {}


def pipeline(weights: str, prompts: dict | None = None, names=NAMES, **config) -> Pipeline:
    wanted = PromptConfig(**{"source": "bank", "prompts_per_class": 6, "block": 2, **(prompts or {})})
    settings = TextToImageConfig(
        **{
            "weights": weights,
            "steps": 2,
            "precision": "fp32",
            "images_per_class": 6,
            "images_per_shard": 2,
            "classes_per_shard": 2,
            **config,
        }
    )
    return Pipeline(
        (
            Node("prompts", Prompts(wanted, names, classes_per_shard=2)),
            Node("synth", TextToImage(settings, len(names)), ("prompts",)),
        )
    )


def digests(p: Pipeline, store: Store) -> dict[str, str]:
    return {s.shard.key: s.digest for s in p.plan(store)["synth"].shards}


def rows_of(p: Pipeline, store: Store) -> dict[str, dict]:
    found = {}
    for planned in p.plan(store)["synth"].shards:
        rows = store.load(planned.path)
        assert not rows.failures
        for row in rows.table.to_pylist():
            found[row["key"]] = row
    return found


def pixels(stored: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stored["bytes"]))).astype(int)


def test_as_many_images_of_every_class_each_from_its_own_prompt(weights, tmp_path):
    store, p = Store(str(tmp_path)), pipeline(weights)
    receipts_of(p, store)
    rows = rows_of(p, store)
    assert sorted(rows) == [f"synthetic/0/c{c:04d}/i{i:06d}" for c in range(3) for i in range(6)]
    prompts = p.nodes[0].stage.config
    for c, name in enumerate(NAMES):
        wanted = make_prompts(prompts, name, "", 0, 6, 0)
        for i in range(6):
            row = rows[f"synthetic/0/c{c:04d}/i{i:06d}"]
            assert (row["label"], row["prompt"]) == (c, wanted[i])
            assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (16, 16) and row["image"][
                "path"
            ].endswith(".png")
    assert (
        len({row["image"]["bytes"] for row in rows.values()}) == 18
        and len({row["seed"] for row in rows.values()}) == 18
    )


def test_images_beyond_the_prompts_use_them_again_with_other_seeds(weights, tmp_path):
    store, p = (
        Store(str(tmp_path)),
        pipeline(weights, {"source": "template"}, images_per_class=3, images_per_shard=3),
    )
    receipts_of(p, store)
    rows = rows_of(p, store)
    assert {row["prompt"] for row in rows.values() if row["label"] == 0} == {"photo of a dog"}
    assert len({row["image"]["bytes"] for row in rows.values()}) == 9


def test_a_shard_reads_exactly_the_prompts_that_it_needs(weights, tmp_path):
    store = Store(str(tmp_path))
    plans = pipeline(weights, images_per_class=8, images_per_shard=4).plan(store)
    keys = {p.digest: p.shard.key for p in plans["prompts"].shards}
    read = {p.shard.key: {keys[i.digest] for i in p.shard.inputs} for p in plans["synth"].shards}
    assert read == {
        "i000000-000004-c0000-0002": {"p000000-000002-c0000-0002", "p000002-000004-c0000-0002"},
        "i000000-000004-c0002-0003": {"p000000-000002-c0002-0003", "p000002-000004-c0002-0003"},
        "i000004-000008-c0000-0002": {"p000004-000006-c0000-0002", "p000000-000002-c0000-0002"},
        "i000004-000008-c0002-0003": {"p000004-000006-c0002-0003", "p000000-000002-c0002-0003"},
    }


def test_more_images_or_prompts_fork_nothing_and_other_settings_fork_everything(weights, tmp_path):
    store = Store(str(tmp_path))
    base = digests(pipeline(weights), store)
    assert digests(pipeline(weights, images_per_class=10), store).items() >= base.items()
    assert digests(pipeline(weights, {"prompts_per_class": 20}), store).items() >= base.items()
    assert digests(pipeline(weights, batch_size=1, compile=True), store) == base
    fewer = digests(pipeline(weights, {"prompts_per_class": 4}), store)  # images 4 and 5 have another prompt
    assert {k for k in base if fewer[k] == base[k]} == {k for k in base if not k.startswith("i000004")}
    for change in (
        {"guidance": 3.0},
        {"steps": 3},
        {"negative_prompt": "painting"},
        {"scheduler": "ddpm"},
        {"store_size": 8},
    ):
        assert not set(digests(pipeline(weights, **change), store).values()) & set(base.values()), change


def test_same_bytes_in_any_order_and_batch_size_within_a_grey_level(weights, tmp_path):
    stores = [Store(str(tmp_path / name)) for name in ("a", "b", "c")]
    p, alone = pipeline(weights), pipeline(weights, batch_size=1)
    receipts_of(p, stores[0])
    receipts_of(p, stores[1], PlainRunner(backwards=True))
    receipts_of(alone, stores[2])
    first, second, third = (rows_of(p, store) for store in stores)
    assert first == second
    for key, row in first.items():
        assert np.abs(pixels(row["image"]) - pixels(third[key]["image"])).max() <= 1


def test_stored_size_is_antialiased_and_metadata_knows_the_prompt(weights, tmp_path):
    store, p = Store(str(tmp_path)), pipeline(weights, store_size=8, images_per_class=1)
    receipts_of(p, store)
    planned = p.plan(store)["synth"].shards[0]
    rows = store.load(planned.path)
    assert Image.open(io.BytesIO(rows.column("image")[0]["bytes"])).size == (8, 8)
    data = to_parquet(rows, {})
    assert from_parquet(data).table.equals(rows.table)
    assert list(
        json.loads(pq.read_metadata(io.BytesIO(data)).metadata[b"huggingface"])["info"]["features"]
    ) == ["key", "label", "image", "seed", "prompt"]
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    small = _resized(stripes, 8)
    assert (
        small.shape == (8, 8, 3) and np.abs(small[:, 2:-2].astype(int) - 127).max() < 25
    )  # nearest would give 0 or 255


def test_blocked_and_promptless_images_are_quarantined_with_their_reason(weights):
    stage = pipeline(weights).nodes[1].stage
    worker = stage.open(WorkContext("cpu"))
    prompts = pa.table(
        {
            "key": ["c0000/p000000"],
            "label": [0],
            "index": [0],
            "category": ["dog"],
            "prompt": ["a dog"],
            "source": ["bank"],
        },
        schema=PROMPT_SCHEMA,
    )
    inputs = [Rows(prompts, [Failure("c0001/p000000", "the endpoint said nothing")])]
    pipe, shard = worker.generate.__self__.pipe, _shard(0, 2, 0, 2)
    decode = pipe.vae.decode
    rows = worker.run(shard, inputs)
    assert rows.column("key") == ["synthetic/0/c0000/i000000"]
    reasons = {f.key: f.reason for f in rows.failures}
    assert set(reasons) == {
        "synthetic/0/c0001/i000000",
        "synthetic/0/c0000/i000001",
        "synthetic/0/c0001/i000001",
    }
    assert "the endpoint said nothing" in reasons["synthetic/0/c0001/i000000"]

    pipe.vae.decode = lambda z, **kw: (decode(z, **kw)[0] * float("nan"),)
    rows = worker.run(_shard(0, 1, 0, 1), inputs)
    assert len(rows) == 0 and "NaN" in rows.failures[0].reason and rows.table.schema.names[-1] == "prompt"


def _shard(start: int, stop: int, first: int, last: int):
    return Shard(
        "x",
        {"start": start, "stop": stop, "first_class": first, "last_class": last},
        (),
        (stop - start) * (last - first),
    )


def test_out_of_memory_halves_the_batch_and_makes_the_same_images(weights):
    stage = pipeline(weights, batch_size=8).nodes[1].stage
    worker, small = stage.open(WorkContext("cpu")), stage.open(WorkContext("cpu", batch_size=2))
    keys = [f"c0000/p{i:06d}" for i in range(6)]
    prompts = Rows(
        pa.table(
            {
                "key": keys,
                "label": [0] * 6,
                "index": list(range(6)),
                "category": ["dog"] * 6,
                "prompt": ["a dog"] * 6,
                "source": ["bank"] * 6,
            },
            schema=PROMPT_SCHEMA,
        )
    )
    generate = worker.generate

    def greedy(texts, seeds):
        if len(texts) > 2:
            raise RuntimeError("CUDA out of memory")
        return generate(texts, seeds)

    worker.generate = greedy
    made = worker.run(_shard(0, 6, 0, 1), [prompts])
    assert worker.batch_size <= 2 and len(made) == 6 and not made.failures
    pairs = zip(made.column("image"), small.run(_shard(0, 6, 0, 1), [prompts]).column("image"), strict=True)
    assert all(np.abs(pixels(a) - pixels(b)).max() <= 1 for a, b in pairs)


def test_settings_that_cannot_work_are_refused_while_planning(weights, tmp_path):
    store = Store(str(tmp_path))
    for change, words in (
        ({"images_per_class": 0}, "at least 1"),
        ({"negative_prompt": "x", "guidance": 1.0}, "guidance"),
        ({"safety_checker": True}, "safety_checker"),
        ({"weights": "train"}, "trains no text-to-image"),
    ):
        with pytest.raises(RecipeError, match=words):
            pipeline(**{"weights": weights, **change}).plan(store)
    with pytest.raises(WeightsError, match="takes no prompt"):
        pipeline("embedded:digits-dit").plan(store)
    flux = tiny.flux(tmp_path / "flux")
    with pytest.raises(RecipeError, match="flow-matching"):
        pipeline(flux, scheduler="ddim").plan(store)


def test_planning_leniently_without_the_weights(tmp_path):
    from diffadapt.core.leniency import lenient

    with lenient() as notes:
        plans = pipeline("nobody/nothing").plan(Store(str(tmp_path)))
    assert len(plans["synth"].shards) == 6 and any("nobody/nothing" in note for note in notes)


def test_a_fitted_generator_is_used(weights, tmp_path):
    store, direct = Store(str(tmp_path)), pipeline(weights, images_per_class=1)
    trained = replace(direct.nodes[1].stage, config=replace(direct.nodes[1].stage.config, weights="train"))
    p = Pipeline(
        (
            direct.nodes[0],
            Node("generator", Copied(weights)),
            Node("synth", trained, ("prompts", "generator")),
        )
    )
    receipts_of(p, store)
    receipts_of(direct, store)
    assert {k: r["image"] for k, r in rows_of(p, store).items()} == {
        k: r["image"] for k, r in rows_of(direct, store).items()
    }
    assert trained.label() == "trained"
