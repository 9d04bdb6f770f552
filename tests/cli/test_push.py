"""`export --push` with the real client against a small Hub on loopback."""

from __future__ import annotations

import pytest
import yaml

from diffadapt.cli import main
from diffadapt.report.licences import licence_of
from tests.cli.hubfake import TOKEN, hub


@pytest.fixture
def place(monkeypatch):
    """A Hub, and a client that asks it: online, and without the protocol of large files that needs its
    servers."""
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET"):
        monkeypatch.setattr(constants, name, name.endswith("XET"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def export(shell, *words: str) -> int:
    return main(["export", shell.name, "--root", str(shell.small), *words])


def front(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---")[1])


def test_a_model_is_pushed_with_its_card(shell, place, capsys):
    assert export(shell, "--push", "me/digits", "--private") == 0
    files = place.repos["models/me/digits"]
    assert {"README.md", "config.json", "model.safetensors"} <= files.keys() and place.private[
        "models/me/digits"
    ]
    card = files["README.md"].decode()
    assert front(files["README.md"])["library_name"] == "timm"
    assert "`embedded:digits-dit`, whose weights are under `apache-2.0`" in card or "look it up" in card
    said = capsys.readouterr()
    assert f"{place.url}/me/digits" in said.out and TOKEN not in said.out + said.err
    assert export(shell, "--push", "me/digits", "--private") == 0  # again: one more commit
    place.private["models/me/digits"] = False
    assert export(shell, "--push", "me/digits", "--private") == 2
    assert "is there and public, so --private cannot be kept" in capsys.readouterr().err


def test_synthetic_images_are_pushed_as_a_data_set(shell, place, tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    assert export(shell, "--what", "synth", "--push", "me/drawn", "--out", str(tmp_path / "out")) == 0
    files = place.repos["datasets/me/drawn"]
    card = front(files["README.md"])
    features = {f["name"]: f["dtype"] for f in card["dataset_info"]["features"]}
    assert features["image"] == "image" and features["label"]["class_label"]["names"]["3"] == "3"
    assert b"## Licence" in files["README.md"] and sum(f.endswith(".png") for f in files) == 40
    for name, data in files.items():  # what its own library reads of it
        (target := tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    found = datasets.load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 40 and found.features["label"].names == [str(i) for i in range(10)]
    assert f"{place.url}/datasets/me/drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not know the token in HF_TOKEN"),
        (403, "may not write to me/x"),
        (404, "knows no me where me/x"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(shell, place, capsys, status, said):
    place.refuse = status
    assert export(shell, "--push", "me/x") == 2
    err = capsys.readouterr().err.strip()
    assert said in err and f"(status {status})" in err and "\n" not in err and TOKEN not in err


def test_what_cannot_be_pushed_is_said_before_anything_is_written(
    shell, place, capsys, monkeypatch, tmp_path
):
    from huggingface_hub import constants

    out = tmp_path / "out"
    cases = [
        (("--push", "nameless"), "is no name on the Hub"),
        (("--private", "--out", str(out)), "--private is for --push"),
        (("--what", "projected", "--push", "me/x"), "would show images of your own data"),
        (("--what", "synth", "--layout", "flat", "--push", "me/x"), "leave --layout flat out"),
    ]  # fmt: skip
    for words, said in cases:
        assert export(shell, *words) == 2
        assert said in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert export(shell, "--push", "me/x", "--out", str(out)) == 2
    assert "environment variable HF_TOKEN, and it is not set" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert export(shell, "--push", "me/x", "--out", str(out)) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not out.exists() and not place.asked


def test_licences_are_those_of_the_weights(tmp_path):
    assert licence_of("stabilityai/stable-diffusion-xl-base-1.0") == "openrail++"
    assert licence_of("someone/else") == "" and licence_of("embedded:glyphs") == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# mine\n")
    assert licence_of(str(tmp_path)) == "cc-by-4.0"
