"""What a label file holds beyond its class table is said aloud by the stages that read the scenes."""

from __future__ import annotations

import numpy as np
import torch

from diffadapt.core.artifact import IGNORED, Shard, from_parquet, to_parquet
from diffadapt.core.stage import WorkContext
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.models.segmentation.build import build_segmenter
from diffadapt.models.segmentation.folder import save_segmenter
from diffadapt.stages.scenes import Scenes
from diffadapt.tasks.segmentation.predict import PredictSegments
from tests.scenekit import save
from tests.unit.segmentationkit import SIZE, SMALL


def test_unknown_values_reach_the_stored_predictions(tmp_path):
    (tmp_path / "classes.csv").write_text("1,road,1,2,3\n2,sky,4,5,6\n")
    for name, value in (("a", 1), ("b", 77), ("c", 78)):
        save(tmp_path / f"images/{name}.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / f"labels/{name}.png", np.full(SIZE, value, np.uint8))
    scenes = Scenes(SceneConfig(str(tmp_path)))
    (shard,) = scenes.plan({})
    rows = scenes.open(WorkContext("cpu")).run(shard, ())
    said = (
        "The label map labels/b.png holds the value 77, which the class table classes does not list: such"
        " pixels are ignored, here and in other files."
    )
    assert rows.warnings == [said], "one sentence a shard"
    torch.manual_seed(0)
    save_segmenter(build_segmenter(SMALL, 2), str(tmp_path / "model"), SMALL, scenes.classes, {})
    stage = PredictSegments(SMALL, scenes.classes)
    found = stage.open(WorkContext("cpu", {"model": str(tmp_path / "model")})).run(Shard("all", {}), [rows])
    assert stage.may_warn and from_parquet(to_parquet(found, {})).warnings == [said]
    counted = [np.reshape(c, (3, 3)) for c in found.column("confusion")]
    assert [int(c[:2].sum()) for c in counted] == [SIZE[0] * SIZE[1], 0, 0] and IGNORED == 255
