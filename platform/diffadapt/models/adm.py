"""The shape of an ADM network (Dhariwal and Nichol 2021) and how its checkpoint's keys name a diffusers
UNet2DModel.

Torch is not needed here: shapes are tuples, so a checkpoint can be judged before it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffadapt.core.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ADMConfig:
    """An unconditional ADM; the defaults are the published 256x256_diffusion_uncond (552,814,086
    parameters)."""

    image_size: int = 256
    in_channels: int = 3
    model_channels: int = 256
    out_channels: int = 6
    num_res_blocks: int = 2
    attention_ds: tuple[int, ...] = (8, 16, 32)
    """Down-sampling factors at which there is attention (pixels 32, 16, 8 of 256)."""
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_head_channels: int = 64
    scale_shift: bool = True
    resblock_updown: bool = True
    legacy_qkv: bool = True
    """qkv is head-major (heads, 3, channels); otherwise (3, heads, channels)."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ADMConfig:
        """From a JSON mapping; unknown names are an error (WeightsError)."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise WeightsError(
                f"The ADM configuration has an unknown field {unknown[0]!r}; known are"
                f" {', '.join(sorted(known))}."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def widths(self) -> list[int]:
        return [self.model_channels * m for m in self.channel_mult]

    def has_attention(self, level: int) -> bool:
        return 2**level in self.attention_ds

    def unet_config(self) -> dict[str, Any]:
        """Arguments of the diffusers UNet2DModel that computes the same function."""
        if not self.resblock_updown:
            raise WeightsError(
                "This ADM resamples with plain convolutions (resblock_updown off), which the import does not"
                " cover; use a checkpoint with residual up- and downsampling such as"
                " 256x256_diffusion_uncond.pt."
            )
        levels = range(len(self.channel_mult))
        down = ["AttnDownBlock2D" if self.has_attention(i) else "ResnetDownsampleBlock2D" for i in levels]
        up = ["AttnUpBlock2D" if self.has_attention(i) else "ResnetUpsampleBlock2D" for i in reversed(levels)]
        return dict(
            sample_size=self.image_size,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            block_out_channels=tuple(self.widths()),
            layers_per_block=self.num_res_blocks,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift" if self.scale_shift else "default",
            attention_head_dim=self.num_head_channels,
            norm_num_groups=32,
            attn_norm_num_groups=32,
            norm_eps=1e-5,
            flip_sin_to_cos=True,
            freq_shift=0,
        )


def infer_config(shapes: Shapes, image_size: int = 256, num_head_channels: int = 64) -> ADMConfig:
    """The configuration that a checkpoint's keys and shapes imply; what they cannot tell is given.

    Raises WeightsError when the keys are not those of an unconditional ADM.
    """
    if "input_blocks.0.0.weight" not in shapes or "out.2.weight" not in shapes:
        some = ", ".join(sorted(shapes)[:3])
        raise WeightsError(
            "This is not an ADM checkpoint: it lacks input_blocks.0.0.weight or out.2.weight and begins with"
            f" {some or 'nothing'}; give the authors' 256x256_diffusion_uncond.pt."
        )
    if "label_emb.weight" in shapes:
        raise WeightsError(
            "This ADM is class-conditional (it has label_emb.weight), but alignment needs the unconditional"
            " one: give 256x256_diffusion_uncond.pt."
        )
    width, in_channels = shapes["input_blocks.0.0.weight"][:2]
    outputs = 1 + max(int(k.split(".")[1]) for k in shapes if k.startswith("output_blocks."))
    ups = [
        i
        for i in range(outputs)
        if any(f"output_blocks.{i}.{child}.in_layers.0.weight" in shapes for child in (1, 2))
    ]
    if any(k.endswith(".op.weight") for k in shapes):
        per_level, resblock_updown = outputs, False
    else:
        per_level, resblock_updown = (ups[0] + 1 if ups else outputs), True
    blocks = per_level - 1
    mult, attention = [], []
    for level in range(outputs // per_level):
        first = 1 + level * per_level
        conv = shapes.get(f"input_blocks.{first}.0.out_layers.3.weight")
        if conv is None:
            raise WeightsError(
                f"This ADM checkpoint lacks input_blocks.{first}.0.out_layers.3.weight; it seems truncated."
            )
        mult.append(conv[0] // width)
        if f"input_blocks.{first}.1.qkv.weight" in shapes:
            attention.append(2**level)
    embedding = shapes.get("input_blocks.1.0.emb_layers.1.weight", (0,))[0]
    config = ADMConfig(
        image_size=image_size,
        in_channels=in_channels,
        model_channels=width,
        out_channels=shapes["out.2.weight"][0],
        num_res_blocks=blocks,
        attention_ds=tuple(attention),
        channel_mult=tuple(mult),
        num_head_channels=num_head_channels,
        scale_shift=embedding == 2 * width * mult[0],
        resblock_updown=resblock_updown,
    )
    for level, channels in enumerate(config.widths()):
        if config.has_attention(level) and channels % num_head_channels:
            raise WeightsError(
                f"The number of channels a head cannot be read off the checkpoint, and {num_head_channels}"
                f" does not divide {channels}: give the ADM configuration with its num_head_channels."
            )
    return config


def key_map(config: ADMConfig) -> Iterator[tuple[str, str, str]]:
    """(original module, diffusers module, kind) for every module with parameters.

    kind is ``plain`` (same weight and bias), ``linear`` (1x1 convolution -> linear) or ``qkv`` (one
    projection -> three: to_q, to_k and to_v are appended to the diffusers name).
    """
    yield "time_embed.0", "time_embedding.linear_1", "plain"
    yield "time_embed.2", "time_embedding.linear_2", "plain"
    yield "input_blocks.0.0", "conv_in", "plain"
    yield "out.0", "conv_norm_out", "plain"
    yield "out.2", "conv_out", "plain"
    levels, blocks = len(config.channel_mult), config.num_res_blocks
    previous, skips, index = config.model_channels, [config.model_channels], 1
    for level, width in enumerate(config.widths()):
        for j in range(blocks):
            at = f"down_blocks.{level}"
            yield from _res(f"input_blocks.{index}.0", f"{at}.resnets.{j}", previous != width)
            if config.has_attention(level):
                yield from _attention(f"input_blocks.{index}.1", f"{at}.attentions.{j}")
            previous, index = width, index + 1
            skips.append(width)
        if level < levels - 1:
            yield from _res(f"input_blocks.{index}.0", f"down_blocks.{level}.downsamplers.0", False)
            skips.append(width)
            index += 1
    yield from _res("middle_block.0", "mid_block.resnets.0", False)
    yield from _attention("middle_block.1", "mid_block.attentions.0")
    yield from _res("middle_block.2", "mid_block.resnets.1", False)
    for u, level in enumerate(reversed(range(levels))):
        width = config.widths()[level]
        for j in range(blocks + 1):
            at = f"output_blocks.{u * (blocks + 1) + j}"
            yield from _res(f"{at}.0", f"up_blocks.{u}.resnets.{j}", previous + skips.pop() != width)
            if config.has_attention(level):
                yield from _attention(f"{at}.1", f"up_blocks.{u}.attentions.{j}")
            previous = width
            if j == blocks and level > 0:
                child = 2 if config.has_attention(level) else 1
                yield from _res(f"{at}.{child}", f"up_blocks.{u}.upsamplers.0", False)


def _res(old: str, new: str, shortcut: bool) -> Iterator[tuple[str, str, str]]:
    yield f"{old}.in_layers.0", f"{new}.norm1", "plain"
    yield f"{old}.in_layers.2", f"{new}.conv1", "plain"
    yield f"{old}.emb_layers.1", f"{new}.time_emb_proj", "plain"
    yield f"{old}.out_layers.0", f"{new}.norm2", "plain"
    yield f"{old}.out_layers.3", f"{new}.conv2", "plain"
    if shortcut:
        yield f"{old}.skip_connection", f"{new}.conv_shortcut", "plain"


def _attention(old: str, new: str) -> Iterator[tuple[str, str, str]]:
    yield f"{old}.norm", f"{new}.group_norm", "plain"
    yield f"{old}.qkv", new, "qkv"
    yield f"{old}.proj_out", f"{new}.to_out.0", "linear"
