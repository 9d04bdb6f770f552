"""The training loop: exact resume, accumulation, workers, divergence, checkpoints and the moving average."""

import pytest
import torch
from torch import nn

from diffadapt.core.errors import TrainingError
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.loop import Optimisation, run_loop
from diffadapt.train.reporter import DistributedReporter, LocalReporter, Reporter
from diffadapt.train.run import TrainingRun
from tests.workers import in_two_workers


class Net(nn.Module):
    def __init__(self, dropout=0.1):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def forward(self, x):
        return self.body(x)


def data(n=96):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=g), torch.randint(3, (n,), generator=g)


def loss_fn(module, batch, step):
    x, y = batch
    logits = module(x)
    return {
        "loss": nn.functional.cross_entropy(logits, y),
        "accuracy": (logits.argmax(1) == y).float().mean(),
    }


def train(
    folder,
    steps,
    *,
    seed=3,
    reporter=None,
    batch=8,
    accumulate=1,
    dropout=0.1,
    checkpoints=True,
    on_step=None,
    every=5,
    rank=0,
    world=1,
    lr=1e-2,
    precision="fp32",
):
    torch.manual_seed(0)
    net = Net(dropout)
    x, y = data()
    part = batch // (world * accumulate)

    def batch_fn(step, micro):
        at = (step * batch) % len(x) + (rank * accumulate + micro) * part
        return x[at : at + part], y[at : at + part]

    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    ema = Ema(net, 0.9)
    result = run_loop(
        net,
        loss_fn,
        batch_fn,
        Optimisation(
            optimizer,
            lambda s: lr / (1 + s),
            steps,
            ema=ema,
            accumulate=accumulate,
            seed=seed,
            checkpoint_every=every,
            clip_norm=1.0,
            precision=precision,
        ),
        TrainingRun(
            reporter or LocalReporter(), Checkpoints(str(folder)) if checkpoints else None, on_step=on_step
        ),
    )
    return net, ema, result


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def test_loss_falls_and_every_step_is_reported(tmp_path):
    seen = []
    reporter = LocalReporter(on_report=lambda step, total, scalars: seen.append((step, total, scalars)))
    assert isinstance(reporter, Reporter)
    train(tmp_path, 60, reporter=reporter, lr=0.2)
    assert [s[0] for s in seen] == list(range(1, 61)) and seen[0][1] == 60
    assert set(seen[0][2]) >= {"loss", "accuracy", "lr", "grad_norm", "step_seconds"}
    assert sum(s[2]["loss"] for s in seen[-12:]) < 0.9 * sum(s[2]["loss"] for s in seen[:12])


def test_tensorboard_holds_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "c", 3, reporter=LocalReporter(log_dir=str(tmp_path / "tb")))
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    whole, ema, result = train(tmp_path / "a", 23)

    def kill(step, scalars):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 23, on_step=kill)
    resumed, resumed_ema, again = train(tmp_path / "b", 23)
    assert again["resumed_from"] == 10 and again["loss"] == result["loss"]
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(ema.shadow, resumed_ema.shadow)
    _, _, finished = train(tmp_path / "b", 23)
    assert finished["resumed_from"] == 23 and finished["loss"] == result["loss"]


def test_dropout_follows_the_seed(tmp_path):
    first, _, _ = train(tmp_path, 4, checkpoints=False)
    torch.randn(3)
    second, _, _ = train(tmp_path, 4, checkpoints=False)
    other, _, _ = train(tmp_path, 4, seed=4, checkpoints=False)
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), other.state_dict())


def test_the_loop_does_not_move_the_global_generator():
    net = Net()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run_loop(
        net,
        loss_fn,
        lambda s, m: data(8),
        Optimisation(torch.optim.SGD(net.parameters()), lambda s: 0.1, 2),
        TrainingRun(LocalReporter()),
    )
    assert torch.equal(before, torch.get_rng_state())


def test_accumulated_parts_equal_the_whole_batch(tmp_path):
    whole, _, a = train(tmp_path, 10, dropout=0.0, checkpoints=False)
    parts, _, b = train(tmp_path, 10, dropout=0.0, checkpoints=False, accumulate=4)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def _worker(rank, folder):
    seen = []
    reporter = DistributedReporter(on_report=lambda s, t, v: seen.append(v["loss"]))
    net, _, result = train(
        f"{folder}/c", 10, reporter=reporter, rank=rank, world=2, accumulate=2, dropout=0.0
    )
    torch.save({"net": net.state_dict(), "seen": seen, "loss": result["loss"]}, f"{folder}/rank{rank}.pt")


