"""The user's own prompts: CSV, JSON or text lines, bound to classes by name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.core.foreign import parse
from diffadapt.core.location import open_place
from diffadapt.core.spreadsheet import plain, read_rows
from diffadapt.data.class_names import match_names, normalise
from diffadapt.prompts.sources.base import PromptSource
from diffadapt.prompts.text import fill

_FORMS = "CSV with lines category,prompt, JSON with category -> prompts, or text lines with {category}"


class FileSource(PromptSource):
    """The prompts of ``prompts.file``, from the first again where there are fewer than are asked for."""

    by_content: ClassVar[bool] = True

    def check(self, class_names: Sequence[str]) -> None:
        if not self.config.file:
            raise RecipeError(
                "prompts.source is 'file' but prompts.file is empty: give a CSV (category,prompt), a JSON or"
                " a text file."
            )
        for name in class_names:
            file_prompts(self.config.file, name, tuple(class_names))

    def identity(self) -> dict[str, Any]:
        return {"source": "file"}  # the prompts themselves are in the shards' parameters

    def prompts(self, category: str, start: int, stop: int) -> list[str]:
        mine = file_prompts(self.config.file, category)
        return [fill(mine[k % len(mine)], category, self.domain) for k in range(start, stop)]


def file_prompts(path: str, category: str, class_names: Sequence[str] = ()) -> list[str]:
    """The prompts of one class in the order of the file; {category} and {domain} in them are not replaced
    yet.

    With ``class_names`` every category of the file must be one of them. Raises DataError for a file that
    cannot be read or parsed, for an unknown category, and for a class without prompts.
    """
    common, by_category = _read(path)
    if class_names:
        match_names(class_names, by_category, f"The prompt file {path}")
    if common:
        return list(common)
    same = [c for c in by_category if normalise(c) == normalise(category)] or [
        c for c in by_category if _squeezed(c) == _squeezed(category)
    ]
    if not same:
        raise DataError(
            f"The prompt file {path} has no prompts for the class {category!r}: add some, or use another"
            " prompts.source."
        )
    return list(by_category[same[0]])


def _squeezed(name: str) -> str:
    return normalise(name).replace(" ", "")


def _read(path: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    try:
        with open_place(path, "rb", DataError) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"The prompt file {path} is not UTF-8 text: save it as UTF-8 ({_FORMS}).") from None
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"The prompt file {path} cannot be read ({getattr(error, 'strerror', None) or error}): check"
            " prompts.file."
        ) from None
    return _parse(path, text)


@functools.lru_cache(maxsize=4)
def _parse(path: str, text: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Prompts for every class, and prompts by category in its first spelling; one of the two is empty."""
    suffix = path.lower().rpartition(".")[2]
    if suffix == "json":
        common, pairs = [], _json_pairs(path, text)
    elif suffix == "csv":
        common, pairs = [], _csv_pairs(path, text)
    else:
        common, pairs = _lines(path, text), []
    result: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for category, prompt in pairs:
        if prompt.strip():
            result.setdefault(spelling.setdefault(normalise(category), category.strip()), []).append(
                prompt.strip()
            )
    if not common and not result:
        raise DataError(f"The prompt file {path} holds no prompts: it needs {_FORMS}.")
    return tuple(common), {category: tuple(prompts) for category, prompts in result.items()}


def _lines(path: str, text: str) -> list[str]:
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if "{category}" not in line:
            raise DataError(
                f"Line {number} of the prompt file {path} has no {{category}}: write it where the class's"
                " name belongs, or use CSV or JSON."
            )
        prompts.append(line)
    return prompts


def _csv_pairs(path: str, text: str) -> list[tuple[str, str]]:
    rows = [row for _, row in read_rows(text.encode(), f"The prompt file {path}", loose=True)]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = 2
    if head[:2] == ["category", "prompt"]:  # an exported table names the source too
        columns, rows = len(head), rows[1:]
    for row in rows:
        if len(row) != columns:
            raise DataError(
                f"The prompt file {path} has a line with {len(row)} columns ({','.join(row)[:60]!r}): it"
                " needs category,prompt; a prompt with a comma in it is quoted."
            )
    return [(plain(row[0]), plain(row[1])) for row in rows]


def _json_pairs(path: str, text: str) -> list[tuple[str, str]]:
    try:
        value = parse(text)
    except ValueError as error:
        raise DataError(f"The prompt file {path} is not JSON ({error}).") from None
    if isinstance(value, list) and all(
        isinstance(v, dict) and isinstance(v.get("category"), str) and isinstance(v.get("prompt"), str)
        for v in value
    ):
        return [(v["category"], v["prompt"]) for v in value]
    if isinstance(value, dict) and all(
        isinstance(v, list) and all(isinstance(p, str) for p in v) for v in value.values()
    ):
        return [(category, prompt) for category, prompts in value.items() for prompt in prompts]
    raise DataError(
        f"The prompt file {path} has another form than category -> list of prompts (or a list of objects with"
        " category and prompt)."
    )
