"""An aligner's student: it comes nearer to its teacher than what it starts from, in one call and in several,
on corruptions that it never saw; its training resumes exactly; what is missing is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffadapt.core.artifact import Rows, Shard, image_table
from diffadapt.core.errors import RecipeError, WeightsError
from diffadapt.core.ranges import check_limits
from diffadapt.core.stage import WorkContext
from diffadapt.data.config import CORRUPTIONS, TRAINING_CORRUPTIONS
from diffadapt.data.corruptions import corrupt
from diffadapt.data.embedded import digits
from diffadapt.data.image import decode, encode_png
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.network import load_unconditional
from diffadapt.diffusion.projector import Projector, to_network
from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.step import predict_xstart, q_sample
from diffadapt.diffusion.student import load_student, student_levels, student_steps
from diffadapt.report.own.student import sentences, training
from diffadapt.stages.align import Align
from diffadapt.stages.corrupt_training import CorruptTraining
from diffadapt.systems.sda.recipe import SDA
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.config import DiffusionFitConfig, DistilConfig
from diffadapt.train.diffusion import train_diffusion
from diffadapt.train.diffusion_batches import ArrayImages
from diffadapt.train.reporter import LocalReporter
from diffadapt.train.run import TrainingRun
from diffadapt.train.student import train_student
from tests.tiny import tiny_sda
from tests.unit.test_train_diffusion import weights
from tests.workers import in_two_workers

TEACHER = AlignConfig(
    weights="embedded:digits-unet", respacing=10, start=3, scale=2.0, factor=2, batch_size=200
)
SHORT = DistilConfig(steps=6, batch_size=8, lr=1e-3, warmup_steps=2, ema_decay=0.5, checkpoint_every=3)
TINY = DiffusionFitConfig(steps=1, batch_size=4, channels=(8, 8), layers_per_block=1, attention_levels=(),
                          space_to_depth=2, sample_every=0)  # fmt: skip


def small(names, count: int, skip: int) -> np.ndarray:
    """``count`` digits, each with one of ``names``."""
    images = digits("train")[1][skip::7][:count]
    return np.stack([corrupt(im, names[i % len(names)], 1 + i % 5, i) for i, im in enumerate(images)])


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def projected(config: AlignConfig, network, images: np.ndarray) -> np.ndarray:
    out = Projector(network, config).project(tensor(images), list(range(1, len(images) + 1)))
    return out.permute(0, 2, 3, 1).numpy()


def distilled(calls: int = 1) -> AlignConfig:
    return replace(TEACHER, guidance="distilled", distilled=replace(TEACHER.distilled, calls=calls))


def error(a, b) -> float:
    return float(((np.asarray(a, float) - np.asarray(b, float)) ** 2).mean())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A small unconditional network, hardly trained."""
    folder = tmp_path_factory.mktemp("tiny")
    train_diffusion(ArrayImages(digits("train")[1][:8]), TINY, None, TrainingRun(LocalReporter()), folder)
    return str(folder)


def tiny_pairs() -> ArrayImages:
    images = small(TRAINING_CORRUPTIONS, 12, 0)
    return ArrayImages(np.concatenate([images, 255 - images], axis=3))


def train(where, config=SHORT, base="embedded:digits-unet", pairs=None, **run) -> dict:
    run = {"reporter": LocalReporter(), **run}
    return train_student(pairs or tiny_pairs(), base, TEACHER, config, 0, TrainingRun(**run), where)


