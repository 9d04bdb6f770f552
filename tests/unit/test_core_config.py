"""Configuration values: overrides with their types, JSON both ways, and what belongs to the identity."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

import diffadapt
from diffadapt.core.config import (
    AUTO,
    changes,
    execution,
    field_types,
    from_dict,
    override,
    to_dict,
)
from diffadapt.core.errors import RecipeError
from diffadapt.core.identity import digest
from diffadapt.diffusion.aligners.gda import GDAConfig
from diffadapt.run.runner import ExecutionConfig
from diffadapt.systems.sda.recipe import SDA

PACKAGE = Path(diffadapt.__file__).parent


def config_classes() -> list[type]:
    """Every configuration class: those of all config.py files, of recipes and of execution."""
    found = {ExecutionConfig, SDA, GDAConfig}
    for file in sorted(PACKAGE.rglob("config.py")):
        module = importlib.import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
        found |= {
            c
            for _, c in inspect.getmembers(module, inspect.isclass)
            if is_dataclass(c) and c.__module__ == module.__name__
        }
    return sorted(found, key=lambda c: c.__qualname__)


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 3] = 1
    batch: int = execution(8)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    count: int = 1
    name: str | None = None
    limit: int | None = 3
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)
    part: tuple[float, float] = (0.0, 1.0)
    pairs: tuple[tuple[str, str], ...] = ()


@pytest.mark.parametrize(
    ("field", "given", "wanted"),
    [
        ("inner.rate", "1.5", 1.5),
        ("inner.rate", 2, 2.0),
        ("inner.mode", "slow", "slow"),
        ("inner.level", "3", 3),
        ("inner.level", 3, 3),
        ("count", "4", 4),
        ("count", 4.0, 4),
        ("name", "none", None),
        ("name", None, None),
        ("name", "x", "x"),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("flag", "true", True),
        ("flag", False, False),
        ("sizes", "3 4", (3, 4)),
        ("sizes", [5], (5,)),
        ("sizes", "6,7", (6, 7)),
        ("sizes", (), ()),
        ("part", [0, 0.5], (0.0, 0.5)),
        ("pairs", [["a", "b"]], (("a", "b"),)),
    ],
)
def test_override_coerces(field, given, wanted):
    value: Any = override(Outer(), {field: given})
    for part in field.split("."):
        value = getattr(value, part)
    assert value == wanted and type(value) is type(wanted)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("inner.rate", "fast"),
        ("inner.rate", True),
        ("inner.rate", "nan"),
        ("inner.rate", float("inf")),
        ("inner.rate", 10**400),
        ("inner.mode", "fest"),
        ("inner.level", True),
        ("inner.level", 2),
        ("count", 1.5),
        ("count", "x"),
        ("count", True),
        ("count", None),
        ("name", 3),
        ("limit", "x"),
        ("flag", 1),
        ("flag", "yes"),
        ("sizes", 3),
        ("sizes", "a"),
        ("part", [1.0]),
        ("inner.batch", None),
    ],
)
def test_override_refuses(field, given):
    with pytest.raises(RecipeError, match=field.split(".")[-1]):
        override(Outer(), {field: given})


def test_near_names_are_suggested():
    with pytest.raises(RecipeError, match="Did you mean 'inner.rate'"):
        override(Outer(), {"inner.rat": 1})
    with pytest.raises(RecipeError, match="Did you mean 'slow'"):
        override(Outer(), {"inner.mode": "slo"})
    with pytest.raises(RecipeError, match="Did you mean 'count'"):
        from_dict(Outer, {"cont": 1})
    with pytest.raises(RecipeError, match="synth.guidance"):
        override(SDA(), {"synth.guidence": 2})


def test_override_leaves_the_original_and_changes_are_named():
    base = Outer()
    other = override(base, {"inner.rate": 3, "sizes": "9"})
    assert base == Outer() and changes(base, other) == {"inner.rate": 3.0, "sizes": [9]}
    assert override(base, changes(base, other)) == other


def test_a_field_that_is_not_a_finite_number_has_no_json_form():
    with pytest.raises(RecipeError, match="finite"):
        to_dict(Inner(rate=float("nan")))


@pytest.mark.parametrize("cls", config_classes(), ids=lambda c: c.__name__)
class TestEveryConfig:
    def test_is_frozen_and_hashable_by_value(self, cls):
        assert cls.__dataclass_params__.frozen
        assert cls() == cls() and hash(cls()) == hash(cls())

    def test_makes_the_round_trip_through_json(self, cls):
        assert from_dict(cls, to_dict(cls())) == cls()

    def test_each_identity_field_forks_and_no_execution_field_does(self, cls):
        base = cls()
        before = digest(to_dict(base, identity_only=True))
        for name in field_types(base):
            other = _with_another_value(base, name)
            forked = digest(to_dict(other, identity_only=True)) != before
            assert forked != _is_execution(base, name), f"{cls.__name__}.{name}"

    def test_round_trip_of_changed_values(self, cls):
        for name in field_types(cls()):
            other = _with_another_value(cls(), name)
            assert from_dict(cls, to_dict(other)) == other


def _is_execution(config: Any, dotted: str) -> bool:
    *path, last = dotted.split(".")
    for part in path:
        config = getattr(config, part)
    return bool(next(f for f in fields(config) if f.name == last).metadata.get("execution"))


def _with_another_value(config: Any, dotted: str) -> Any:
    head, _, rest = dotted.partition(".")
    if rest:
        return replace(config, **{head: _with_another_value(getattr(config, head), rest)})
    return replace(config, **{head: _another(field_types(config)[head], getattr(config, head))})


def _another(hint: Any, value: Any) -> Any:
    if get_origin(hint) is Literal:
        values = get_args(hint)
        # an ``auto`` precision has the digest of what it means on a CPU, so it is compared with the others
        return "bf16" if value == AUTO and "bf16" in values else next(a for a in values if a != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value[:-1], _another(None, value[-1])) if value else ("x",)
    option = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(option) is Literal:
        return get_args(option)[0]
    if get_origin(option) is tuple:
        return (_another(get_args(option)[0] | None, None),)
    return {int: 1, float: 1.5, str: "x", bool: True}[option]


def test_every_class_was_found():
    names = {c.__name__ for c in config_classes()}
    assert {
        "SynthConfig",
        "AlignConfig",
        "GDAConfig",
        "DataConfig",
        "TargetConfig",
        "ClassifierConfig",
        "FitConfig",
        "DiffusionFitConfig",
        "MemoConfig",
        "TentConfig",
    } <= names
    assert all(dataclasses.is_dataclass(c) for c in config_classes())
