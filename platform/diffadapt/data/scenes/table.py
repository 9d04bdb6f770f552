"""The classes of labelled scenes as a value: names, colours, and what the values of label files mean."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.config import execution

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """Class ``c`` is called ``names[c]`` and painted ``colours[c]``. The value ``values[i]`` of a label file
    means class ``classes[i]`` (IGNORED: known, and counted nowhere); a value that is not listed is ignored
    too, and said to be unknown.
    """

    name: str = execution("")
    """What messages call the table; no part of any digest."""
    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    values: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    ade: tuple[int, ...] = ()
    """Index of each class among ADE20K's 150 colours, -1: none; empty: not known."""
    codes: tuple[Colour, ...] = ()
    """Colour of ``values[i]`` in colour-coded label files; empty: the classes' colours."""

    def __len__(self) -> int:
        return len(self.names)


def plain_table(name: str, classes: list | tuple, ade: tuple[int, ...] = ()) -> ClassTable:
    """A table of (name, colour) whose label files hold the class numbers themselves."""
    names, colours = tuple(n for n, _ in classes), tuple((int(r), int(g), int(b)) for _, (r, g, b) in classes)
    numbers = tuple(range(len(names)))
    return ClassTable(name, names, colours, numbers, numbers, ade, colours)