def test_a_student_is_nearer_to_its_teacher_than_the_input_and_the_untrained_network(tmp_path):
    torch.set_num_threads(1)
    network = load_unconditional("embedded:digits-unet")
    shown = small([c for c in TRAINING_CORRUPTIONS if c != "saturate"], 64, 0)
    pairs = ArrayImages(np.concatenate([shown, projected(TEACHER, network, shown)], axis=3))
    train(tmp_path, replace(SHORT, steps=20, batch_size=12, lr=2e-3, ema_decay=0.8, calls=2), pairs=pairs)
    unseen = small(CORRUPTIONS, 30, 3)
    wanted = projected(TEACHER, network, unseen)
    student = load_student(str(tmp_path))
    found = {calls: error(projected(distilled(calls), student, unseen), wanted) for calls in (1, 2)}
    x = to_network(tensor(unseen))
    index = int(network.schedule.respace(10).timesteps[3])
    noisy = q_sample(
        network.schedule, index, x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    )
    with torch.no_grad():
        out = network(noisy, torch.full((len(x),), index))
    one_call = predict_xstart(network.schedule, index, noisy, out)
    untrained = error((one_call.permute(0, 2, 3, 1) + 1) * 127.5, wanted)
    nearest = min(untrained, error(unseen, wanted))
    assert max(found.values()) < 0.8 * nearest, (found, untrained, nearest)


def test_an_untrained_student_is_the_networks_own_prediction(tmp_path, tiny):
    train(tmp_path, replace(SHORT, steps=1, lr=0.0), base=tiny)
    student, network = load_student(str(tmp_path)), load_unconditional(tiny)
    x, noise = torch.rand(2, 1, 16, 16) * 2 - 1, torch.randn(2, 1, 16, 16)
    level = student.levels[0]
    assert (student.channels, student.image_size, level) == (1, 16, 333)
    (x0,) = student_steps(student, student.schedule, student.levels, x, noise)
    noisy = q_sample(network.schedule, level, x, noise)
    expected = predict_xstart(network.schedule, level, noisy, network(noisy, torch.full((2,), level)), False)
    torch.testing.assert_close(x0, expected)


def test_levels_fall_evenly_from_the_teachers_first():
    schedule = Schedule.linear().respace(10)
    assert student_levels(schedule, 3, 1) == (333,) and student_levels(schedule, 3, 3) == (333, 222, 111)


def test_an_image_does_not_depend_on_its_batch_mates(tmp_path, tiny):
    train(tmp_path, replace(SHORT, calls=2), base=tiny)
    student, images = load_student(str(tmp_path)), small(CORRUPTIONS, 5, 1)
    seen = []
    hook = student.unet.conv_in.register_forward_hook(lambda *_: seen.append("forward"))
    whole = projected(distilled(2), student, images)
    hook.remove()
    assert distilled(2).cost == (len(seen), 0) == (2, 0) and distilled().cost.passes == 1
    with pytest.raises(RecipeError, match="the network is no student"):
        Projector(load_unconditional(tiny), distilled())
    pieces = projected(replace(distilled(2), batch_size=2), student, images)
    assert np.abs(whole.astype(int) - pieces).max() <= 1
    one = Projector(student, distilled(2)).project(tensor(images[:1]).repeat(2, 1, 1, 1), [1, 2])
    assert np.abs(one[0].permute(1, 2, 0).numpy().astype(int) - whole[0]).max() <= 1
    assert not torch.equal(one[0], one[1]), "the seed decides the noise"


