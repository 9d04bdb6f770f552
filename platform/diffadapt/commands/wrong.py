"""What a command line has wrong, in one sentence: which option, what it was given, what it takes, and the
nearest."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from diffadapt.core.config import coerce
from diffadapt.core.errors import RecipeError, suggest

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "None",
}
FLAG = "flag"
"""In place of a type: an option that takes no value."""


def sentence(words: Sequence[str], known: Mapping[str, Any], lists: str, said: str) -> str:
    """The first thing that is wrong with ``words``, options and their values. ``known``: option -> type of
    its value; ``lists``: the command that lists the options; ``said``: what the parser said, where nothing
    else is found."""
    i = 0
    while i < len(words):
        name, equals, value = words[i].partition("=")
        i += 1
        if not name.startswith("--"):
            continue
        option = name.replace("_", "-")
        values = [value] if equals else []
        while not equals and i < len(words) and not words[i].startswith("--"):
            values.append(words[i])
            i += 1
        if option not in known:
            return f"There is no option {name}.{_near(option, known)} `{lists}` lists all."
        if wrong := _value(option, values, known[option], bool(equals)):
            return wrong
    text = _plain(said)
    if left := re.match(r"Unrecognized options: (.*)\.$", text):
        return f"{left[1]!r} belongs to no option. `{lists}` lists them all."
    return text


def takes(hint: Any) -> str:
    """What a value of the type may be: 'a number', 'one of auto, local, ray'."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(takes(h) for h in get_args(hint))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin is tuple:
        first, *more = get_args(hint)
        if more == [Ellipsis]:
            return f"several values, each {takes(first)}"
        return f"{1 + len(more)} values, each {takes(first)}"
    return KINDS.get(hint, getattr(hint, "__name__", str(hint)))


def words_of(hint: Any) -> list[str]:
    """The values that the type names one by one."""
    if get_origin(hint) is Literal:
        return [str(a) for a in get_args(hint)]
    if hint is bool:
        return ["true", "false"]
    return [w for h in get_args(hint) for w in words_of(h)] if get_origin(hint) else []


def _value(option: str, values: Sequence[str], hint: Any, joined: bool) -> str:
    if hint == FLAG:
        extra = values[0] if values else ""
        return f"{option} takes no value and was given {extra!r}." if extra else ""
    several = any(get_origin(h) is tuple for h in (hint, *get_args(hint)))
    if not values:
        return "" if several else f"{option} needs a value: {takes(hint)}."
    if not several and len(values) > 1:
        return f"{option} takes one value and was given {len(values)}: {' '.join(values)}."
    try:
        coerce(
            hint, " ".join(values) if several and joined else list(values) if several else values[0], option
        )
    except RecipeError:
        given = " ".join(values)
        return f"{option} is {given!r} but takes {takes(hint)}.{suggest(given, words_of(hint))}"
    return ""


def _near(option: str, known: Mapping[str, Any]) -> str:
    """Those whose last word the option is, else the nearest one."""
    last = option.rpartition(".")[2].removeprefix("--")
    ends = [k for k in known if k.rpartition(".")[2].removeprefix("--") == last][:3]
    found = ends or difflib.get_close_matches(option, known, n=1)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _plain(box: str) -> str:
    """The words of a parser's box."""
    lines = [re.sub(r"[\u2500-\u257f]|-{3,}", " ", line).strip() for line in box.splitlines()]
    text = re.sub(r"\s+", " ", " ".join(lines[1:])).partition("For full helptext")[0].strip()
    return f"{(text or 'The options cannot be read').rstrip('.')}."
