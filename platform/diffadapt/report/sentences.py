"""Sentences about two rows of a score table, with their limits; the findings of every system are made of
these."""

from __future__ import annotations

from diffadapt.report.summary import Difference, MethodSummary, Summary, difference

TELLS = 3
"""So many differing settings of a row are named."""


def unlike_published(differing: list[str] | None) -> str:
    """What keeps a row from being compared with its published figure, for a cell; None: the published
    settings are not known."""
    if differing is None:
        return "published settings not known"
    more = f" and {len(differing) - TELLS} more" if len(differing) > TELLS else ""
    return f"other settings: {', '.join(differing[:TELLS])}{more}" if differing else "as published"


def compare(table: Summary, left: MethodSummary, right: MethodSummary) -> list[str]:
    """How much ``left`` is above or below ``right``, on what, and whether that is more than chance."""
    d = difference(left, right, table.metric)
    if d is None:
        return [
            f"{left.title} and {right.title} have no {table.group_noun} in common, so they are not compared."
        ]
    if abs(d.value) < 0.05:
        word = f"{left.title} equals {right.title} to 0.1 points"
    else:
        word = (
            f"{left.title} is {abs(d.value):.1f} points {'above' if d.value > 0 else 'below'} {right.title}"
        )
    return [f"{word} ({numbers(table, left, right, d)}).{doubt(d)}"]


def numbers(table: Summary, left: MethodSummary, right: MethodSummary, d: Difference) -> str:
    """The values behind a comparison, for brackets."""
    parts = [f"{d.left:.1f} against {d.right:.1f}{table.unit}"]
    if d.groups > 1:
        parts.append(f"higher on {d.higher} of {d.groups} {table.group_noun}")
    if d.seeds > 1:
        parts.append(f"higher with {d.seeds_higher} of {d.seeds} seeds")
    if d.standard_error is not None:
        parts.append(
            "standard error of the difference"
            f" {d.standard_error:.1f}{' over the seeds' if d.seeds > 1 else ''}"
        )
    if not d.seeds:
        parts.append(f"not the same seeds: {len(left.seeds)} against {len(right.seeds)}")
    if d.groups < len(table.groups):
        parts.append(f"only {d.groups} of {len(table.groups)} {table.group_noun} have both")
    if not d.same_images:
        parts.append(f"not the same images: {left.coverage} against {right.coverage}")
    return "; ".join(parts)


def doubt(d: Difference) -> str:
    """A sentence for a difference that may be chance; empty otherwise."""
    if d.standard_error is None or d.separated:
        return ""
    if d.seeds > 1 and 0 < d.seeds_higher < d.seeds:
        return " The seeds do not agree, so these rows do not tell the two apart."
    return " That is within two standard errors, so these rows do not tell the two apart."


def against_control(
    table: Summary, lead: MethodSummary, control: MethodSummary, base: MethodSummary | None, meaning: str
) -> list[str]:
    """The method beside its control: a remark that ends in ``meaning`` where it is not above; how much of the
    gain over ``base`` the control has."""
    d = difference(lead, control, table.metric)
    if d is None:
        return [
            f"{lead.title} and the control {control.title} have no {table.group_noun} in common, so they are"
            " not compared."
        ]
    figures = numbers(table, lead, control, d)
    if d.value < 0.05:
        word = f"{abs(d.value):.1f} points below" if d.value <= -0.05 else "no better than"
        return [
            f"Remark: {lead.title} is {word} the control {control.title} ({figures}):"
            f" {meaning}.{doubt(d) if d.value <= -0.05 else ''}"
        ]
    text = f"{lead.title} is {d.value:.1f} points above the control {control.title} ({figures}).{doubt(d)}"
    gain, reached = (difference(r, base, table.metric) if base else None for r in (lead, control))
    if (
        base
        and gain
        and reached
        and gain.same_images
        and reached.same_images
        and gain.value > 0.05
        and reached.value > 0
        and gain.groups == reached.groups
    ):
        text += f" Of the {gain.value:+.1f} points over {base.title}, the control has {reached.value:+.1f}."
    return [text]


def limits(table: Summary, partners: dict[str, MethodSummary]) -> list[str]:
    """What the table cannot show: partial rows (but for those with a like-for-like partner), oracles, seeds,
    the errors' meaning."""
    out = []
    for row in table.rows:
        if not row.whole and row.mean is not None and row not in partners.values():
            groups = (
                f" in {len(row.cells)} of {row.of_groups} {table.group_noun}"
                if len(row.cells) < row.of_groups
                else ""
            )
            alike = partners.get(row.method)
            but = f", but for the control {alike.title}" if alike else ""
            out.append(
                f"{row.title} was measured on {row.coverage} images{groups}; its differences to other rows"
                f" are not like for like{but}."
            )
    oracle = [r.method for r in table.rows if r.selection == "oracle"]
    if oracle:
        out.append(
            f"Target labels chose the model of {', '.join(oracle)} (oracle): such rows are an upper bound,"
            " not a result without labels."
        )
    if len(table.seeds) == 1:
        out.append(f"One seed ({table.seeds[0]}) was run, so the spread between seeds is not measured.")
    elif table.seeds:
        out.append(f"Means are over {len(table.seeds)} seeds ({', '.join(map(str, table.seeds))}).")
    if any(r.standard_error is not None for r in table.rows):
        recur = (
            f" the same pictures recur under all {table.group_noun}, and"
            if len(table.groups) > 1 and table.group_noun != "transfers"
            else ""
        )
        out.append(
            f"Standard errors are binomial, from the number of images alone:{recur} the spread of training is"
            " not in them."
        )
    return out
