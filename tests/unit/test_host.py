"""Images are decoded ahead of who computes with them, a bounded number, and what is made stays as it was."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from diffadapt.core import machine
from diffadapt.core.artifact import Failure, Rows, Shard, image_table, to_parquet
from diffadapt.core.errors import ItemError
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import FitJob, InputFile, Stage, WorkContext
from diffadapt.core.store import Store
from diffadapt.data import resize
from diffadapt.data.image import decode, encode_png
from diffadapt.methods.config import MemoConfig, TentConfig
from diffadapt.methods.tta.augmix import CHAINS, augmix_views, draw_views, view_parts
from diffadapt.methods.tta.tent import Tent as TentMethod
from diffadapt.methods.tta.tent import stream_order
from diffadapt.models.classifier import create_model
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.preprocess import to_input
from diffadapt.run import readers
from diffadapt.run.executor import Executor, followed
from diffadapt.stages import decoding
from diffadapt.stages import image_table as tables
from diffadapt.stages.batching import Batcher
from diffadapt.stages.decoding import Decoder, decode_rows
from diffadapt.tasks.classification import adapt_online, predict
from diffadapt.tasks.classification.fit_classifier import FitClassifier
from diffadapt.train.config import FitConfig
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.views import ImageViews, finished

GREY = ClassifierConfig(in_channels=1, resize=9, crop=8, mean=(0.5,), std=(0.25,), interpolation="bilinear")
GREY = replace(GREY, crop_mode="center", batch_size=3)


def rows(count: int, bad: tuple[int, ...] = (), kind: str = "noise/1") -> Rows:
    rng = np.random.default_rng(count)
    images = [encode_png(rng.integers(0, 255, (10, 12, 1), np.uint8)) for _ in range(count)]
    images = [b"no image" if i in bad else data for i, data in enumerate(images)]
    keys = [f"{kind}/{i}.png" for i in range(count)]
    return Rows(
        image_table(keys, [i % 3 for i in range(count)], images, [0] * count),
        [Failure(f"{kind}/lost.png", "it was lost")],
    )


class Linear(torch.nn.Module):
    """A network whose logits of an image depend on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 64 * 3).view(64, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.flatten() @ self.weight for row in x])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("cifar_resnet8", 3, 1).eval()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_what_a_crop_leaves_out_is_not_resized_and_no_bit_changes(interpolation):
    """The published 256 to 224, and sides whose scale no float has exactly."""
    rng, saved = np.random.default_rng(0), []
    for height, width, edge, crop in ((28, 28, 32, 28), (47, 63, 32, 28), (33, 33, 31, 20), (20, 90, 64, 40)):
        image = rng.integers(0, 255, (height, width, 3), np.uint8)
        sides = (edge, edge)
        whole = np.asarray(Image.fromarray(image).resize(sides, Image.Resampling[interpolation.upper()]))
        start = round((edge - crop) / 2)
        part = resize.centre_crop_resize(resize.squash(image, edge, interpolation, crop), 0, crop)
        assert np.array_equal(part, whole[start : start + crop, start : start + crop])
        long = int(edge * max(height, width) / min(height, width))
        size = (long, edge) if height <= width else (edge, long)
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[interpolation.upper()]))
        top, left = (round((n - crop) / 2) for n in whole.shape[:2])
        made = resize.centre_crop_resize(image, edge, crop, interpolation)
        assert np.array_equal(made, whole[top : top + crop, left : left + crop])
        saved.append(resize.squash(image, edge, interpolation, crop).shape[0] == crop)
    assert saved == [True, True, False, True]


def test_readers_decode_ahead_a_bounded_number_and_let_go_what_is_passed():
    made: list[str] = []
    lock, few = threading.Lock(), threading.Semaphore(0)

    def note(image: np.ndarray, key: str) -> np.ndarray:
        with lock:
            made.append(key)
        few.release()
        return image

    whole, plain = rows(40, bad=(2,)), decode_rows(rows(40, bad=(2,)), 1)
    found = Decoder(1, note, readers=2).open(whole, ahead=3)
    for _ in range(7):  # eight begin by themselves, one of them is no image
        assert few.acquire(timeout=30)
    assert found.keys == [] and sorted(made) == sorted(plain.keys[:7])
    assert found.reach(0, 5) == 5 and found.reach(5, 9) == 9
    assert found.images[:5] == [None] * 5 and np.array_equal(found.images[5], plain.images[5])
    assert found.reach(9, 100) == 39 and (found.keys, found.labels) == (plain.keys, plain.labels)
    assert found.failures == plain.failures and [f.key for f in found.failures] == [
        "noise/1/lost.png",
        "noise/1/2.png",
    ]


