"""Guidance x number of prompts x confident fraction on the digits of the quickstart: 24 trials in minutes on
two CPU cores."""

from diffadapt.sweeps.space import Choice, Space


def seeds() -> Space:
    """Prompts on the quickstart's digits, three trainings each: the curve with its deviation, 9 trials."""
    return Space(
        {"prompts.prompts_per_class": Choice(1, 5, 25), "seeds": Choice((0,), (1,), (2,))},
        base={"generator.images_per_class": 25, "controls": ()},
        recipe="adapt_anything/digits",
    )


def space() -> Space:
    """Guidance x number of prompts x confident fraction on the quickstart's digits, 24 trials."""
    return Space(
        axes={
            "generator.guidance": Choice(1.0, 1.5, 2.5),
            "prompts.prompts_per_class": Choice(5, 25),
            "split.fraction": Choice(0.3, 0.5, 0.7, 0.9),
        },
        base={"generator.images_per_class": 25, "seeds": (0,), "controls": ()},
        recipe="adapt_anything/digits",
    )
