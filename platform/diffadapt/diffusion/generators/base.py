"""What a generator is: images from prompts, from class labels, or from labelled scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffadapt.core.discover import Seam
from diffadapt.core.errors import ItemError, RecipeError

if TYPE_CHECKING:
    import numpy as np

    Images = Sequence[np.ndarray | ItemError]
    """uint8 (H, W, C) with C 1 or 3; an ItemError stands where there is no image, and says why."""
    FromPrompts = Callable[[Sequence[str], Sequence[int]], Images]
    """Prompts and a seed for each."""
    FromLabels = Callable[[Sequence[int], Sequence[int]], Images]
    """Class labels from 0 and a seed for each."""
    FromScenes = Callable[[Sequence[Any], Sequence[int], float | None], Images]
    """Scenes (data/scenes/rows.py), a seed for each, and the strength of the translation, 0 to 1 (None: all
    of it is new)."""


@dataclass(frozen=True)
class Generator:
    """Base of all generators. A recipe's ``weights`` name one as ``<name of its file>:<address>``; weights
    without such a name are those of diffusers.py.

    A subclass overrides :meth:`revision` and what it can of ``from_prompts``, ``from_labels`` and
    ``from_scenes``. Each is called once in every worker process, loads what is needed (torch is imported
    there, not at the file's top) and returns the function that is called batch by batch. An image may depend
    on its own input and seed only. An item that is refused is an ItemError in the result; an OSError (a
    time-out, a connection that fails) quarantines an item that raises it alone.
    """

    address: str = ""

    elsewhere: ClassVar[bool] = True
    """Whether it may fall silent: an OSError then means that it gives no answer, here and for planning."""

    def revision(self) -> str:
        """A string that changes whenever the generator would give other images: part of every digest. It is
        asked for while a run is planned."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The readable name of the images' folder."""
        return type(self).__module__.rpartition(".")[2]

    def check(self, config: Any) -> None:
        """Raise RecipeError or WeightsError for what can be known to fail while a run is planned; ``config``
        is that of the stage, a SynthConfig, TextToImageConfig or TransferConfig."""

    def check_classes(self, config: Any, num_classes: int) -> None:
        """Raise RecipeError where it is known, while a run is planned, that :meth:`from_labels` has fewer
        classes."""

    def from_prompts(self, config: Any, device: str) -> FromPrompts:
        """Text-to-image; ``config`` is the TextToImageConfig. Raises RecipeError where it cannot."""
        raise self._cannot("prompts")

    def from_labels(self, config: Any, device: str, num_classes: int) -> FromLabels:
        """Class-conditional; ``config`` is the SynthConfig. Raises RecipeError where it cannot."""
        raise self._cannot("class labels")

    def from_scenes(self, config: Any, device: str, classes: Any) -> FromScenes:
        """Layout-preserving; ``config`` is the TransferConfig, ``classes`` the ClassTable of the label maps.
        Raises RecipeError where it cannot."""
        raise self._cannot("labelled scenes")

    def _cannot(self, what: str) -> RecipeError:
        return RecipeError(f"The generator {self.label!r} makes no images from {what}: give other weights.")


GENERATORS = Seam(
    "generator",
    "diffadapt.diffusion.generators",
    "DIFFADAPT_GENERATORS",
    Generator,
    skip=frozenset(
        "base config dit filters loading pipeline_index schedulers text_to_image upsample".split()
    ),
)


def generator_of(weights: str) -> Generator:
    """The generator that ``weights`` name: a file's name before a colon, else diffusers weights."""
    name, colon, address = weights.partition(":")
    if colon and name in GENERATORS.names():
        return GENERATORS.load(name)(address)
    return GENERATORS.load("diffusers")(weights)


def silence_of(weights: str) -> tuple[type[OSError], ...]:
    """The errors that mean no answer: none where the weights are at hand, since those errors are a disk's."""
    return (OSError,) if generator_of(weights).elsewhere else ()
