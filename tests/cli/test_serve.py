"""`serve` answers what `predict` writes; what it does not serve is said before anything starts."""

from __future__ import annotations

import io
import shutil
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffadapt.cli import main
from diffadapt.commands import serve
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.runs import Root
from diffadapt.data.embedded import digits
from diffadapt.data.image import encode_png
from diffadapt.systems import answers
from diffadapt.systems.answers import Opening, row_of, servable


def turned(image) -> bytes:
    """A JPEG that is stored turned and says so."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image[:, :, 0]).save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_answers_are_those_of_predict_whatever_the_batch(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(shell.pipelines))
    shutil.copytree(shell.small, tmp_path / "root")
    folder, (_, images, _) = tmp_path / "photos", digits("test")
    folder.mkdir()
    files = {f"{i}.png": encode_png(images[i * 50]) for i in range(4)}
    files |= {"turned.jpg": turned(images[7]), "broken.jpg": b"\xff\xd8\xff\xe0 not a picture"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    out = tmp_path / "p.parquet"
    words = ["predict", str(folder), "--run", shell.name, "--out", str(out), "--root", str(tmp_path / "root")]
    assert main([*words, "--execution.runner", "local"]) == 0
    wanted = {row["path"]: row for row in pq.read_table(out).to_pylist()}
    answer = Opening(str(tmp_path / "root"), shell.name)()
    backwards = list(files.items())[::-1]
    twin = ("0.png", files["1.png"])  # another image of the same name, asked for by someone else
    rows = answer([*backwards, twin])
    alone = [answer([image])[0] for image in backwards]
    assert [r["path"] for r in rows] == [*(name for name, _ in backwards), "0.png"]
    for row, single in zip(rows[:-1], alone, strict=True):
        want = {k: v for k, v in wanted[row["path"]].items() if v is not None}
        if "reason" in want:
            assert "broken.jpg is not a readable image" in row["reason"] and "target/0" not in row["reason"]
            continue
        assert row == pytest.approx(want, abs=1e-6) and single == pytest.approx(want, abs=1e-6)
    assert rows[-1]["source_confidence"] == pytest.approx(wanted["1.png"]["source_confidence"], abs=1e-6)


def test_what_is_not_served_is_said(shell, monkeypatch):
    run = Root(str(shell.small)).run(shell.name)
    with pytest.raises(
        RecipeError, match="No row of .* projects with the aligner 'one-step'. It projects with dda"
    ):
        row_of(run, "one-step")
    assert row_of(run, "dda") == "SDA"
    with pytest.raises(RecipeError, match="--row"):
        servable(run, "no such row")
    monkeypatch.setattr(answers, "from_run", lambda *_: answers.ScenePrediction("r", None, None, None, ""))
    with pytest.raises(StoreError, match="holds a segmenter, whose predictions are label maps"):
        servable(run)


def test_images_that_are_guided_together_are_not_served(shell, monkeypatch):
    run, real = Root(str(shell.small)).run(shell.name), answers.from_run

    def coupled(*arguments):
        recipe = real(*arguments)
        object.__setattr__(
            recipe, "project", SimpleNamespace(guidance="dda-batch", aligner=SimpleNamespace(coupled=True))
        )
        return recipe

    monkeypatch.setattr(answers, "from_run", coupled)
    with pytest.raises(RecipeError, match="guides several images together"):
        servable(run)


def test_the_command_refuses_before_anything_starts(shell, capsys, monkeypatch):
    words = ["serve", "--root", str(shell.small), "--run", shell.name]
    monkeypatch.setattr(serve, "NEEDED", ("no_such_package",))
    assert main(words) == 2
    assert "no_such_package is not installed: pip install 'diffadapt[serve]'" in capsys.readouterr().err
    monkeypatch.setattr(serve, "NEEDED", ())
    monkeypatch.delenv(serve.TOKEN, raising=False)
    cases = [
        (("--host", "0.0.0.0"), "set DIFFADAPT_SERVE_TOKEN"),
        (("--aligner", "dda", "--row", "SDA"), "both choose a row"),
        (("--run", "nothing"), "There is no run 'nothing'"),
        (("--replicas", "0"), "replicas"),
    ]
    for more, said in cases:
        assert main([*words, *more]) == 2
        assert said in (err := capsys.readouterr().err) and "Traceback" not in err
    assert "ray.serve" not in sys.modules
