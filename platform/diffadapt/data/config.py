"""What to read: labelled source images, and the target domain as corruptions, benchmark folders or a user's
own folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffadapt.core.ranges import Between, Fraction, Natural, Positive

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 corruption types of ImageNet-C, in the benchmark's order."""

TRAINING_CORRUPTIONS = (
    "speckle_noise", "gaussian_blur", "saturate",
    "single_frequency_greyscale", "cocentric_sine_waves", "brownish_noise", "checkerboard_cutout",
)  # fmt: skip
"""Types that are not tested on: three that ImageNet-C's authors set apart for validation, four of
ImageNet-C-bar (data/corruptions/extra)."""


@dataclass(frozen=True)
class DataConfig:
    """A labelled image set.

    ``path``: ``embedded:digits`` (scikit-learn's handwritten digits), a folder with one sub-folder per class,
    a Parquet file or folder with columns ``image`` (struct<bytes, path>) and ``label``, or an archive (zip,
    tar, webdataset's shards: ``shards/{000..015}.tar``), which is read in place; any fsspec location.
    """

    path: str = ""
    split: str = "all"
    """For embedded sets: train, test or all; for a folder with folders such as train/ and val/ above its
    class folders: which of them to read."""
    part: tuple[Fraction, Fraction] = (0.0, 1.0)
    """The slice of every class's images (in the order of a hash of their names) that this set holds, as
    fractions."""
    image_size: Positive = 256
    """Side of the square RGB or grey image that the diffusion models see, in pixels."""
    channels: Literal[1, 3] = 3
    classes: str | None = None
    """A text file with one class-folder name a line, in the classifier's label order; default: sorted folder
    names."""
    labels: str = "auto"
    """auto: class folders or the label column, if there are any; none: every image counts as unlabelled,
    whatever folders there are; or a CSV file with lines ``path,class name`` (a header is allowed), which
    serves for scores alone on a target."""
    limit_per_class: Positive | None = None
    fingerprint: Literal["auto", "content", "size"] = "auto"
    """How a folder is identified: by the bytes of its files, or by their names and sizes; auto: bytes up to 1
    GiB."""
    block: Positive = 256
    """Images a shard."""


@dataclass(frozen=True)
class TargetConfig:
    """The domain to adapt to."""

    kind: Literal["corruptions", "imagenet-c", "imagenet-w", "watermark", "folder"] = "corruptions"
    """corruptions/watermark: ours, made from ``data``; imagenet-c/imagenet-w: official files under
    ``data.path``;
    folder: ``data.path`` as it is."""
    data: DataConfig = DataConfig()
    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[Annotated[int, Between(1, 5)], ...] = (5,)
    partial: bool = False
    """Accept a benchmark folder with fewer images than published."""
    resize: Natural = 256
    """Short edge before corruption (ours); 0: corrupt images as they are."""
    size: Positive = 224
    """Side of the centre crop that is corrupted."""
    jpeg_quality: Annotated[int, Between(0, 100)] = 85
    """Corrupted images are stored as JPEG of this quality, as ImageNet-C's are; 0: PNG."""
    frost_textures: str | None = None
    """Folder with ImageNet-C's frost1.png ... frost6.jpg; default: a procedural texture, named so in the
    scores."""
