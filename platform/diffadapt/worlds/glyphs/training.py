"""Training of a small latent text-to-image model, written as a StableDiffusionPipeline folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

from diffadapt.core.errors import RecipeError
from diffadapt.models.diffusers_folder import load_component, save_component
from diffadapt.models.pretrained import from_pretrained
from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.ema import Ema
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun
from diffadapt.worlds.batches import CaptionedImages, Shuffled
from diffadapt.worlds.config import TextToImageFitConfig
from diffadapt.worlds.pipelines import (
    fit,
    parameters,
    save_transformers,
    sd_schedule,
    stored,
    write_index,
    write_json,
)
from diffadapt.worlds.tokenizer import save_tokenizer, token_ids
from diffadapt.worlds.vae import encode


def train_text_to_image(
    data: CaptionedImages,
    clip_folder: str,
    vae_folder: str,
    config: TextToImageFitConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    out: str | Path,
) -> dict[str, float]:
    """Train the denoising network and write the pipeline's folder under ``out`` (rank 0).

    Text encoder and tokenizer come from ``clip_folder`` (a CLIPModel), the autoencoder from ``vae_folder``;
    both stay frozen. The text conditions the network through cross-attention and, pooled by attention,
    through the time embedding. Returns the last scalars with ``parameters`` (of the whole pipeline) and
    ``unet_parameters``.
    """
    device = reporter.device
    vae = load_component(AutoencoderKL, vae_folder).to(device)
    text = _text_encoder(clip_folder).to(device)
    tokenizer = from_pretrained(AutoTokenizer, clip_folder)
    ids, empty = token_ids(tokenizer, data.captions), token_ids(tokenizer, [""])
    mean, std = encode(vae, data.images, device)
    scheduler = zero_terminal_snr()
    torch.manual_seed(config.seed)
    unet = _unet(config, mean.shape[1], mean.shape[2], text.config.hidden_size).to(device)
    ema = Ema(unet, config.ema_decay, warmup=True)
    shuffled = Shuffled(len(data), config.batch_size, config.seed, reporter)
    shape = (config.batch_size, *mean.shape[1:])

    def batch_fn(step: int, micro: int) -> tuple[Tensor, ...]:
        index, mine, generator = shuffled.indices(step), shuffled.mine, shuffled.generator(step)
        spread, noise = (torch.randn(shape, generator=generator)[mine] for _ in range(2))
        t = torch.randint(len(scheduler.alphas_cumprod), (config.batch_size,), generator=generator)[mine]
        dropped = (torch.rand(config.batch_size, generator=generator) < config.prompt_dropout)[mine]
        latents = (mean[index] + std[index] * spread) * vae.config.scaling_factor
        tokens = torch.where(dropped[:, None], empty, ids[index])
        x_t, v = scheduler.add_noise(latents, noise, t), scheduler.get_velocity(latents, noise, t)
        return x_t.to(device), v.to(device), t.to(device), tokens.to(device)

    def loss_fn(module: nn.Module, batch: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        x_t, v, t, tokens = batch
        with torch.no_grad():
            words = text(tokens).last_hidden_state
        return {"loss": nn.functional.mse_loss(module(x_t, t, encoder_hidden_states=words).sample.float(), v)}

    metrics = fit(unet, loss_fn, batch_fn, config, TrainingRun(reporter, checkpoints), ema=ema)
    metrics["unet_parameters"] = parameters(unet)
    metrics["parameters"] = parameters(unet, vae, text)
    if reporter.rank == 0:
        ema.copy_to(unet)
        dtype = stored(config.save_precision)
        folder = Path(out)
        save_component(unet.to(dtype), folder / "unet")
        save_component(vae.to(dtype), folder / "vae")
        _without(folder / "vae" / "config.json", "_name_or_path")  # where it happened to lie
        save_transformers(text, folder / "text_encoder", config.save_precision)
        save_tokenizer(tokenizer, folder / "tokenizer")
        _without(folder / "tokenizer" / "tokenizer_config.json", "is_local", "local_files_only")
        scheduler.save_pretrained(str(folder / "scheduler"))
        write_index(folder, "StableDiffusionPipeline")
    reporter.barrier()
    return metrics


def zero_terminal_snr() -> DDIMScheduler:
    """The scaled-linear schedule rescaled so that its last step is pure noise, v-prediction, trailing steps
    (Lin et al. 2024)."""
    return sd_schedule("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")


def _text_encoder(clip_folder: str) -> CLIPTextModel:
    """The text half of a CLIPModel, frozen (loading it as a CLIPTextModel would report the image half as
    unexpected)."""
    clip = from_pretrained(CLIPModel, clip_folder, dtype=torch.float32)
    text = CLIPTextModel(clip.config.text_config)
    getattr(text, "text_model", text).load_state_dict(clip.text_model.state_dict())
    return text.requires_grad_(False).eval()


def _unet(config: TextToImageFitConfig, channels: int, side: int, text_width: int) -> UNet2DConditionModel:
    levels = len(config.channels)
    if (
        levels < 2
        or any(c % config.groups or c % config.heads for c in config.channels)
        or side % 2 ** (levels - 1)
    ):
        raise RecipeError(
            f"channels {config.channels} need at least two levels, multiples of groups ({config.groups}) and"
            f" heads ({config.heads}), and latents of side {side} must halve {levels - 1} times: change one"
            " of them."
        )
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=config.channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=config.heads,
        norm_num_groups=config.groups,
        addition_embed_type="text",
        addition_embed_type_num_heads=config.heads,
        resnet_time_scale_shift="scale_shift",
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)  # type: ignore[arg-type]
    return unet


def _without(file: Path, *names: str) -> None:
    values = json.loads(file.read_text())
    write_json(file, {k: v for k, v in values.items() if k not in names}, sort_keys=True)