def test_two_workers_equal_one_on_the_same_global_batch(tmp_path):
    in_two_workers(_worker, tmp_path)
    one, _, result = train(tmp_path, 10, dropout=0.0, checkpoints=False)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for key, value in one.state_dict().items():
        torch.testing.assert_close(ranks[0]["net"][key], value, atol=1e-5, rtol=0)
        assert torch.equal(ranks[0]["net"][key], ranks[1]["net"][key])
    assert len(ranks[0]["seen"]) == 10 and ranks[1]["seen"] == []
    assert ranks[1]["loss"] == pytest.approx(result["loss"], abs=1e-5)
    # A checkpoint of two workers is an ordinary one: a single process goes on from it.
    _, _, resumed = train(tmp_path / "c", 10, dropout=0.0)
    assert resumed["resumed_from"] == 10


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_names_the_step_and_keeps_the_checkpoint(tmp_path, where):
    net = Net()
    x, y = data(8)

    def bad(module, batch, step):
        loss = loss_fn(module, batch, step)["loss"]
        if step == 7:
            loss = loss * float("nan") if where == "loss" else loss + torch.sqrt(module(x).sum() * 0)
        return {"loss": loss}

    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(TrainingError, match=rf"step 8 because the {where}.*checkpoint of step 6 is kept"):
        run_loop(
            net,
            bad,
            lambda s, m: (x, y),
            Optimisation(torch.optim.SGD(net.parameters()), lambda s: 0.1, 20, checkpoint_every=3),
            TrainingRun(LocalReporter(), checkpoints),
        )
    assert checkpoints.latest()["step"] == 6
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path, 5)
    net = nn.Linear(6, 3)
    with pytest.raises(TrainingError, match="another model"):
        run_loop(
            net,
            loss_fn,
            lambda s, m: data(8),
            Optimisation(torch.optim.SGD(net.parameters()), lambda s: 0.1, 6),
            TrainingRun(LocalReporter(), Checkpoints(str(tmp_path))),
        )


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_other_precisions_train(tmp_path, precision):
    _, _, result = train(tmp_path, 6, precision=precision, checkpoints=False)
    _, _, exact = train(tmp_path, 6, checkpoints=False)
    assert result["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_lr_scale_of_a_group_multiplies_the_rate():
    net = nn.Linear(6, 3)
    optimizer = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias], "lr_scale": 10.0}], lr=1.0)
    run_loop(
        net,
        loss_fn,
        lambda s, m: data(8),
        Optimisation(optimizer, lambda s: 0.5, 1),
        TrainingRun(LocalReporter()),
    )
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 5.0]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_checkpoints_keep_two_and_survive_damage(tmp_path, where):
    import fsspec

    location = str(tmp_path / "c") if where == "local" else f"memory://c-{tmp_path.name}"
    box = Checkpoints(location)
    assert box.latest() is None
    for step in (1, 2, 3):
        box.save(step, {"step": step, "w": torch.full((1000,), float(step))})
    assert box.steps() == [2, 3] and box.latest()["w"][0] == 3
    fs, root = fsspec.core.url_to_fs(location)
    assert len(fs.ls(root, detail=False)) == 2
    newest = sorted(fs.ls(root, detail=False))[-1]
    whole = fs.cat_file(newest)
    fs.pipe_file(newest, whole[: len(whole) // 2])
    assert box.latest()["step"] == 2
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    fs.pipe_file(newest, bytes(flipped))
    assert box.latest()["step"] == 2
    box.save(3, {"step": 3, "w": torch.zeros(2)})
    assert box.steps() == [2, 3] and box.latest()["w"].shape == (2,)
    box.save(1, {"step": 1})
    assert box.steps() == [1]
    box.clear()
    assert box.latest() is None and box.steps() == []


def test_a_pickled_object_is_not_loaded(tmp_path):
    box = Checkpoints(str(tmp_path))
    box.save(1, {"step": 1, "what": Net()})
    assert box.latest() is None


def test_ema_matches_its_formula_and_gives_the_weights_back():
    net = nn.BatchNorm1d(2)
    ema = Ema(net, decay=0.75, warmup=False)
    want = 1.0
    for value in (2.0, 4.0, 8.0):
        nn.init.constant_(net.weight, value)
        net.running_mean.fill_(value)
        ema.update(net)
        want = 0.75 * want + 0.25 * value
    assert torch.allclose(ema.shadow["weight"], torch.full((2,), want))
    assert torch.equal(ema.shadow["running_mean"], torch.full((2,), 8.0))
    with ema.applied(net):
        assert torch.allclose(net.weight, torch.full((2,), want))
    assert torch.equal(net.weight, torch.full((2,), 8.0))
    with pytest.raises(ValueError, match="another module"):
        ema.load_state_dict({"updates": 1, "shadow": {}})


def test_ema_warmup_leaves_the_start_behind():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = Ema(net, decay=0.9999)
    nn.init.constant_(net.weight, 1.0)
    for _ in range(50):
        ema.update(net)
    assert ema.shadow["weight"].item() > 0.99


def test_idle_steps_keep_their_number_and_change_nothing():
    def run(idle, steps):
        torch.manual_seed(0)
        net, (x, y), seen, told = Net(0.0), data(), [], []
        loop = TrainingRun(
            LocalReporter(on_report=lambda step, total, scalars: told.append(step)),
            on_step=lambda step, scalars: seen.append(step),
        )
        made = Optimisation(torch.optim.SGD(net.parameters(), lr=1.0), lambda s: 0.1, steps, idle=idle)
        result = run_loop(net, loss_fn, lambda step, micro: (x, y), made, loop)
        return net.state_dict(), result, seen, told

    state, result, seen, told = run(lambda step: step % 5 >= 2, 10)
    plain, _, _, _ = run(None, 4)
    assert same(state, plain) and result["steps"] == 10
    assert seen == list(range(1, 11)) and told == [1, 2, 6, 7, 10]


def test_numbers_that_are_fetched_later_are_the_same(tmp_path):
    def run(folder, fetch):
        seen = []
        torch.manual_seed(0)
        net = Net()
        how = Optimisation(
            torch.optim.AdamW(net.parameters(), lr=1.0),
            lambda s: 1e-2,
            11,
            clip_norm=1.0,
            checkpoint_every=6,
            fetch_every=fetch,
        )
        reporter = LocalReporter(on_report=lambda step, total, scalars: seen.append((step, scalars)))
        result = run_loop(
            net, loss_fn, lambda s, m: data(8), how, TrainingRun(reporter, Checkpoints(str(folder)))
        )
        return net, seen, result

    each, told, result = run(tmp_path / "a", 1)
    late, heard, again = run(tmp_path / "b", 4)
    assert same(each.state_dict(), late.state_dict())
    assert [step for step, _ in heard] == list(range(1, 12))
    for (_, a), (_, b) in zip(told, heard, strict=True):
        assert set(a) == set(b)
        assert all(a[k] == pytest.approx(b[k], rel=1e-6) for k in a if k != "step_seconds")
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_nan_is_found_within_the_steps_of_a_fetch_and_the_last_good_checkpoint_goes_on(tmp_path):
    x, y = data(8)
    seen = []

    def run(broken):
        torch.manual_seed(0)
        net = Net(0.0)

        def loss(module, batch, step):
            seen.append(step)
            found = loss_fn(module, batch, step)["loss"]
            return {"loss": found * float("nan") if step == broken else found}

        how = Optimisation(
            torch.optim.SGD(net.parameters()), lambda s: 0.1, 20, checkpoint_every=6, fetch_every=4
        )
        result = run_loop(
            net, loss, lambda s, m: (x, y), how, TrainingRun(LocalReporter(), Checkpoints(str(tmp_path)))
        )
        return net, result

    with pytest.raises(TrainingError, match="stopped at step 9 because the loss became nan.*step 6 is kept"):
        run(broken=8)
    assert max(seen) < 8 + 4 and Checkpoints(str(tmp_path)).latest()["step"] == 6
    net, result = run(broken=None)
    assert result["resumed_from"] == 6 and result["steps"] == 20
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_the_average_is_that_of_one_weight_at_a_time():
    net = Net()
    ema, decay = Ema(net, 0.9, warmup=False), 0.9
    expected = {k: v.clone() for k, v in ema.shadow.items()}
    for _ in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        ema.update(net)
        for key, value in net.state_dict().items():
            expected[key].lerp_(value, 1.0 - decay) if key in dict(net.named_parameters()) else expected[
                key
            ].copy_(value)
    assert same(expected, ema.shadow)
