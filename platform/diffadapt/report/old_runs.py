"""Runs whose manifest does not say what system they are of or what their rows mean, because an older version
made them or their recipe states nothing: the one place that guesses it, from the graph and the titles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from diffadapt.core.pipeline import PART, RESULT, SAME_IMAGES, SOURCE, Role

PROJECTION = r"projection only|projected only|projection alone"
CONTROL_KINDS = (
    (
        r"batch[- ]statistics",
        "Tent",
        "this run does not show that the gradient step adds to the batch statistics",
    ),
    (
        r"non-?aligned|not aligned|unaligned|without alignment|no alignment",
        "",
        "this run does not show that alignment helps",
    ),
    (
        r"\breal\b",
        "",
        "this run does not show that synthetic images do more than as much training on real ones",
    ),
    (
        PROJECTION,
        "",
        "projection alone, without fine-tuning and ensemble, does as well here",
    ),
    (
        r"fine-?tuned model on projected|no ensemble|without ensemble",
        "",
        "this run does not show that the ensemble with the source model helps",
    ),
)
"""(pattern of a control's name, else of its note; the method that it is a control of; what it means)."""


class Named(Protocol):
    """What is known of a row without its role."""

    @property
    def method(self) -> str: ...
    @property
    def control(self) -> bool: ...
    @property
    def note(self) -> str: ...


def system(manifest: Mapping[str, Any]) -> str:
    """The system of a run whose manifest names none."""
    if {"uda", "ssl"} <= set(manifest.get("config") or {}):
        return "adapt_anything"
    if any(n.get("kind") == "transferred" for n in (manifest.get("nodes") or {}).values()):
        return "zodi"
    return "sda"


def by_title(rows: Sequence[Named]) -> dict[str, Role]:
    """Row -> role, as SDA's titles tell it."""
    main = [r.method for r in rows if not r.control]

    def titled(name: str) -> str:
        """The main row called ``name``, else the first whose first word it is, but no sum of several."""
        exact = [m for m in main if m.lower() == name]
        words = [m for m in main if re.findall(r"[a-z0-9]+", m.lower())[:1] == [name] and " + " not in m]
        return next(iter(exact + words), "")

    source = titled("source") or next((m for m in main if m.lower().startswith("synthetic only")), "")
    known = {n: titled(n.lower()) for n in ("MEMO", "Tent", "DiffPure", "GDA", "DDA", "SDA")}
    roles = {row: Role("method", published=name) for name, row in known.items() if row}
    if source:
        roles[source] = Role(SOURCE, published="Source")
    if known["DDA"]:
        roles[known["DDA"]] = Role("method", partner=source or "Source", published="DDA")
    if known["SDA"]:
        roles[known["SDA"]] = Role(RESULT, partner=known["DDA"] or "DDA", published="SDA")
    for row in rows:
        if row.control:
            roles[row.method] = _control(row, known, main)
    return roles


def _control(row: Named, known: Mapping[str, str], main: Iterable[str]) -> Role:
    otherwise = "this run does not show that the method does more than this control"
    name = row.method.lower()
    for text in (name, row.note.lower()):
        for pattern, partner, meaning in CONTROL_KINDS:
            if re.search(pattern, text):
                kind = PART if re.search(PROJECTION, name) else "control"
                return Role(kind, known.get(partner, "") if text is name else "", meaning)
    images = next((m for m in main if f"{m.lower()}'s images" in name), "")
    return Role(SAME_IMAGES if images else "control", images, otherwise)


def by_graph(manifest: Mapping[str, Any]) -> dict[str, Role]:
    """Row -> role of a run of Adapt Anything or ZoDi, as its graph tells it."""
    return {"adapt_anything": _adaptation, "zodi": _zodi}.get(system(manifest), lambda _: {})(manifest)


def _adaptation(manifest: Mapping[str, Any]) -> dict[str, Role]:
    nodes, roles = manifest.get("nodes") or {}, {}
    by_model: dict[str, str] = {}
    plain: dict[str, str] = {}
    second: dict[str, str] = {}
    rows = [(r["name"], (r["members"] or [""])[0], r.get("control")) for r in manifest.get("rows") or ()]
    for name, node, control in rows:
        model = _parent(nodes, node)
        kind, method = nodes.get(model, {}).get("kind"), _method(nodes.get(model, {}))
        published = "" if " + " in name else name.split("+")[0].split(",")[0]
        role = None
        if nodes.get(node, {}).get("kind") == "zero-shot":
            role = Role("zero_shot")
        elif kind == "ssl" and control:
            role = Role("direct", method, "this run does not show that stage 1 adds anything to stage 2")
        elif kind == "ssl":
            second.setdefault(method, name)
            start = by_model.get(_parent(nodes, model), "")
            role = Role("stage2", start, "stage 2 did harm here: it trains on stage 1's mistakes")
        elif kind == "uda" and control:
            role = Role("unfiltered", method, "this run does not show that the filters help")
        elif kind == "uda":
            plain[method] = name
            role = (
                Role(SOURCE, published=published)
                if method == "source_only"
                else Role("stage1", "", "stage 1 did harm here (negative transfer)", published)
            )
        if role and role.kind != "unfiltered":
            by_model.setdefault(model, name)
        if role:
            roles.setdefault(name, role)
    base = next((n for n, r in roles.items() if r.kind == SOURCE), "")
    partners = {"direct": second, "unfiltered": plain, "stage1": {"": base}}
    return {
        n: Role(r.kind, partners[r.kind].get(r.partner, ""), r.otherwise, r.published)
        if r.kind in partners
        else r
        for n, r in roles.items()
    }


def _zodi(manifest: Mapping[str, Any]) -> dict[str, Role]:
    nodes = manifest.get("nodes") or {}
    names: dict[str, str] = {}
    roles: dict[str, Role] = {}
    for row in manifest.get("rows") or ():
        if row.get("control"):
            transfer = "this run does not show that the transfer does more than this control"
            roles.setdefault(row["name"], Role("variant", otherwise=transfer))
            continue
        for member in row["members"][:1]:
            for model in reversed(nodes.get(member, {}).get("inputs") or ()):
                method = (nodes.get(model, {}).get("identity") or {}).get("method")
                if isinstance(method, str):
                    names.setdefault(method, row["name"])
    apart = "this run does not show that the source images help beside their transferred versions"
    similarity = "this run does not show that the feature similarity helps"
    first = names.get("transferred_only", "")
    for kind, name in names.items():
        if kind == "source_only":
            roles[name] = Role(SOURCE)
        elif kind == "zodi" and "both" in names:
            roles[name] = Role(kind, names["both"], similarity)
        elif kind in ("both", "zodi") and first:
            roles[name] = Role(kind, first, apart)
        else:
            roles[name] = Role(kind)
    return roles


def _parent(nodes: Mapping[str, Any], node: str) -> str:
    """The last trained model among the inputs of ``node``; empty when there is none."""
    inputs = reversed(nodes.get(node, {}).get("inputs") or ())
    return next((i for i in inputs if nodes.get(i, {}).get("kind") in ("uda", "ssl")), "")


def _method(node: Mapping[str, Any]) -> str:
    """The method that a fit's identity names."""
    identity = node.get("identity") or {}
    result = [identity.get("method"), *(v.get("method") for v in identity.values() if isinstance(v, Mapping))]
    return next((str(m) for m in result if m), "")
