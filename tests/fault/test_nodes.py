"""Nodes of a cluster that are lost: the run finishes on the others, makes again what was open and nothing
else, and its store equals an undisturbed one byte for byte. `make test-cluster` runs this and shows the
figures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault.nodes import Nodes, namespaces_work
from tests.fault.processes import Driver, wait_for
from tests.ray.harness import contents
from tests.ray.toy import lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GPU_NODE = {"CPU": 1, "GPU": 1}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Each node with a network of its own where that is permitted, else all on the loopback device."""
    (tmp_path / "nodes").mkdir()
    with Nodes(tmp_path / "nodes", namespaces_work()) as cluster:
        yield cluster


class Drive:
    """A driver on the head node, that does its work twice; the test disturbs the second time."""

    def __init__(
        self, nodes: Nodes, folder: Path, work: dict, log: str = "disturbed.log", **execution: object
    ):
        """``work``: arguments of the pipeline, or what node_loss.swept takes."""
        self.folder, self.output, self.log = folder, folder / "out", folder / log
        options = {"root": str(folder), **work, "execution": {"address": nodes.address, **execution}}
        self.driver = Driver(options, self.output, "tests/fault/node_loss.py", prefix=nodes.head.prefix)

    def results(self) -> list[dict]:
        found = [
            json.loads(line) for line in self.output.read_text().splitlines() if line.startswith('{"name"')
        ]
        assert not any(f["failed"] for f in found), found
        assert len(found) == 2 or self.driver.process.poll() is None, self.output.read_text()
        return found

    def until(self, condition: Callable[[list[list[str]]], bool], seconds: float = 240.0) -> None:
        """Wait until the disturbed work's log satisfies ``condition``."""
        wait_for(lambda: bool(self.results()) and condition(lines(self.log)), seconds)

    def end(self) -> tuple[dict, dict]:
        assert self.driver.wait(400) == 0, self.output.read_text()
        quiet, disturbed = self.results()
        assert quiet["failed"] == disturbed["failed"] == []
        return quiet, disturbed

    def finish(self) -> tuple[dict, dict]:
        quiet, disturbed = self.end()
        assert contents(self.folder / "quiet") == contents(self.folder / "disturbed")
        return quiet, disturbed

    def begun(self, name: str) -> Counter:
        """How often each shard was begun."""
        return Counter(
            (words[0], words[1])
            for words in lines(self.folder / f"{name}.log")
            if words[0] in ("source", "child")
        )

    def steps(self, name: str) -> Counter:
        """How often each step of each rank of each fit was done."""
        return Counter(
            tuple(words[1:4]) for words in lines(self.folder / f"{name}.log") if words[0] == "step"
        )


def _made(log: list[list[str]], stage: str) -> int:
    return sum(words[0] == stage for words in log)


def _steps(log: list[list[str]]) -> int:
    return max((int(words[3]) for words in log if words[0] == "step"), default=0)


def test_one_node_is_killed_in_synthesis_and_one_in_training(
    nodes: Nodes, tmp_path: Path, record_property
) -> None:
    """A head that only drives, three nodes with a pretended GPU each, three fits side by side; at the end one
    node is left."""
    nodes.start(GPU_NODE, GPU_NODE, GPU_NODE)
    work = {"work": {"shards": 36, "sleep": 0.6, "fits": 3, "steps": 60, "step_seconds": 0.25}}
    run = Drive(nodes, tmp_path, work, device="cuda")
    with run.driver:
        run.until(lambda log: _made(log, "source") >= 12)
        killed = nodes.nodes[3].kill()
        run.until(lambda log: _steps(log) >= 22)
        nodes.nodes[2].unplug() if nodes.namespaces else nodes.nodes[2].kill()
        quiet, disturbed = run.finish()
    assert killed >= 2
    begun = run.begun("disturbed")
    assert len(begun) == 72 and set(run.begun("quiet").values()) == {1}
    again = sum(begun.values()) - len(begun)
    assert again <= 1, "only the shard that the killed node had open is made again"
    steps = run.steps("disturbed")
    assert len(steps) == 3 * 60
    _show(
        record_property,
        nodes,
        quiet,
        disturbed,
        shards=len(begun),
        made_again=again,
        steps=len(steps),
        steps_again=sum(steps.values()) - len(steps),
    )


def test_a_node_of_a_training_group_is_lost_and_another_takes_its_place(
    nodes: Nodes, tmp_path: Path, record_property
) -> None:
    """Two data-parallel workers on nodes of their own, a third node to spare."""
    one = {"CPU": 1}
    nodes.start(one, one, one)
    work = {"work": {"shards": 6, "sleep": 0.2, "fits": 1, "steps": 60, "step_seconds": 0.2}}
    run = Drive(
        nodes, tmp_path, work, device="cpu", train_workers=2, threads=2
    )  # a worker takes a whole node
    with run.driver:
        run.until(lambda log: _steps(log) >= 22)
        pids = {words[4] for words in lines(tmp_path / "disturbed.log") if words[0] == "step"}
        victim = next(n for n in nodes.nodes[1:] if n.has(pids))
        victim.kill()
        quiet, disturbed = run.finish()
    assert len(run.begun("disturbed")) == 12
    steps = run.steps("disturbed")
    assert len(steps) == 2 * 60
    again = sum(steps.values()) - len(steps)
    assert 0 < again <= 2 * 10, "the group goes on from its newest checkpoint"
    _show(record_property, nodes, quiet, disturbed, steps=len(steps), steps_again=again)


def test_a_node_of_a_sweep_is_lost_and_its_trials_are_carried_out_elsewhere(
    nodes: Nodes, tmp_path: Path, record_property
) -> None:
    """Eight trials on three nodes with a pretended GPU each."""
    nodes.start(GPU_NODE, GPU_NODE, GPU_NODE)
    thresholds = [i / 10 for i in range(1, 9)]
    run = Drive(
        nodes, tmp_path, {"thresholds": thresholds, "sleep": 1.0}, "disturbed-notes/log", device="cuda"
    )
    with run.driver:
        run.until(lambda log: _made(log, "epoch") >= 5)
        nodes.nodes[2].kill()
        quiet, disturbed = run.end()
    assert quiet["results"] == disturbed["results"] and len(quiet["results"]) == len(thresholds)
    assert {status for _, status, *_ in quiet["results"]} == {"finished"}
    log = lines(run.log)
    fits = Counter(words[2] for words in log if words[0] == "fit")
    assert len(fits) == len(thresholds) and 0 < sum(fits.values()) - len(fits) <= 1, (
        "only the trial of the lost node begins again"
    )
    assert Counter(words[0] for words in log)["draw"] == 2, "what the trials share is made once"
    _show(
        record_property,
        nodes,
        quiet,
        disturbed,
        trials=len(fits),
        trials_begun_again=sum(fits.values()) - len(fits),
    )


def _show(record_property, nodes: Nodes, quiet: dict, disturbed: dict, **figures: object) -> None:
    figures.update(
        seconds=round(disturbed["seconds"], 1),
        undisturbed_seconds=round(quiet["seconds"], 1),
        namespaces=nodes.namespaces,
    )
    for name, value in figures.items():
        record_property(name, value)
    print("\n" + ", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in figures.items()))
