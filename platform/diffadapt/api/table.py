"""The printed score table as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffadapt.core.errors import RecipeError, suggest
from diffadapt.core.record import Score
from diffadapt.report.summary import difference, group_label, metrics, summarise

if TYPE_CHECKING:
    import pandas as pd

NAN = float("nan")


def frame(scores: Sequence[Score], metric: str | None, groups: bool) -> pd.DataFrame:
    """Every row of the table of ``metric`` (default: the first one). RecipeError for one that there is
    not."""
    import pandas as pd

    known = metrics(scores)
    if metric is not None and metric not in known:
        raise RecipeError(
            f"There is no metric {metric!r} in the scores.{suggest(str(metric), known)} They have:"
            f" {', '.join(known)}."
        )
    table = summarise(scores, metric)
    source, rows = table.reference, []
    for r in table.rows:
        to_source = difference(r, source, table.metric) if source and r is not source else None
        row = {
            "method": r.title,
            "mean": _number(r.mean),
            "s.d.": _number(r.deviation),
            "s.e.": _number(r.standard_error),
            f"-{table.reference_word}": _number(to_source.value if to_source else None),
            "clean": _number(r.clean.value if r.clean else None),
            "images": r.images,
            "of_images": r.of_images,
            "control": r.control,
            "note": r.note,
        }
        if groups:
            row |= {
                group_label(g, table.groups): r.cells[g].value if g in r.cells else NAN for g in table.groups
            }
        rows.append(row)
    made = pd.DataFrame(rows).set_index("method") if rows else pd.DataFrame()
    made.attrs["metric"] = table.metric_name
    return made


def _number(value: float | None) -> float:
    return NAN if value is None else value
