"""Population-based training on Ray Tune: exchange, lost workers, a killed driver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffadapt.orchestrate.exchange import seeded, within
from diffadapt.orchestrate.population import BEGUN, run_population
from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform
from diffadapt.sweeps.trials import enumerate_trials
from tests import populationkit as kit
from tests.ray.toy import lines

ROOT = Path(__file__).resolve().parents[2]
HOPELESS = 1e-6


def train(root, runner, recipe=None, varied=None, config=None):
    """(results by id, trials, search): what a sweep's command does, after earlier ones."""
    search = kit.search(root, recipe or kit.Clusters(), varied or kit.space())
    trials = enumerate_trials(search.space, ["clusters"])
    known = search.sweep.results()
    results = []
    open_trials = [t for t in trials if t.id not in {r.id for r in known if r.status == "finished"}]
    run_population(search, open_trials, known, results.append, config or runner.config, runner)
    assert len({r.id for r in results}) == len(results)
    return {r.id: r for r in results}, trials, search


def policies(search, trials):
    return {t.id: json.loads(search.sweep.trial(t).read("policy.json")) for t in trials}


def essence(results):
    return {i: (r.status, r.values, r.objective, r.accuracy, list(r.epochs)) for i, r in results.items()}


@pytest.fixture(scope="module")
def undisturbed(ray_runner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    kit.make_shared(kit.search(folder / "root", kit.Clusters(), kit.space()))
    return folder, *train(
        folder / "root", ray_runner, kit.Clusters(side_log=str(folder / "log")), kit.space(concurrent=1)
    )


@pytest.mark.slow
def test_a_hopeless_member_takes_over(undisturbed):
    folder, results, trials, search = undisturbed
    assert (
        len(trials) == 3
        and {r.status for r in results.values()} == {"finished"}
        and essence(results) == essence({r.id: r for r in search.sweep.results()})
    )
    hopeless = next(t for t in trials if t.values["ssl.lr"] == HOPELESS)
    policy = policies(search, trials)[hopeless.id]
    assert [row[0] for row in policy] == [1, 2, 3, 4]
    left = next(i for i, row in enumerate(policy) if row[2] not in (None, hopeless.id))
    assert policy[left - 1][1] == {"ssl.lr": HOPELESS} and policy[left][1]["ssl.lr"] > HOPELESS
    ended = results[hopeless.id]
    assert (
        ended.values == policy[-1][1]
        and ended.changes == ended.values
        and ended.objective > min(r.epochs[0] for r in results.values())
    )
    told = lines(folder / "log")
    assert [line[0] for line in told] == ["begin", "end"] * (len(told) // 2)  # one at a time
    trained = [(line[1], line[3]) for line in told if line[0] == "end"]
    assert len(trained) == len(set(trained)) == 4 * len(trials)


@pytest.mark.slow
def test_what_only_training_needed_is_gone_and_the_rest_is_kept(undisturbed):
    _, _, trials, search = undisturbed
    kept = {p.name for p in Path(search.sweep.trial(trials[0]).url).iterdir()}
    assert kept == {"model", "policy.json", "result.json", "scores.parquet", "tensorboard"}
    assert (
        not json.loads(search.sweep.read(BEGUN))["clusters"]["members"]
        and not search.sweep.has(".tune")
        and not search.root.store.list("ssl")
    )


def test_draws_depend_on_the_seed_and_the_epoch_and_stay_in_range():
    import random

    def draw(seed, epoch):
        with seeded(seed, epoch):
            return random.random()

    random.seed(5)
    before = random.getstate()
    assert draw(0, 1) == draw(0, 1) != draw(0, 2) and draw(1, 1) != draw(0, 1) and random.getstate() == before
    varied = Space({"a": Uniform(0.1, 1.0), "b": Integers(1, 4), "c": Choice(1, 9)}, SearchConfig())
    assert within(varied, {"a": 1.2, "b": 0, "c": 9}) == {"a": 1.0, "b": 1, "c": 9}


@pytest.mark.slow
def test_a_member_that_cannot_be_mended_is_given_up_and_not_waited_for(ray_runner, tmp_path):
    search_settings = kit.space(retries=0)
    results, trials, search = train(
        tmp_path / "root", ray_runner, kit.Clusters(die_at=HOPELESS), search_settings
    )
    hopeless = next(t for t in trials if t.values["ssl.lr"] == HOPELESS)
    assert {i: r.status for i, r in results.items()} == {
        t.id: "failed" if t is hopeless else "finished" for t in trials
    }
    assert "process was lost 1 time" in results[hopeless.id].error and "\n" not in results[hopeless.id].error
    again, _, _ = train(
        tmp_path / "root", ray_runner, kit.Clusters(), search_settings
    )  # what killed it is mended
    assert set(again) == {hopeless.id} and again[hopeless.id].status == "finished"


def _drive(root, log, pause):
    """A driver of its own, as a command would be."""
    from diffadapt.orchestrate.runner import RayRunner
    from diffadapt.run.runner import ExecutionConfig

    runner = RayRunner(ExecutionConfig(device="cpu", actors=2))
    runner.prepare()
    try:
        results, _, _ = train(root, runner, kit.Clusters(side_log=log, pause=float(pause)))
    finally:
        runner.close()
    Path(root, "essence.json").write_text(json.dumps(essence(results)))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_changes_nothing(undisturbed, tmp_path, victim):
    """A driver that dies is started again; a worker's member is taken up by another; and two members at a
    time end as one at a time did."""
    _, expected, trials, _ = undisturbed
    log = tmp_path / "log"
    command = [
        sys.executable,
        "-c",
        (
            f"from tests.ray.test_population import _drive; _drive({str(tmp_path / 'root')!r}, {str(log)!r},"
            " 1.0)"
        ),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    end = time.monotonic() + 300
    while (
        sum(line[0] == "begin" for line in lines(log)) < 5
        and process.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.1)
    finished = [(line[1], line[3]) for line in lines(log) if line[0] == "end"]
    if victim == "driver":
        process.kill()
        process.wait()
        time.sleep(3)  # its Ray ends with it
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    else:
        os.kill(int([line for line in lines(log) if line[0] == "begin"][-1][4]), signal.SIGKILL)
        assert process.wait(timeout=300) == 0
    search = kit.search(tmp_path / "root", kit.Clusters(), kit.space())
    assert json.dumps(essence({r.id: r for r in search.sweep.results()}), sort_keys=True) == json.dumps(
        essence(expected), sort_keys=True
    )
    every = [(line[1], line[3]) for line in lines(log) if line[0] == "end"]
    assert (
        len(finished) >= 2
        and all(every.count(f) == 1 for f in finished)
        and set(every) == {(t.id, str(10 * e)) for t in trials for e in (1, 2, 3, 4)}
    )
