"""Ray nodes on one machine as separate `ray start` processes, each in a network namespace of its own where
that is
permitted: with its own address, loopback and link. A node is lost by SIGKILL to all its processes, or by its
link.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fault.processes import ROOT, TAG, tagged, wait_for

STORE_BYTES = 100 * 2**20
IDLE_SECONDS = 8
"""After so long without work the autoscaler of :meth:`Nodes.start` ends a node."""
_NETWORK = f"10.{secrets.choice(range(200, 250))}.{secrets.choice(range(1, 250))}"
_HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node whose link is gone is dead after about 15 s; Ray's own settings take 30 s and more."""


def namespaces_work() -> bool:
    """Whether this process may make network namespaces with links between them (root with the right to
    administer the network)."""
    if shutil.which("ip") is None:
        return False
    name = f"da{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        return False
    try:
        _ip("-n", name, "link", "add", "br0", "type", "bridge")
        _ip("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        return True
    except subprocess.CalledProcessError:
        return False
    finally:
        _ip("netns", "del", name)


class Node:
    """One raylet with its workers (and, for the head, the GCS)."""

    def __init__(self, name: str, address: str, namespace: str | None):
        self.name, self.address, self.namespace = name, address, namespace
        self.tag = uuid.uuid4().hex
        self.process: subprocess.Popen | None = None
        self.temporary = Path(f"/tmp/{secrets.token_hex(3)}")  # sockets allow about 100 characters

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run on this node."""
        return ["ip", "netns", "exec", self.namespace] if self.namespace else []

    def start(self, words: list[str], log: Path, **variables: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment.update(
            {
                TAG: self.tag,
                "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
                "OMP_NUM_THREADS": "1",
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
                **_HEALTH,
            }
        )
        environment.update(
            {"GLOO_SOCKET_IFNAME": "eth0" if self.namespace else "lo", "HF_HUB_OFFLINE": "1", **variables}
        )
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            f"--temp-dir={self.temporary}",
            *words,
        ]
        with open(log, "ab") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has(self, pids: set[str]) -> bool:
        """Whether any of these processes runs on this node."""
        return any(str(pid) in pids for pid in tagged(self.tag))

    def kill(self) -> int:
        """SIGKILL to every process of the node; returns how many there were."""
        pids = tagged(self.tag)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process is not None:
            self.process.wait(timeout=10)
        return len(pids)

    def unplug(self) -> None:
        """Take the link down: the processes live on, unreachable."""
        assert self.namespace is not None
        _ip("-n", self.namespace, "link", "set", "eth0", "down")


class Nodes:
    """A head and workers. ``namespaces``: each node with a network of its own; else all share the loopback
    device."""

    def __init__(self, folder: Path, namespaces: bool):
        self.folder, self.namespaces = folder, namespaces
        self.nodes: list[Node] = []
        self._name = f"da{secrets.token_hex(3)}"
        if namespaces:
            _ip("netns", "add", f"{self._name}s")
            _ip("-n", f"{self._name}s", "link", "add", "br0", "type", "bridge")
            _ip("-n", f"{self._name}s", "link", "set", "br0", "up")

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{self.port}"

    def start(
        self, *workers: dict[str, float], head_cpus: float = 0, coming: Mapping[str, Any] | None = None
    ) -> None:
        """A head with ``head_cpus`` and a worker for each of ``workers`` (CPU, GPU); returns when all are
        there. ``coming``: node types that Ray's autoscaler starts with its fake provider, as processes on
        this machine."""
        self.port = 6399 if self.namespaces else _free_port()
        head = self._add("head")
        words, variables = self._autoscaler(coming) if coming else ([], {})
        head.start(
            [
                *words,
                "--head",
                f"--port={self.port}",
                f"--node-ip-address={head.address}",
                f"--num-cpus={head_cpus:g}",
                "--num-gpus=0",
                f"--object-store-memory={STORE_BYTES}",
                "--include-dashboard=false",
            ],
            self.folder / "head.log",
            **variables,
        )
        wait_for(lambda: self._answers(head), 60)
        for resources in workers:
            self.join(resources)
        self.wait(1 + len(workers))

    def _autoscaler(self, types: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Words and environment of a head with an autoscaler (version 1) that looks every second and ends
        idle nodes."""
        config = {
            "cluster_name": "fake",
            "max_workers": 8,
            "idle_timeout_minutes": IDLE_SECONDS / 60,
            "upscaling_speed": 1.0,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                **{k: {"node_config": {}, "min_workers": 0, **t} for k, t in types.items()},
            },
            "head_node_type": "ray.head.default",
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
        }
        path = self.folder / "autoscaler.json"
        path.write_text(json.dumps(config))
        return [f"--autoscaling-config={path}"], {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }

    def join(self, resources: dict[str, float]) -> Node:
        """One more worker."""
        node = self._add(f"node{len(self.nodes)}")
        words = [
            f"--address={self.address}",
            f"--node-ip-address={node.address}",
            f"--num-cpus={resources.get('CPU', 1):g}",
            f"--num-gpus={resources.get('GPU', 0):g}",
            f"--object-store-memory={STORE_BYTES}",
        ]
        node.start(words, self.folder / f"{node.name}.log")
        time.sleep(0.5)
        return node

    def wait(self, count: int, seconds: float = 90.0) -> None:
        """Until the cluster has ``count`` living nodes."""
        wait_for(lambda: self.alive() == count, seconds)

    def alive(self) -> int:
        """Living nodes as the GCS sees them; asked in the head's network."""
        code = (
            "import sys; from ray._raylet import GcsClient; "
            "print(sum(n.state == 0 for n in GcsClient(address=sys.argv[1]).get_all_node_info().values()))"
        )
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        found = subprocess.run(
            [*self.head.prefix, sys.executable, "-c", code, self.address],
            env=environment,
            capture_output=True,
            text=True,
        )
        return int(found.stdout.split()[-1]) if found.returncode == 0 and found.stdout.split() else 0

    def _answers(self, node: Node) -> bool:
        code = f"import socket; socket.create_connection(('{node.address}', {self.port}), timeout=1)"
        return subprocess.run([*node.prefix, sys.executable, "-c", code], capture_output=True).returncode == 0

    def _add(self, name: str) -> Node:
        number = len(self.nodes) + 1
        if not self.namespaces:
            node = Node(name, "127.0.0.1", None)
        else:
            space, switch = f"{self._name}{number}", f"{self._name}s"
            node = Node(name, f"{_NETWORK}.{number}", space)
            _ip("netns", "add", space)
            _ip(
                "-n",
                switch,
                "link",
                "add",
                f"v{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                space,
            )
            _ip("-n", switch, "link", "set", f"v{number}", "master", "br0", "up")
            _ip("-n", space, "addr", "add", f"{node.address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        self.nodes.append(node)
        return node

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *error: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        for node in self.nodes:
            if node.namespace:
                _ip("netns", "del", node.namespace)
        if self.namespaces:
            _ip("netns", "del", f"{self._name}s")
        for node in self.nodes:
            shutil.rmtree(node.temporary, ignore_errors=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
