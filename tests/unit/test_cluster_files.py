"""The files under cluster/: each against what its reader publishes or accepts, the placeholders against
cluster/README.md."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]*>")
CLOUDS = ("aws", "gcp", "azure")
SPOT = {
    "aws": lambda node: node["InstanceMarketOptions"]["MarketType"] == "spot",
    "gcp": lambda node: node["scheduling"]["provisioningModel"] == "SPOT",
    "azure": lambda node: node["azure_arm_parameters"]["priority"] == "Spot",
}
KUBERAY = {"raycluster": "RayCluster", "rayjob": "RayJob"}
CRDS = "DIFFADAPT_KUBERAY_CRDS"
"""Environment variable naming a folder with KubeRay's ray.io_rayclusters.yaml and ray.io_rayjobs.yaml
(helm-chart/kuberay-operator/crds)."""
KEYS = re.compile(
    r"AKIA[A-Z0-9]{16}|aws_secret|-----BEGIN|AccountKey=|sig=|hf_[A-Za-z0-9]{16}|(?i:password|secret_key|auth_token)\s*[:=]\s*['\"]?[A-Za-z0-9+/]{16}"
)


def files() -> list[Path]:
    """Every file of the folder that is read by something, the page itself aside."""
    return sorted(p for p in CLUSTER.rglob("*") if p.is_file() and p.name != "README.md")


def filled(text: str) -> str:
    """``text`` with values of the right shape in place of its placeholders."""
    values = {
        "<REGION>": "us-west-2",
        "<ZONE>": "us-west1-a",
        "<AMI>": "ami-0123456789abcdef0",
        "<SUBSCRIPTION>": "00000000-0000-0000-0000-000000000000",
    }
    return PLACEHOLDER.sub(
        lambda m: values.get(m[0], "some-" + m[0].strip("<>").lower().replace("_", "-")), text
    )


def load(name: str) -> Any:
    return yaml.safe_load(filled((CLUSTER / name).read_text()))


@cache
def constraints() -> dict[str, str]:
    """The pins of the Python that the images have."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [x.partition(";")[0] for x in lines if "==" in x and "version <" not in x and x[0] != "#"]
    return dict(line.split("==") for line in wanted)


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    return set(
        re.findall(
            r"^(\w+) = \[",
            text.partition("[project.optional-dependencies]")[2].partition("\n[")[0],
            re.MULTILINE,
        )
    )


# -- all files
# ----------------------------------------------------------------


def test_every_placeholder_is_in_the_table_with_its_files_and_no_other_is() -> None:
    found: dict[str, set[str]] = {}
    for path in files():
        for name in PLACEHOLDER.findall(path.read_text()):
            found.setdefault(name, set()).add(str(path.relative_to(CLUSTER)))
    table = dict(
        re.findall(
            r"^\| `(<[A-Z_]+>)` \| [^|]+ \| ([^|]+) \|$", (CLUSTER / "README.md").read_text(), re.MULTILINE
        )
    )
    assert {name: set(re.findall(r"`([^`]+)`", cell)) for name, cell in table.items()} == found


def test_every_placeholder_of_the_page_is_in_its_table() -> None:
    page = (CLUSTER / "README.md").read_text()
    assert set(PLACEHOLDER.findall(page)) == set(re.findall(r"^\| `(<[A-Z_]+>)`", page, re.MULTILINE))


