"""What must never change by moving code: digests, names in the store, options and commands.

All of it is computed anew and compared with digests.json. A store that was made once is served by later
code only while every digest stays what it is. ``python -m tests.golden.digests`` says what differs;
``--write`` writes the file again, which is right only where a stage raised its version, or a field, a
recipe or a command was added on purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffadapt import cli
from diffadapt.core import recipes
from diffadapt.core.config import changes, field_types, override, to_dict
from diffadapt.core.errors import DiffadaptError
from diffadapt.core.leniency import lenient
from diffadapt.core.manifest import run_config, run_digest
from diffadapt.core.runs import Root, run_name
from diffadapt.core.store import Store
from diffadapt.diffusion import given as given_generator
from diffadapt.models.detection import given as given_detector
from diffadapt.models.segmentation import given as given_segmenter
from diffadapt.stages import models as stage_models
from diffadapt.sweeps.folder import sweep_name
from diffadapt.sweeps.spaces import load_space, spaces
from diffadapt.systems.predict import from_run
from tests.golden import deployed, usertree
from tests.golden.cases import variants

GOLDEN = Path(__file__).resolve().parent / "digests.json"
ROOT = GOLDEN.parents[2]
PARTS = ("kind", "version", "family", "shards", "first_key", "first_digest", "first_name", "last_digest")
ROW = ("name", "members", "note", "control", "images_of", "group", "seed", "selection", "metric")
"""What is compared of a score row; what else it states only the report reads."""
ADDED = ("execution.trackers",)
"""Options that came after digests.json was made; they are outside every digest."""
COMMANDS_WITH_RECIPE = ("plan", "run", "show")
LISTINGS = ("", "spaces", "quickstart", "sda", "adapt_anything", "zodi")
ABSENT = {"data.path": "absent"}
"""What a benchmark's recipe is given to be planned without its images."""
SHORT = {"data.block": 4096, "seeds": (0,)}
"""For DomainNet, whose 30 transfers of half a million images take as long to plan as all other recipes."""
SAME = "the first"
"""Of a node's last digest, where it has one shard."""
ONE_FONT = {"glyphs.fonts": ("pillow",)}
"""What the recipe that draws glyphs is given: the bytes of other fonts are those of a machine."""


def compute() -> dict[str, Any]:
    """Everything, in a process of its own that knows no cache, hub or folder but the synthetic ones."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        place = Path(folder) / "place"
        place.mkdir()
        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("DIFFADAPT_", "HF_", "RAY_", "TORCH_HOME", "XDG_"))
        }
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(place / "hub"),
            "XDG_CACHE_HOME": str(Path(folder) / "cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]),
            "NO_COLOR": "1",
        }
        environment.pop("FORCE_COLOR", None)
        command = [sys.executable, "-m", "tests.golden.digests", "--here", str(out)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"The digests cannot be computed:\n{done.stdout}{done.stderr}")
        return json.loads(out.read_text())


def compute_here() -> dict[str, Any]:
    """The same in this process and folder; called by :func:`compute`."""
    gc.disable()  # a million small values that all stay: a fifth of the time
    usertree.build()
    for opener in (stage_models, given_segmenter, given_detector):
        opener._looked_at = lambda *_: ""  # the tree's weights are none, and only their revisions count here
    given_generator._looked_at = lambda *_: {}
    given_generator._unconditional = lambda *_: None
    made: dict[str, list[Any]] = {}
    planned: dict[str, Any] = {}
    refused: dict[str, str] = {}
    loaded = {name: recipes.load(name) for name in recipes.recipes()}
    for name, recipe, overrides in _cases(loaded):
        try:
            planned[name] = {
                "recipe": recipe,
                "overrides": overrides,
                **_plan(recipe, loaded[recipe], overrides, made),
            }
        except DiffadaptError as error:
            refused[name] = str(error)
    planned |= _predictions(loaded, made)
    options = _options(loaded)
    known = {*ADDED, *(field for types in options.values() for field in types["fields"])}
    fields = {f"--{field.replace('_', '-')}" for field in known}
    return {
        "planned": planned,
        "made": dict(sorted(made.items())),
        "refused": refused,
        "options": options,
        "sweeps": _sweeps(),
        "commands": _commands(fields),
        "listings": {what: _said(["ls", what] if what else ["ls"]) for what in LISTINGS},
    }


def _cases(loaded: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, recipe, overrides): recipes as they stand, benchmarks without their images, the variants."""
    for name, recipe in loaded.items():
        yield name, name, ONE_FONT if hasattr(recipe, "glyphs") else {}
        if getattr(recipe, "benchmark", ""):
            short = SHORT if recipe.benchmark == "domainnet" else {}
            yield f"{name} (no images)", name, ABSENT | short
    digits = loaded["adapt_anything/digits"]
    methods = [
        [f.name for f in dataclasses.fields(c) if dataclasses.is_dataclass(getattr(c, f.name))]
        for c in (digits.uda, digits.ssl)
    ]
    for name, (recipe, overrides) in variants(*methods).items():
        yield name, recipe, overrides


