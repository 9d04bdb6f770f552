"""Which classes scenes have: a built-in table, a CSV file of one's own, or what the data set brings along."""

from __future__ import annotations

import posixpath

from diffadapt.core.artifact import IGNORED
from diffadapt.core.errors import DataError, suggest
from diffadapt.core.location import open_place
from diffadapt.core.spreadsheet import plain, read_rows
from diffadapt.data.readers import open_location
from diffadapt.data.reading import is_file
from diffadapt.data.scenes.cityscapes import TABLES
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.layout import LAYOUTS
from diffadapt.data.scenes.layouts import layout_names
from diffadapt.data.scenes.table import ClassTable, Colour

COLUMNS = ("value", "name", "red", "green", "blue", "ade")
OWN = "classes.csv"
MAX_CLASSES = 254
"""One number below IGNORED is left for the void channel of segmenters."""
_FIRST = ("cityscapes", "cityscapes_trainids", "gta5", "acdc", "dark_zurich", "bdd100k", "camvid", "streets")


def table_names() -> tuple[str, ...]:
    """The built-in class tables: those of layouts, and Cityscapes' for trainIds."""
    further = (name for name in layout_names() if name not in _FIRST and LAYOUTS.load(name).table)
    return (*_FIRST, *further)


def builtin(name: str) -> ClassTable:
    """The built-in table ``name``; DataError for another name, with the nearest one."""
    names = table_names()
    if name not in names:
        raise DataError(
            f"There is no built-in class table {name!r}; there are {', '.join(names)}.{suggest(name, names)}"
        )
    return TABLES[name] if name in TABLES else LAYOUTS.load(name).table


def class_table(config: SceneConfig) -> ClassTable:
    """The classes of ``config``: its ``classes`` (a built-in name or a CSV file), else the layout's own.

    A folder or Parquet set has its own in a file ``classes.csv`` beside the data; a COCO set in its
    categories. Raises DataError.
    """
    if config.classes:
        return (
            builtin(config.classes) if config.classes in table_names() else read_class_table(config.classes)
        )
    return LAYOUTS.load(config.layout).classes(config) or own_class_table(config)


def reading_classes(config: SceneConfig) -> ClassTable:
    """:func:`class_table`; an empty one where no truth is read and the data bring none along."""
    try:
        return class_table(config)
    except NoTable:
        if config.labels:
            raise
        return ClassTable()


class NoTable(DataError):
    """Scenes without a class table."""


def own_class_table(config: SceneConfig) -> ClassTable:
    """``classes.csv`` in the root of a folder or beside a Parquet file. Raises DataError where there is
    none."""
    if not config.path:
        raise DataError(
            "The path of the scenes is empty: give the data set's root"
            f" folder{' or a Parquet file' if config.layout == 'parquet' else ''}."
        )
    root = posixpath.dirname(config.path) if config.path.endswith(".parquet") else config.path.rstrip("/")
    fs, base = open_location(root or ".")
    path = posixpath.join(base, OWN)
    if not is_file(fs, path):
        raise NoTable(
            f"The scenes in {config.path} have no class table: give one in `classes` (a CSV of value, name,"
            f" red, green, blue, or one of {', '.join(table_names())}), or put it there as {OWN}."
        )
    return _parsed(fs.cat_file(path), posixpath.join(root, OWN))


def read_class_table(location: str) -> ClassTable:
    """The table in a CSV file of value, name, red, green, blue (a header line may be given; with one, columns
    may be in any order).

    Classes are numbered in the order in which their names come first; rows of one name are one class, painted
    in the first row's colour. The name ``ignore`` leaves a value out. An optional sixth column ``ade`` is the
    class' index among ADE20K's colours.
    Raises DataError with the line for anything else.
    """
    try:
        with open_place(location, "rb", DataError) as stream:
            data = stream.read()
    except (OSError, ValueError, ImportError) as error:
        near = suggest(location, table_names())
        raise DataError(
            f"The class table {location} cannot be read ({error}): give a CSV file, or one of"
            f" {', '.join(table_names())}.{near}"
        ) from None
    return _parsed(data, location)


def _parsed(data: bytes, location: str) -> ClassTable:
    lines = [
        (n, [plain(cell.strip()) for cell in row])
        for n, row in read_rows(data, f"The class table {location}")
        if not row[0].lstrip().startswith("#")
    ]
    if not lines:
        raise DataError(
            f"The class table {location} is empty: it needs a line of value, name, red, green, blue for each"
            " value of the label files."
        )
    return _table(location, *_columns(location, lines))


def _columns(
    location: str, lines: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    first = [cell.lower() for cell in lines[0][1]]
    if not any(cell in COLUMNS for cell in first):
        return list(COLUMNS), lines
    unknown = [cell for cell in first if cell not in COLUMNS]
    if unknown:
        raise DataError(
            f"The class table {location} has a column {unknown[0]!r}: it may have"
            f" {', '.join(COLUMNS)}.{suggest(unknown[0], COLUMNS)}"
        )
    missing = [c for c in COLUMNS[:5] if c not in first]
    if missing:
        raise DataError(
            f"The class table {location} has no column {missing[0]!r}: it needs {', '.join(COLUMNS[:5])}."
        )
    return first, lines[1:]


def _table(location: str, columns: list[str], lines: list[tuple[int, list[str]]]) -> ClassTable:
    names: list[str] = []
    colours: list[Colour] = []
    ade: list[int | None] = []
    rows: dict[int, tuple[int, Colour]] = {}
    for number, cells in lines:
        where = f"Line {number} of the class table {location}"
        row = dict(zip(columns, cells, strict=False))
        absent = [c for c in COLUMNS[:5] if not row.get(c)]
        if absent:
            raise DataError(f"{where} has no {absent[0]}: it needs value, name, red, green, blue.")
        value = _whole(row["value"], f"{where}: the value", 0, 65535)
        colour = tuple(_whole(row[c], f"{where}: {c}", 0, 255) for c in ("red", "green", "blue"))
        if value in rows:
            raise DataError(
                f"{where} lists the value {value} a second time: each value of the label files needs one"
                " line."
            )
        if row["name"].lower() == "ignore":
            rows[value] = (IGNORED, colour)  # type: ignore[assignment]
            continue
        index = _whole(row["ade"], f"{where}: ade", -1, 149) if row.get("ade") else None
        if row["name"] not in names:
            names.append(row["name"])
            colours.append(colour)  # type: ignore[arg-type]
            ade.append(index)
        rows[value] = (names.index(row["name"]), colour)  # type: ignore[assignment]
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"The class table {location} has {len(names)} classes, but 1 to {MAX_CLASSES} are possible."
        )
    values = tuple(sorted(rows))
    listed = tuple(-1 if a is None else a for a in ade) if any(a is not None for a in ade) else ()
    stem = posixpath.splitext(posixpath.basename(location))[0]
    return ClassTable(
        stem,
        tuple(names),
        tuple(colours),
        values,
        tuple(rows[v][0] for v in values),
        listed,
        tuple(rows[v][1] for v in values),
    )


def _whole(text: str, what: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise DataError(f"{what} is {text!r}, but must be a whole number from {low} to {high}.")
    return number
