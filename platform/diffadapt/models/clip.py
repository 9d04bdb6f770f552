"""CLIP as transformers has it: normalised image and text features, and class probabilities (Radford et al.
2021)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from diffadapt.compute.compiling import channels_last
from diffadapt.compute.precision import autocast, float32_parts, precision_on
from diffadapt.core.errors import WeightsError
from diffadapt.models.clip_folder import demand_clip
from diffadapt.models.pretrained import from_pretrained
from diffadapt.models.weights import is_hub_id, resolve


class Clip:
    """Features of images and texts in CLIP's common space. Made by :func:`load_clip`.

    Attributes: ``logit_scale`` (what cosines are multiplied by before the softmax), ``model``, ``tokenizer``,
    ``processor``.
    """

    def __init__(
        self,
        model: transformers.CLIPModel,
        tokenizer: object,
        processor: object,
        device: str | torch.device,
        precision: str = "fp32",
    ):
        self.device = torch.device(device)
        self.precision = precision_on(self.device, precision, "clip.precision")
        self.model = channels_last(model.requires_grad_(False).eval(), self.device)
        self.tokenizer, self.processor = tokenizer, processor
        self.logit_scale = float(model.logit_scale.exp())
        self.length = int(model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def image_features(self, images: Sequence[np.ndarray]) -> Tensor:
        """Unit float32 features (N, D) on the CPU of uint8 (H, W, 1 or 3) images, prepared by the folder's
        own image processor."""
        rgb = [
            np.repeat(image, 3 // image.shape[2], axis=2) for image in images
        ]  # copies: decoded arrays may be read-only
        pixels = self.processor(images=rgb, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ].to(self.device)
        with self._precision():
            return _unit(self.model.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unit float32 features (N, D) on the CPU. Texts longer than the model's context are cut."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.device)
        with self._precision():
            return _unit(
                self.model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            )

    def class_features(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Unit features (K, D) of K classes, each the mean of the unit features of its texts (prompt
        ensembling)."""
        return torch.stack(
            [torch.nn.functional.normalize(self.text_features(some).mean(0), dim=0) for some in texts]
        )

    def logits(self, images: Sequence[np.ndarray], classes: Tensor) -> Tensor:
        """logit_scale x cosine, float32 (N, K), of images and :meth:`class_features`."""
        return self.logit_scale * self.image_features(images) @ classes.T

    def probabilities(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> Tensor:
        """Softmax over the classes of :meth:`logits`, float32 (N, K); ``texts`` holds each class's
        prompts."""
        return self.logits(images, self.class_features(texts)).softmax(1)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        with (
            float32_parts(self.precision),
            autocast(self.device, self.precision),
        ):
            yield


def load_clip(weights: str, device: str | torch.device = "cpu", precision: str = "fp32") -> Clip:
    """The CLIPModel of a transformers folder or hub id, with its tokenizer and image processor.

    fp16 on a CPU becomes fp32. Raises WeightsError when a part is missing, or the weights are not a CLIP.
    """
    resolved = resolve(weights)
    name, _, revision = resolved.partition("@") if is_hub_id(resolved) else (resolved, "", "")
    try:
        with _quiet():
            where: dict[str, Any] = {"place": name, "revision": revision or "main"}
            kind = from_pretrained(transformers.AutoConfig, **where).model_type
            demand_clip(weights, kind)
            model = from_pretrained(transformers.CLIPModel, dtype=torch.float32, **where)
            tokenizer = from_pretrained(transformers.AutoTokenizer, **where)
            processor = from_pretrained(transformers.AutoImageProcessor, **where)
    except WeightsError:
        raise
    except Exception as error:  # hub, file-format and shape errors share no base class
        how = (
            f"run `hf download {name}` where there is a network"
            if is_hub_id(resolved)
            else "save model, tokenizer and image processor into one folder with save_pretrained"
        )
        raise WeightsError(
            f"No CLIP could be loaded from {weights!r} ({_first_line(error)}): {how}."
        ) from error
    return Clip(model, tokenizer, processor, device, precision)


def _unit(output: object) -> Tensor:
    features = output if isinstance(output, Tensor) else output.pooler_output  # transformers 5 wraps them
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