def _plan(name: str, recipe: Any, overrides: Mapping[str, Any], made: dict[str, list[Any]]) -> dict[str, Any]:
    """What is planned for one recipe; the nodes' records go to ``made``, each once."""
    recipe = override(recipe, overrides)
    with (
        lenient() as notes,
        _pretended_peft("transfer.lora" in overrides),
        _pretended_pillow(hasattr(recipe, "glyphs")),
    ):
        pipeline = recipe.pipeline()
        plans = pipeline.plan(Store("memory://golden"))
    assert all(len(note) < 400 and "\n" not in note for note in notes), notes
    return {
        "run": run_name(name, run_digest(run_config(recipe), plans)),
        **_views(pipeline),
        "nodes": _nodes(plans, made),
    }


def _views(pipeline: Any) -> dict[str, str]:
    """The score rows, and the outputs with the class names."""
    rows = [tuple(getattr(row, name) for name in ROW) for row in pipeline.rows]
    outputs = _short([dict(pipeline.outputs), pipeline.class_names])
    return {"rows": f"{len(rows)} {_short(rows)}", "outputs": outputs}


def _nodes(plans: Mapping[str, Any], made: dict[str, list[Any]]) -> dict[str, str]:
    """Node -> the key of its record in ``made``."""
    nodes = {}
    for node, plan in plans.items():
        every_one_apart(node, plan)
        kind, (first, *_), last = plan.stage.kind, plan.shards, plan.shards[-1]
        name = _template(first.path, kind, plan.family, first.shard.key, first.digest)
        end = last.digest if last is not first else SAME
        record = [
            kind,
            plan.stage.version,
            plan.family,
            len(plan.shards),
            first.shard.key,
            first.digest,
            name,
            end,
        ]
        nodes[node] = _short(record, 10)
        made[nodes[node]] = record
    return nodes


def every_one_apart(node: str, plan: Any) -> None:
    """No two shards of a node have a key, digest or name in common, and what is stored has a name."""
    keys, digests, paths = zip(*((p.shard.key, p.digest, p.path) for p in plan.shards), strict=True)
    for values in (keys, digests, *([paths] if plan.stage.stored else [])):
        assert len(set(values)) == len(values), f"{node}: two shards have the same {values[0]!r}"
    assert all(keys) and all((path is not None) == plan.stage.stored for path in paths), node


