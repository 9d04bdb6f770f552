"""Training of a small layout-conditional generator, written as a StableDiffusionControlNetPipeline folder.

Two fits one after another, each resumed from its own checkpoints: the autoencoder; then U-Net, ControlNet and
text encoder together. There is no pretrained U-Net to keep, so the ControlNet is not the copy of one and its
outputs do not start at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diffadapt.models.diffusers_folder import load_component, save_component
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun
from diffadapt.worlds.batches import Shuffled, pixels
from diffadapt.worlds.config import AutoencoderFitConfig
from diffadapt.worlds.pipelines import fit, parameters, save_transformers, sd_schedule, stored, write_index
from diffadapt.worlds.streets.batches import LayoutExamples, crops, vocabulary
from diffadapt.worlds.streets.config import NEGATIVE, SUFFIX, LayoutFitConfig, check_layout
from diffadapt.worlds.tokenizer import (
    END,
    MARKS,
    PAD,
    START,
    build_tokenizer,
    save_tokenizer,
    token_ids,
)
from diffadapt.worlds.vae import Pictures, encode, fit_autoencoder

_HELD = 256
"""Images whose reconstruction is measured."""
_ENCODE = 32
"""Images encoded at a time."""


def train_layout_generator(
    data: LayoutExamples,
    config: LayoutFitConfig,
    reporter: Reporter,
    checkpoints: Callable[[str], Checkpoints | None],
    out: str | Path,
) -> dict[str, float]:
    """Train on ``data`` and write the pipeline's folder under ``out`` (rank 0).

    ``checkpoints(part)`` gives those of "vae" and of "generator". Returns the last scalars with
    ``parameters``, ``unet_parameters``, ``controlnet_parameters`` and ``reconstruction_psnr`` (decibels, mean
    over up to 256 crops). Raises RecipeError if sizes and widths do not fit.
    """
    check_layout(config)
    folder, shape, device = Path(out), data.shape, reporter.device
    every = config.vae.steps + config.steps
    vae = _autoencoder(data, config, _Part(reporter, 0, every, "vae_"), checkpoints("vae"), folder)
    factor = 2 ** (len(config.vae.channels) - 1)
    latents = _latents(vae, data, device)
    tokenizer = build_tokenizer(vocabulary(data.captions, SUFFIX, NEGATIVE), config.max_words)
    plain, praised = (
        token_ids(tokenizer, data.captions),
        token_ids(tokenizer, [c + SUFFIX for c in data.captions]),
    )
    nothing = token_ids(tokenizer, ["", NEGATIVE])
    scheduler = sd_schedule()
    alphas = scheduler.alphas_cumprod
    weights = (1.0 / alphas).clamp(max=config.loss_weight)
    torch.manual_seed(config.seed)
    net = LayoutDenoiser(config, len(tokenizer), latents[0][0].shape[0], shape[0] // factor).to(device)
    ema = Ema(net, config.ema_decay, warmup=True)
    shuffled = Shuffled(len(data), config.batch_size, config.seed, reporter)
    size, mine = config.batch_size, shuffled.mine
    noise_shape = (size, latents[0][0].shape[0], shape[0] // factor, shape[1] // factor)
    scale = vae.config.scaling_factor

    def batch_fn(step: int, micro: int) -> tuple[Tensor, ...]:
        index, generator = shuffled.indices(step), shuffled.generator(step)
        spread = torch.randn(noise_shape, generator=generator)[mine]
        noise = coloured_noise(noise_shape, config.low_noise, generator)[mine]
        t = torch.randint(len(alphas), (size,), generator=generator)[mine]
        chance = torch.rand((3, size), generator=generator)[:, mine]
        places, mirrored = data.corners(step, size, factor)
        places, mirrored = places[mine], mirrored[mine]
        corners = [data.corner(i, p, factor) for i, p in zip(index, places, strict=True)]
        mean, std = _cut(latents, index, corners, mirrored, factor, noise_shape[2:])
        z = (mean + std * spread) * scale
        tokens = torch.where((chance[1] < 0.5)[:, None], plain[index], praised[index])
        empty = nothing[(chance[1] < 0.5).long()]
        tokens = torch.where((chance[0] < config.prompt_dropout)[:, None], empty, tokens)
        seen = crops([data.colours[i] for i in index], corners, mirrored, shape)
        control = pixels(seen, torch.device("cpu")) / 2 + 0.5
        shown = (chance[2] >= config.layout_dropout).float()
        return tuple(
            x.to(device)
            for x in (scheduler.add_noise(z, noise, t), noise, t, tokens, control, shown, weights[t])
        )

    def loss_fn(module: nn.Module, batch: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        x_t, noise, t, tokens, control, shown, weight = batch
        error = (module(x_t, t, tokens, control, shown).float() - noise).square().mean((1, 2, 3))
        return {"loss": (error * weight).mean(), "error": error.mean()}

    run = TrainingRun(_Part(reporter, config.vae.steps, every, ""), checkpoints("generator"))
    metrics = fit(net, loss_fn, batch_fn, config, run, ema=ema, precision=config.precision)
    parts = {"unet": net.unet, "controlnet": net.controlnet, "text_encoder": net.text, "vae": vae}
    metrics |= {f"{name}_parameters": parameters(part) for name, part in parts.items()}
    metrics["parameters"] = sum(metrics[f"{name}_parameters"] for name in parts)
    if reporter.rank == 0:
        ema.copy_to(net)
        dtype = stored(config.save_precision)
        metrics["reconstruction_psnr"] = _psnr(vae, data, device)
        save_component(net.unet.to(dtype), folder / "unet")
        save_component(net.controlnet.to(dtype), folder / "controlnet")
        save_transformers(net.text, folder / "text_encoder", config.save_precision)
        save_tokenizer(tokenizer, folder / "tokenizer")
        scheduler.save_pretrained(str(folder / "scheduler"))
        write_index(folder, "StableDiffusionControlNetPipeline", controlnet=["diffusers", "ControlNetModel"])
    reporter.barrier()
    return metrics


class LayoutDenoiser(nn.Module):
    """Text encoder, ControlNet and U-Net as one forward, which a distributed wrapper needs."""

    def __init__(self, config: LayoutFitConfig, words: int, latent_channels: int, latent_side: int):
        super().__init__()
        levels = len(config.channels)
        shared = dict(
            in_channels=latent_channels,
            block_out_channels=config.channels,
            layers_per_block=1,
            down_block_types=(*("DownBlock2D",) * (levels - 1), "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=config.text_width,
            attention_head_dim=config.heads,
            norm_num_groups=config.groups,
            addition_embed_type="text",
            addition_embed_type_num_heads=config.heads,
            resnet_time_scale_shift="scale_shift",
        )
        self.unet = UNet2DConditionModel(
            sample_size=latent_side,
            out_channels=latent_channels,
            up_block_types=("CrossAttnUpBlock2D", *("UpBlock2D",) * (levels - 1)),
            **shared,
        )
        self.controlnet = ControlNetModel(
            conditioning_embedding_out_channels=_embedding_widths(config), **shared
        )
        for part in (
            self.controlnet.controlnet_cond_embedding.conv_out,
            *self.controlnet.controlnet_down_blocks,
            self.controlnet.controlnet_mid_block,
        ):
            part.reset_parameters()
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)  # type: ignore[arg-type]
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=words,
                hidden_size=config.text_width,
                intermediate_size=4 * config.text_width,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.max_words,
                projection_dim=config.text_width,
                hidden_act="gelu",
                bos_token_id=MARKS.index(START),
                eos_token_id=MARKS.index(END),
                pad_token_id=MARKS.index(PAD),
            )
        )

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, control: Tensor, shown: Tensor) -> Tensor:
        """The noise in ``x_t`` (B, C, h, w); ``control`` (B, 3, H, W) in 0..1; ``shown`` (B,): 0 where the
        layout is left out."""
        words = self.text(tokens).last_hidden_state
        down, mid = self.controlnet(x_t, t, words, control, return_dict=False)
        gate = shown[:, None, None, None]
        return self.unet(
            x_t,
            t,
            words,
            down_block_additional_residuals=tuple(d * gate for d in down),
            mid_block_additional_residual=mid * gate,
        ).sample


def coloured_noise(shape: tuple[int, int, int, int], low: float, generator: torch.Generator) -> Tensor:
    """Noise (B, C, h, w) of unit variance: white, and by an amplitude up to ``low``, drawn for each example,
    constant over the image and over its sixteenths."""
    white = torch.randn(shape, generator=generator)
    amplitude = low * torch.rand((shape[0], 1, 1, 1), generator=generator)
    whole = torch.randn((*shape[:2], 1, 1), generator=generator)
    parts = torch.randn((*shape[:2], 4, 4), generator=generator)
    parts = nn.functional.interpolate(parts, size=shape[2:], mode="nearest")
    return (white + amplitude * (whole + parts)) / (1 + 2 * amplitude**2).sqrt()


class _Part:
    """A reporter for one of several fits in a row: steps go on from those before it, scalars have its
    prefix."""

    def __init__(self, reporter: Reporter, before: int, total: int, prefix: str):
        self._reporter, self._before, self._total, self._prefix = reporter, before, total, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)

    def report(self, step: int, total: int, scalars: Mapping[str, float]) -> None:
        self._reporter.report(
            self._before + step, self._total, {self._prefix + k: v for k, v in scalars.items()}
        )


def _embedding_widths(config: LayoutFitConfig) -> tuple[int, ...]:
    """Of the network that brings a colour map to the latents' resolution: one halving for each of the
    autoencoder's."""
    return tuple(16 * 2**i for i in range(len(config.vae.channels)))