def test_the_next_rows_are_begun_and_taken_up():
    first, second = rows(3), rows(4)
    decoder = Decoder(1, readers=1)
    decoder.begin(second, 2)
    assert decoder.open(first).reach(0, 9) == 3, "what is open is not what was begun"
    begun = decoder._begun
    assert begun is not None and decoder.open(second) is begun[1] and decoder._begun is None
    assert begun[1].reach(0, 9) == 4 and begun[1].keys == second.column("key")


@pytest.mark.parametrize("count", [0, 3])
def test_batches_and_quarantine_are_the_same_however_images_come(count):
    def run(decoded: Any, reach: Any) -> tuple[Any, list[list[str]]]:
        seen: list[list[str]] = []

        def process(batch: Any) -> list[int]:
            seen.append([decoded.keys[i] for i in batch])
            if any(decoded.keys[i].endswith("/5.png") for i in batch):
                raise ItemError("five")
            return [int(decoded.images[i].sum()) for i in batch]

        return Batcher(3).run(range(11 if reach else len(decoded.keys)), decoded.keys, process, reach), seen

    eager, before = run(plain := decode_rows(rows(11, bad=(1,)), 1), None)
    lazy, after = run(found := Decoder(1, readers=count).open(rows(11, bad=(1,)), 3), found.reach)
    assert lazy == eager and before == after and len(before[0]) == 3
    assert plain.failures == found.failures


@pytest.mark.parametrize("count", [0, 2])
def test_logits_are_those_of_a_whole_decoded_shard(count, monkeypatch):
    monkeypatch.setattr(predict, "open_classifier", lambda *a: Linear())
    worker: Any = predict.Predict(GREY, 3).open(WorkContext("cpu", readers=count))
    given = rows(8, bad=(4,))
    worker.begin([given])
    made = worker.run(Shard("s", {}), [given])
    plain = decode_rows(given, 1)
    wanted = Linear()(to_input(plain.images, GREY)).detach().numpy()
    assert made.column("key") == plain.keys and np.array_equal(made.column("logits"), wanted)
    assert made.failures == plain.failures
    again = predict.Predict(GREY, 3).open(WorkContext("cpu")).run(Shard("s", {}), [given])
    assert to_parquet(made, {}) == to_parquet(again, {})


@dataclass(frozen=True)
class Waiting(Stage):
    """Its first shard is finished once the second one's input was read."""

    kind: ClassVar[str] = "waiting"
    read: Any = None

    def open(self, context: WorkContext) -> Any:
        def run(shard: Shard, inputs: Any) -> Rows:
            waited = shard.key != "first" or self.read.wait(timeout=20)
            return Rows(inputs[0].table, [] if waited else [Failure("late", "nothing was read meanwhile")])

        return SimpleNamespace(run=run)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_next_shard_is_read_while_one_is_worked_on(damaged, tmp_path):
    store, second = Store(str(tmp_path)), threading.Event()
    store.prepare()
    for name in ("a", "b"):
        store.commit(f"in/{name}", rows(2), {})
    loads: list[str] = []
    load = store.load

    def watched(path: str) -> Rows:
        loads.append(path)
        if path == "in/b":
            second.set()
            if damaged and loads.count("in/b") == 1:
                raise OSError("the network is down")
        return load(path)

    store.load = watched  # type: ignore[method-assign]
    tasks = [
        Task("w", Shard(key, {}), f"digest-{key}", f"out/{key}",
             (InputFile("in", name, f"in/{name}", Shard(name, {})),))
        for key, name in (("first", "a"), ("second", "b"))
    ]  # fmt: skip
    executor = Executor({"w": Waiting(second)}, store, threads=2)
    receipts = []
    for chain, after in followed([Chain((task,)) for task in tasks]):
        executor.expect(after)
        receipts += [executor.run(task) for task in chain.tasks]
    assert [(r.status, r.error, r.failures) for r in receipts] == [("made", "", ())] * 2
    assert loads == ["in/a", "in/b", *["in/b"] * damaged], "what failed ahead is read in its turn"