def _predictions(loaded: Mapping[str, Any], made: dict[str, list[Any]]) -> dict[str, Any]:
    """What finished runs, made by hand, plan on new images."""
    found = {}
    for i, (name, (recipe, overrides)) in enumerate(deployed.CASES.items()):
        run, root = f"run-{i}", Root(os.path.abspath("finished"))
        value = override(loaded[recipe], overrides)
        with lenient():
            pipeline = value.pipeline()
            plans = pipeline.plan(root.store)
            config = run_config(value)
            deployed.finish("finished", run, recipe, json.loads(json.dumps(config)), pipeline.outputs, plans)
            prediction = from_run(root.run(run), "flat/*.png", value.execution, 4).pipeline()
            found[f"predict: {name}"] = {
                "recipe": recipe,
                "overrides": overrides,
                "run": "",
                **_views(prediction),
                "nodes": _nodes(prediction.plan(root.store), made),
            }
    return found


def _template(name: str | None, kind: str, family: str, key: str, digest: str) -> str | None:
    """A name in the store with what the record says anyway left out, where it is there."""
    if name is None:
        return None
    folder, _, file = name.partition(f"{kind}/")[2].rpartition("/")
    if folder.endswith(f"-{family[:12]}") and file == f"{key}-{digest[:12]}.parquet":
        return f"{kind}/{folder.removesuffix(family[:12])}{{family}}/{{key}}-{{digest}}.parquet"
    return name.replace(digest[:12], "{digest}")


def _short(value: Any, length: int = 8) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


@contextlib.contextmanager
def _pretended_peft(wanted: bool) -> Iterator[None]:
    """A LoRA is planned only where the package peft is installed; an empty one will do."""
    if not wanted:
        yield
        return
    Path("pretended/peft").mkdir(parents=True, exist_ok=True)
    Path("pretended/peft/__init__.py").touch()
    sys.path.append(os.path.abspath("pretended"))
    try:
        yield
    finally:
        sys.path.pop()


@contextlib.contextmanager
def _pretended_pillow(wanted: bool) -> Iterator[None]:
    """Pillow's version stands for its own font in the revision of fonts."""
    import PIL

    own = PIL.__version__
    PIL.__version__ = "0.0.0" if wanted else own
    try:
        yield
    finally:
        PIL.__version__ = own


