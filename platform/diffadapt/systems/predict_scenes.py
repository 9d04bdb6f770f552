"""A finished run's segmenter as it is deployed: new images in, label maps out."""

from __future__ import annotations

from dataclasses import dataclass

from diffadapt.core.pipeline import Node, Pipeline
from diffadapt.data.config import DataConfig
from diffadapt.data.scenes.table import ClassTable
from diffadapt.models.segmentation.config import SegmenterConfig
from diffadapt.models.segmentation.folder import read_marker
from diffadapt.run.runner import ExecutionConfig
from diffadapt.stages.photos import Photos
from diffadapt.tasks.segmentation.predict import PredictSegments

SEGMENTS = "model_on_images"
BLOCK = 32
"""At most so many images a shard: photographs are large, and a shard's are decoded together."""


@dataclass(frozen=True)
class ScenePrediction:
    """Label maps of ``data`` by the segmenter in ``folder``."""

    run: str
    data: DataConfig
    segmenter: SegmenterConfig
    classes: ClassTable
    folder: str
    seed: int = 0
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def photos(self) -> Photos:
        return Photos(self.data, (("target/0", ""),))

    def pipeline(self) -> Pipeline:
        """images -> label maps."""
        nodes = (
            Node("images", self.photos),
            Node(SEGMENTS, PredictSegments(self.segmenter, self.classes, self.folder), ("images",)),
        )
        return Pipeline(nodes, (), self.classes.names, {"target": "images"})


def of_segmenter(
    run: str, folder: str, images: str, execution: ExecutionConfig, block: int, seed: int
) -> ScenePrediction:
    """The prediction recipe of the segmenter in the local ``folder`` for ``images`` (a folder, glob or
    Parquet file)."""
    marker = read_marker(folder)
    data = DataConfig(path=images, channels=3, labels="none", block=min(block, BLOCK))
    return ScenePrediction(run, data, marker.config, marker.classes, folder, seed, execution)