def _autoencoder(
    data: LayoutExamples,
    config: LayoutFitConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    folder: Path,
) -> AutoencoderKL:
    """Trained, then read back as it was stored, so that latents are those of the published weights; every
    rank has the same."""
    shuffled = Shuffled(len(data), config.vae.batch_size, config.vae.seed, reporter)

    def pictures(step: int) -> np.ndarray:
        index = shuffled.indices(step)
        places, mirrored = data.corners(step, config.vae.batch_size, 1)
        corners = [data.corner(i, p, 1) for i, p in zip(index, places[shuffled.mine], strict=True)]
        return crops([data.images[i] for i in index], corners, mirrored[shuffled.mine], data.shape)

    target = folder / "vae"
    fit_autoencoder(
        config.vae,
        Pictures(data.shape, shuffled, pictures, _some(data, 1024)),
        reporter,
        checkpoints,
        target,
        precision=config.precision,
        build=build_autoencoder,
        spread=config.latent_scale,
    )
    if reporter.world_size > 1:
        return _shared(target, config, reporter)
    return load_component(AutoencoderKL, str(target)).to(reporter.device)


@torch.no_grad()
def build_autoencoder(config: AutoencoderFitConfig, side: int) -> AutoencoderKL:
    """A shallow autoencoder that is nearly linear and nearly free of noise at first, for short trainings.

    Residual branches start at zero and the posterior at a standard deviation of exp(-3.5): with the usual
    ones, and with groups of two channels in its normalisations, it is still worse than halving and doubling
    the picture after hundreds of steps.
    """
    levels = len(config.channels)
    vae = AutoencoderKL(
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=0,
        latent_channels=config.latent_channels,
        norm_num_groups=config.channels[0] // 8,
        sample_size=side,
        mid_block_add_attention=False,
    )
    for name, part in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    nn.init.zeros_(vae.quant_conv.weight[config.latent_channels :])
    nn.init.constant_(vae.quant_conv.bias[config.latent_channels :], -7.0)
    return vae


