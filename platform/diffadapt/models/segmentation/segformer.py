"""SegFormer (Xie et al. 2021): transformers' Mix Transformer and the all-MLP head, written here so that its
names are ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffadapt.core.errors import WeightsError
from diffadapt.core.files import scratch
from diffadapt.models.pretrained import from_pretrained
from diffadapt.models.segmentation.network import resize
from diffadapt.models.segmentation.source import segformer_config
from diffadapt.models.state_dict import read_state_dict

FACTS = (
    "num_channels",
    "num_encoder_blocks",
    "depths",
    "sr_ratios",
    "hidden_sizes",
    "patch_sizes",
    "strides",
    "num_attention_heads",
    "mlp_ratios",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "layer_norm_eps",
    "initializer_range",
    "decoder_hidden_size",
)


class MixTransformer(nn.Module):
    """transformers' SegFormer encoder: images (B, 3, H, W) -> its four maps, strides 4, 8, 16, 32."""

    multiple = 1

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.channels = tuple(model.config.hidden_sizes)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.model(pixel_values=x, output_hidden_states=True).hidden_states)

    def portable_state(self) -> dict[str, torch.Tensor]:
        """The parameters under the names of published checkpoints, which are not those of every version of
        transformers."""
        with scratch("fit") as folder, quiet():
            self.model.save_pretrained(folder, max_shard_size="1000GB")
            return read_state_dict(str(Path(folder) / "model.safetensors"))

    def load_portable(self, state: Mapping[str, torch.Tensor], where: str) -> None:
        """Take what :meth:`portable_state` gave. Raises WeightsError where it does not fit."""
        with scratch("fit") as folder:
            from safetensors.torch import save_file

            self.model.config.save_pretrained(folder)
            save_file(
                {k: v.contiguous() for k, v in state.items()},
                Path(folder) / "model.safetensors",
                metadata={"format": "pt"},
            )
            self.model.load_state_dict(_pretrained(folder, where).state_dict())


class MlpHead(nn.Module):
    """Every map to ``width`` channels and the finest size, joined by a 1x1 convolution: logits (B, outputs,
    H/4, W/4)."""

    def __init__(self, channels: Sequence[int], outputs: int, width: int, dropout: float = 0.1):
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(width * len(channels), width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        size = maps[0].shape[-2:]
        levels = [resize(project(x), size) for project, x in zip(self.project, maps, strict=True)]
        return self.classifier(
            self.fuse(torch.cat(levels[::-1], 1))
        )  # the deepest first, as in published checkpoints


def mix_transformer(
    backbone: str, weights: str, facts: Mapping[str, Any] | None = None
) -> tuple[MixTransformer, dict[str, Any]]:
    """(encoder, facts to build it again) of a SegFormer folder or hub id, with its weights, those of another
    folder, or random ones.

    ``facts`` hold transformers' settings and ``decoder_hidden_size``. Raises WeightsError.
    """
    from transformers import SegformerConfig, SegformerModel

    if facts is not None or weights == "none":
        values = dict(facts or segformer_config(backbone))
        model = SegformerModel(SegformerConfig(**{k: v for k, v in values.items() if k in FACTS}))
    else:
        place = backbone if weights == "imagenet" else str(Path(weights).expanduser())
        model = _pretrained(
            str(Path(place).expanduser()) if Path(place).expanduser().is_dir() else place, place
        )
    settings = model.config.to_dict()
    known = {k: list(settings[k]) if isinstance(settings[k], tuple) else settings[k] for k in FACTS}
    return MixTransformer(model), known


def _pretrained(place: str, where: str) -> nn.Module:
    from transformers import SegformerModel

    name, _, revision = place.partition("@") if not Path(place).exists() else (place, "", "")
    try:
        with quiet():
            model, info = from_pretrained(
                SegformerModel,
                name,
                revision=revision or "main",
                output_loading_info=True,
                dtype=torch.float32,
            )
    except WeightsError:
        raise
    except Exception as error:  # the hub client and transformers raise many unrelated types
        raise WeightsError(
            f"The SegFormer {where!r} could not be loaded ({type(error).__name__}:"
            f" {str(error).splitlines()[0][:200]}): give a folder that transformers saved, or download it"
            " where there is a network and share the hub cache (HF_HOME)."
        ) from error
    lacking = [*info["missing_keys"], *(k[0] if isinstance(k, tuple) else k for k in info["mismatched_keys"])]
    if lacking:
        raise WeightsError(
            f"The SegFormer {where!r} lacks {len(lacking)} of the encoder's parameters"
            f" ({', '.join(map(str, lacking[:3]))}, ...): it holds another network."
        )
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise WeightsError(
            f"The SegFormer {where!r} holds NaN or infinity: its training diverged or the file is damaged;"
            " give others."
        )
    return model.train()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers within: what is missing is said in our own errors."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
