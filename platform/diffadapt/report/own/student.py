"""What an aligner's student was trained on: the corruptions by name, and that no image of the target was
among its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from diffadapt.report.sections import Page, Section

STUDENT = "student"
"""What outputs call its node."""
IMAGES = "student-images"
"""Kind of the stage that corrupts its images."""


class Student(Section):
    """The student's images, followed back through the nodes of the run."""

    title = "What the student was trained on"

    def data(self, page: Page) -> Any:
        nodes, outputs = page.manifest.get("nodes") or {}, page.manifest.get("outputs") or {}
        return training(nodes, outputs) if outputs.get(STUDENT) in nodes else None

    def html(self, data: Any) -> str:
        return Markup("<p>{}</p>").format(Markup(" ").join(escape(line) for line in sentences(data)))


def training(nodes: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, Any]:
    """``corruptions`` and ``severities``, ``images`` by what they were made from, ``teacher``, ``tested``
    (the target's corruptions that are among them), ``target`` (whether an image of the target leads to
    it)."""
    behind, todo = set(), [outputs[STUDENT]]
    while todo:
        if (node := todo.pop()) not in behind:
            behind.add(node)
            todo += nodes[node]["inputs"]
    made = {n: nodes[n] for n in sorted(behind) if nodes[n]["kind"] == IMAGES}
    stated = [node["identity"] for node in made.values()]
    teachers = [
        n["identity"]["config"]["guidance"] for n in map(nodes.get, behind) if n and n["kind"] == "aligned"
    ]
    corruptions = list(dict.fromkeys(c for s in stated for c in s["corruptions"]))
    target = outputs.get("target", "")
    tested = {str(key).split("-")[0] for key, *_ in (nodes.get(target) or {}).get("shards") or ()}
    return {
        "corruptions": corruptions,
        "severities": sorted({v for s in stated for v in s["severities"]}),
        "images": {node["inputs"][0]: sum(s[2] for s in node["shards"]) for node in made.values()},
        "teacher": next(iter(teachers), ""),
        "tested": sorted(tested & set(corruptions)),
        "target": bool(behind & {target, *(nodes.get(target) or {}).get("inputs", ())}),
    }


def sentences(data: Mapping[str, Any]) -> list[str]:
    """What :func:`training` found, in words."""
    sets = " and ".join(f"{n:,} of {name.replace('_', ' ')}" for name, n in data["images"].items())
    severities = ", ".join(map(str, data["severities"]))
    said = [
        f"The student learnt to give the images of the aligner {data['teacher']} from corrupted images:"
        f" {sets}, each with one of {', '.join(data['corruptions'])} (severities {severities}) or none."
    ]
    said.append(
        "Images of the target were among them: its rows are no adaptation to images never seen."
        if data["target"]
        else "No image of the target and no label was among them."
    )
    if data["tested"]:
        said.append(f"Tested on as well: {', '.join(data['tested'])}.")
    return said