def test_files_that_the_page_and_the_files_name_exist() -> None:
    for path in [*files(), CLUSTER / "README.md"]:
        for name in re.findall(r"\bcluster/[\w./-]*[\w]", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_every_file_is_on_the_page() -> None:
    page = (CLUSTER / "README.md").read_text()
    assert [p.name for p in files() if p.name not in page] == []


def test_no_file_holds_a_key() -> None:
    assert [p.name for p in [*files(), CLUSTER / "README.md"] if KEYS.search(p.read_text())] == []


def test_the_page_s_shell_is_shell() -> None:
    for block in re.findall(r"```(?:bash)?\n(.*?)```", (CLUSTER / "README.md").read_text(), re.DOTALL):
        done = subprocess.run(["bash", "-n"], input=filled(block), text=True, capture_output=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


# -- ray up
# ----------------------------------------------------------------


def prepared(cloud: str) -> dict[str, Any]:
    """As `ray up` has it before it speaks to the cloud: with Ray's defaults, checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(f"{cloud}.yaml"))
    validate_config(config)
    return config


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_accepts_the_file(cloud: str) -> None:
    config = prepared(cloud)
    head = config["available_node_types"][config["head_node_type"]]
    workers = {k: v for k, v in config["available_node_types"].items() if k != config["head_node_type"]}
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0, "no work on the head"
    assert (
        workers
        and config["provider"]["cache_stopped_nodes"] is False
        and 0 < config["idle_timeout_minutes"] <= 10
    )
    for worker in workers.values():
        assert worker["min_workers"] == 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] >= 1 and worker["resources"]["CPU"] >= 1
        assert SPOT[cloud](worker["node_config"])
    with pytest.raises(KeyError):
        SPOT[cloud](head["node_config"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_machines_with_a_price(cloud: str) -> None:
    from diffadapt.core.prices import find

    worker = load(f"{cloud}.yaml")["available_node_types"]["gpu"]
    node = worker["node_config"]
    kind = node.get("InstanceType") or node.get("machineType") or node["azure_arm_parameters"]["vmSize"]
    machine = find(f"{cloud}.{kind}", "")
    assert {"CPU": machine.vcpus, "GPU": machine.gpus} == worker["resources"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_refuses_the_file_with_a_mistyped_field(cloud: str) -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(f"{cloud}.yaml")
    config["available_node_types"]["gpu"]["min_worker"] = config["available_node_types"]["gpu"].pop(
        "min_workers"
    )
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_get_code_pins_and_token_and_no_data(cloud: str) -> None:
    config = prepared(cloud)
    mounts = {Path(remote): Path(local) for remote, local in config["file_mounts"].items()}
    home = Path("/home", config["auth"]["ssh_user"])
    assert mounts.pop(home / ".ray" / "auth_token") == Path("~/.ray/auth_token")
    size = 0
    for remote, local in mounts.items():
        assert remote == home / "diffadapt" / local and (ROOT / local).exists()
        size += sum(
            f.stat().st_size
            for f in [ROOT / local, *(ROOT / local).rglob("*")]
            if f.is_file() and "__pycache__" not in f.parts
        )
    assert size < 100 * 2**20
    packed = re.findall(r'^"?([\w./-]+)"? = "diffadapt/', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {Path(p).parts[0] for p in packed} | {
        "platform",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
    } <= {p.parts[0] for p in mounts.values()}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_commands_of_nodes_are_shell_use_the_pins_and_authentication(cloud: str) -> None:
    config = prepared(cloud)
    lists = [k for k in config if k.endswith("_commands")]
    for command in (c for k in lists for c in config[k]):
        assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0, command
    (profile,) = [c for c in config["initialization_commands"] if ".bashrc" in c]
    assert "RAY_AUTH_MODE=token" in profile and "DIFFADAPT_ROOT=" in profile
    pip = [c for c in config["head_setup_commands"] if "pip install" in c]
    assert len(pip) == 2 and all("-c ~/diffadapt/constraints.txt" in c for c in pip)
    assert set(re.findall(r"diffadapt\[([\w,]+)\]", " ".join(pip))) <= extras()
    assert (
        sum(
            "ray start --head" in c and "--autoscaling-config=~/ray_bootstrap_config.yaml" in c
            for c in config["head_start_ray_commands"]
        )
        == 1
    )
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert sum("ray start --address=$RAY_HEAD_IP:6379" in c for c in config["worker_start_ray_commands"]) == 1


def test_the_three_clouds_differ_only_in_what_is_theirs() -> None:
    def common(cloud: str) -> dict[str, Any]:
        own = (
            "provider",
            "available_node_types",
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
        )
        return {k: v for k, v in load(f"{cloud}.yaml").items() if k not in own}

    assert common("aws") == common("gcp") == common("azure")


def test_azure_machines_have_only_parameters_of_rays_template() -> None:
    import ray

    template = json.loads(
        Path(ray.__file__)
        .with_name("autoscaler")
        .joinpath("_private/_azure/azure-vm-template.json")
        .read_text()
    )
    types = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}
    for name, node in load("azure.yaml")["available_node_types"].items():
        for key, value in node["node_config"]["azure_arm_parameters"].items():
            assert isinstance(value, types[template["parameters"][key]["type"].lower()]), f"{name}: {key}"


def test_google_machines_are_what_the_api_describes() -> None:
    """Against the discovery document that google-api-python-client brings; it is no dependency of ours."""
    pytest.importorskip("googleapiclient")
    from googleapiclient.discovery_cache import get_static_doc

    schemas = json.loads(get_static_doc("compute", "v1"))["schemas"]

    def check(value: Any, schema: dict[str, Any], where: str) -> None:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema
        if "properties" in schema:
            assert isinstance(value, dict), where
            for key, part in value.items():
                assert key in schema["properties"], f"{where} has no {key}"
                check(part, schema["properties"][key], f"{where}.{key}")
        elif schema["type"] == "array":
            assert isinstance(value, list), where
            for part in value:
                check(part, schema["items"], where)
        else:
            assert "enum" not in schema or value in schema["enum"], f"{where}: {value}"
            kinds = {
                "string": (str, int) if schema.get("format") == "int64" else str,
                "boolean": bool,
                "integer": int,
                "number": (int, float),
            }
            assert isinstance(value, kinds.get(schema["type"], object)), f"{where}: {value}"

    for name, node in load("gcp.yaml")["available_node_types"].items():
        check(node["node_config"], {"$ref": "Instance"}, name)


@pytest.mark.slow
def test_aws_account_and_nodes_come_up_in_an_emulated_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto knows EC2's parameters, instance types, roles and CloudFormation: the same calls as `ray up`
    makes, up to the ssh."""
    moto = pytest.importorskip("moto")
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("HOME", str(tmp_path))
    with moto.mock_aws():
        account = (CLUSTER / "aws-account.yaml").read_text()
        boto3.client("cloudformation").create_stack(
            StackName="diffadapt",
            TemplateBody=account,
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "some-bucket"}],
        )
        iam, ec2 = boto3.client("iam"), boto3.client("ec2")
        assert [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]] == ["some-bucket"]
        assert (
            iam.list_role_policies(RoleName="diffadapt-head")["PolicyNames"]
            and not iam.list_role_policies(RoleName="diffadapt-worker")["PolicyNames"]
        )
        for role in ("diffadapt-head", "diffadapt-worker"):
            (policy,) = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
            document = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId="v1")["PolicyVersion"][
                "Document"
            ]
            assert {s["Resource"] for s in document["Statement"]} == {
                "arn:aws:s3:::some-bucket",
                "arn:aws:s3:::some-bucket/*",
            }

        config = prepared("aws")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for node in config["available_node_types"].values():
            node["node_config"]["ImageId"] = image
        stated = {k: dict(v["resources"]) for k, v in config["available_node_types"].items()}
        config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
        for name, resources in stated.items():
            found = config["available_node_types"][name]["resources"]
            assert {k: found[k] for k in resources} == resources
        instance = ec2.describe_instance_types(
            InstanceTypes=[config["available_node_types"]["gpu"]["node_config"]["InstanceType"]]
        )["InstanceTypes"][0]
        assert stated["gpu"] == {
            "CPU": instance["VCpuInfo"]["DefaultVCpus"],
            "GPU": instance["GpuInfo"]["Gpus"][0]["Count"],
        }
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            provider.create_node(node["node_config"], {"ray-user-node-type": name}, 1)
        machines = {
            i["IamInstanceProfile"]["Arn"].rpartition("/")[2]: i
            for r in ec2.describe_instances()["Reservations"]
            for i in r["Instances"]
        }
        assert set(machines) == {"diffadapt-head", "diffadapt-worker"}
        assert (
            machines["diffadapt-worker"]["InstanceLifecycle"] == "spot"
            and "InstanceLifecycle" not in machines["diffadapt-head"]
        )


