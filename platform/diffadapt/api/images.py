"""Images of a stage of a run: to look at, to hand on."""

from __future__ import annotations

import base64
import html
import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.core import recipes
from diffadapt.core.artifact import Rows
from diffadapt.core.errors import RecipeError, StoreError, suggest
from diffadapt.core.runs import Run
from diffadapt.run.audit_images import image_bytes

if TYPE_CHECKING:
    import datasets
    from PIL import Image as PillowImage

KINDS = ("images", "corrupted", "synth", "aligned", "transferred", "scenes", "student-images")
"""Kinds of stages whose rows are images."""
SHOWN = 64
"""Pictures that a notebook shows of a longer list."""


@dataclass(frozen=True)
class Picture:
    """One image: ``key`` (group, severity and path), ``label`` (None: not known), ``class_name``, and its
    encoded ``data`` as stored."""

    key: str
    label: int | None
    class_name: str
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    @property
    def image(self) -> PillowImage.Image:
        """Decoded as RGB, upright."""
        from diffadapt.data.image import decode, to_pil

        return to_pil(decode(self.data, 3, self.key))

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"<Picture {self.key}{f': {self.class_name}' if self.class_name else ''}>"


class Images(Sequence[Picture]):
    """Images of one stage; read when they are asked for."""

    def __init__(self, run: Run, stage: str, listed: Sequence[tuple[str, int | None, str]], value: Any):
        self._run, self.stage, self._listed, self._recipe = run, stage, tuple(listed), value
        self.class_names: tuple[str, ...] = tuple(run.manifest().get("class_names") or ())

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return Images(self._run, self.stage, self._listed[which], self._recipe)
        return self._read([self._listed[which]])[0]

    def __iter__(self) -> Iterator[Picture]:
        for start in range(0, len(self), 256):
            yield from self._read(self._listed[start : start + 256])

    def to_dataset(self) -> datasets.Dataset:
        """As a Dataset with the columns image, label (a ClassLabel where classes have names) and key.
        ResourceError without Hugging Face's datasets."""
        from diffadapt.api.datasets import images_dataset

        return images_dataset(((p.key, p.label, p.data) for p in self), self.class_names)

    def _read(self, listed: Sequence[tuple[str, int | None, str]]) -> list[Picture]:
        data: dict[str, bytes] = {}
        for path in dict.fromkeys(path for _, _, path in listed if path):
            data.update(_encoded(self._run.root.store.load(path)))
        if in_place := {key: self.stage for key, _, path in listed if not path}:
            data.update(image_bytes(self._run, in_place, self._recipe))
        return [Picture(key, label, self._name(label), data[key]) for key, label, _ in listed]

    def _name(self, label: int | None) -> str:
        if label is None or label < 0:
            return ""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def __repr__(self) -> str:
        return f"<{len(self)} images of {self.stage} of {self._run.name}>"

    def _repr_html_(self) -> str:
        cells = "".join(
            '<figure style="display:inline-block;margin:4px;text-align:center">'
            f'<img src="data:image/png;base64,{base64.b64encode(_thumbnail(p)).decode()}"'
            f' title="{html.escape(p.key, quote=True)}">'
            f"<figcaption>{html.escape(p.class_name)}</figcaption></figure>"
            for p in self[:SHOWN]
        )
        more = f"<p>{len(self) - SHOWN} more are not shown.</p>" if len(self) > SHOWN else ""
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{cells}{more}"


def _thumbnail(picture: Picture) -> bytes:
    from diffadapt.data.image import decode
    from diffadapt.report.panels import fit_size, png

    return png(fit_size(decode(picture.data, 3, picture.key), largest=128))


def _encoded(rows: Rows) -> dict[str, bytes]:
    images = (image["bytes"] for image in rows.column("image"))
    return dict(zip(rows.column("key"), images, strict=True))


def images(run: Run, stage: str, n: int | None, value: Any = None) -> Images:
    """``n`` images of ``stage``, spread evenly over all of them, or all; ``value``: the run's recipe, where
    it is at hand. StoreError for a stage that is not there or holds none."""
    nodes = run.manifest()["nodes"]
    if n is not None and (not isinstance(n, int) or n < 0):
        raise RecipeError(f"n is {n!r}, but must be a number of images, or None for all.")
    if stage not in nodes:
        raise StoreError(
            f"The run {run.name} has no stage {stage!r}.{suggest(str(stage), nodes)} {_holders(nodes)}"
        )
    shards = nodes[stage]["shards"]
    if shards and shards[0][3] is None:
        listed = _in_place(run, stage, value)
        return Images(run, stage, [listed[i] for i in _spread(len(listed), n)], value)
    return Images(run, stage, list(_stored(run, stage, shards, n)), value)


def _spread(total: int, n: int | None) -> list[int]:
    """Places of ``n`` of ``total`` things, evenly apart."""
    return list(range(total)) if n is None or n >= total else [i * total // n for i in range(max(0, n))]


def _in_place(run: Run, stage: str, value: Any) -> list[tuple[str, int | None, str]]:
    value = value or recipes.load(posixpath.join(run.url, "recipe.json"))
    reading: Any = next((n.stage for n in value.pipeline().nodes if n.name == stage), None)
    if not hasattr(reading, "groups"):
        raise _none(run, stage)
    sources = [(group, reading.source(folder)) for group, folder in reading.groups]
    return [(f"{g}/{item.key}", getattr(item, "label", None), "") for g, s in sources for item in s.items]


def _stored(
    run: Run, stage: str, shards: Sequence[Sequence[Any]], n: int | None
) -> Iterator[tuple[str, int | None, str]]:
    """Only the shards in which a place falls are read."""
    wanted, start = _spread(sum(count for _, _, count, _ in shards), n), 0
    for _, _, count, path in shards:
        mine = [i - start for i in wanted if start <= i < start + count]
        start += count
        if not mine:
            continue
        rows = run.root.store.load(path) if str(path).endswith(".parquet") else None
        if rows is None or "image" not in rows.table.column_names:
            raise _none(run, stage)
        keys = rows.column("key")
        labels = rows.column("label") if "label" in rows.table.column_names else [None] * len(keys)
        for i in mine:
            if i < len(keys):  # some may be set apart
                yield keys[i], labels[i], path


def _none(run: Run, stage: str) -> StoreError:
    return StoreError(
        f"The stage {stage!r} of {run.name} holds no images. {_holders(run.manifest()['nodes'])}"
    )


def _holders(nodes: Mapping[str, Any]) -> str:
    found = [name for name, node in nodes.items() if node["kind"] in KINDS]
    return f"It has images in: {', '.join(found)}." if found else "It has images in no stage."
