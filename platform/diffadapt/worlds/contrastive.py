"""Contrastive training of a small CLIP model (Radford et al. 2021) on captioned pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from diffadapt.train.checkpoints import Checkpoints
from diffadapt.train.reporter import Reporter
from diffadapt.train.run import TrainingRun
from diffadapt.worlds.batches import CaptionedImages, Shuffled, pixels
from diffadapt.worlds.config import ClipFitConfig
from diffadapt.worlds.pipelines import fit, parameters, save_transformers
from diffadapt.worlds.tokenizer import (
    END,
    MARKS,
    PAD,
    START,
    build_tokenizer,
    save_tokenizer,
    token_ids,
)

MAX_SCALE = 4.6052
"""Largest logarithm of the logit scale: ln 100, as in the paper."""


def train_clip(
    data: CaptionedImages,
    words: Sequence[str],
    config: ClipFitConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    out: str | Path,
) -> dict[str, float]:
    """Train on ``data`` and write a CLIPModel folder with tokenizer and image processor under ``out`` (rank
    0).

    The loss is symmetric cross-entropy over the pictures and captions of a batch (of a worker's share of it).
    Returns the last scalars with ``parameters``.
    """
    tokenizer = build_tokenizer(words, config.max_words)
    ids = token_ids(tokenizer, data.captions)
    size = data.images.shape[1]
    torch.manual_seed(config.seed)
    model = CLIPModel(_clip_config(config, len(words) + len(MARKS), size)).to(reporter.device)
    shuffled = Shuffled(len(data), config.batch_size, config.seed, reporter)

    def batch_fn(step: int, micro: int):
        index = shuffled.indices(step)
        return ids[index].to(reporter.device), pixels(data.images[index], reporter.device)

    def loss_fn(module: nn.Module, batch, step: int):
        result = module(input_ids=batch[0], pixel_values=batch[1])
        logits = result.logits_per_text
        target = torch.arange(len(logits), device=logits.device)
        loss = (
            nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
        ) / 2
        return {"loss": loss, "accuracy": (logits.argmax(-1) == target).float().mean()}

    def before_step(step: int) -> None:
        model.logit_scale.data.clamp_(max=MAX_SCALE)

    metrics = fit(
        model, loss_fn, batch_fn, config, TrainingRun(reporter, checkpoints), before_step=before_step
    )
    metrics["parameters"] = parameters(model)
    if reporter.rank == 0:
        save_transformers(model, Path(out), config.save_precision)
        save_tokenizer(tokenizer, out)
        CLIPImageProcessor(
            size={"height": size, "width": size},
            crop_size={"height": size, "width": size},
            do_center_crop=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ).save_pretrained(str(out))
    reporter.barrier()
    return metrics


def _clip_config(config: ClipFitConfig, vocabulary: int, size: int) -> CLIPConfig:
    shared = dict(
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        projection_dim=config.width,
        hidden_act="gelu",
    )
    marks = dict(
        bos_token_id=MARKS.index(START), eos_token_id=MARKS.index(END), pad_token_id=MARKS.index(PAD)
    )
    return CLIPConfig(
        text_config=dict(vocab_size=vocabulary, max_position_embeddings=config.max_words, **shared, **marks),
        vision_config=dict(image_size=size, patch_size=config.patch_size, **shared),
        projection_dim=config.width,
    )
