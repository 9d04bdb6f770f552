"""How varied the run's synthetic images are, beside the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from diffadapt.report.mask import masked
from diffadapt.report.page import load_page
from diffadapt.report.provenance import optional_json
from diffadapt.report.sections import Page, Section

FILE = "diversity.json"
"""The figures, in the run's folder."""
SHOWN = 60
"""Classes whose own figures are shown."""


class Diversity(Section):
    """Vendi score and mean cosine distance, class by class and as a whole."""

    title = "Diversity of the synthetic images"

    def data(self, page: Page) -> Any:
        found = masked(optional_json(page.run, FILE))
        return {**found, "names": masked(list(page.manifest.get("class_names") or ()))} if found else None

    def html(self, data: Any) -> str:
        head, rows = table(data)
        class_head, classes = by_class(data)
        return Markup(
            load_page("diversity.html.j2").render(
                head=head,
                rows=rows,
                class_head=class_head,
                classes=classes[:SHOWN],
                more=max(0, len(classes) - SHOWN),
                notes=notes(data),
                features=data["features"],
            )
        )


def common(sets: Sequence[Mapping[str, Any]], what: str) -> str:
    """The largest sample size that all ``sets`` that have any have in common; empty without one."""
    known = [set(s[what]) for s in sets if s[what]]
    return max(set.intersection(*known), key=int, default="") if known else ""


def class_diversity(data: Mapping[str, Any]) -> dict[str, float]:
    """Sample size -> Vendi score of a class, mean over classes and synthetic sets, of the sizes that all of
    them have."""
    sets = [s for s in data.get("sets") or () if s["kind"] == "synthetic"]
    sizes = set.intersection(*(set(s["classes"]) for s in sets)) if sets else set()
    return {
        size: round(sum(s["classes"][size]["vendi"] for s in sets) / len(sets), 4)
        for size in sorted(sizes, key=int)
    }


def table(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows as text, a set a row."""
    sets, size, whole = data["sets"], common(data["sets"], "classes"), common(data["sets"], "whole")
    head = ["set", "images"]
    head += [f"Vendi score, {size} of a class", f"distance, {size} of a class"] if size else []
    head += [f"Vendi score, {whole} of all", f"distance, {whole} of all"] if whole else []
    rows = []
    for s in sets:
        mine, all_of_it = s["classes"].get(size), s["whole"].get(whole)
        row = [s["name"] + (", kept by the filters" if s["filtered"] else ""), str(s["images"])]
        row += _cells([mine["vendi"], mine["distance"]] if mine else None) if size else []
        row += _cells(all_of_it) if whole else []
        rows.append(row)
    return (head, rows) if size or whole else ([], [])


def by_class(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of each class's own figures, the least varied of the first set first."""
    sets, size = data["sets"], common(data["sets"], "classes")
    shown = [(s["name"], s["classes"][size]["by_class"]) for s in sets if size in s["classes"]]
    if not shown:
        return [], []
    head = ["class", *(f"{what}, {name}" for name, _ in shown for what in ("Vendi score", "distance"))]
    names = data.get("names") or []
    classes = sorted(
        {c for _, own in shown for c in own}, key=lambda c: (shown[0][1].get(c, [float("inf")])[0], int(c))
    )
    named = {c: names[int(c)] if int(c) < len(names) else c for c in classes}
    return head, [[named[c], *(cell for _, own in shown for cell in _cells(own.get(c)))] for c in classes]


def notes(data: Mapping[str, Any]) -> list[str]:
    """How the figures are to be read, and what is left out."""
    size, whole = common(data["sets"], "classes"), common(data["sets"], "whole")
    out = []
    if size or whole:
        out.append(
            "The Vendi score is the effective number of different images in a sample: 1 where all are alike,"
            " the sample's size where none resembles another. It grows with the sample, so every set is"
            " measured on as many images, means over up to 5 samples. The distance is 1 - cosine, mean over"
            " pairs."
        )
        out.append("Features of other networks give other figures: compare sets and runs of the same ones.")
    for s in data["sets"]:
        left = (s["classes"].get(size) or {}).get("left_out")
        if left:
            out.append(
                f"{s['name']}: {left} class{'es' * (left > 1)} with fewer than {size} images left out."
            )
    if any(s["kind"] == "target" for s in data["sets"]):
        out.append("The target is shown as a whole alone: its labels are not looked at.")
    return out + [f"Left out: {clause}." for clause in data["missing"]]


def _cells(values: Sequence[float] | None) -> list[str]:
    return ["-", "-"] if values is None else [f"{values[0]:.2f}", f"{values[1]:.3f}"]