def test_readers_are_the_cores_a_gpu_and_none_beside_the_only_core(tmp_path, monkeypatch):
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    monkeypatch.setattr(machine, "DEVICES", devices)
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert readers.readers_for("cuda", 1) == 12 and readers.readers_for("cuda", 14) == 14
    assert readers.readers_for("cpu", 1) == 0 and readers.readers_for("cpu", 3) == 3
    (tmp_path / "cpu.max").write_text("400000 100000")
    assert readers.readers_for("cuda", 0) == 2 and readers.readers_for("cpu", 0) == 4
    (tmp_path / "cpu.max").write_text("max 100000")
    assert readers.readers_for("cpu", 0) == readers.MOST
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert readers.readers_for("cpu", 0) == 0


class Begun(Exception):
    """The training would begin here."""


def job(folder: Any, given: Rows, device: str, count: int) -> FitJob:
    files = [InputFile("set", "5" * 32, None, Shard("all", {}, (), len(given)))]
    return FitJob(
        node="fit", inputs=lambda node: files, store=Store(str(folder)), checkpoints=f"{folder}/checkpoints",
        output=str(folder), context=WorkContext(device, readers=count), reporter=LocalReporter(),
        read=lambda file: given, files=files,
    )  # fmt: skip


@pytest.mark.parametrize("device, wanted", [("cpu", 0), ("cuda", 5)])
def test_a_fit_on_a_gpu_has_readers_and_prepared_pixels_are_mapped(device, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables.Gathering.__init__, "__defaults__", (1,))
    monkeypatch.setattr(FitClassifier, "_start", lambda self, job: (None, "none"))
    given: list[Any] = []

    def begin(model: Any, images: Any, config: Any, run: Any, **more: Any) -> None:
        given.append((images, run.readers))
        raise Begun

    monkeypatch.setattr("diffadapt.tasks.classification.training.fit_classifier", begin)
    config = FitConfig(batch_size=2)
    stage = FitClassifier(config=config, classifier=GREY, num_classes=3, init="scratch", image_size=7)
    source = rows(6)
    with pytest.raises(Begun):
        stage.train(job(tmp_path, source, device, 5))
    images, count = given[0]
    assert count == wanted
    plain = decode_rows(source, 1, lambda image: tables_prepare(image, 7))
    monkeypatch.setattr(decoding, "decode", lambda *a: pytest.fail("pixels are there"))
    monkeypatch.setattr(tables, "decode", lambda *a: pytest.fail("pixels are there"))
    assert all(np.array_equal(images[i][0], plain.images[i]) for i in range(6)) and images[4][1] == 1
    monkeypatch.setenv("DIFFADAPT_CACHE_GB", "1e-7")
    assert not tables._room(200), "encoded images where pixels have no room"


