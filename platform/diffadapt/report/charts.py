"""Charts as inline SVG, written by hand: no script, no font, no request; colours come from the page's style
sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from diffadapt.report.summary import MethodSummary, Summary, group_label

SERIES = 8
"""Colours that the style sheet defines (.s0 to .s7)."""


def bar_chart(table: Summary, *, narrow: bool = False) -> Markup:
    """A bar a method with its spread (over seeds, else the binomial standard error); controls under a rule; a
    dashed line at the reference. 340 or 820 wide."""
    rows = [r for r in (*table.main, *table.controls) if r.mean is not None]
    if not rows:
        return Markup("")
    width, left, right = (340, 4, 44) if narrow else (820, 262, 60)
    pitch, bar, above = (36, 13, 15) if narrow else (28, 16, 0)
    scale = _Scale(_top(rows), left, width - right)
    main, source = len([r for r in rows if not r.control]), table.reference
    rule = 26 if main < len(rows) else 0
    height = 8 + pitch * len(rows) + rule + 22
    parts = [_grid(scale, 4, height - 22, height - 6)]
    for i, row in enumerate(rows):
        y = 8 + pitch * i + (rule if row.control else 0)
        if row.control and i == main:
            parts.append(tag("line", x1=0, x2=width, y1=y - 17, y2=y - 17, class_="axis"))
            parts.append(tag("text", "controls", x=0, y=y - 4, class_="soft"))
        label = cut(row.title, 46 if narrow else 40)
        place = (
            {"x": left, "y": y + 11} if narrow else {"x": left - 8, "y": y + bar - 4, "text_anchor": "end"}
        )
        parts.append(tag("text", label, row.title, **place))
        parts.append(
            _one_bar(
                row,
                scale,
                y + above,
                bar,
                "control" if row.control else ("source" if row is source else "main"),
            )
        )
    if source and source.mean is not None:
        x = scale(source.mean)
        parts.append(tag("line", x1=x, x2=x, y1=4, y2=height - 22, class_="reference"))
    return svg(parts, width, height, f"Mean {table.metric_name} of each method")


def group_chart(table: Summary, *, narrow: bool = False) -> tuple[Markup, list[tuple[int, str]], int]:
    """Bars by group for the main rows: (SVG, legend of (colour, method), rows left out for want of colours).

    Upright bars, 1000 wide; ``narrow``: lying bars, 340 wide.
    """
    rows = [r for r in table.main if r.cells]
    left_out = max(0, len(rows) - SERIES)
    rows = rows[:SERIES]
    legend = list(enumerate(r.title for r in rows))
    if not rows or len(table.groups) < 2:
        return Markup(""), [], 0
    draw = _lying if narrow else _upright
    return draw(table, rows), legend, left_out


def _upright(table: Summary, rows: Sequence[MethodSummary]) -> Markup:
    width, height, left, top, bottom = 1000, 332, 48, 8, 238
    step = (width - left) / len(table.groups)
    bar = min(step * 0.82 / len(rows), 16)
    best = _ceiling(c.value for r in rows for c in r.cells.values())
    scale = _Scale(best, bottom, top)
    parts = []
    for tick in scale.ticks:
        parts.append(tag("line", x1=left, x2=width, y1=scale(tick), y2=scale(tick), class_="grid"))
        parts.append(
            tag("text", f"{tick:g}", x=left - 6, y=scale(tick) + 4, text_anchor="end", class_="soft")
        )
    for g, group in enumerate(table.groups):
        middle = left + step * (g + 0.5)
        start = middle - bar * len(rows) / 2
        name = group_label(group, table.groups)
        for i, row in enumerate(rows):
            if cell := row.cells.get(group):
                y = scale(cell.value)
                parts.append(
                    tag(
                        "rect",
                        None,
                        f"{name}, {row.title}: {cell.value:.1f}",
                        x=start + bar * i,
                        y=y,
                        width=bar * 0.9,
                        height=bottom - y,
                        class_=f"s{i}",
                    )
                )
        turn = f"rotate(-38 {middle:.1f} {bottom + 16})"
        parts.append(
            tag("text", cut(name, 18), name, x=middle, y=bottom + 16, text_anchor="end", transform=turn)
        )
    parts.append(tag("line", x1=left, x2=width, y1=bottom, y2=bottom, class_="axis"))
    return svg(
        parts,
        width,
        height,
        f"{table.metric_name.capitalize()} by method in each of {len(table.groups)} {table.group_noun}",
    )


def _lying(table: Summary, rows: Sequence[MethodSummary]) -> Markup:
    width, left, right = 340, 4, 36
    bar = 9
    pitch = 18 + bar * len(rows) + 8
    height = pitch * len(table.groups) + 24
    scale = _Scale(_ceiling(c.value for r in rows for c in r.cells.values()), left, width - right)
    parts = [_grid(scale, 0, height - 22, height - 6)]
    for g, group in enumerate(table.groups):
        y = pitch * g
        name = group_label(group, table.groups)
        parts.append(tag("text", cut(name, 40), name, x=left, y=y + 13))
        for i, row in enumerate(rows):
            if cell := row.cells.get(group):
                length = scale(cell.value) - left
                parts.append(
                    tag(
                        "rect",
                        None,
                        f"{name}, {row.title}: {cell.value:.1f}",
                        x=left,
                        y=y + 18 + bar * i,
                        width=length,
                        height=bar - 1,
                        class_=f"s{i}",
                    )
                )
                parts.append(
                    tag("text", f"{cell.value:.0f}", x=left + length + 3, y=y + 25.5 + bar * i, class_="tiny")
                )
    return svg(
        parts,
        width,
        height,
        f"{table.metric_name.capitalize()} by method in each of {len(table.groups)} {table.group_noun}",
    )


class _Scale:
    """A linear scale from 0 to ``top`` over pixels ``start`` to ``end``."""

    def __init__(self, top: float, start: float, end: float):
        self.top, self.start, self.end = top, start, end
        step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 25) if top / s <= 5.01), top / 5)
        self.ticks = [step * i for i in range(int(top / step + 1e-6) + 1)]

    def __call__(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * min(max(value, 0.0), self.top) / self.top, 2)


def _one_bar(row: MethodSummary, scale: _Scale, y: float, bar: float, kind: str) -> Markup:
    mean = row.mean or 0.0
    end = scale(mean)
    error = row.spread or 0.0
    word = "standard error" if row.deviation is None else f"standard deviation over {len(row.seeds)} seeds"
    tooltip = (
        f"{row.title}: {mean:.2f}" + (f", {word} {error:.2f}" if error else "") + f", {row.coverage} images"
    )
    parts = [
        tag(
            "rect",
            None,
            tooltip,
            x=scale.start,
            y=y,
            width=max(end - scale.start, 0.5),
            height=bar,
            rx=2,
            class_=f"bar-{kind}",
        )
    ]
    if error:
        a, b, m = scale(mean - error), scale(mean + error), y + bar / 2
        parts.append(tag("path", d=f"M{a} {m}H{b}M{a} {m - 3}v6M{b} {m - 3}v6", class_="whisker"))
    x = scale(mean + error) + 6
    parts.append(
        tag("text", f"{mean:.1f}" + ("" if row.whole else " *"), x=x, y=y + bar / 2 + 4, class_="value")
    )
    return Markup("").join(parts)


def _grid(scale: _Scale, top: float, bottom: float, text_y: float) -> Markup:
    parts = []
    for tick in scale.ticks:
        x = scale(tick)
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        parts.append(
            tag("text", f"{tick:g}", x=x, y=text_y, text_anchor="start" if x < 8 else "middle", class_="soft")
        )
    return Markup("").join(parts)


def _top(rows: Sequence[MethodSummary]) -> float:
    return _ceiling((r.mean or 0) + (r.spread or 0) for r in rows)


def _ceiling(values) -> float:
    highest = max([v for v in values if math.isfinite(v)], default=1.0)
    if highest <= 1:
        return 1.0
    return min(100.0, math.ceil(highest / 10) * 10.0) if highest <= 100 else math.ceil(highest / 100) * 100.0


def cut(text: str, length: int) -> str:
    """``text`` in at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def tag(name: str, text: str | None = None, title: str | None = None, **attributes: object) -> Markup:
    """One SVG element; every text and attribute is escaped."""
    written = "".join(
        f' {k.rstrip("_").replace("_", "-")}="{escape(_short(v))}"' for k, v in attributes.items()
    )
    inner = (f"<title>{escape(title)}</title>" if title is not None else "") + (
        str(escape(text)) if text is not None else ""
    )
    return Markup(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def label(
    text: str, x: float, y: float, kind: str = "", *, anchor: str = "", title: str | None = None
) -> Markup:
    """Text whose line begins, or with ``anchor`` (middle, end) has its middle or end, at (x, y); ``title``
    shows in full on hover what was cut. ``kind``: its class of the style sheet."""
    more = {k: v for k, v in (("text_anchor", anchor), ("class_", kind)) if v}
    return tag("text", text, title, x=x, y=y, **more)


def line(x1: float, x2: float, y1: float, y2: float, kind: str) -> Markup:
    """A straight line from (x1, y1) to (x2, y2)."""
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=kind)


def dot(x: float, y: float, r: float, kind: str, title: str | None = None) -> Markup:
    """A filled circle around (x, y), which says ``title`` on hover."""
    return tag("circle", None, title, cx=x, cy=y, r=r, class_=kind)


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def as_file(picture: Markup) -> str:
    """A picture as an .svg file of its own, in the report's colours, light and dark."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    text = str(picture).replace("<svg ", head, 1)
    end = text.index(">") + 1
    more = "svg { font: 12px system-ui, sans-serif; background: var(--card); }"
    return f"{text[:end]}<style><![CDATA[{style}{more}]]></style>{text[end:]}\n"


def svg(parts: Sequence[Markup], width: int, height: float, label: str) -> Markup:
    """A whole picture that scales with its place; ``label`` for those who do not see it."""
    inner = Markup("").join(parts)
    return Markup(
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(label)}">{inner}</svg>'
    )
