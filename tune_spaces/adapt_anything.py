"""Searches over Adapt Anything: its settings, and the questions that its paper leaves open."""

from __future__ import annotations

from diffadapt.sweeps.space import Choice, Integers, SearchConfig, Space, Uniform

RECIPE = "adapt_anything"
SEEDS = Choice((0,), (1,), (2,), sets=("seeds",))
"""Training repeated: deviations in the report come from it."""
LEAN = {"controls": ()}
"""The control rows of a single run would double every trial's training."""


def prompt_count() -> Space:
    """How many prompts a class: the mode collapse of one prompt against ever more varied ones; with a CLIP,
    the diversity of each set stands beside its accuracy."""
    return Space(
        {"prompts.prompts_per_class": Choice(1, 10, 50, 100, 200), "seeds": SEEDS}, base=LEAN, recipe=RECIPE
    )


def guidance() -> Space:
    """Guidance scale of the generator: about 2 is better for training data than the 7.5 of pictures for
    people."""
    return Space({"generator.guidance": Choice(1.5, 2.0, 3.0, 7.5), "seeds": SEEDS}, base=LEAN, recipe=RECIPE)


def confidence_threshold() -> Space:
    """Confidence from which stage 2 takes a pseudo-label as a label; costs no generator call after the first
    trial."""
    return Space(
        {"split.threshold": Choice(0.5, 0.7, 0.8, 0.9, 0.95, 0.99), "seeds": SEEDS},
        base={**LEAN, "split.rule": "threshold"},
        recipe=RECIPE,
    )


def joint() -> Space:
    """Prompts, guidance, images and confident fraction together, by TPE against device hours: a Pareto
    front."""
    return Space(
        {
            "prompts.prompts_per_class": Choice(10, 50, 200),
            "generator.guidance": Choice(1.5, 2.0, 3.0, 5.0, 7.5),
            "generator.images_per_class": Choice(50, 100, 200),
            "split.fraction": Uniform(0.2, 0.9),
            "uda.epochs": Integers(5, 20, 5),
        },
        search=SearchConfig(searcher="optuna", trials=40, cost="device_hours"),
        base=LEAN,
        recipe=RECIPE,
    )


def method_by_benchmark() -> Space:
    """UDA method x semi-supervised method; with --benchmarks a,b,c a heat map over recipes."""
    return Space(
        {
            "uda.method": Choice("source_only", "dann", "cdan", "mcd", "symnets", "mcc"),
            "ssl.method": Choice("none", "mixmatch", "fixmatch"),
        },
        base=LEAN,
        recipe=RECIPE,
    )


def seeds() -> Space:
    """The recipe as it is, five times: how much of a difference is chance."""
    return Space({"seeds": Choice((0,), (1,), (2,), (3,), (4,))}, base=LEAN, recipe=RECIPE)


def generator_quality() -> Space:
    """Open question of the paper: does a better generator give better training data? Denoising steps of one
    generator.

    Another axis compares generators: ``--axis
    generator.weights=stable-diffusion-v1-5/stable-diffusion-v1-5,stabilityai/stable-diffusion-2-1-base``.
    """
    return Space({"generator.steps": Choice(5, 10, 20, 50), "seeds": SEEDS}, base=LEAN, recipe=RECIPE)


def image_count() -> Space:
    """Open question of the paper: how many images a class until more no longer help; the report marks the
    point. The largest number is generated once."""
    return Space(
        {"generator.images_per_class": Choice(25, 50, 100, 200, 400, 1000), "seeds": SEEDS},
        base={**LEAN, "prompts.prompts_per_class": 200},
        recipe=RECIPE,
    )


def discard_threshold() -> Space:
    """How much of the target stage 2 may trust after the synthetic images are discarded: the top fraction of
    each predicted class."""
    return Space(
        {"split.fraction": Choice(0.1, 0.25, 0.5, 0.75, 0.9), "seeds": SEEDS},
        base={**LEAN, "split.rule": "top"},
        recipe=RECIPE,
    )


def early_stopping() -> Space:
    """Learning rates and method weights of both stages; ASHA ends poor trials after a few epochs."""
    return Space(
        {
            "uda.method": Choice("dann", "cdan", "mcc"),
            "uda.lr": Uniform(0.001, 0.03, log=True),
            "ssl.lr": Uniform(0.001, 0.03, log=True),
            "ssl.fixmatch.threshold": Uniform(0.7, 0.97),
        },
        search=SearchConfig(searcher="random", trials=27, scheduler="asha", grace_epochs=3),
        base=LEAN,
        recipe=RECIPE,
    )


def population() -> Space:
    """Population-based training of stage 2: learning rate and threshold change while it trains."""
    return Space(
        {"ssl.lr": Uniform(0.001, 0.03, log=True), "ssl.fixmatch.threshold": Uniform(0.7, 0.97)},
        search=SearchConfig(searcher="random", trials=8, scheduler="pbt"),
        base={**LEAN, "ssl.method": "fixmatch"},
        recipe=RECIPE,
    )