def test_resume_is_exact(tmp_path, tiny):
    train(tmp_path / "straight", base=tiny)

    class Stop(Exception):
        pass

    def stop(step, total, scalars):
        if step == 4:
            raise Stop

    checkpoints = Checkpoints(str(tmp_path / "ckpt"))
    with pytest.raises(Stop):
        train(tmp_path / "broken", base=tiny, reporter=LocalReporter(on_report=stop), checkpoints=checkpoints)
    assert checkpoints.steps() == [3]
    metrics = train(tmp_path / "broken", base=tiny, checkpoints=checkpoints)
    assert metrics["resumed_from"] == 3
    files = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*"))
        for n in ("straight", "broken")
    ]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    assert weights(tmp_path / "broken", "unet")["conv_in.weight"][:, 4:].abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distil": DistilConfig(calls=5)}, "distil.calls is 5"),
        ({"distil": DistilConfig(batch_size=0)}, "distil.batch_size is 0"),
        (
            {"align": replace(distilled(), distilled=replace(TEACHER.distilled, calls=0))},
            "align.distilled.calls",
        ),
    ],
)
def test_ranges(change, message):
    with pytest.raises(RecipeError, match=message):
        check_limits(SDA(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distil": DistilConfig(corruptions=("fog",))}, "'fog', which is a test corruption"),
        ({"distil": DistilConfig(corruptions=("mist",))}, "'mist', which is not known"),
        ({"distil": DistilConfig(corruptions=("saturate",))}, "nothing to draw"),
        ({"distil": DistilConfig(teacher="distilled")}, "begins at align.start"),
        ({"align": replace(distilled(2))}, "trained for 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_while_planning(change, message, tmp_path):
    from diffadapt.core.store import Store

    with pytest.raises(RecipeError, match=message):
        tiny_sda(**{"align": distilled(), **change}).pipeline().plan(Store(str(tmp_path)))


def test_a_student_that_is_missing_is_said_in_a_sentence(tmp_path, tiny):
    from diffadapt.core.stage import NodePlan

    images = NodePlan("images", CorruptTraining(), "", (), ())
    with pytest.raises(RecipeError, match="there is no student: give the folder of one"):
        Align(distilled()).plan({"images": images})
    given = replace(distilled(), distilled=replace(TEACHER.distilled, student=tiny))
    with pytest.raises(WeightsError, match="is no student of an aligner"):
        Align(given).plan({"images": images})
    train(tmp_path / "student", base=tiny)
    own = str(tmp_path / "student")
    with pytest.raises(RecipeError, match="calls is 2 but the student was trained for 1"):
        two = replace(TEACHER.distilled, student=own, calls=2)
        Align(replace(distilled(), distilled=two)).plan({"images": images})
    with pytest.raises(WeightsError, match="give it as align.distilled.student"):
        Align(replace(TEACHER, weights=own)).plan({"images": images})
    ours = replace(TEACHER.distilled, student=own)
    stage = Align(replace(distilled(), distilled=ours))
    assert own not in str(stage.identity()) and stage.revisions()["student"].startswith("sha256:")
    elsewhere, before = tmp_path / "moved", (stage.identity(), stage.revisions())
    (tmp_path / "student").rename(elsewhere)
    moved = Align(replace(distilled(), distilled=replace(ours, student=str(elsewhere))))
    assert (moved.identity(), moved.revisions()) == before


def test_training_images_are_those_of_the_list_seeded_and_without_labels():
    image = digits("train")[1][0]
    keys = [f"source/0/{i}.png" for i in range(40)]
    rows = Rows(image_table(keys, list(range(40)), [encode_png(image)] * 40, [0] * 40), [])
    stage = CorruptTraining(channels=1, size=16, copies=2)
    made = stage.open(WorkContext("cpu")).run(Shard("k", {}), [rows])
    again = stage.open(WorkContext("cpu")).run(Shard("k", {}), [Rows(rows.table.slice(7, 3), [])])
    assert len(made) == 80 and set(made.column("label")) == {None}
    mine = dict(zip(made.column("key"), made.column("image"), strict=True))
    assert all(mine[k] == i for k, i in zip(again.column("key"), again.column("image"), strict=True))
    kept = sum(np.array_equal(decode(i["bytes"], 1, k), image) for k, i in mine.items())
    assert 2 <= kept <= 30, "about a seventh stays as it is"


def test_the_recipe_trains_the_student_on_no_image_of_the_target(tmp_path):
    from diffadapt.core.store import Store

    recipe = tiny_sda(align=distilled(), distil=DistilConfig(images=100))
    pipeline = recipe.pipeline()
    plans = pipeline.plan(Store(str(tmp_path)))
    assert plans["projected"].inputs == plans["aligned"].inputs[:0] + ("target", "student")
    nodes = {
        n: {"inputs": list(p.inputs), "kind": p.stage.kind, "identity": p.stage.identity(),
            "shards": [[s.shard.key, s.digest, s.shard.items, s.path] for s in p.shards]}
        for n, p in plans.items()
    }  # fmt: skip
    found = training(nodes, pipeline.outputs)
    assert found["teacher"] == "dda" and not found["target"] and found["tested"] == []
    assert "saturate" not in found["corruptions"] and set(found["images"]) == {"source_images", "synth"}
    said = " ".join(sentences(found))
    assert "speckle_noise" in said and "No image of the target and no label was among them." in said
    nodes["student_synth"]["inputs"] = ["target"]
    assert "Images of the target were among them" in " ".join(sentences(training(nodes, pipeline.outputs)))


def test_recipes_without_a_student_keep_their_digests():
    from diffadapt.core.manifest import run_config

    config = run_config(tiny_sda(distil=DistilConfig()))
    assert "distil" not in config and "distilled" not in config["align"]
    assert "distilled" not in Align(TEACHER).identity()["config"]
    assert Align(distilled()).identity()["config"]["distilled"] == {"calls": 1}
    assert Align(TEACHER).identity()["config"].keys() == {
        "guidance", "respacing", "start", "noise_at_first_step", "scale", "factor", "precision", "storage"
    }  # fmt: skip


def _worker(rank: int, folder: str, base: str) -> None:
    from diffadapt.train.reporter import DistributedReporter

    train(f"{folder}/two", base=base, reporter=DistributedReporter())


@pytest.mark.slow
def test_two_workers_equal_one(tmp_path, tiny):
    in_two_workers(_worker, tmp_path, tiny)
    train(tmp_path / "one", base=tiny)
    one, two = weights(tmp_path / "one", "unet"), weights(tmp_path / "two", "unet")
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4


@pytest.mark.slow
def test_a_run_has_a_row_of_its_student_and_predicts_with_it(tmp_path):
    import json

    from diffadapt.api.runners import make_runner
    from diffadapt.core.runs import Root
    from diffadapt.report.html import write_report
    from diffadapt.run.drive import drive
    from diffadapt.systems.predict import Prediction, from_run
    from diffadapt.systems.sda.cost import measured
    from tests.unit.test_sda_few_calls import recipe

    torch.set_num_threads(1)
    value = replace(
        recipe(),
        methods=("source", "sda"),
        cheap=("distilled",),
        distil=replace(SHORT, calls=2, steps=2, images=20),
        align=replace(recipe().align, distilled=replace(TEACHER.distilled, calls=2)),
    )
    root = Root(str(tmp_path / "root"))
    run = drive("small", value, value.pipeline(), root, lambda: make_runner(value.execution))
    rows = json.loads(run.read("network_calls.json"))["rows"]
    (row,) = [r for r in rows if r["row"] != "SDA" and not r["control"]]
    assert row["row"] == "SDA (distilled, 2 calls)" and (row["forward"], row["backward"]) == (2, 0)
    student = run.manifest()["nodes"]["student"]
    assert student["inputs"] == [
        "student_source_images", "student_source_images_aligned", "student_synth", "student_synth_aligned"
    ]  # fmt: skip
    write_report(run)
    html = run.read("report.html").decode()
    assert "No image of the target and no label was among them." in html
    assert {s["node"] for s in measured(run, run.manifest())} >= {"student", "student_synth_aligned"}
    predicted = from_run(run, "embedded:digits", value.execution, 10, row["row"])
    assert isinstance(predicted, Prediction) and predicted.project.distilled.calls == 2
    assert load_student(predicted.project.distilled.student).levels == tuple(student_levels_of(value))


def student_levels_of(value: SDA) -> list[int]:
    top = int(Schedule.linear().respace(value.align.respacing).timesteps[value.align.start])
    return [top, round(top / 2)]
