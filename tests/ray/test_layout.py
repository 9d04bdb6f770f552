"""Requests that a cluster cannot meet are refused in one sentence, within seconds, before anything is
started."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError, RaySystemError

from diffadapt.core.artifact import Input, Shard
from diffadapt.core.errors import ResourceError
from diffadapt.core.schedule import Chain, Task
from diffadapt.core.stage import InputFile
from diffadapt.core.store import Store
from diffadapt.orchestrate.capacity import (
    POSSIBLE,
    NodeTypes,
    cluster_nodes,
    known_on_head,
    of_configuration,
    remaining,
)
from diffadapt.orchestrate.connection import worker_environment
from diffadapt.orchestrate.pool import MAX_BUNDLES, bundle, reason
from diffadapt.orchestrate.resources import plan_layout
from diffadapt.orchestrate.runner import RayRunner
from diffadapt.orchestrate.train import Work, start_plain
from diffadapt.run.runner import ExecutionConfig

CPU_NODE = {"CPU": 4.0}
GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


def test_auto_takes_the_gpus_that_are_there() -> None:
    layout = plan_layout(ExecutionConfig(), [GPU_NODE, GPU_NODE])
    assert (layout.device, layout.actors, layout.actor.gpus, layout.lanes) == ("cuda", 8, 1.0, 8)
    assert plan_layout(ExecutionConfig(gpus_per_actor=0.5), [GPU_NODE]).actors == 8
    assert plan_layout(ExecutionConfig(gpus_per_actor=2), [GPU_NODE]).actors == 2
    assert plan_layout(ExecutionConfig(device="cpu"), [GPU_NODE]).device == "cpu"


def test_cpu_pools_leave_room_for_ray() -> None:
    layout = plan_layout(ExecutionConfig(), [CPU_NODE], cores=1)
    assert (layout.device, layout.actors, layout.actor.gpus) == ("cpu", 1, 0.0)
    assert layout.actors * layout.actor.cpus < CPU_NODE["CPU"]
    assert plan_layout(ExecutionConfig(threads=2), [CPU_NODE]).actors == 2
    # Two training workers beside a full pool of two must still fit on the smallest machine.
    two = plan_layout(ExecutionConfig(actors=2, train_workers=2), [CPU_NODE], cores=1)
    assert two.actors * two.actor.cpus + two.train_workers * two.trainer.cpus <= CPU_NODE["CPU"]


@pytest.mark.parametrize(
    ("config", "nodes", "words"),
    [
        (ExecutionConfig(device="cuda"), [CPU_NODE], "no GPUs"),
        (ExecutionConfig(actors=9), [CPU_NODE], "--execution.actors 9 is more than the cluster can host (8"),
        (ExecutionConfig(actors=5), [GPU_NODE], "--execution.actors 5"),
        (ExecutionConfig(train_workers=5), [GPU_NODE], "--execution.train-workers 5"),
        (ExecutionConfig(train_workers=9), [CPU_NODE], "--execution.train-workers 9"),
        (
            ExecutionConfig(gpus_per_actor=8),
            [GPU_NODE, GPU_NODE],
            "--execution.gpus-per-actor 8 asks for more than any node",
        ),
        (ExecutionConfig(gpus_per_actor=1.5), [GPU_NODE], "not a share"),
        (ExecutionConfig(gpus_per_actor=0), [GPU_NODE], "not a share"),
        (ExecutionConfig(threads=64), [CPU_NODE], "--execution.threads 64"),
    ],
)
def test_what_does_not_fit_is_refused(config: ExecutionConfig, nodes: list, words: str) -> None:
    with pytest.raises(ResourceError) as error:
        plan_layout(config, nodes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pool_shrinks_after_nodes_were_lost() -> None:
    assert plan_layout(ExecutionConfig(actors=8), [GPU_NODE], shrink=True).actors == 4


COMING = {"CPU": 8.0, "GPU": 4.0, POSSIBLE: 1.0}


def test_nodes_that_an_autoscaler_can_add_count() -> None:
    head = {"memory": 1e9}
    layout = plan_layout(ExecutionConfig(), [head, COMING, COMING])
    assert (layout.device, layout.actors, layout.lanes) == ("cuda", 8, 8)
    assert plan_layout(ExecutionConfig(actors=3), [head, COMING]).actors == 3
    with pytest.raises(ResourceError) as error:
        plan_layout(ExecutionConfig(actors=5), [head, COMING])
    assert (
        "(4 on 1 node with 0 CPUs and 0 GPUs, and 1 node with 8 CPUs and 4 GPUs that the autoscaler can add)"
        in str(error.value)
    )
    with pytest.raises(ResourceError, match="asks for more than any node"):
        plan_layout(ExecutionConfig(), [head])


RAY_UP = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 4},
        "cpu": {"resources": {"CPU": 16}},
    },
}


def test_a_configuration_of_the_autoscaler_says_what_may_come() -> None:
    found = of_configuration(RAY_UP)
    assert [(t.name, t.most) for t in found.types] == [("gpu", 4), ("cpu", 6)] and found.most == 6
    gpu, cpu = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}

    def coming(*workers: tuple[str, dict]) -> list[tuple]:
        return [(n.get("GPU", 0.0), n["CPU"]) for n in remaining(found, list(workers)) if n[POSSIBLE]]

    assert coming() == [(1.0, 8.0)] * 4 + [(0.0, 16.0)] * 2
    # Living workers count against the limit of their type (by label, else by what they have) and against the
    # common one.
    assert coming(("gpu", gpu), ("", gpu), ("", cpu)) == [(1.0, 8.0)] * 2 + [(0.0, 16.0)]
    assert coming(*[("cpu", cpu)] * 6) == []
    assert remaining(NodeTypes(), [("", gpu)]) == []


def test_a_pod_of_kuberay_asks_for_its_clusters_worker_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.kuberay import node_provider

    group = {
        "groupName": "gpu",
        "minReplicas": 0,
        "maxReplicas": 3,
        "replicas": 0,
        "numOfHosts": 1,
        "rayStartParams": {},
    }
    limits = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    pod = {"template": {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits}}]}}}
    spec = {
        "enableInTreeAutoscaling": True,
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, **pod},
        "workerGroupSpecs": [{**group, **pod}],
    }
    asked = []

    def get(client: object, path: str) -> dict:
        asked.append(path)
        return {"metadata": {"name": "mine", "namespace": "here"}, "spec": spec}

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    for name, value in (
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("RAY_CLUSTER_NAME", "mine"),
        ("RAY_CLUSTER_NAMESPACE", "here"),
    ):
        monkeypatch.setenv(name, value)
    found = known_on_head("10.0.0.2:6379")
    assert asked == ["rayclusters/mine"] and found is not None
    ((name, resources, most),) = [(t.name, t.resources, t.most) for t in found.types]
    assert (name, resources["CPU"], resources["GPU"], most, found.most) == ("gpu", 4.0, 1.0, 3, 3)
    spec["enableInTreeAutoscaling"] = False
    assert known_on_head("10.0.0.2:6379") is None

    def refuse(client: object, path: str) -> dict:
        raise OSError("forbidden")

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", refuse)
    assert known_on_head("10.0.0.2:6379") is None


def test_without_a_cluster_this_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (node,) = cluster_nodes()
    assert node["CPU"] >= 4 and node["GPU"] >= 0 and POSSIBLE not in node


def test_a_run_that_lost_its_gpus_does_not_go_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [[GPU_NODE, CPU_NODE]]
    monkeypatch.setattr("diffadapt.orchestrate.runner.cluster_nodes", lambda: nodes[-1])
    monkeypatch.setattr("diffadapt.orchestrate.connection.Connection.open", lambda self: None)
    runner = RayRunner(ExecutionConfig())
    runner.prepare()
    nodes.append([CPU_NODE])
    with pytest.raises(ResourceError, match="no GPUs"):
        runner.layout(shrink=True)
    assert runner.layout(plain=True).device == "cpu"


def _stage(where: str, trains: bool = True) -> SimpleNamespace:
    return SimpleNamespace(resources=lambda: where, trains=trains)


def test_waves_without_work_for_gpus_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("diffadapt.orchestrate.runner.cluster_nodes", lambda: [GPU_NODE])
    monkeypatch.setattr(
        "diffadapt.orchestrate.pool.run_chains",
        lambda chains, stages, store, layout, resident, on_receipt: asked.append(layout()),
    )
    runner = RayRunner(ExecutionConfig(actors=3))
    both = [
        Chain(tuple(Task(node, Shard("s", {}), node, "p", ()) for node in nodes))
        for nodes in (("prompts",), ("prompts", "synth"))
    ]
    stages = {"prompts": _stage("cpu"), "synth": _stage("gpu")}
    for chains in (both[:1], both):
        runner.run_chains(chains, stages, Store("memory://layout"), lambda receipt: None)
    assert [(a.device, a.actors, a.actor.gpus) for a in asked] == [("cpu", 3, 0.0), ("cuda", 3, 1.0)]


def test_fits_that_do_not_train_reserve_what_their_stage_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Plain:
        def options(self, **resources: float) -> Plain:
            asked.append(resources)
            return self

        def remote(self, work: Work, device: str, group: str) -> None:
            asked[-1]["device"] = device

    for name in ("_fits", "_fits_on_accelerator"):
        monkeypatch.setattr(f"diffadapt.orchestrate.train.{name}", Plain())
    stages = {"split": _stage("cpu"), "filter": _stage("gpu", trains=False)}
    for nodes, device in (([GPU_NODE], "cuda"), ([CPU_NODE], "cpu")):
        for node in stages:
            task = Task(node, Shard("all", {}), node, "p", ())
            start_plain(
                Work((task,), stages, Store("memory://layout"), "", None, True, 1),
                plan_layout(ExecutionConfig(), nodes),
            )
        assert [(a["device"], a["num_gpus"]) for a in asked] == [
            ("cpu", 0.0),
            (device, 1.0 if device == "cuda" else 0.0),
        ]
        asked.clear()


def test_workers_read_images_as_large_as_their_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFADAPT_MAX_PIXELS", raising=False)
    assert "DIFFADAPT_MAX_PIXELS" not in worker_environment(ExecutionConfig())
    monkeypatch.setenv("DIFFADAPT_MAX_PIXELS", "123456789")
    assert worker_environment(ExecutionConfig())["DIFFADAPT_MAX_PIXELS"] == "123456789"


def test_an_address_where_nobody_answers_is_an_error_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ResourceError, match=f"No Ray cluster answers at 127.0.0.1:{port}"):
        RayRunner(ExecutionConfig(address=f"127.0.0.1:{port}")).prepare()
    assert time.monotonic() - start < 10


def test_the_job_servers_address_is_told_apart() -> None:
    with pytest.raises(ResourceError, match="ray job submit --address http://127.0.0.1:8265"):
        RayRunner(ExecutionConfig(address="http://127.0.0.1:8265")).prepare()


def _chain(i: int, fitted: InputFile) -> Chain:
    return Chain((Task("child", Shard(f"s{i}", {}), f"d{i}", f"p{i}", (fitted,)),))


def test_bundles_stay_few_and_end_small() -> None:
    import pickle

    model = InputFile(
        "fit", "x", "fit/x", Shard("all", {}, tuple(Input("s", f"{i:032x}") for i in range(10_000))), True
    )
    chains = [_chain(i, model) for i in range(100_000)]
    bundles = bundle(chains, actors=16)
    sizes = [len(pickle.loads(b)) for b in bundles]
    assert sum(sizes) == len(chains) and len(bundles) < 1.2 * MAX_BUNDLES
    assert sizes[-16:] == [1] * 16
    # A model's thousands of inputs do not travel with every shard that uses it.
    assert sum(map(len, bundles)) / len(chains) < 300
    assert [len(pickle.loads(b)) for b in bundle(chains[:100], actors=2)] == [1] * 100


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "machine ran out of"),
        (RaySystemError("It died.\nImportError: No module named 'x'.\n"), "ImportError: No module named 'x'"),
        (RaySystemError("RayActorError: The actor died unexpectedly."), "all of them were lost"),
        (None, "all of them were lost"),
        (ValueError("a bad\nvalue."), "ValueError: a bad value"),
    ],
)
def test_what_ended_the_workers_is_said_without_rays_own_words(error: Exception | None, said: str) -> None:
    assert said in reason(error) and "ctor" not in reason(error)
