"""A benchmark of unsupervised domain adaptation as a value: its domains, classes and published counts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

TEST = "_test"


@dataclass(frozen=True)
class Benchmark:
    """``counts`` are the published numbers of images by domain; ``<domain>_test`` names images that are held
    apart for scores."""

    name: str
    title: str
    domains: tuple[str, ...]
    counts: Mapping[str, int]
    classes: int
    class_names: tuple[str, ...] = ()
    """In label order (alphabetical); empty: as the class folders say."""
    metric: str = "top1"
    """top1, or class_mean (mean of the classes' accuracies)."""
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that a domain's folder or list may have, the official one first; default: the domain's name."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    only: tuple[tuple[str, str], ...] = ()
    """The transfers that are reported, where they are not all pairs."""
    note: str = ""
    """What a table of this benchmark has to say about its protocol."""
    listed: bool = False
    """Only image lists tell the splits: the class folders hold both."""
    idx: tuple[str, ...] = ()
    """Domains that are published as idx files."""

    def pairs(self) -> list[tuple[str, str]]:
        """(source, target) of every transfer that results are published on."""
        return list(self.only or itertools.permutations(self.domains, 2))

    def describe(self, domain: str) -> str:
        """What the images of a domain show, for prompts."""
        return self.descriptions.get(domain, "photos")

    def test_split(self, domain: str) -> str:
        """The domain's images that scores count and training never sees, as a name for :func:`open_domain`;
        '' where the benchmark scores the images that it adapts to."""
        return domain + TEST if domain + TEST in self.counts else ""

    def folders(self, domain: str) -> tuple[str, ...]:
        """Names that the folder or list of ``domain`` (without _test) may have."""
        return self.spellings.get(domain, (domain,))
