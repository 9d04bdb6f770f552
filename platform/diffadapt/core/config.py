"""Frozen configuration values: identity apart from execution, overrides by dotted name, JSON both ways.

A recipe is a tree of frozen dataclasses. A field made by :func:`execution` (batch size, device, workers) may
change how fast or where the work is done, never what is made, so it stays outside every digest.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from diffadapt.core.errors import RecipeError, suggest

T = TypeVar("T")


def execution(
    default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, doc: str = ""
) -> Any:
    """A dataclass field that does not change what is made (batch size, device, workers): outside every
    digest."""
    metadata = {"execution": True, "doc": doc}
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def added(default: Any, before: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that came after results had been stored. ``before`` is the value that means what was
    done until then (the default, unless given): with it the field is no part of any digest."""
    return field(default=default, metadata={"added": default if before is dataclasses.MISSING else before})


def decided(stated: Any) -> Any:
    """A field that another one decides while it is None; then ``stated`` stands in every digest: the former
    default, of results that do not depend on it."""
    return field(default=None, metadata={"decided": stated})


Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
AUTO = "auto"
"""The value of a :func:`by_device` field that the device decides."""


def by_device(cuda: str, before: str = "fp32") -> Any:
    """A field with the precision of a computation, ``auto`` unless given: ``cuda`` where the work is done on
    CUDA devices, which :func:`settle` puts in before anything is planned. Where it stays ``auto``, fp32 is
    computed and ``before`` stands in every digest: the default of results that are stored already."""
    return field(default=AUTO, metadata={"precision": {"cuda": cuda, "before": before}})


def settle(config: T, device: str) -> T:
    """``config``, a tree, with what ``device`` ('cuda' or 'cpu') decides in place of ``auto`` precisions."""
    return _decided(config, "cuda") if device == "cuda" else config


def strict_precision(config: T) -> T:
    """``config``, a tree, with what ``auto`` precisions mean on a CPU on every device: for recipes whose
    figures stand beside published ones. Digests stay as they are."""
    return _decided(config, "before")


def unsettled(config: Any) -> bool:
    """Whether a CUDA device would decide anything in ``config``."""
    return settle(config, "cuda") != config


def stated_precision(config: Any, name: str = "precision") -> str:
    """The precision of a config as digests have it."""
    return _stated(next(f for f in fields(config) if f.name == name), getattr(config, name))


def _decided(config: Any, which: str) -> Any:
    changed: dict[str, Any] = {}
    for f in (f for f in fields(config) if f.init):
        value = getattr(config, f.name)
        if is_dataclass(value):
            decided = _decided(value, which)
            if decided is not value:
                changed[f.name] = decided
        elif "precision" in f.metadata and value == AUTO:
            changed[f.name] = f.metadata["precision"][which]
    return dataclasses.replace(config, **changed) if changed else config


def _stated(f: dataclasses.Field, value: Any) -> Any:
    if value is None and "decided" in f.metadata:
        return f.metadata["decided"]
    return f.metadata["precision"]["before"] if value == AUTO and "precision" in f.metadata else value


def to_dict(config: Any, *, identity_only: bool = False) -> Any:
    """The JSON form of a config tree; with ``identity_only`` the execution fields are left out, and
    :func:`added` fields whose value means what was done before."""
    if is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: to_dict(
                _stated(f, getattr(config, f.name)) if identity_only else getattr(config, f.name),
                identity_only=identity_only,
            )
            for f in fields(config)
            if not (identity_only and _outside(f, getattr(config, f.name)))
        }
    if isinstance(config, Mapping):
        return {str(k): to_dict(v, identity_only=identity_only) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v, identity_only=identity_only) for v in config]
    if isinstance(config, float) and not math.isfinite(config):
        raise RecipeError(f"A field of the recipe is {config}: give a finite number.")
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"{type(config).__name__} has no JSON form")


def execution_fields(config: Any, prefix: str = "", within: bool = False) -> set[str]:
    """The dotted names of all leaves that do not change what is made."""
    found: set[str] = set()
    for f in fields(config):
        value, name = getattr(config, f.name), f"{prefix}{f.name}"
        outside = within or bool(f.metadata.get("execution"))
        if is_dataclass(value):
            found |= execution_fields(value, f"{name}.", outside)
        elif outside:
            found.add(name)
    return found


