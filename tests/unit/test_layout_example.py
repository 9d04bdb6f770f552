"""The example of a scene layout is taken from the page and run: one file, and no other change."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scenekit import label_ids, picture, save, train_ids
from tests.unit.readmekit import TEXT, blocks

READ = """
import json
from diffadapt.core.stage import WorkContext
from diffadapt.data.scenes.config import SceneConfig
from diffadapt.data.scenes.rows import decode_scenes
from diffadapt.stages.scenes import Scenes
stage = Scenes(SceneConfig("data/kitti", "kitti", "training", partial=True))
rows = stage.open(WorkContext("cpu")).run(stage.plan({})[0], ())
scenes, failures = decode_scenes(rows)
print(json.dumps([[s.key, s.annotation.tolist()] for s in scenes]))
assert not failures and Scenes(SceneConfig(layout="kitti", split="testing"))._published() == 200
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the page's file and three scenes of KITTI."""
    name = "my_layouts/kitti.py"
    file = tmp_path / name
    file.parent.mkdir()
    file.write_text(blocks()[name])
    for i in range(3):
        ids = label_ids((16, 24), i)
        save(tmp_path / f"data/kitti/training/image_2/{i:06d}_10.png", picture(ids, i))
        save(tmp_path / f"data/kitti/training/semantic/{i:06d}_10.png", ids)
    return tmp_path


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DIFFADAPT_LAYOUTS": "my_layouts"}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)


def test_scenes_are_read(place):
    done = run(place, sys.executable, "-c", READ)
    assert not done.returncode, done.stderr
    scenes = json.loads(done.stdout)
    assert [key for key, _ in scenes] == [f"source/0/{i:06d}_10" for i in range(3)]
    for i, (_, annotation) in enumerate(scenes):
        assert np.array_equal(annotation, train_ids(label_ids((16, 24), i)))


def test_the_command_plans(place):
    (command,) = re.findall(r"^```sh\n(DIFFADAPT_LAYOUTS=.*?)^```", TEXT, re.M | re.S)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["DIFFADAPT_LAYOUTS=my_layouts", "diffadapt"]
    options = words[2:]
    done = run(place, sys.executable, "-m", "diffadapt.cli", *options)
    assert not done.returncode, done.stderr
    assert re.search(r"source_only +1 +1 +3 ", done.stdout), done.stdout
    wrong = [word if word != "kitti" else "kity" for word in options]
    done = run(place, sys.executable, "-m", "diffadapt.cli", *wrong)
    assert done.returncode and "'kitti'" in done.stderr
