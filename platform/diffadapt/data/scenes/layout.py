"""What a layout of labelled scenes is, and where layouts are found: one file each (see layouts/)."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.discover import Seam
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.scene import SceneSource
from diffadapt.data.scenes.table import ClassTable


@dataclass(frozen=True)
class Layout:
    """A labelled data set of scenes: where its files lie, its classes, and how many there are.

    Most are a value of :class:`official.Official`, which says where images and label maps lie; others extend
    this class.
    """

    title: str
    """What messages call the data set."""
    table: ClassTable | None = None
    """Its classes, which ``classes`` may also name; None: each copy brings its own (``classes.csv``)."""
    lists: bool = False
    """Whether ``split_file`` may name the scenes."""
    drawn: bool = False
    """Scenes are made, not read: there need not be a path."""

    def check(self, config: SceneConfig) -> None:
        """Raise RecipeError for a split or condition that the data set does not have; nothing is read."""

    def classes(self, config: SceneConfig) -> ClassTable | None:
        """The classes of the data under ``config.path`` where ``config.classes`` names none."""
        return self.table

    def published(self, config: SceneConfig, filtered: bool = True) -> int | None:
        """How many scenes the split and condition of ``config`` have (``filtered``: of ``config.sequences``
        only); None: not known."""
        return None

    def open(self, config: SceneConfig) -> SceneSource:
        """All scenes that ``config`` means. Raises DataError for files that are missing or do not fit."""
        raise NotImplementedError


LAYOUTS = Seam("layout", "diffadapt.data.scenes.layouts", "DIFFADAPT_LAYOUTS", Layout, values=True)


def published(config: SceneConfig) -> int | None:
    """How many scenes the layout of ``config`` has in its split, condition and sequences; None: not known."""
    return LAYOUTS.load(config.layout).published(config)
