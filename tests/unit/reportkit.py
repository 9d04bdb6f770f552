"""A run folder with invented numbers, for tests of what is drawn from it. Nothing in it was measured."""

from __future__ import annotations

import json

import numpy as np

from diffadapt.core import record
from diffadapt.core.manifest import FORMAT
from diffadapt.core.record import Score
from diffadapt.core.runs import Root, Run
from diffadapt.data.config import CORRUPTIONS

MAIN = {"Source": 43.6, "DiffPure": 58.0, "MEMO": 47.0, "Tent": 60.2, "GDA": 61.0, "DDA": 64.0, "SDA": 66.5}
CONTROLS = {
    "Fine-tuned model on projected images": 62.3,
    "SDA without alignment": 67.4,
    "Real-image fine-tuning": 65.6,
    "Projection only": 60.0,
    "Source, twice": 43.6,
}


def fake_scores(
    run: str = "fake",
    seed: int = 0,
    corruptions=CORRUPTIONS,
    main=MAIN,
    controls=CONTROLS,
    images: int = 600,
    shift: float = 0.0,
    clean: bool = True,
) -> list[Score]:
    """INVENTED scores: a wave over the corruptions around each method's mean; MEMO counts 20 images a
    corruption only."""
    out = []
    for method, mean in {**main, **controls}.items():
        control, used = method in controls, 20 if method == "MEMO" else images
        note = {"MEMO": "invented, 20 images a corruption", "Tent": "invented, batch 64"}.get(
            method, "invented"
        )
        for i, corruption in enumerate(corruptions):
            value = min(max(mean + shift + 18 * np.sin(1.7 * i) * (1 - mean / 140), 1), 99)
            out.append(
                Score(
                    run,
                    method,
                    control,
                    f"{corruption}/5",
                    corruption,
                    5,
                    "top1",
                    float(value),
                    used,
                    images,
                    seed,
                    note=note,
                )
            )
        if clean and method != "MEMO":
            out.append(
                Score(
                    run,
                    method,
                    control,
                    "clean/0",
                    "clean",
                    0,
                    "top1",
                    97.2 - (mean / 40),
                    images,
                    images,
                    seed,
                    note=note,
                )
            )
    return out


def fake_manifest(
    recipe: str = "quickstart",
    seed: int = 0,
    classes=tuple("0123456789"),
    config=None,
    quarantined=(),
    **more,
) -> dict:
    node = {
        "kind": "aligned",
        "version": 1,
        "identity": {"align": {"scale": 2.0}},
        "revisions": {"embedded:digits-unet": "sha256:0123abcd"},
        "inputs": ["synthetic"],
        "family": "0123456789abcdef",
        "shards": [["all", "feedbeef", 200, "aligned/x.parquet"]],
        "quarantined": [list(q) for q in quarantined],
    }
    return {
        "format": FORMAT,
        "recipe": recipe,
        "seed": seed,
        "class_names": list(classes),
        "outputs": {},
        "rows": [],
        "config": config
        or {
            "seed": seed,
            "target": {"kind": "corruptions", "severities": [5]},
            "synth": {"guidance": 1.0},
            "classifier": {"name": "train", "arch": "cifar_resnet8"},
        },
        "nodes": {
            "aligned": node,
            "synthetic": {**node, "kind": "synthetic", "inputs": [], "quarantined": [], "revisions": {}},
        },
        "versions": {"diffadapt": "0.0.invented", "python": "3.11.0", "torch": "2.15.0"},
        **more,
    }


def fake_run(
    place,
    name: str = "quickstart-0123abcd",
    scores=None,
    manifest=None,
    figures=(),
    execution=None,
    recipe_json=None,
) -> Run:
    """A run folder under ``place``; ``figures``: (section, PNG bytes or None for a missing file)."""
    run = Run(Root(str(place)), name)
    run.write("manifest.json", json.dumps(manifest or fake_manifest()).encode())
    run.write("scores.parquet", record.to_bytes(fake_scores(name) if scores is None else scores))
    run.write(
        "execution.json",
        json.dumps(
            execution or {"runner": "local", "seconds": 83.2, "made": {}, "batch_sizes": {"aligned": 32}}
        ).encode(),
    )
    if recipe_json is not None:
        run.write("recipe.json", json.dumps(recipe_json).encode())
    if figures:
        run.write("figures/figures.json", json.dumps({"sections": [s for s, _ in figures]}).encode())
        for section, data in figures:
            if data is not None:
                run.write(f"figures/{section['image']}", data)
    run.write_status("finished", {})
    return run
