"""DDA with the authors' one norm over the batch, for parity with their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffadapt.diffusion.aligners.dda import Dda


@dataclass(frozen=True)
class DdaBatch(Dda):
    """The norm couples the images of a batch, so ``coupled_batch`` is part of what is made."""

    coupled: ClassVar[bool] = True
    norm: ClassVar[Literal["image", "batch"]] = "batch"