def test_views_of_one_image_decode_it_once(tmp_path, monkeypatch):
    """Weak and strong views of a step's images, which no preparation brings to one size."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables.Gathering.__init__, "__defaults__", (1,))
    source, looked = rows(5), []
    files = [InputFile("set", "6" * 32, None, Shard("all", {}, (), 5))]
    images, labels, _ = tables.load_images(files, lambda file: source, 1)

    def seen(data: bytes, channels: int, key: str) -> np.ndarray:
        looked.append(key)
        return decode(data, channels, key)

    monkeypatch.setattr(tables, "decode", seen)
    views = ImageViews(images, labels, source.column("key"), {"weak": flat, "strong": flat}, lambda x: x / 2)
    weak, strong = (views.get([3, 1], kind, [0, 0]) for kind in ("weak", "strong"))
    assert torch.equal(weak, strong) and looked == ["noise/1/3.png", "noise/1/1.png"]
    raw = views.raw([3, 1], "weak", [0, 0])
    assert raw.dtype == torch.uint8 and torch.equal(finished(views, raw), weak)
    monkeypatch.setattr(tables, "RECENT", 130)
    assert images[0][0].nbytes == 120 and images[2][1] == 2 and images._held <= 130


def flat(image: np.ndarray, seed: int) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def tables_prepare(image: np.ndarray, side: int) -> np.ndarray:
    from diffadapt.data.prepare import prepare

    return prepare(image, side)


def eager_tent(network: Any, config: TentConfig, inputs: list[Rows]) -> tuple[list[str], np.ndarray]:
    """The whole corruption decoded, then the stream."""
    parts = [decode_rows(r, 1) for r in inputs]
    items = [(k, la, im) for d in parts for k, la, im in zip(d.keys, d.labels, d.images, strict=True)]
    (order,) = stream_order([("noise/1", la) for _, la, _ in items], config.mixed_classes, True, 0)
    order, size = order[: config.limit], config.batch_size
    method = TentMethod(network, config)
    cuts = [order[i : i + size] for i in range(0, len(order), size)]
    logits = method.forward_stream(to_input([items[i][2] for i in cut], GREY) for cut in cuts)
    return [items[i][0] for i in order], logits


@pytest.mark.parametrize("limit, bad", [(None, ()), (None, (1, 4)), (5, ()), (9, (5,))])
def test_tent_decodes_what_its_stream_needs_and_predicts_the_same(limit, bad, network, monkeypatch):
    monkeypatch.setattr(adapt_online, "open_classifier", lambda *a: network)
    looked: list[str] = []

    def seen(data: bytes, channels: int, key: str) -> np.ndarray:
        looked.append(key)
        return decode(data, channels, key)

    given = [rows(7, bad), rows(6, (), "noise/1/b")]
    config = TentConfig(batch_size=2, lr=1e-2, limit=limit)
    keys, logits = eager_tent(network, config, given)
    monkeypatch.setattr(decoding, "decode", seen)
    worker = adapt_online.Tent(config, GREY, 3).open(WorkContext("cpu", readers=0))
    made = worker.run(Shard("s", {"group": "noise/1"}), given)
    assert made.column("key") == keys and np.array_equal(made.column("logits"), logits)
    lost = [f"noise/1/{i}.png" for i in bad]
    wanted = ["noise/1/lost.png", *lost, "noise/1/b/lost.png"] if limit is None else []
    assert [f.key for f in made.failures] == wanted
    if limit and not bad:
        assert sorted(looked) == sorted(keys), "what the limit leaves out is not decoded"


def test_memo_decodes_what_it_predicts_and_readers_change_nothing(network, monkeypatch):
    monkeypatch.setattr(adapt_online, "open_classifier", lambda *a: network)
    looked: list[str] = []

    def seen(data: bytes, channels: int, key: str) -> np.ndarray:
        looked.append(key)
        return decode(data, channels, key)

    monkeypatch.setattr(decoding, "decode", seen)
    stage = adapt_online.Memo(MemoConfig(views=3), GREY, 3)
    made = [
        stage.open(WorkContext("cpu", readers=n)).run(Shard("s", {"take": 3}), [rows(9, bad=(2,))])
        for n in (0, 2)
    ]
    assert to_parquet(made[0], {}) == to_parquet(made[1], {}) and len(made[0]) + len(made[0].failures) == 3
    wanted = {*made[0].column("key"), *(f.key for f in made[0].failures)} - {"noise/1/lost.png"}
    assert set(looked) == wanted


def test_views_are_mixed_as_published():
    """m x + (1 - m) sum_i w_i chain_i(x), whatever the device; what is drawn does not look at pixels."""
    image = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    drawn = draw_views((20, 24), 4, 16, seed=5)
    for view, made in zip(drawn, augmix_views(image, 4, 16, seed=5), strict=True):
        parts = view_parts(Image.fromarray(image), view, 16).astype(np.float64)
        chains = sum(view.weights[i] * parts[1 + i] for i in range(CHAINS))
        assert np.allclose(made, view.share * parts[0] + (1 - view.share) * chains, atol=1e-3)
