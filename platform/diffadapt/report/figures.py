"""Stages that make a report's pictures: PNG files, and figures.json with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diffadapt.core.stage import FitJob, Stage


class Figure(NamedTuple):
    """One picture under ``title``; a figure whose ``data`` (PNG bytes) is None is left out."""

    file: str
    data: bytes | None
    title: str
    caption: str


@dataclass(frozen=True)
class FigureStage(Stage):
    """Base: a subclass yields its figures, which come in that order into figures.json. Metrics:
    ``pictures``."""

    kind = "figures"
    fit_stage = True
    trains = False

    def resources(self) -> str:
        return "cpu"

    def figures(self, job: FitJob) -> Iterator[Figure]:
        """The pictures of the job's inputs."""
        raise NotImplementedError

    def fit(self, job: FitJob) -> dict[str, Any]:
        from diffadapt.report.panels import figures_index

        out, sections = Path(job.output), []
        for file, data, title, caption in self.figures(job):
            if data is not None:
                (out / file).write_bytes(data)
                sections.append({"title": title, "caption": caption, "image": file, "alt": title})
        (out / "figures.json").write_bytes(figures_index(sections))
        return {"pictures": len(sections)}


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spread, the first among them."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
