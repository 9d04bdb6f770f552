"""A metric as a value: what it is called, how it is computed and which way is better. Tables, charts, findings,
searches and recipes name it by this; the values themselves lie in metrics/, beside the functions they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

PLACES = {
    "": "",
    "source": " on the source's test images",
    "estimated": " estimated on transferred test images of the source",
}
"""Other images than the target's that a metric may be measured on, and what that is called."""


@dataclass(frozen=True)
class Metric:
    """``value`` gives a fraction in 0..1 (NaN: nothing to measure) of all images of a group at once; a score
    is that in percent, and tables take the mean over groups and seeds."""

    name: str
    """In scores.parquet; of a metric by class ``<name>.<class>`` there."""
    title: str
    """In tables and charts."""
    reads: str
    """What ``value`` is computed from: 'labels' (predicted and true classes, two int arrays), 'confusion' (one
    matrix over all pixels, void last), 'boxes' (BOXES_SCHEMA rows)."""
    value: Callable[..., Any] | None = None
    """None: computed together with another one."""
    short: str = ""
    """As the head of a column beside other metrics."""
    unit: str = "%"
    higher: bool = True
    """Whether the higher value is the better one."""
    share: bool = False
    """Whether it is a share of images, so that a binomial standard error exists."""
    by_class: bool = False
    """Whether it is one value a class: ``value`` then gives an array, and reports give all in one table."""
    place: str = ""
    """What it is measured on: the target, or a key of PLACES."""

    def on(self, place: str) -> Metric:
        """The same metric on other images than the target's."""
        if not place:
            return self
        short = (
            "estimate without target images" if place == "estimated" else f"{self.short}, source test images"
        )
        title = self.title + PLACES[place]
        return replace(self, name=f"{self.name}_{place}", title=title, short=short, place=place)

    def of_class(self, name: str) -> str:
        """The name of its value of one class."""
        return f"{self.name}.{name}"
