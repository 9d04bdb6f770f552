"""Networks, tokenizers and pipelines of a folder or hub id, loaded without running Python code of theirs.

A folder may name classes that it brings as Python files (``auto_map`` of transformers, components and
pipelines of diffusers). Libraries ask at the terminal, or, in older versions, run such files of a local
folder unasked. :func:`from_pretrained` and :func:`from_config` are the only places of the package that call
the libraries' methods of these names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffadapt.core.errors import WeightsError

INDEX = "model_index.json"
"""What diffusers keeps a pipeline's components in."""


def from_pretrained(cls: Any, place: str | None, **arguments: Any) -> Any:
    """``cls.from_pretrained(place, **arguments)``, without code of ``place`` (None: all of it is in the
    ``arguments``). Raises WeightsError where it cannot be had without, and what the library raises."""
    if place is not None:
        demand_no_code(cls, place)
    try:
        return cls.from_pretrained(place, trust_remote_code=False, **arguments)
    except Exception as error:  # the libraries have no class of error for it
        if place is not None and asks_for_code(str(error)):
            raise foreign_code(place) from error
        raise


def pipeline_of_file(cls: Any, file: str, config: str, **arguments: Any) -> Any:
    """The pipeline ``cls`` of diffusers of one checkpoint ``file`` of tensors, its settings those of the
    local folder ``config``; nothing is fetched. Raises as :func:`from_pretrained` does."""
    demand_no_code(cls, config)
    return cls.from_single_file(file, config=config, local_files_only=True, **arguments)


def from_config(cls: Any, config: Any, where: str) -> Any:
    """``cls.from_config(config)`` of an Auto class of transformers, likewise; ``where`` names the weights."""
    try:
        return cls.from_config(config, trust_remote_code=False)
    except Exception as error:
        if asks_for_code(str(error)):
            raise foreign_code(where) from error
        raise


def asks_for_code(text: str) -> bool:
    """Whether a library's error says that it needs to run the folder's own code."""
    return "trust_remote_code" in text


def foreign_code(place: str) -> WeightsError:
    """The error for weights at ``place`` that need code of their own."""
    return WeightsError(
        f"The weights {place!r} want Python code of their own to be run, which is not done with files from"
        " elsewhere: give weights whose classes transformers or diffusers itself has (no auto_map in its JSON"
        " files, no Python file as pipeline or component), or save these anew with such classes."
    )


def demand_no_code(cls: Any, place: str) -> None:
    """Raise WeightsError where the local folder ``place`` has code that some supported version of ``cls``'s
    library runs whether it may or not."""
    folder, kind = Path(place), getattr(cls, "config_name", None)
    if not folder.is_dir():
        return
    found = _of_pipeline(folder) if kind == INDEX else _of_model(folder) if kind is None else ()
    if any(found):  # other classes of diffusers make nothing but themselves
        raise foreign_code(place)


def demand_pipeline_without_code(place: str) -> None:
    """:func:`demand_no_code` of a pipeline's local folder, for whoever looks at it before it is loaded."""
    if any(_of_pipeline(Path(place))):
        raise foreign_code(place)


def _of_model(folder: Path) -> Iterator[bool]:
    yield (folder / "custom_generate" / "generate.py").is_file()
    yield _names_kernel(_json(folder / "config.json"))


def _of_pipeline(folder: Path) -> Iterator[bool]:
    index = _json(folder / INDEX)
    if not isinstance(index, Mapping):
        return
    yield (folder / "None.py").is_file()  # diffusers' name of the pipeline that was not asked for
    yield isinstance(index.get("_class_name"), list)
    for name, kind in index.items():
        if isinstance(kind, list) and len(kind) == 2 and isinstance(kind[0], str):
            yield (folder / name / f"{kind[0]}.py").is_file()
            yield not name.startswith("_") and not _known(kind[0])
            yield _names_kernel(_json(folder / name / "config.json"))


def _known(library: str) -> bool:
    """Whether ``library``, of a component, is one of whose classes diffusers may make it: any other that can
    be imported would be, from the current folder too."""
    if library in ("diffusers", "transformers"):
        return True
    from diffusers import pipelines

    return library.isidentifier() and hasattr(pipelines, library)


def _names_kernel(values: Any) -> bool:
    """Whether a configuration names attention of a hub repository, which is native code."""
    if isinstance(values, Mapping):
        return any(
            (key.endswith("attn_implementation") and "/" in json.dumps(value)) or _names_kernel(value)
            for key, value in values.items()
        )
    return isinstance(values, list) and any(map(_names_kernel, values))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the library says what is wrong with it
