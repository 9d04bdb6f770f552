"""Random text-to-image pipelines and a random CLIP of a few hundred kB, saved as diffusers and transformers
folders: for tests without a network."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("a", "photo", "of", "the", "dog", "cat", "car", "tree", "red", "painting", "in", "style")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(length: int = 16, words: tuple[str, ...] = WORDS):
    """A word-level CLIP tokenizer: every merge of every word is spelled out, so that a known word is one
    token."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocab = {token: i for i, token in enumerate([BOS, EOS, *letters, *(c + "</w>" for c in letters)])}
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            vocab.setdefault(parts[0], len(vocab))
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word
    return tokenizer


def t5_tokenizer(length: int = 16):
    from transformers import T5Tokenizer

    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((f"▁{word}", -2.0) for word in WORDS),
        *((chr(c), -9.0) for c in range(97, 123)),
    ]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def text_encoder(tokenizer, projected: bool = False, width: int = 16):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer, width: int = 16):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ).eval()


def autoencoder(shift: float | None = None):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        shift_factor=shift,
    ).eval()


def _unet(width: int, **more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        cross_attention_dim=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()


def stable_diffusion(folder: str | Path, safety: bool = False, scheduler=None) -> str:
    """A StableDiffusionPipeline that draws 16 x 16 noise of its prompt; ``safety`` adds a random checker."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    checker, extractor = _safety_checker() if safety else (None, None)
    pipe = StableDiffusionPipeline(
        autoencoder(),
        text_encoder(tokenizer),
        tokenizer,
        _unet(16),
        scheduler
        or DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        checker,
        extractor,
        requires_safety_checker=safety,
    )
    pipe.save_pretrained(folder)
    return str(folder)


def stable_diffusion_xl(folder: str | Path) -> str:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    unet = _unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )
    pipe = StableDiffusionXLPipeline(
        autoencoder(), text_encoder(tokenizer), text_encoder(tokenizer, True), tokenizer, tokenizer, unet,
        EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1), add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return str(folder)


def stable_diffusion_3(folder: str | Path) -> str:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()
    pipe = StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(),
        autoencoder(0.1),
        text_encoder(tokenizer, True),
        tokenizer,
        text_encoder(tokenizer, True),
        tokenizer,
        t5_encoder(t5, 32),
        t5,
    )
    pipe.save_pretrained(folder)
    return str(folder)


def flux(folder: str | Path) -> str:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(
        scheduler, autoencoder(0.1), text_encoder(tokenizer), tokenizer, t5_encoder(t5), t5, transformer
    )
    pipe.save_pretrained(folder)
    return str(folder)


def deepfloyd_if(folder: str | Path) -> str:
    """A pixel-space pipeline without an autoencoder: text tokens beside the image's in every attention block,
    as in GLIDE."""
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    t5 = t5_tokenizer(77)
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        in_channels=3,
        out_channels=6,
        cross_attention_dim=16,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    ).eval()
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    IFPipeline(
        t5, t5_encoder(t5), unet, scheduler, None, None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return str(folder)


def clip(folder: str | Path, side: int = 16, sharp: bool = False) -> str:
    """A CLIPModel folder with its tokenizer and image processor; ``sharp`` has large random weights, so that
    it tells images apart."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = text_encoder(tokenizer).config.to_dict()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=8,
        projection_dim=16,
    )
    model = CLIPModel(
        CLIPConfig(
            text_config=CLIPTextConfig(**text).to_dict(), vision_config=vision.to_dict(), projection_dim=16
        )
    ).eval()
    if sharp:
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    return str(folder)


def _safety_checker():
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision.to_dict(), projection_dim=16)
    ).eval()
    return checker, CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
