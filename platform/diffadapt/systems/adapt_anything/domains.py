"""A user's own domains in the form of the benchmarks: a folder a domain, a folder a class in it; methods x
transfers x seeds in one table."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from functools import cached_property

from diffadapt.core.errors import DataError, RecipeError
from diffadapt.data.archive_files import is_archive
from diffadapt.data.benchmark import Benchmark as Known
from diffadapt.data.class_names import match_names
from diffadapt.data.items import Source
from diffadapt.data.labels import read_class_list, some
from diffadapt.data.readers import open_location, walk
from diffadapt.stages.images import Images, cached_source
from diffadapt.systems.adapt_anything.benchmark import SYNTHETIC, Benchmark


@dataclass(frozen=True)
class Domains(Benchmark):
    """``data.path`` holds the domains: ``<domain>/<class>/<image>``, also ``<domain>.zip`` or
    ``<domain>.parquet``."""

    benchmark: str = ""
    """Empty: the domains are those that lie under ``data.path``."""

    def _check(self) -> None:
        if self.benchmark:
            raise RecipeError(
                f"benchmark is {self.benchmark!r}, but this recipe is for domains of your own: leave it"
                f" empty, or run adapt_anything/{self.benchmark}/all."
            )
        if not self.data.path:
            raise RecipeError(
                "The recipe has no data: give --data, a folder with a folder a domain, each with a folder a"
                " class."
            )
        super()._check()
        for source, target in self.pairs():
            self._check_pair(source, target)

    @cached_property
    def places(self) -> dict[str, str]:
        """Domain -> where its images lie: the folders, archives and Parquet files under ``data.path``."""
        if is_archive(self.data.path):
            raise DataError(
                f"{self.data.path} is an archive: give a folder that holds the domains, of which each may be"
                " an archive."
            )
        fs, root = open_location(self.data.path)
        tree = walk(fs, root)
        if tree.unnamed or tree.lost:
            odd = [*tree.unnamed, *tree.lost][0]
            raise DataError(
                f"{odd} in {self.data.path} has a name that is not UTF-8, or leads to no file: rename it, or"
                " get it again."
            )
        found = {name: name for name in tree.folders}
        for key in tree.files:
            if "/" not in key and (is_archive(key) or key.endswith(".parquet")):
                name = key.split(".")[0]
                if name in found:
                    raise DataError(
                        f"{self.data.path} has {found[name]!r} and {key!r} for the domain {name!r}: rename or"
                        " remove one of them."
                    )
                found[name] = key
        return {name: posixpath.join(self.data.path, key) for name, key in sorted(found.items())}

    @cached_property
    def known(self) -> Known:
        """The domains and classes that were found. Raises DataError."""
        if len(self.places) < 2:
            have = f"the domain {some(list(self.places))} only" if self.places else "no domains"
            raise DataError(
                f"{self.data.path} has {have}: give a folder with two or more domains, each a folder with"
                " a folder a class."
            )
        words = {name: name.replace("_", " ") for name in self.places}
        title = posixpath.basename(self.data.path.rstrip("/")) or "own domains"
        return Known(title, title, tuple(self.places), {}, 0, descriptions=words)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Those of the class list, else of all domains in use, each once however it is spelled. Raises
        DataError."""
        if self.data.classes:
            return read_class_list(self.data.classes)
        names: list[str] = []
        for domain in dict.fromkeys(d for pair in self.pairs() for d in pair if d != SYNTHETIC):
            for name in self._found(domain).class_names:
                if name not in names and not _matches(names, name):
                    names.append(name)
        if len(names) < 2:
            raise DataError(
                f"The domains under {self.data.path} have {len(names) or 'no'} class"
                f"{'es' if not names else ''}: put their images into a folder a class, at least two."
            )
        return tuple(sorted(names))

    def images(self, place: str) -> Images:
        """The images of a domain, labels bound to the classes of all."""
        data = replace(self.data, path=self.places[place], classes=None)
        return Images(data, ((f"{place}/0", ""),), subset=True, names=self.class_names)

    def _found(self, domain: str) -> Source:
        return cached_source(replace(self.data, path=self.places[domain], classes=None), True)

    def _check_pair(self, source: str, target: str) -> None:
        """DataError for a source that cannot teach a class that the target, or any domain, has."""
        if source == SYNTHETIC:
            return
        found = self.images(source).source("")
        assert found is not None
        labels = {item.label for item in found.items}
        if None in labels:
            raise DataError(
                f"The domain {source!r} has images without a class, so it cannot be a source: put them into a"
                f" folder a class, or name the transfers without {source}-{target}."
            )
        lacking = [name for c, name in enumerate(self.class_names) if c not in labels]
        if lacking:
            raise DataError(
                f"The domain {source!r} has no image of {some(lacking)}, so it cannot be a source for all"
                f" classes: add images, or name the transfers without {source}-{target} (--transfers)."
            )


def _matches(names: list[str], name: str) -> bool:
    try:
        return bool(names) and bool(match_names(names, [name], ""))
    except DataError:
        return False
