"""What the stages that apply CLIP to images share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffadapt.core.artifact import Rows
from diffadapt.core.flops import Call
from diffadapt.core.stage import WorkContext
from diffadapt.models.architectures import clip_images
from diffadapt.models.config import ClipConfig
from diffadapt.stages.models import predicted_logits


def clip_label(config: ClipConfig) -> str:
    """The readable name of the weights in the store."""
    return config.weights.rstrip("/").replace("\\", "/").split("/")[-1].removeprefix("embedded:")


def clip_calls(config: ClipConfig) -> tuple[Call, ...] | None:
    """One pass of the image tower an image; the texts are few."""
    network = clip_images(config.weights)
    return network and (Call(network, precision=config.precision, batch=config.batch_size),)


class ClipWorker:
    """Holds the model and the batch size of a worker."""

    def __init__(self, config: ClipConfig, context: WorkContext):
        from diffadapt.models.clip import load_clip
        from diffadapt.stages.batching import Batcher
        from diffadapt.stages.decoding import Decoder

        self.clip = load_clip(config.weights, context.device, config.precision)
        self.batcher = Batcher(context.batch_size or config.batch_size)
        self.decoder = Decoder(3, readers=context.readers)

    @property
    def batch_size(self) -> int:
        return self.batcher.batch_size

    def begin(self, inputs: Sequence[Rows]) -> None:
        """What comes next, told while this shard is worked on."""
        self.decoder.begin(inputs[0], self.batcher.batch_size)

    def vectors(self, images: Rows, of: Callable[[Any], Any]) -> Rows:
        """Rows of LOGITS_SCHEMA with what ``of`` makes of a batch of images, a tensor with a vector each."""
        what = "CLIP's output has NaN or infinity: use clip.precision fp32, or check the weights"
        return predicted_logits(self.batcher, images, self.decoder, lambda batch: of(batch).numpy(), what)
