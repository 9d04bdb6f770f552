"""Reading stages: labelled folders, embedded sets and benchmark trees as shards of original image bytes;
nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from diffadapt.core.artifact import Failure, Rows, Shard, image_table
from diffadapt.core.config import added, to_dict
from diffadapt.core.errors import DataError, ItemError
from diffadapt.core.leniency import missing
from diffadapt.core.stage import NodePlan, Stage, WorkContext
from diffadapt.data.benchmark_files import open_domain
from diffadapt.data.benchmarks import BENCHMARKS, published_count
from diffadapt.data.config import DataConfig
from diffadapt.data.imagenet import IMAGES, open_imagenet_c, open_imagenet_w
from diffadapt.data.items import Source
from diffadapt.data.labels import NoClasses, bind_source, some, without_others
from diffadapt.data.source import open_source

if TYPE_CHECKING:
    Layout = str
else:
    Layout = Literal[("plain", "imagenet-c", "imagenet-w", *BENCHMARKS)]


@lru_cache(maxsize=16)
def cached_source(
    data: DataConfig, subset: bool = False, names: tuple[str, ...] = (), others: bool = False
) -> Source:
    """One listing of a data set a process; ``subset``: classes of the class list may be absent; ``names``:
    the classes that labels are bound to. Folders of which none is such a class are no classes: all their
    images count, unlabelled. ``others``: so do those of single other classes."""
    if names and others:
        return bind_source(without_others(cached_source(replace(data, classes=None), subset), names), names)
    if not names:
        return open_source(data, subset)
    try:
        return bind_source(cached_source(data, subset), names)
    except NoClasses:
        if data.labels != "auto":
            raise
        bare = cached_source(replace(data, labels="none"), subset)
        note = (
            f"No folder or label of {bare.name} is one of the classes that are trained on ({some(names)}), so"
            f" its {len(bare.items):,} images count as unlabelled."
        )
        return replace(bare, notes=(*bare.notes, note))


@lru_cache(maxsize=128)
def cached_benchmark(data: DataConfig, layout: str, folder: str, partial: bool) -> Source:
    """One listing of a part of a benchmark a process."""
    if layout in BENCHMARKS:
        return open_domain(data, layout, folder, partial)
    if layout == "imagenet-w":
        return open_imagenet_w(data, partial)
    corruption, _, severity = folder.partition("/")
    return open_imagenet_c(data, corruption, int(severity), partial)


@dataclass(frozen=True)
class Images(Stage):
    """Original bytes of a data set, in blocks of ``data.block`` images, keyed ``<group>/<relative path>``.

    ``groups`` pairs a group (corruption/severity; 'clean/0' for undisturbed images) with a part of the data:
    ImageNet-C is fifteen groups of one root, an ordinary folder is one group, and a benchmark of domain
    adaptation has a group for each domain.
    """

    data: DataConfig = DataConfig()
    groups: tuple[tuple[str, str], ...] = (("clean/0", ""),)
    layout: Layout = "plain"
    """plain: any source of :class:`DataConfig`; the others: the benchmark's official layout, its counts
    checked."""
    partial: bool = False
    """Accept other counts than the benchmark's."""
    subset: bool = False
    """plain: class folders may lack classes of the class list, as a target may."""
    names: tuple[str, ...] = ()
    """plain: the classes of what is trained on, in label order, to which the labels found here are bound by
    name; empty: the data have an order of their own."""
    others: bool = added(False)
    """plain, with ``names``: images of further classes are kept, without a label; False: they are refused."""

    kind = "images"
    stored = False

    def identity(self) -> dict[str, Any]:
        fields = to_dict(self.data, identity_only=True)
        for name in ("path", "labels", "fingerprint", "image_size", "channels"):
            fields.pop(name)
        return {
            "data": fields,
            "groups": {
                g: s.fingerprint if (s := self.source(folder)) else "missing" for g, folder in self.groups
            },
            "layout": self.layout,
        }

    def plan(self, inputs: Mapping[str, NodePlan]) -> list[Shard]:
        shards = []
        for group, folder in self.groups:
            source = self.source(folder)
            total = (
                len(source.items) if source else self._published(folder)
            )  # while planning without the data
            block = max(1, self.data.block)
            width = len(str(max(total - 1, 0)))
            for start in range(0, total, block):
                stop = min(start + block, total)
                shards.append(
                    Shard(
                        f"{group.replace('/', '-')}-{start:0{width}d}",
                        {"group": group, "folder": folder, "start": start, "stop": stop},
                        (),
                        stop - start,
                    )
                )
        return shards

    def source(self, folder: str) -> Source | None:
        """The listing of one group; None while planning leniently without a benchmark's data. Raises
        DataError."""
        if self.layout == "plain":
            return cached_source(self.data, self.subset, self.names, self.others)
        try:
            return cached_benchmark(self.data, self.layout, folder, self.partial)
        except DataError as error:
            missing(error)
            return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; planning leniently without a benchmark's data, the published ones.
        Raises DataError."""
        source = self.source(self.groups[0][1])
        if source is not None:
            return source.class_names
        known = BENCHMARKS.get(self.layout)
        return (known.class_names or tuple(str(i) for i in range(known.classes))) if known else ()

    def _published(self, folder: str) -> int:
        return published_count(self.layout, folder) if self.layout in BENCHMARKS else IMAGES

    def notes(self) -> tuple[str, ...]:
        sources = (self.source(folder) for _, folder in self.groups)
        return tuple(
            dict.fromkeys(
                note for s in sources if s for note in (*s.notes, *s.looked.notes(s.name, s.by_content))
            )
        )

    def open(self, context: WorkContext) -> _Reader:
        return _Reader(self)

    def resources(self) -> str:
        return "cpu"


class _Reader:
    def __init__(self, stage: Images):
        self.stage = stage

    def run(self, shard: Shard, inputs: Sequence[Rows]) -> Rows:
        keys, labels, images, failures = [], [], [], []
        source = self.stage.source(shard.params["folder"])
        assert source is not None
        for item in source.items[shard.params["start"] : shard.params["stop"]]:
            key = f"{shard.params['group']}/{item.key}"
            try:
                images.append(source.encoded(item.key))
            except ItemError as error:
                failures.append(Failure(key, str(error)))
                continue
            keys.append(key)
            labels.append(item.label)
        return Rows(image_table(keys, labels, images, [0] * len(keys), suffix=""), failures)
