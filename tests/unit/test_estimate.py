"""How long what is missing takes: which measurements count, how they scale, wall time, prices,
calibration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diffadapt.core import ledger, prices
from diffadapt.core.errors import RecipeError
from diffadapt.core.estimate import Estimate, StageEstimate, estimate, same_device
from diffadapt.core.ledger import Measured, samples
from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.core.plan import summarise
from diffadapt.core.runs import Root
from diffadapt.core.schedule import finished
from diffadapt.core.store import Store
from diffadapt.run.calibrate import calibrate, chosen
from diffadapt.sweeps.union import merge
from tests.unit.corekit import Double, Numbers, PlainRunner, Shifted, Total, Toy, contents, run_toy

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    epochs: int = 0
    steps_per_epoch: int = 0
    steps: int = 0
    batch_size: int = 0


@dataclass(frozen=True)
class Trained(Total):
    """A total whose training takes so many epochs."""

    kind: ClassVar[str] = "trained"
    config: Settings = field(default=Settings())


def plans(tmp_path, toy: Any = None) -> dict:
    return (toy or Toy()).pipeline().plan(Store(str(tmp_path / "store")))


def entry(kind: str = "numbers", family: str = "f", **more: Any) -> Measured:
    base = Measured(f"{kind}-{family}-{sorted(more.items())}", kind, kind, family, 4, 2.0, "cpu", when=1.0)
    return replace(base, **more)


def stage(found: Estimate, name: str) -> StageEstimate:
    return next(s for s in found.stages if s.name == name)


def test_nothing_measured_is_said_and_counts_as_nothing(tmp_path):
    found = estimate(plans(tmp_path), (), ())
    assert [s.name for s in found.stages] == ["numbers", "double", "total"] and found.unmeasured == list(
        found.stages
    )
    assert not found.complete and found.seconds == 0 and found.by_device() == {} and found.wall(4) == 0
    assert {s.source() for s in found.stages} == {"not measured"}


def test_the_same_family_comes_first_then_the_label_then_the_kind(tmp_path):
    p = plans(tmp_path)
    own, other = entry(family=p["numbers"].family, seconds=2.0), entry(family="other", seconds=40.0)
    far = entry(family="far", label="elsewhere", seconds=400.0)
    for measured, seconds, basis, source in (
        ([far, other, own], 6.0, "family", "from one shard"),
        ([far, other], 120.0, "label", "similar (1 shard of numbers/numbers)"),
        ([far], 1200.0, "kind", "similar (1 shard of numbers/elsewhere)"),
    ):
        s = stage(estimate(p, (), measured), "numbers")
        assert (s.seconds, s.basis, s.source()) == (pytest.approx(seconds), basis, source)
    two = stage(estimate(p, (), [own, replace(own, digest="2", seconds=4.0)]), "numbers")
    assert two.seconds == pytest.approx(9.0) and two.source() == "measured (2 shards)"


def test_only_what_is_missing_counts_and_what_two_nodes_ask_for_counts_once(tmp_path):
    p = plans(tmp_path)
    own = entry(family=p["numbers"].family)
    done = {p["numbers"].shards[0].digest}
    assert stage(estimate(p, done, [own]), "numbers").shards == 2
    assert [s.name for s in estimate(p, done | {s.digest for s in p["numbers"].shards}, [own]).stages] == [
        "double",
        "total",
    ]
    store = Store(str(tmp_path / "store"))
    twice = Pipeline((Node("a", Numbers()), Node("b", Numbers(shards=4)))).plan(store)
    found = estimate(twice, (), [own])
    assert (
        [(s.name, s.shards) for s in found.stages]
        == [("a", 3), ("b", 1)]
        == [(n.name, n.missing) for n in summarise(twice, store).nodes]
    )


def test_seconds_grow_with_the_images(tmp_path):
    small = entry(family=plans(tmp_path)["numbers"].family, items=4, seconds=2.0)
    big = stage(estimate(plans(tmp_path, Toy(Numbers(shards=2, rows=10))), (), [small]), "numbers")
    assert (
        big.seconds == pytest.approx(2 * 10 * 0.5)
        and big.longest == pytest.approx(5.0)
        and big.basis == "label"
    )
    empty = stage(
        estimate(plans(tmp_path, Toy(Numbers(shards=2, rows=10))), (), [replace(small, items=0)]), "numbers"
    )
    assert empty.seconds == pytest.approx(4.0), "without items a shard counts as a shard"


@pytest.mark.parametrize(
    "config, items, seen",
    [
        (Settings(epochs=3), 100, 300),
        (Settings(epochs=2, steps_per_epoch=5, batch_size=8), 100, 80),
        (Settings(steps=50, batch_size=4), 7, 200),
        (Settings(batch_size=4), 7, 0),
    ],
)
def test_images_that_a_fit_sees(config, items, seen):
    assert samples(Trained(config=config), items) == seen
    assert samples(Numbers(), 5) == 0


def test_images_that_the_real_fits_see():
    from diffadapt.methods.uda.config import UdaConfig
    from diffadapt.stages.fit_generator import FitGenerator
    from diffadapt.tasks.classification.fit_classifier import FitClassifier
    from diffadapt.tasks.classification.fit_uda import FitUda
    from diffadapt.train.config import DiffusionFitConfig, FitConfig

    assert samples(FitClassifier(FitConfig(epochs=3)), 50) == 150
    assert samples(replace(FitClassifier(FitConfig(epochs=3)), epoch_images=10), 50) == 30
    assert samples(FitUda(UdaConfig(epochs=2, steps_per_epoch=10, batch_size=4)), 999) == 80
    assert samples(FitGenerator(DiffusionFitConfig(steps=10, batch_size=4)), 999) == 40


def test_a_fit_scales_with_the_images_that_it_sees(tmp_path):
    def trained(epochs: int) -> dict:
        nodes = (
            Node("numbers", Numbers()),
            Node("trained", Trained(config=Settings(epochs=epochs)), ("numbers",)),
        )
        return Pipeline(nodes).plan(Store(str(tmp_path / "store")))

    short = entry("trained", trained(2)["trained"].family, items=12, samples=24, seconds=6.0)
    assert stage(estimate(trained(10), (), [short]), "trained").seconds == pytest.approx(30.0)
    assert (
        stage(estimate(trained(10), (), [short]), "trained").source() == "similar (1 fit of trained/trained)"
    )
    assert stage(estimate(trained(10), (), [replace(short, samples=0)]), "trained").seconds == pytest.approx(
        6.0
    )
    two = replace(short, devices=2)
    assert stage(estimate(trained(2), (), [two]), "trained").seconds == pytest.approx(12.0), (
        "seconds of every device"
    )
    assert estimate(trained(2), (), [replace(short, resumed=True)]).complete is False, (
        "a part of a fit says nothing"
    )


def test_devices_are_told_apart(tmp_path):
    p = plans(tmp_path)
    family = p["numbers"].family
    cpu = entry(family=family, seconds=8.0, device="cpu", when=5)
    a100 = entry(family=family, seconds=1.0, device="NVIDIA A100-SXM4-40GB", when=3)
    old = entry(family=family, seconds=4.0, device="Tesla T4", when=1)
    every = [cpu, a100, old]
    assert stage(estimate(p, (), every), "numbers").device == "cpu", "the one used last"
    chosen_one = stage(estimate(p, (), every, "A100 40GB"), "numbers")
    assert (chosen_one.device, chosen_one.seconds) == ("NVIDIA A100-SXM4-40GB", pytest.approx(3.0))
    assert stage(estimate(p, (), every, "H100 80GB"), "numbers").device == "cpu"
    mixed = estimate(p, (), [a100, entry("double", p["double"].family, seconds=2.0)])
    assert mixed.by_device() == {"NVIDIA A100-SXM4-40GB": pytest.approx(3.0), "cpu": pytest.approx(6.0)}


@pytest.mark.parametrize(
    "name, wanted, same",
    [
        ("NVIDIA L4", "L4", True),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", True),
        ("NVIDIA A100 80GB PCIe", "A100 40GB", False),
        ("Tesla T4", "t4", True),
        ("NVIDIA H100 80GB HBM3", "H100 80GB", True),
        ("cpu", "cpu", True),
        ("cpu", "", False),
        ("", "A10G", False),
    ],
)
def test_device_names(name, wanted, same):
    assert same_device(name, wanted) is same


def piece(name: str, shards: int, each: float, **more: Any) -> StageEstimate:
    return StageEstimate(
        name,
        name,
        more.pop("fit", False),
        shards,
        shards,
        shards * each,
        each,
        "family",
        1,
        "cpu",
        name,
        **more,
    )


def test_wall_time():
    synth = Estimate((piece("synth", 25, 10.0),))
    assert synth.wall(1) == 250 and synth.wall(8) == pytest.approx(40.0), "four rounds of eight"
    assert synth.wall(8, speed=2.0) == pytest.approx(20.0) and synth.wall(0) == 250
    chain = Estimate((piece("synth", 8, 10.0), piece("aligned", 8, 5.0, after=("synth",))))
    assert 15 <= chain.wall(8) <= 30 and chain.wall(10**6) == pytest.approx(15.0, rel=1e-3), (
        "a shard is aligned by the actor that made it"
    )
    fits = Estimate(
        (
            piece("synth", 8, 10.0),
            piece("fit", 2, 60.0, fit=True, after=("synth",)),
            piece("predict", 8, 1.0, wave=1, after=("fit",)),
        )
    )
    assert fits.wall(1) == 80 + 120 + 8 and fits.wall(10**6) == pytest.approx(71.0, rel=1e-3), (
        "one after the other"
    )
    assert fits.wall(2, train_workers=2) == pytest.approx(45 + 60 + 4.5), "both on each fit"


def test_a_fit_that_is_not_finished_comes_before_what_needs_it(tmp_path):
    p = plans(tmp_path, Shifted())
    assert {s.name: s.wave for s in estimate(p, (), ()).stages} == {
        "numbers": 0,
        "double": 0,
        "total": 0,
        "shift": 1,
    }
    done = {p["total"].shards[0].digest}
    assert {s.wave for s in estimate(p, done, ()).stages} == {0}


def test_the_plans_of_several_trials_count_together(tmp_path):
    trials = [plans(tmp_path, Toy(Numbers(shards=n), Double(factor=f))) for n in (2, 3) for f in (2, 3)]
    found = estimate(
        merge(trials),
        (),
        [entry(seconds=1.0, items=4), entry("double", seconds=1.0), entry("total", seconds=1.0)],
    )
    by_kind = {
        kind: sum(s.shards for s in found.stages if s.kind == kind) for kind in ("numbers", "double", "total")
    }
    assert (
        by_kind == {"numbers": 3, "double": 6, "total": 4}
        and found.complete
        and found.seconds == pytest.approx(3 + 6 + 2 * 2 + 2 * 3)
    ), "totals over 8 and over 12 numbers"


def test_a_finished_run_predicts_its_like(tmp_path):
    run_toy(tmp_path)
    root = Root(str(tmp_path))
    measured = ledger.read(root.ledger)
    again = plans(tmp_path, Toy(Numbers(shards=5)))
    found = estimate(again, finished(again, root.store), measured)
    assert {s.name: (s.shards, s.basis) for s in found.stages} == {
        "numbers": (2, "family"),
        "double": (2, "family"),
        "total": (1, "family"),
    }
    spent = sum(m.seconds for m in measured if m.kind == "numbers")
    assert stage(found, "numbers").seconds == pytest.approx(spent / 3 * 2)


# -- calibration
# ---------------------------------------------------------------------------------------------------


def calibrated(root: Root, toy: Any) -> tuple[set[str], int]:
    p = toy.pipeline().plan(root.store)
    done = finished(p, root.store)
    digests = chosen(p, done, estimate(p, done, ledger.read(root.ledger)))
    return digests, calibrate("toy", p, root, digests, PlainRunner) if digests else 0


def test_calibration_makes_one_chain_and_a_run_finds_it(tmp_path):
    root = Root(str(tmp_path / "a b"))
    digests, made = calibrated(root, Shifted())
    assert len(digests) == made == 2, "a number and its double; a shift needs the total"
    p = Shifted().pipeline().plan(root.store)
    found = estimate(p, finished(p, root.store), ledger.read(root.ledger))
    assert {s.name: s.source() for s in found.stages} == {
        "numbers": "from one shard",
        "double": "from one shard",
        "total": "not measured",
        "shift": "not measured",
    }
    assert summarise(p, root.store).missing == summarise(p, root.store).shards - 2
    assert {n.split("/")[0] for n in contents(tmp_path / "a b")} == {"store", "ledger"}, "no run, no evidence"
    assert calibrated(root, Shifted()) == (set(), 0)
    run, runner = run_toy(tmp_path / "a b", Shifted())
    assert sum(r.status == "made" for r in runner.receipts) == 3 + 3 + 1 + 3 - 2
    assert run.read("manifest.json") == run_toy(tmp_path / "whole", Shifted())[0].read("manifest.json")


def test_calibration_takes_the_shard_that_lacks_least(tmp_path):
    root = Root(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, runner=PlainRunner(stop_after=2))
    root.ledger.fs.rm(root.ledger.path, recursive=True)
    digests, _ = calibrated(root, Toy(Numbers(shards=5), Double(factor=3)))
    doubles = [
        d
        for d in digests
        if d
        in {
            s.digest
            for s in Toy(Numbers(shards=5), Double(factor=3)).pipeline().plan(root.store)["double"].shards
        }
    ]
    assert len(doubles) == 1 and len(digests) == 2, (
        "numbers of its own, and a double of one that is there or made now"
    )


def test_a_calibration_that_fails_names_the_shard_and_keeps_the_rest(tmp_path):
    from diffadapt.core.errors import TrainingError

    @dataclass(frozen=True)
    class Broken(Double):
        kind: ClassVar[str] = "broken"

        def open(self, context: Any) -> Any:
            raise RuntimeError("a bug")

    root = Root(str(tmp_path))
    with pytest.raises(TrainingError, match="double: RuntimeError: a bug.*errors.log"):
        calibrated(root, Toy(double=Broken()))
    assert len(root.store.list("numbers")) == 1 and len(ledger.read(root.ledger)) == 1
    assert (tmp_path / "calibration" / "toy" / "errors.log").is_file() and root.names() == []


# -- prices
# --------------------------------------------------------------------------------------------------------


def test_the_price_list_is_whole():
    found = prices.load()
    assert prices.default_file() == ROOT / "cluster" / "prices.toml" and len(found) > 15
    assert {n.partition(".")[0] for n in found} == set(prices.CLOUDS)
    for name, machine in found.items():
        assert (
            machine.name == name and machine.region and "check" in machine.source and machine.date > "2025"
        ), name
        assert 0.1 < machine.on_demand < 200 and (machine.spot is None or machine.spot < machine.on_demand), (
            name
        )
        assert (
            machine.gpus <= 8
            and machine.vcpus >= 4 * machine.gpus
            and (machine.gpus or machine.device == "cpu")
        ), name
    g5 = found["aws.g5.xlarge"]
    assert (g5.gpu, g5.gpus, g5.vcpus, g5.on_demand) == ("A10G", 1, 4, 1.006) and g5.devices() == 1
    assert found["aws.c7i.4xlarge"].devices(4) == 4 and found["aws.p4d.24xlarge"].devices() == 8


def test_an_unknown_machine_is_named_with_its_nearest():
    with pytest.raises(RecipeError, match="no machine 'aws.g5.xlrge'. Did you mean 'aws.g5.xlarge'"):
        prices.find("aws.g5.xlrge")
    with pytest.raises(RecipeError, match="no machine 'g5.xlarge'. Did you mean"):
        prices.find("g5.xlarge")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[aws", "is no TOML"),
        ("", "names no machine"),
        ('[aws."x"]\ngpu = "T4"\n', "aws.x of the price list .* is not whole"),
        ('[aws.x]\ngpu = ""\ngpus = 1\nvcpus = 4\non_demand = 1\ndate = "2026"', "not whole"),
        ('[aws.x]\ngpu = "T4"\ngpus = 1\nvcpus = 4\non_demand = -1\ndate = "2026"', "not whole"),
        ("[aws]\nx = 3", "not whole"),
    ],
)
def test_a_list_of_ones_own_is_checked(tmp_path, text, message):
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        prices.load(str(file))
    with pytest.raises(RecipeError, match="cannot be read"):
        prices.load(str(tmp_path / "nope.toml"))


def test_a_list_of_ones_own_is_read(tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text(
        '[lab."big box"]\ngpu = "H200"\ngpus = 4\nvcpus = 64\non_demand = 3\ndate = "2026-01-01"\n'
    )
    machine = prices.find("lab.big box", str(file))
    assert (machine.on_demand, machine.spot, machine.devices()) == (3.0, None, 4)
