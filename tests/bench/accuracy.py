"""What a precision costs against fp32, in grey levels: projections, pictures from prompts, scenes."""

from __future__ import annotations

import numpy as np
import torch

from diffadapt.data.config import DataConfig
from diffadapt.data.corruptions import corrupt
from diffadapt.data.source import open_source
from diffadapt.diffusion.aligners.config import AlignConfig
from diffadapt.diffusion.network import UnconditionalNetwork, load_unconditional
from diffadapt.diffusion.projector import Projector
from tests.bench.metric import Metric, Report
from tests.bench.networks import Size, make_adm

GATE = 1.0
"""Mean absolute difference in grey levels up to which a precision may be used without an accuracy ablation of
its own."""
OF_A_CPU, OF_CUDA = ("bf16",), ("tf32", "fp16", "bf16")
"""What a device computes in beside fp32; a CPU computes fp16 as fp32."""


def accuracy(size: Size, device: torch.device, weights: str | None = None) -> Report:
    """Noisy handwritten digits through the shipped network; on CUDA also the ADM, with ``weights`` if they
    are given."""
    count = 8 if size.name == "tiny" else 100
    digits = AlignConfig(
        weights="embedded:digits-unet", respacing=10, start=3, scale=2.0, factor=2, batch_size=100
    )
    names = OF_CUDA if device.type == "cuda" else OF_A_CPU
    metrics = _gates(
        "digits", lambda p: load_unconditional(digits.weights, device, p), digits, noisy_digits(count), names
    )
    conditions = [
        f"{count} handwritten digits with Gaussian noise of severity 5, shipped network, 3 guided steps"
    ]
    if weights or (device.type == "cuda" and size.name == "published"):
        config = AlignConfig(batch_size=8)
        side = size.adm.image_size
        images = torch.nn.functional.interpolate(
            torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1,
            size=side,
            mode="bicubic",
        ).clamp(-1, 1)
        metrics += _gates(
            "ADM",
            lambda p: (
                load_unconditional(weights, device, p)
                if weights
                else UnconditionalNetwork(make_adm(size, device), device=device, precision=p)
            ),
            config,
            images,
            names,
        )
        conditions.append(
            f"ADM: {weights or 'random weights, so only a sign'}; 8 smooth images, 50 guided steps"
        )
    if size.name != "tiny":
        metrics += _pictures("text to image", lambda p: prompted(device, p), names)
        metrics += _pictures("scene transfer", lambda p: transferred(device, p), names)
        conditions.append(
            "the shipped generators: 20 pictures of digits in 10 steps, 8 street scenes by night; samplers"
            " that draw noise step by step spread a rounding, so that these are no gates"
        )
    return Report("Accuracy of precisions", metrics, conditions)


def noisy_digits(count: int) -> torch.Tensor:
    """(count, 1, 16, 16) in [-1, 1]: test digits under Gaussian noise."""
    source = open_source(DataConfig(path="embedded:digits", split="test", image_size=16, channels=1))
    arrays = [
        corrupt(source.image(item.key, 1, 16), "gaussian_noise", 5, seed)
        for seed, item in enumerate(source.items[:count])
    ]
    stacked = np.stack([np.asarray(a).reshape(16, 16, 1) for a in arrays])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def prompted(device: torch.device, precision: str) -> torch.Tensor:
    """uint8 pictures of the shipped text-to-image pipeline."""
    from diffadapt.diffusion.generators.config import TextToImageConfig
    from diffadapt.diffusion.generators.text_to_image import load_text_to_image

    config = TextToImageConfig(weights="embedded:glyphs", steps=10, guidance=1.0, precision=precision)  # type: ignore[arg-type]
    pictures = load_text_to_image(config, device).generate(
        [f"a photo of the digit {i % 10}" for i in range(20)], range(20)
    )
    return torch.stack([torch.from_numpy(np.asarray(p)) for p in pictures])


def transferred(device: torch.device, precision: str) -> torch.Tensor:
    """uint8 street scenes, brought from day to night by the shipped generator."""
    from diffadapt.core.stage import WorkContext
    from diffadapt.data.scenes.classes import builtin
    from diffadapt.data.scenes.config import SceneConfig
    from diffadapt.data.scenes.rows import decode_scenes
    from diffadapt.diffusion.translation.config import TransferConfig
    from diffadapt.diffusion.translation.pipeline import load_scene_transfer
    from diffadapt.stages.scenes import Scenes

    stage = Scenes(SceneConfig("embedded:streets", layout="streets", split="val", condition="day", limit=8))
    scenes, _ = decode_scenes(stage.open(WorkContext("cpu")).run(stage.plan({})[0], ()))
    config = TransferConfig(
        weights="embedded:streets", controlnet="", strength=0.8, guidance=3.0, palette="own", size=64,
        multiple=8, precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    pictures = load_scene_transfer(config, builtin("streets"), device).transfer(scenes, range(len(scenes)))
    return torch.stack([torch.from_numpy(np.asarray(p)) for p in pictures])


def _pictures(name: str, make, names: tuple[str, ...]) -> list[Metric]:
    reference = make("fp32").float()
    return [
        Metric(
            f"{name}: mean difference, {precision} against fp32",
            float((make(precision).float() - reference).abs().mean()),
            "levels",
        )
        for precision in names
    ]


def _gates(
    name: str, network, config: AlignConfig, images: torch.Tensor, names: tuple[str, ...]
) -> list[Metric]:
    seeds = list(range(len(images)))
    reference = Projector(network("fp32"), config).project(images, seeds).int()
    metrics = []
    for precision in names:
        found = Projector(network(precision), config).project(images, seeds).int()
        difference = (found - reference).abs()
        note = (
            f"most {int(difference.max())}; {float((difference > 1).float().mean()):.2%} of pixels differ by"
            " more than one level"
        )
        metrics.append(
            Metric(
                f"{name}: mean difference, {precision} against fp32",
                float(difference.float().mean()),
                "levels",
                GATE,
                "lower",
                note,
            )
        )
    return metrics
