"""A whole SDA recipe in seconds: the quickstart on a few digits and corruptions, for tests of the machinery
(not of accuracy)."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from diffadapt.systems.sda.recipe import SDA

ROOT = Path(__file__).resolve().parent.parent


def quickstart() -> SDA:
    """The quickstart's recipe value."""
    spec = importlib.util.spec_from_file_location("quickstart_recipe", ROOT / "pipelines" / "quickstart.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipe()


def tiny_sda(**changes) -> SDA:
    """30 test digits, 2 corruptions, 8 synthetic images a class, one epoch of everything; all rows and
    controls."""
    full = quickstart()
    recipe = replace(
        full,
        source=replace(full.source, limit_per_class=20),
        target=replace(
            full.target,
            data=replace(full.target.data, limit_per_class=3, block=16),
            corruptions=("gaussian_noise", "contrast"),
        ),
        classifier_fit=replace(full.classifier_fit, epochs=2, checkpoint_every=5),
        synth=replace(full.synth, images_per_class=8, images_per_shard=4, steps=4),
        finetune=replace(full.finetune, epochs=1),
        memo=replace(full.memo, views=4, limit=2),
        tent=replace(full.tent, batch_size=8),
        cheap=(),
        execution=replace(full.execution, runner="local", device="cpu"),
    )
    return replace(recipe, **changes)


def tiny_adaptation(generator: str, **changes):
    """Adapt Anything on 30 digits with the pipeline folder ``generator``: 4 images a class, a dozen training
    steps, every row."""
    spec = importlib.util.spec_from_file_location(
        "digits_recipe", ROOT / "pipelines" / "adapt_anything" / "digits.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    full = module.recipe()
    recipe = replace(
        full,
        target=replace(full.target, limit_per_class=3, block=16),
        prompts=replace(full.prompts, source="template", template="a photo of the digit {category}"),
        generator=replace(
            full.generator, weights=generator, images_per_class=4, images_per_shard=2, steps=2, batch_size=20
        ),
        filters=replace(full.filters, blank=False, near_duplicates=0),
        uda=replace(full.uda, method="dann", epochs=2, steps_per_epoch=6, batch_size=8, checkpoint_every=5),
        ssl=replace(full.ssl, epochs=2, steps_per_epoch=6, batch_size=4, checkpoint_every=5),
        clip=replace(full.clip, weights=""),
        seeds=(0,),
        execution=replace(full.execution, runner="local", device="cpu"),
    )
    return replace(recipe, **changes)
