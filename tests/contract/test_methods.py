"""What every method of adaptation promises, found by looking: a new file of methods/uda or methods/ssl is
covered by itself."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffadapt.compute.progress import Pass, Progress
from diffadapt.core.config import from_dict, to_dict
from diffadapt.core.discover import Seam
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.core.ranges import check_limits, limits_of
from diffadapt.methods.discover import chosen, methods
from diffadapt.methods.ssl import config as ssl
from diffadapt.methods.ssl.base import SslMethod
from diffadapt.methods.uda import config as uda
from diffadapt.methods.uda.base import UdaMethod
from diffadapt.models.adaptation import AdaptationNetwork
from diffadapt.models.mlp_head import load_head, save_head
from diffadapt.tasks.classification.adaptation import fit_uda
from diffadapt.tasks.classification.semi_supervised import fit_ssl
from diffadapt.tasks.classification.ssl_batches import PseudoLabels
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import DistributedReporter, LocalReporter
from diffadapt.train.run import TrainingRun
from tests.workers import in_two_workers

CLASSES, WIDTH, COUNT = 3, 8, 48
EVERY = [("uda", name) for name in uda.METHODS] + [("ssl", name) for name in ssl.METHODS]
COUPLED = {
    (kind, name) for kind, name in EVERY if (uda if kind == "uda" else ssl).METHODS[name].batch_coupled
}
every = pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{k}-{n}" for k, n in EVERY])
each_uda = pytest.mark.parametrize("name", list(uda.METHODS))


class Toy:
    """Views of clusters, as vectors or as small pictures; reading the labels of a target is an error."""

    def __init__(self, moved: bool, pictures: bool, labelled: bool):
        rng = np.random.default_rng(5 + moved)
        y = np.arange(COUNT) % CLASSES
        x = (
            1.5 * np.random.default_rng(1).normal(size=(CLASSES, WIDTH))[y]
            + 0.5 * rng.normal(size=(COUNT, WIDTH))
            + moved
        )
        self.x = torch.tensor(x, dtype=torch.float32)
        if pictures:
            self.x = self.x.repeat_interleave(32, 1).reshape(COUNT, 1, 16, 16)
        self.keys, self._labels, self._labelled = [str(i) for i in range(COUNT)], y.astype(np.int64), labelled

    def __len__(self) -> int:
        return COUNT

    @property
    def labels(self) -> np.ndarray:
        assert self._labelled, "labels of the target were read"
        return self._labels

    def get(self, indices: Any, kind: str, seeds: Any) -> torch.Tensor:
        x = self.x[torch.as_tensor(np.asarray(indices, np.int64))]
        noise = {"test": 0.0, "weak": 0.05, "strong": 0.3}[kind]
        drawn = (
            np.stack([np.random.default_rng(int(s)).normal(size=x.shape[1:]) for s in seeds])
            if len(x)
            else np.zeros(x.shape)
        )
        return x + noise * torch.tensor(drawn, dtype=torch.float32)


def method_of(kind: str, name: str) -> Any:
    return (uda if kind == "uda" else ssl).METHODS[name]()


def config_of(kind: str, name: str, **changes: Any) -> Any:
    made = (uda.UdaConfig if kind == "uda" else ssl.SslConfig)(
        method=name, batch_size=8, epochs=12, steps_per_epoch=1, lr=0.01, checkpoint_every=4
    )
    return replace(made, **changes)


def body(kind: str, name: str) -> nn.Module:
    """What stands before the method: nothing for vectors, a tiny ViT for methods that need one, a head in
    stage 2."""
    torch.manual_seed(3)
    if kind == "ssl":
        return nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    if method_of(kind, name).backbone_kind == "vit":
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(
            img_size=16, patch_size=8, in_chans=1, num_classes=0, embed_dim=WIDTH, depth=1, num_heads=2
        )
    return nn.Identity()


def train(
    kind: str, name: str, folder: Any = None, config: Any = None, reporter: Any = None, on_step: Any = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network (stage 2: the model) and its last scalars."""
    config, reporter = config or config_of(kind, name), reporter or LocalReporter()
    checkpoints = Checkpoints(str(folder)) if folder else None
    network = body(kind, name)
    pictures = kind == "uda" and not isinstance(network, nn.Identity)
    target = Toy(True, pictures, False)
    if kind == "uda":
        return fit_uda(
            Toy(False, pictures, True),
            target,
            network,
            WIDTH,
            CLASSES,
            config,
            TrainingRun(reporter, checkpoints, on_step=on_step),
        )
    confident, pseudo = (
        np.arange(0, COUNT, 2),
        (np.arange(0, COUNT, 2) + (np.arange(COUNT // 2) % 5 == 0)) % CLASSES,
    )
    found = fit_ssl(
        target,
        PseudoLabels(confident, pseudo, np.arange(1, COUNT, 2)),
        network,
        CLASSES,
        config,
        TrainingRun(reporter, checkpoints, on_step=on_step),
    )
    return network, found


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


def test_methods_were_found():
    assert set(uda.METHODS) >= {"source_only", "dann", "cdan", "mcd", "symnets", "mcc", "cdtrans"}
    assert set(ssl.METHODS) >= {"pseudo_label", "mixmatch", "fixmatch", "flexmatch", "freematch", "softmatch"}


def test_method_files_import_no_torch():
    names = [inspect.getmodule(m).__name__ for found in (uda.METHODS, ssl.METHODS) for m in found.values()]
    code = (
        f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; print([h for h in ('torch',"
        " 'ray', 'timm') if h in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@every
class TestEveryMethod:
    def test_is_a_short_file_with_a_frozen_value(self, kind, name):
        method = method_of(kind, name)
        cls = type(method)
        assert cls.__dataclass_params__.frozen and method == cls() and hash(method) == hash(cls())
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), (
            "say what the method is and where it comes from"
        )
        file = Path(inspect.getfile(cls))
        assert file.stem == name and len(file.read_text().splitlines()) <= 240
        assert importlib.import_module(cls.__module__).__doc__

    def test_settings_travel_and_have_ranges(self, kind, name):
        config = config_of(kind, name)
        check_limits(config)
        assert json.dumps(to_dict(config)) and from_dict(type(config), to_dict(config)) == config
        method = method_of(kind, name)
        own = {f.name for f in fields(method)}
        assert set(type(method).limits) <= own
        ranges = limits_of(type(method))
        for f in fields(method):
            value = getattr(method, f.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert f.name in ranges, (
                    f"{name}.{f.name} is a number and needs a range in the method's limits"
                )
                with pytest.raises(RecipeError, match=f.name):
                    low, high = ranges[f.name].low, ranges[f.name].high
                    outside = low - 1 if low is not None else high + 1
                    check_limits(replace(config, **{name: replace(method, **{f.name: type(value)(outside)})}))

    def test_only_its_own_settings_enter_the_identity(self, kind, name):
        config = config_of(kind, name)
        mine = digest(config.identity())
        other = next(n for k, n in EVERY if k == kind and n != name)
        assert digest(replace(config, **{other: replace(method_of(kind, other), lr=0.5)}).identity()) == mine
        assert (
            digest(replace(config, **{name: replace(method_of(kind, name), momentum=0.5)}).identity()) != mine
        )
        assert digest(replace(config, checkpoint_every=3).identity()) == mine
        assert chosen(config, "") == method_of(kind, name)

    def test_reports_finite_losses(self, kind, name):
        method = method_of(kind, name)
        seen: list[dict[str, float]] = []
        train(
            kind,
            name,
            config=config_of(kind, name, steps_per_epoch=2),
            on_step=lambda step, scalars: seen.append(dict(scalars)),
        )
        assert len(seen) == 24 and all(np.isfinite(list(s.values())).all() for s in seen)
        assert {"loss", "lr"} <= set(seen[0])
        assert all(isinstance(p, Pass) for p in method.passes())
        rates = [method.lr_at(Progress(step, 24, 2)) for step in range(24)]
        assert all(rate >= 0 for rate in rates) and max(rates) > 0

    def test_resumes_to_the_same_bytes(self, kind, name, tmp_path):
        """Labels of the target are sealed in all trainings here."""

        def kill(step: int, scalars: dict[str, float]) -> None:
            if step == 10:
                raise KeyboardInterrupt

        whole, last = train(kind, name, tmp_path / "a")
        with pytest.raises(KeyboardInterrupt):
            train(kind, name, tmp_path / "b", on_step=kill)
        torch.randn(3)
        resumed, again = train(kind, name, tmp_path / "b")
        assert again["resumed_from"] == 8 and again["loss"] == last["loss"] and same(whole, resumed)


@each_uda
class TestEveryUdaMethod:
    def network(self, name: str) -> AdaptationNetwork:
        torch.manual_seed(0)
        return AdaptationNetwork(body("uda", name), WIDTH, CLASSES, method_of("uda", name))

    def test_groups_hold_every_weight_once(self, name):
        net = self.network(name)
        groups = net.parameter_groups()
        held = [id(p) for g in groups for p in g["params"]]
        assert len(held) == len(set(held)) and set(held) == {
            id(p) for p in net.parameters() if p.requires_grad
        }
        names = [g["name"] for g in groups]
        wanted = {n for p in net.method.passes() for n in p.groups or ()}
        assert len(set(names)) == len(names) and wanted <= set(names) and all("lr_scale" in g for g in groups)

    def test_the_exported_head_predicts_what_the_method_predicts(self, name, tmp_path):
        from diffadapt.methods.uda.layers import flat

        net, _ = train("uda", name)
        assert not net.training
        features = torch.randn(
            5, net.bottleneck[0].in_features if isinstance(net.bottleneck, nn.Sequential) else net.width
        )
        with torch.no_grad():
            wanted = net.method.predict(net, net.bottleneck(features))
            save_head(
                tmp_path, flat(net.bottleneck, net.method.exported_head(net)), features.shape[1], CLASSES
            )
            got = load_head(tmp_path)[0](features)
        assert wanted.shape == (5, CLASSES)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)

    def test_sharpness_needs_one_pass(self, name):
        config = config_of("uda", name, sdat=0.05, epochs=12)
        if len(method_of("uda", name).passes()) > 1:
            with pytest.raises(RecipeError, match="SDAT needs a method with one"):
                train("uda", name, config=config)
        else:
            assert np.isfinite(train("uda", name, config=config)[1]["loss_sharpness"])


def shared(kind: str, name: str) -> Any:
    return config_of(kind, name, sync_batch_norm=True)


def _worker(rank: int, folder: str) -> None:
    for kind, name in EVERY:
        network, last = train(kind, name, config=shared(kind, name), reporter=DistributedReporter())
        torch.save({"state": network.state_dict(), "loss": last["loss"]}, f"{folder}/{kind}-{name}-{rank}.pt")


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    in_two_workers(_worker, folder)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@every
def test_two_workers_agree_and_equal_one_where_the_method_allows(workers, kind, name):
    ranks = workers(f"{kind}-{name}")
    assert all(torch.equal(v, ranks[1]["state"][k]) for k, v in ranks[0]["state"].items())
    assert np.isfinite(ranks[0]["loss"])
    if (kind, name) not in COUPLED:
        network, last = train(kind, name, config=shared(kind, name))
        for key, value in network.state_dict().items():
            torch.testing.assert_close(ranks[0]["state"][key], value, atol=1e-4, rtol=1e-3)
        assert ranks[0]["loss"] == pytest.approx(last["loss"], abs=1e-4)


def test_a_file_without_one_method_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "brokenmethods"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "two.py").write_text(
        "from diffadapt.methods.uda.base import UdaMethod\nclass A(UdaMethod): pass\nclass B(UdaMethod):"
        " pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        RecipeError, match="two.py must hold exactly one frozen dataclass that extends UdaMethod; it holds 2"
    ):
        Seam("method", "brokenmethods", "DIFFADAPT_METHODS", UdaMethod).all()
    assert methods("ssl", SslMethod).all().keys() == ssl.METHODS.keys()