@pytest.mark.slow
def test_aws_account_template_is_clean_for_cfn_lint() -> None:
    pytest.importorskip("cfnlint")
    program = "import sys; from cfnlint.runner import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "-r", "us-west-2", "-t", str(CLUSTER / "aws-account.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


# -- Kubernetes
# ----------------------------------------------------------------


def ray_cluster(name: str) -> dict[str, Any]:
    document = load(f"kuberay/{name}.yaml")
    return document["spec"] if name == "raycluster" else document["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_have_the_fields_that_they_need(name: str) -> None:
    document, cluster = load(f"kuberay/{name}.yaml"), ray_cluster(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", KUBERAY[name])
    assert set(document["metadata"]) <= {"name", "generateName"}
    known = {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert set(cluster) == known and cluster["rayVersion"] == constraints()["ray"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    assert isinstance(cluster["autoscalerOptions"]["idleTimeoutSeconds"], int)
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"} and head["rayStartParams"]["num-cpus"] == "0"
    for group in [head, *groups]:
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        account = yaml.safe_load((CLUSTER / "kuberay" / "serviceaccount.yaml").read_text())
        assert (
            account["kind"] == "ServiceAccount" and pod["serviceAccountName"] == account["metadata"]["name"]
        )
        (container,) = pod["containers"]
        assert container["image"].startswith("some-image")
        assert all(isinstance(e["name"], str) and isinstance(e["value"], str) for e in container["env"])
        assert {m["name"] for m in container.get("volumeMounts", [])} == {
            v["name"] for v in pod.get("volumes", [])
        }
        for amounts in container["resources"].values():
            assert all(re.fullmatch(r"\d+m?|\d+Gi", v) for v in amounts.values())
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    for group in groups:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        pod = group["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {"cloud.google.com/gke-spot", "nvidia.com/gpu"} <= {t["key"] for t in pod["tolerations"]}


def test_the_job_s_cluster_is_the_standing_one_s_and_ends_with_it() -> None:
    job = load("kuberay/rayjob.yaml")["spec"]
    assert job["rayClusterSpec"] == ray_cluster("raycluster")
    assert (
        job["shutdownAfterJobFinishes"] is True
        and job["ttlSecondsAfterFinished"] > 0
        and job["activeDeadlineSeconds"] > 0
    )
    assert job["entrypoint"].split()[:2] == ["diffadapt", "run"]


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of a CRD as JSON schema that refuses fields it does not name, as the API server does under
    strict validation."""
    schema = dict(schema)
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        schema["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        schema["items"] = strict(schema["items"])
    return schema


def crd_schema(kind: str) -> dict[str, Any]:
    folder = os.environ.get(CRDS)
    if not folder:
        pytest.skip(f"{CRDS} names no folder with KubeRay's custom resource definitions")
    definition = yaml.load(
        (Path(folder) / f"ray.io_{kind.lower()}s.yaml").read_text(),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return strict(schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_are_what_the_definition_describes(name: str) -> None:
    import jsonschema

    checker = jsonschema.Draft202012Validator(crd_schema(KUBERAY[name]))
    assert [
        f"{list(e.path)}: {e.message[:200]}" for e in checker.iter_errors(load(f"kuberay/{name}.yaml"))
    ] == []
    wrong = load(f"kuberay/{name}.yaml")
    (wrong["spec"] if name == "raycluster" else wrong["spec"]["rayClusterSpec"])["workerGroupSpecs"][0][
        "minReplica"
    ] = 0
    assert [e for e in checker.iter_errors(wrong) if "minReplica" in e.message], (
        "the check must be able to fail"
    )


# -- images
# ----------------------------------------------------------------

DOCKERFILES = ("Dockerfile", "Dockerfile.slim")
INSTRUCTIONS = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "CMD"}


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (CLUSTER / "docker" / name).read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def in_context(path: Path) -> bool:
    """Whether .dockerignore lets ``path`` into the build; its rules here are one whole exclusion, exceptions
    by first name, and suffixes."""
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules[0] == "*"
    return f"!{path.parts[0]}" in rules


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_are_well_formed_and_their_sources_exist(name: str) -> None:
    found = instructions(name)
    assert {word for word, _ in found} <= INSTRUCTIONS and found[0][0] == "FROM"
    copied = set()
    for word, rest in found:
        if word == "COPY":
            *sources, _target = rest.split()
            for source in sources:
                assert (ROOT / source).exists() and in_context(Path(source)), source
                copied.add(source)
        if word == "RUN":
            assert subprocess.run(["bash", "-n", "-c", rest], capture_output=True).returncode == 0, rest
        if word == "CMD":
            assert json.loads(rest)[0] == "diffadapt"
    packed = re.findall(r'^"?([\w./-]+)"? = "diffadapt/', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {Path(p).parts[0] for p in packed} | {
        "platform",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
    } <= copied


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_the_ray_user_with_what_launchers_need(name: str) -> None:
    found = instructions(name)
    users = [rest for word, rest in found if word == "USER"]
    commands = " ".join(rest for word, rest in found if word == "RUN")
    assert users == ["ray"] and [w for w, _ in found].index("USER") > max(
        i for i, (w, _) in enumerate(found) if w == "RUN"
    )
    assert "--uid 1000" in commands and "--gid users" in commands
    assert {"bash", "rsync", "openssh-client", "wget", "procps"} <= set(commands.split())
    environment = " ".join(rest for word, rest in found if word == "ENV")
    assert "RAY_AUTH_MODE=token" in environment
    assert ("NVIDIA_VISIBLE_DEVICES=all" in environment) == (name == "Dockerfile")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_take_every_version_from_the_pins(name: str) -> None:
    found = instructions(name)
    python = re.fullmatch(r"python:3\.(\d+)-slim-\w+", found[0][1])
    pinned = re.search(r"Python 3\.(\d+)", (ROOT / "constraints.txt").read_text().splitlines()[0])
    assert python and pinned and python[1] == pinned[1], "the pins were made with this Python"
    for _, rest in found:
        assert not re.search(r"==\d", rest), rest
        for install in re.findall(r"pip install[^&]*", rest):
            assert "-c constraints.txt" in install or "--no-deps" in install, install
    assert {"torch", "torchvision", "ray"} <= set(constraints())


@pytest.mark.parametrize("name", DOCKERFILES)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_the_images_list_of_requirements_is_the_project_s(name: str) -> None:
    """The one-liner of the file itself, run here: the dependencies and those of the extras."""
    import tomllib

    text = " ".join(rest for word, rest in instructions(name) if word == "RUN")
    program = re.search(r'python -c "(.*?)" "\$EXTRAS"', text)
    (wanted,) = [
        rest.partition("=")[2]
        for word, rest in instructions(name)
        if word == "ARG" and rest.startswith("EXTRAS")
    ]
    assert program and set(wanted.split(",")) <= extras()
    listed = subprocess.run(
        [sys.executable, "-c", program[1], wanted], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert listed == [
        "hatchling",
        *project["dependencies"],
        *(d for e in wanted.split(",") for d in project["optional-dependencies"][e]),
    ]


# -- Slurm
# ----------------------------------------------------------------


def test_slurm_script_is_shell_and_says_what_it_needs(tmp_path: Path) -> None:
    script = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE))
    assert (
        options["ntasks-per-node"] == "1"
        and options["signal"].startswith("B:USR1@")
        and {"requeue", "no-kill"} <= set(options)
    )
    if shutil.which("shellcheck"):
        assert (
            subprocess.run(["shellcheck", "-e", "SC2016,SC2086", str(script)], capture_output=True).returncode
            == 0
        )
    environment = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path)}
    for arguments, said in (([], "What to run"), (["run", "quickstart"], "make setup")):
        done = subprocess.run(
            ["bash", str(script), *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


# -- monitoring
# ----------------------------------------------------------------


@cache
def ray_metrics() -> set[str]:
    """Names of the gauges and counters that a Ray node reports, as Prometheus sees them."""
    import ray

    text = (
        Path(ray.__file__).with_name("dashboard").joinpath("modules/reporter/reporter_agent.py").read_text()
    )
    return {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(\w+)"', text)}


def own_metrics() -> dict[str, tuple[str, ...]]:
    """Exported name -> labels of every series of orchestrate/metrics.py."""
    from diffadapt.orchestrate import metrics

    names: dict[str, tuple[str, ...]] = {}
    for series in metrics.ALL:
        for suffix in ("_bucket", "_sum", "_count") if series.kind == "histogram" else ("",):
            names[f"ray_{series.name}{suffix}"] = series.labels
    return names


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((CLUSTER / "grafana" / "diffadapt.json").read_text())
    assert dashboard["schemaVersion"] >= 36 and dashboard["uid"] == "diffadapt" and dashboard["title"]
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    panels, used = dashboard["panels"], set()
    assert len({p["id"] for p in panels}) == len(panels) >= 8
    own = own_metrics()
    for panel in panels:
        assert panel["type"] in ("timeseries", "stat") and panel["title"] and panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            assert names and names <= own.keys() | ray_metrics(), names - own.keys() - ray_metrics()
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables
            assert target["expr"].count("(") == target["expr"].count(")")
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for name in names & own.keys():
                assert labels <= {*own[name], "le"}, f"{panel['title']}: {labels}"
            used |= names
    assert {n for n in own if not n.endswith(("_sum", "_count"))} <= used, (
        "every series of ours has its place"
    )
    area = [(p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"]) for p in panels]
    taken = [(i, j) for x, y, w, h in area for i in range(x, x + w) for j in range(y, y + h)]
    assert len(taken) == len(set(taken)) and max(x + w for x, _, w, _ in area) <= 24, "panels overlap"


def test_prometheus_reads_rays_list_of_targets() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    ((job,),) = (config["scrape_configs"],)
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]


def test_tokens_are_made_and_kept_for_their_owner_alone() -> None:
    scripts = (f for f in (ROOT / "cluster").rglob("*") if f.suffix in (".md", ".yaml", ".sh"))
    lines = [line for f in (ROOT / "README.md", *scripts) for line in f.read_text().splitlines()]
    made = [line for line in lines if "get-auth-token --generate" in line]
    assert made and all("(umask 077; ray get-auth-token" in line for line in made)
    for cloud in CLOUDS:
        commands = load(f"{cloud}.yaml")["initialization_commands"]
        assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in commands
