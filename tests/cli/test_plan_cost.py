"""``diffadapt plan`` with hours and cost: what it says, that it writes nothing, calibration, prices,
feasibility on a cluster."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffadapt.core.config import override
from diffadapt.core.ledger import Measured, _write
from diffadapt.core.runs import Root
from tests.cli.badinput import Result, diffadapt
from tests.unit.sweepkit import Guesses

ROOT = Path(__file__).resolve().parents[2]
RECIPE = '''"""A recipe for tests."""

from tests.unit.sweepkit import Guesses


def recipe():
    """Numbers, their total and guesses, without torch."""
    return Guesses()
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "guesses.py").write_text(RECIPE)
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setenv("DIFFADAPT_ROOT", str(tmp_path / "a root"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield tmp_path / "a root"


def plan(*words: object) -> Result:
    return diffadapt("plan", "guesses", *words)


def measure(
    root: Path,
    device: str = "cpu",
    hours: float = 1.0,
    kinds: tuple[str, ...] = ("numbers", "total", "guess"),
    **changes: object,
) -> None:
    """Enter that a shard (or fit) of each kind took ``hours``."""
    place = Root(str(root))
    plans = override(Guesses(), changes).pipeline().plan(place.store)
    shards = [(plans[k], plans[k].shards[0]) for k in kinds]
    _write(
        place.ledger,
        [
            Measured(
                f"{p.family}-{device}",
                p.stage.kind,
                p.stage.label(),
                p.family,
                s.shard.items,
                3600 * hours,
                device,
                when=time.time(),
            )
            for p, s in shards
        ],
    )


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def line(result: Result, start: str) -> str:
    assert result.status == 0, result.text
    (found,) = [row for row in result.output.splitlines() if re.match(rf"\s*{re.escape(start)}\b", row)]
    return " ".join(found.split())


def test_a_plan_without_measurements_says_so_and_writes_nothing(root: Path) -> None:
    result = plan("--on", "aws.g5.xlarge")
    assert "7 of 7 shards to make" in result.output and result.output.count("not measured") == 4
    assert "Nothing like it was measured yet under this root" in result.output and "USD" not in result.output
    assert "--on names a device to count it for" in plan().output
    assert "--calibrate makes one shard" in result.output and not root.exists()


def test_hours_by_stage_and_in_all(root: Path) -> None:
    measure(root)
    before = everything(root)
    result = plan()
    assert line(result, "numbers") == "numbers 3 3 12 12 3 h 0 min from one shard"
    assert line(result, "total") == "total 1 1 12 12 1 h 0 min from one fit"
    assert line(result, "In all") == "In all 7 h 0 min of cpu (7 CPU-hours)."
    assert "USD" not in result.output and everything(root) == before


def test_what_is_unmeasured_makes_it_at_least(root: Path) -> None:
    measure(root, kinds=("numbers",))
    result = plan("--on", "aws.g5.xlarge")
    assert line(result, "In all") == "In all at least 3 h 0 min of cpu (3 CPU-hours)."
    assert line(result, "Not measured") == "Not measured: total, guess."
    assert "at least 3 h 0 min, at least 3.02 USD on demand" in line(result, "On 1 x aws.g5.xlarge")


def test_similar_work_is_called_similar(root: Path) -> None:
    measure(root, **{"numbers.offset": 5.0})
    result = plan()
    assert "similar (1 shard of numbers/numbers)" in line(
        result, "numbers"
    ) and "similar (1 fit of total/total)" in line(result, "total")


def test_cost_on_machines(root: Path) -> None:
    """Two machines: 2 h of numbers, a total that waits for them, 2 h of guesses; Graham's bound of three on
    two is two rounds."""
    measure(root, device="NVIDIA A10G")
    result = plan("--on", "aws.g5.xlarge", "--nodes", 2)
    assert (
        line(result, "On 2 x")
        == "On 2 x aws.g5.xlarge (1 x A10G each): 5 h 0 min, 10.06 USD on demand, no spot price listed"
        " (--spot-price)."
    )
    assert (
        "us-east-1" in result.output
        and "check before relying on it" in result.output
        and "Measured on" not in result.output
    )
    assert line(result, "In all") == "In all 7 h 0 min of NVIDIA A10G (7 GPU-hours)."
    assert "4.00 USD spot" in line(plan("--on", "aws.g5.xlarge", "--nodes", 2, "--spot-price", 0.4), "On 2 x")
    assert "2.36 USD spot" in line(plan("--on", "gcp.a2-highgpu-1g", "--speed", 3.833333), "On 1 x"), (
        "7 h / 3.83 at 1.293"
    )


def test_another_device_is_not_translated_in_silence(root: Path) -> None:
    measure(root, device="Tesla T4")
    result = plan("--on", "aws.g5.xlarge")
    assert (
        "Measured on Tesla T4, counted as if A10G were as fast: --speed" in result.output
        and "7 h 0 min, 7.04 USD" in line(result, "On 1 x")
    )
    faster = plan("--on", "aws.g5.xlarge", "--speed", "3.5")
    assert (
        "Counted 3.5 times as fast as Tesla T4, as --speed says." in faster.output
        and "2 h 0 min, 2.01 USD" in line(faster, "On 1 x")
    )
    measure(root, device="NVIDIA A10G", hours=0.5)
    measure(root, device="Tesla T4", hours=9)
    assert "3 h 30 min" in line(plan("--on", "aws.g5.xlarge"), "On 1 x"), (
        "what was measured on such a device comes first"
    )


def test_a_machine_without_gpus_counts_its_cores(root: Path) -> None:
    measure(root)
    assert "(16 vCPUs each): 3 h" in line(plan("--on", "aws.c7i.4xlarge"), "On 1 x")
    assert "Measured on" not in plan("--on", "aws.c7i.4xlarge").output


@pytest.mark.parametrize(
    "words, parts",
    [
        ("--on aws.g5.xlrge", ("aws.g5.xlrge", "Did you mean 'aws.g5.xlarge'")),
        ("--on g5.xlarge", ("g5.xlarge", "Did you mean")),
        ("--nodes 3", ("--on",)),
        ("--on aws.g5.xlarge --nodes 0", ("--nodes is 0",)),
        ("--on aws.g5.xlarge --nodes -1", ("--nodes is -1",)),
        ("--speed 0", ("--speed is 0", "above 0")),
        ("--on aws.g5.xlarge --speed nan", ("--speed",)),
        ("--spot-price -1 --on aws.g5.xlarge", ("--spot-price",)),
        ("--on x --prices nope.toml", ("nope.toml", "cannot be read")),
    ],
)
def test_bad_machines_are_refused(root: Path, words: str, parts: tuple[str, ...]) -> None:
    plan(*words.split()).sentence(*parts)
    assert not root.exists()


COUNTED = """
import contextlib, io, sys
from diffadapt.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    status = main(["plan", "sda/imagenet_c/resnet50", "--on", sys.argv[1], "--root", sys.argv[2]])
print(out.getvalue())
print(status, "torch" in sys.modules)
"""


def test_an_empty_ledger_is_counted_without_torch(tmp_path: Path) -> None:
    """Hours, memory and cost on devices that nothing was measured on."""
    words = [sys.executable, "-c", COUNTED, "8xH100", str(tmp_path / "nothing")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.strip().splitlines()
    assert last.split() == ["0", "False"]
    (total,) = [row for row in lines if row.startswith("In all")]
    assert "of H100" in total and "GPU-hours" in total
    (cost,) = [row for row in lines if row.startswith("On 1 x 8xH100 (8 x H100 each)")]
    assert "USD on demand" in cost
    assert any("by the device, list price" in row for row in lines)
    table = next(i for i, row in enumerate(lines) if row.split()[:3] == ["counted,", "not", "measured"])
    names = [row.split()[0] for row in lines[table + 1 :] if row.strip()]
    assert {"memo", "synth", "aligned", "projected", "finetuned"} <= set(names)
    assert "factor of" in done.stdout and "989 TFLOP/s" not in done.stdout.split("Counted")[0]
    assert not (tmp_path / "nothing").exists()


def test_a_price_list_of_ones_own(root: Path, tmp_path: Path) -> None:
    measure(root)
    (tmp_path / "ours.toml").write_text(
        '[lab.box]\ngpu = ""\ngpus = 0\nvcpus = 1\non_demand = 2\nspot = 1\ndate = "2026-01-01"\n'
    )
    assert (
        line(plan("--on", "lab.box", "--prices", tmp_path / "ours.toml"), "On 1 x")
        == "On 1 x lab.box (1 vCPUs each): 7 h 0 min, 14.00 USD on demand, 7.00 USD spot."
    )


def test_calibration_makes_one_shard_and_a_run_finds_it(root: Path) -> None:
    first = plan("--calibrate", "--execution.runner", "local")
    assert (
        "Calibration made 1 shard; it stays in the store" in first.output
        and "6 of 7 shards to make" in first.output
    )
    assert "from one shard" in line(first, "numbers") and "not measured" in line(first, "guess"), (
        "a guess waits for the total"
    )
    assert sorted(p.name for p in root.iterdir()) == ["ledger", "store"]
    before = everything(root)
    again = plan("--calibrate", "True", "--execution.runner", "local")
    assert "Nothing to calibrate" in again.output and everything(root) == before
    assert plan().output.count("from one shard") == 1 and everything(root) == before
    run = diffadapt("run", "guesses")
    assert run.status == 0 and "6 of 7 shards to make" in run.output
    done = plan()
    assert (
        "0 of 7 shards to make" in done.output
        and "In all" not in done.output
        and "--calibrate" not in done.output
    )
    more = plan("--numbers.shards", "4")
    assert (
        "measured (3 shards)" in line(more, "numbers")
        and "measured (1 fit" not in more.output
        and "from one fit" in line(more, "total")
    )


def test_a_cluster_that_does_not_answer_is_named_within_seconds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    plan("--execution.address", "127.0.0.1:1", "--execution.runner", "ray").sentence(
        "No Ray cluster answers at 127.0.0.1:1"
    )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    plan("--execution.runner", "auto").sentence("No Ray cluster answers at 127.0.0.1:2")
    assert time.monotonic() - start < 60 and not root.exists()
    assert plan("--execution.runner", "local").status == 0, "a local run needs no cluster"


def test_what_no_node_can_host_is_an_error_and_the_rest_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes are made up; tests/ray/test_layout.py asks real clusters."""
    pytest.importorskip("ray")
    from diffadapt.orchestrate import capacity

    asked: list[str] = []
    nodes = [{"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0, capacity.POSSIBLE: 1.0}]
    monkeypatch.setattr(capacity, "cluster_nodes", lambda address=None: asked.append(address) or nodes)
    here = ("--execution.address", "10.0.0.1:6379", "--execution.runner", "ray", "--execution.device", "auto")
    measure(root, device="NVIDIA A10G")
    result = plan(*here)
    assert asked == ["10.0.0.1:6379"]
    assert (
        "2 nodes and 1 that the autoscaler can add, 16 CPUs, 2 GPUs; 2 actors on cuda, 1 worker a fit"
        in result.output
    )
    assert "About 5 h 0 min on 2 actors like those measured." in result.output
    plan(*here, "--execution.actors", 3).sentence("--execution.actors 3", "more than the cluster can host")
    plan(*here, "--execution.gpus-per-actor", 2).sentence("gpus-per-actor 2", "more than any node")
    plan(*here, "--execution.train-workers", 5).sentence("--execution.train-workers 5")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a head without dashboard: 4 CPUs, no GPU."""
    pytest.importorskip("ray")
    port, folder = free_port(), tempfile.mkdtemp(prefix="r8", dir="/tmp")  # short: sockets have short names
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--num-cpus=4",
            "--num-gpus=0",
            f"--temp-dir={folder}",
            "--include-dashboard=false",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while not answers(port) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Outside the range that Ray hands to its workers."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            if not 10002 <= free.getsockname()[1] <= 19999:
                return free.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_plan_and_calibration_on_a_real_cluster(
    root: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked from a process of its own each time, as from a shell: within seconds, and nothing is left
    behind."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'platform'}:{ROOT}")

    def shell(*words: object) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-m",
            "diffadapt.cli",
            "plan",
            "guesses",
            "--execution.runner",
            "ray",
            "--execution.device",
            "auto",
            *map(str, words),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    start = time.monotonic()
    told = shell("--execution.address", cluster)
    assert told.returncode == 0, told.stderr
    assert (
        "The cluster: 1 node, 4 CPUs, 0 GPUs; 4 actors on cpu, 1 worker a fit." in told.stdout
        and not root.exists()
    )
    assert time.monotonic() - start < 60
    for words, message in (
        (("--execution.actors", 99), "--execution.actors 99 is more than the cluster can host"),
        (("--execution.device", "cuda"), "has no GPUs"),
        (("--execution.threads", 99), "asks for more than any node"),
        (("--execution.train-workers", 99), "--execution.train-workers 99"),
    ):
        start = time.monotonic()
        refused = shell("--execution.address", cluster, *words)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr, (
            refused.stderr
        )
        assert time.monotonic() - start < 60 and not root.exists()
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    made = shell("--calibrate")
    assert made.returncode == 0, made.stderr
    assert (
        "Calibration made 1 shard" in made.stdout
        and "from one shard" in made.stdout
        and "About at least" in made.stdout
    )