def _options(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """By the first recipe of each type: every field with its type and default, and what recipes change."""
    types: dict[type, str] = {}
    found: dict[str, Any] = {}
    for name, recipe in loaded.items():
        first = types.setdefault(type(recipe), name)
        if first == name:
            default = type(recipe)()
            identity = _flat(to_dict(default, identity_only=True))
            fields = {
                field: f"{_hint(hint)} = {json.dumps(_flat(to_dict(default))[field])}"
                + ("" if field in identity else " (execution)")
                for field, hint in field_types(default).items()
                if field not in ADDED
            }
            short = {f"--{k}": list(v) for k, v in getattr(type(recipe), "aliases", {}).items()}
            found[first] = {"fields": dict(sorted(fields.items())), "short options": short, "recipes": {}}
        found[first]["recipes"][name] = _short(dict(sorted(changes(type(recipe)(), recipe).items())))
    return found


def _hint(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(
            _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
        )
    return found


def _sweeps() -> dict[str, str]:
    """The folder of each space's sweep over its own recipe."""
    found = {}
    for name in spaces():
        title, space = load_space(name)
        found[name] = sweep_name(title, space, {space.recipe: recipes.load(space.recipe)})
    return found


def _commands(fields: set[str]) -> dict[str, list[str]]:
    """Every command of the overview with the options that its help names and that are no ``fields``."""
    found = {}
    for name in re.findall(r"^  ([a-z]\w*) ", _said(["--help"]), re.MULTILINE):
        words = [name, "quickstart"] if name in COMMANDS_WITH_RECIPE else [name]
        text = _said([*words, "--help"])
        found[name] = [option for option in _named(text) if option not in fields]
        inner = re.search(r"^usage: diffadapt \w+ \[-h\] \{([\w,-]+)\}", text, re.MULTILINE)
        for sub in inner[1].split(",") if inner else ():
            found[f"{name} {sub}"] = _named(_said([name, sub, "--help"]))
    found["sweep digits"] = [
        option for option in _named(_said(["sweep", "digits", "--help"])) if option not in fields
    ]
    return found


def _named(text: str) -> list[str]:
    """The options of a help page of one column: what begins a line, and what usage lines hold."""
    found = set(re.findall(r"^[\s│|]*(-h, --help|--[a-z][\w.-]*)", text, re.MULTILINE))
    for line in text.splitlines():
        if line.startswith("usage:") or re.match(r"\s+diffadapt ", line):
            found |= set(re.findall(r"--[a-z][\w-]*", line))
    return sorted(found)


def _said(words: list[str]) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main(words)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def differences(golden: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Part of the file -> sentences on what differs. Empty where nothing does."""
    said: dict[str, list[str]] = {part: [] for part in golden}
    for name in sorted({*golden["planned"], *found["planned"]}):
        was, now = golden["planned"].get(name), found["planned"].get(name)
        if was is None or now is None:
            lost = f"is planned no more: {found['refused'].get(name, 'it is gone')}"
            said["planned"].append(f"{name}: {'was not planned before' if was is None else lost}")
            continue
        said["planned"] += [
            f"{name}: {what} was {was[what]!r}, is {now[what]!r}"
            for what in ("recipe", "overrides", "run", "rows", "outputs")
            if was[what] != now[what]
        ]
        for node in dict.fromkeys([*was["nodes"], *now["nodes"]]):
            before, after = (
                side["made"].get(v["nodes"].get(node)) for side, v in ((golden, was), (found, now))
            )
            if before is None or after is None:
                said["planned"].append(f"{name}, node {node}: {'is new' if before is None else 'is gone'}")
            elif before != after:
                changed = "; ".join(
                    f"{part} was {a!r}, is {b!r}"
                    for part, a, b in zip(PARTS, before, after, strict=True)
                    if a != b
                )
                said["planned"].append(f"{name}, node {node}: {changed}")
        if list(was["nodes"]) != list(now["nodes"]) and set(was["nodes"]) == set(now["nodes"]):
            said["planned"].append(
                f"{name}: the order of the nodes was {list(was['nodes'])}, is {list(now['nodes'])}"
            )
    for part in ("refused", "options", "sweeps", "commands", "listings"):
        said[part] += _compared(part, golden[part], found[part])
    return {part: sentences for part, sentences in said.items() if sentences}


def _compared(where: str, was: Any, now: Any) -> list[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        return [
            line
            for key in dict.fromkeys([*was, *now])
            for line in _compared(f"{where}: {key}", was.get(key), now.get(key))
        ]
    if isinstance(was, list) and isinstance(now, list):
        lost, new = [v for v in was if v not in now], [v for v in now if v not in was]
        return [f"{where}: gone {lost}, new {new}"] if was != now else []
    if was == now:
        return []
    return [
        f"{where} is gone (was {was!r})"
        if now is None
        else f"{where} is new ({now!r})"
        if was is None
        else f"{where} was {was!r}, is {now!r}"
    ]


def write(values: Mapping[str, Any]) -> None:
    """The golden file: a line for each case, node and option."""
    lines = []
    for part, content in values.items():
        if part in ("planned", "made"):
            inner = ",\n".join(
                f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'), ensure_ascii=False)}"
                for k, v in content.items()
            )
            lines.append(f" {json.dumps(part)}: {{\n{inner}\n }}")
        else:
            lines.append(
                f" {json.dumps(part)}: "
                + json.dumps(content, indent=1, ensure_ascii=False).replace("\n", "\n ")
            )
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write digests.json again")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        Path(options.here).write_text(json.dumps(compute_here()))
        return 0
    found = compute()
    if options.write:
        write(found)
        return 0
    said = differences(read(), found)
    print("\n".join(line for lines in said.values() for line in lines) or "Nothing differs.")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