def _outside(f: dataclasses.Field, value: Any) -> bool:
    if f.metadata.get("execution") or "added" not in f.metadata:
        return bool(f.metadata.get("execution"))
    before = f.metadata["added"]
    if is_dataclass(before) and type(value) is type(before):  # its own execution fields do not count either
        return to_dict(value, identity_only=True) == to_dict(before, identity_only=True)
    return value == before


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build ``cls`` from :func:`to_dict` output. Raises RecipeError for unknown fields or wrong types."""
    hints = _hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise RecipeError(f"{cls.__name__} has no field {unknown[0]!r}.{suggest(unknown[0], hints)}")
    return cls(**{name: coerce(hints[name], value, name) for name, value in values.items()})


def field_types(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every overridable leaf of a config tree as dotted name -> annotated type."""
    result: dict[str, Any] = {}
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            result.update(field_types(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = hint
    return result


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every overridable leaf of a config tree as dotted name -> value."""
    result: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        name = f"{prefix}{f.name}"
        result.update(leaves(value, f"{name}.") if is_dataclass(value) else {name: value})
    return result


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of ``config`` with dotted fields replaced, e.g. ``{"synth.guidance": 1.5}``.

    Raises RecipeError for an unknown field (with the nearest name) or a value that does not fit its type.
    """
    known = field_types(config)
    for dotted, value in changes.items():
        if dotted not in known:
            raise RecipeError(
                f"The recipe has no field {dotted!r}.{suggest(dotted, known)} `diffadapt show` lists all"
                " fields."
            )
        config = _replace(config, dotted.split("."), value, dotted)
    return config


def changes(base: Any, other: Any) -> dict[str, Any]:
    """Dotted name -> value of ``other`` for every leaf in which it differs from ``base`` (of the same
    type)."""
    result: dict[str, Any] = {}
    for dotted in field_types(other):
        a, b = base, other
        for part in dotted.split("."):
            a, b = getattr(a, part, None), getattr(b, part)
        if a != b:
            result[dotted] = to_dict(b)
    return result


def _replace(config: Any, path: list[str], value: Any, dotted: str) -> Any:
    head, rest = path[0], path[1:]
    new = (
        _replace(getattr(config, head), rest, value, dotted)
        if rest
        else coerce(_hints(type(config))[head], value, dotted)
    )
    return dataclasses.replace(config, **{head: new})


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: _plain_union(hints[f.name]) for f in fields(cls)}


def _plain_union(hint: Any) -> Any:
    """``int | None`` for the Optional[int] that is left where a range was taken off: messages quote it."""
    return functools.reduce(operator.or_, get_args(hint)) if get_origin(hint) is Union else hint


def coerce(hint: Any, value: Any, name: str) -> Any:
    """``value`` as ``hint`` wants it (a string from the command line, a list from JSON), or RecipeError."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if type(None) in get_args(hint) and (value is None or value in ("None", "none")):
            return None
        for option in get_args(hint):
            if option is type(None):
                continue
            try:
                return coerce(option, value, name)
            except RecipeError:
                continue
        raise _mismatch(hint, value, name)
    if origin is Literal:
        for known in get_args(hint):
            same = (type(value), value) == (type(known), known)  # True is not 1
            if same or value == str(known):  # a string from a command line may mean a number
                return known
        raise RecipeError(
            f"{name} is {value!r} but must be one of {', '.join(map(str, get_args(hint)))}."
            + suggest(str(value), [str(a) for a in get_args(hint)])
        )
    if origin is tuple:
        if isinstance(value, str):
            value = [v for v in value.replace(",", " ").split() if v]
        if not isinstance(value, (list, tuple)):
            raise _mismatch(hint, value, name)
        args = get_args(hint)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(coerce(args[0], v, name) for v in value)
        if len(args) != len(value):
            raise _mismatch(hint, value, name)
        return tuple(coerce(a, v, name) for a, v in zip(args, value, strict=True))
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value)
        raise _mismatch(hint, value, name)
    if hint is Any:
        return value
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise _mismatch(hint, value, name)
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass
        raise _mismatch(hint, value, name)
    if hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                raise _mismatch(hint, value, name) from None
            if math.isfinite(number):
                return number
        raise _mismatch(hint, value, name)
    if hint is str and isinstance(value, str):
        return value
    if (get_origin(hint) in (dict, Mapping) or hint is dict) and isinstance(value, Mapping):
        return dict(value)
    raise _mismatch(hint, value, name)


def _mismatch(hint: Any, value: Any, name: str) -> RecipeError:
    wanted = getattr(hint, "__name__", None) or str(hint)
    if get_origin(hint) is Union:  # a number, or a word in its place
        wanted = " or ".join(" ".join(get_args(h)) if get_args(h) else h.__name__ for h in get_args(hint))
    return RecipeError(f"{name} is {value!r}, which is not a valid {wanted}.")
