"""TensorBoard event files in the run's own folder: scalars and pictures of fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffadapt.train.trackers.base import Tracker

if TYPE_CHECKING:
    import numpy as np


class TensorBoard(Tracker):
    """A run's scores and figures have files of their own, and are not written twice."""

    def start(self) -> None:
        self._writer = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self.folder)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def figures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self.node:
            with SummaryWriter(self.folder, filename_suffix=".samples") as writer:
                for name, picture in pictures.items():
                    writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