def _shared(target: Path, config: LayoutFitConfig, reporter: Reporter) -> AutoencoderKL:
    """Rank 0's autoencoder on every rank: the folder that it was written to may be on another machine."""
    import torch.distributed as dist

    vae = load_component(AutoencoderKL, str(target)) if reporter.rank == 0 else None
    found = [None if vae is None else (dict(vae.config), {k: v.cpu() for k, v in vae.state_dict().items()})]
    dist.broadcast_object_list(found, src=0)
    if vae is None:
        values, state = found[0]
        vae = AutoencoderKL.from_config(values)
        vae.load_state_dict(state)
    return vae.requires_grad_(False).eval().to(reporter.device)


def _some(data: LayoutExamples, count: int) -> np.ndarray:
    """Up to ``count`` centre crops, evenly spread."""
    index = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int))
    corners = [data.corner(i, np.array([0.5, 0.5]), 1) for i in index]
    return crops([data.images[i] for i in index], corners, [False] * len(index), data.shape)


@torch.no_grad()
def _latents(vae: AutoencoderKL, data: LayoutExamples, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Mean and standard deviation of every image's latents (C, h, w) in half precision, then those of its
    mirror image."""
    known: dict[int, tuple[Tensor, ...]] = {}
    by_size: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
    for image in data.images:  # an image that stands for several examples is encoded once
        by_size.setdefault(image.shape, {})[id(image)] = image
    for images in by_size.values():
        names = list(images)
        for start in range(0, len(names), _ENCODE):
            part = names[start : start + _ENCODE]
            stacked = np.stack([images[name] for name in part])
            both = [
                encode(vae, x, device)
                for x in ((stacked, np.ascontiguousarray(stacked[:, :, ::-1])) if data.flip else (stacked,))
            ]
            for k, name in enumerate(part):
                known[name] = tuple(x[k].half() for pair in both for x in pair)
    return [known[id(image)] for image in data.images]


def _cut(latents, index, corners, mirrored, factor: int, shape) -> tuple[Tensor, Tensor]:
    """The crops' latents: of a mirrored crop, the same place in the latents of the mirrored image."""
    means, stds = [], []
    for i, (y, x), flip in zip(index, corners, mirrored, strict=True):
        mean, std = latents[i][2:] if flip else latents[i][:2]
        top, left = y // factor, x // factor
        if flip:
            left = mean.shape[2] - left - shape[1]
        where = (slice(None), slice(top, top + shape[0]), slice(left, left + shape[1]))
        means.append(mean[where])
        stds.append(std[where])
    return torch.stack(means).float(), torch.stack(stds).float()


@torch.no_grad()
def _psnr(vae: AutoencoderKL, data: LayoutExamples, device: torch.device) -> float:
    """Mean peak signal-to-noise ratio of reconstructions, in decibels."""
    result = []
    for image in _some(data, _HELD):
        x = pixels(image[None], device)
        error = (
            float((vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1) - x).square().mean()) / 4.0
        )
        result.append(-10.0 * np.log10(max(error, 1e-10)))
    return float(np.mean(result))
