"""What is planned for the golden file beside every recipe as it stands.

Overrides reach what defaults do not, and data and weights of a user's own. Places are relative to the folder
that tests/golden/usertree.py fills, so that no path of a machine takes part.
"""

from __future__ import annotations

from typing import Any

Overrides = dict[str, Any]
VIT_METHOD = "cdtrans"
"""It works inside a vision transformer."""
DIGITS = {"path": "embedded:digits", "image_size": 16, "channels": 1}
CORRUPTED = {"target.kind": "folder", "target.data.split": "all"}
ZODI_OWN = {
    "source.path": "scenes",
    "source_test.path": "scenes_test",
    "source_test.split": "test",
    "target.path": "scenes_night",
}
COCO_OWN = {"source.path": "coco", "source_test.path": "coco_test"}


def named(
    prefix: str, recipe: str, base: Overrides, variants: dict[str, Overrides]
) -> dict[str, tuple[str, Overrides]]:
    return {f"{prefix}: {name}": (recipe, {**base, **more}) for name, more in variants.items()}


def each(field: str, *values: Any, **more: Any) -> dict[str, Overrides]:
    """A variant for each value of one field; ``more`` (dots as __) are set too."""
    rest = {k.replace("__", "."): v for k, v in more.items()}
    return {f"{field}={_text(v)}": {field: v, **rest} for v in values}


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def variants(uda: list[str], ssl: list[str]) -> dict[str, tuple[str, Overrides]]:
    """Name -> (recipe, overrides). ``uda`` and ``ssl``: every method of either stage."""
    return {
        **named("quickstart", "quickstart", {}, _sda()),
        **named(
            "CIFAR-10",
            "sda/cifar10/resnet20",
            {"source.path": "photos.parquet", "target.data.path": "photos.parquet"},
            {"tables": {}, "distilled": {"cheap": ("distilled",)}},
        ),
        **named(
            "CIFAR-10, ResNet-56",
            "sda/cifar10/resnet56",
            {"source.path": "photos.parquet", "target.data.path": "photos.parquet"},
            {"tables": {}},
        ),
        **named("sda/generators", "sda/generators", {"data.path": "photos"}, _generators()),
        **named(
            "sda/folder",
            "sda/folder",
            {"source.path": "photos", "target.data.path": "photos", "classifier.name": "own/timm"},
            {
                "photos": {},
                "trained classifier": {"classifier.name": "train", "classifier.arch": "resnet10t"},
                "class list": {"source.classes": "classes.txt", "target.data.classes": "classes.txt"},
                "Parquet": {"source.path": "photos.parquet", "target.data.path": "photos.parquet"},
                "by sizes": {"source.fingerprint": "size", "target.data.fingerprint": "size"},
                "by content": {"source.fingerprint": "content", "target.data.fingerprint": "content"},
                "weights of one's own": {"synth.weights": "own/dit", "align.weights": "own/adm"},
                "embedded weights": {
                    "synth.weights": "embedded:digits-dit",
                    "align.weights": "embedded:digits-unet",
                },
                "target folder": {
                    "target.kind": "folder",
                    "target.data.path": "flat",
                    "target.data.part": (0.0, 1.0),
                },
            },
        ),
        **named(
            "sda/imagenet_c",
            "sda/imagenet_c/resnet50",
            {"target.data.path": "imagenet-c", "target.partial": True},
            {
                "a part": {"target.corruptions": ("fog", "shot_noise"), "num_classes": 3},
                "own classifier": {
                    "target.corruptions": ("fog",),
                    "num_classes": 3,
                    "classifier.name": "own/timm",
                },
            },
        ),
        **named(
            "sda/imagenet_w",
            "sda/imagenet_w/resnet50",
            {"target.data.path": "imagenet-w", "target.partial": True},
            {"a part": {"num_classes": 3}},
        ),
        **named("digits", "adapt_anything/digits", {"seeds": (0,)}, _adapt(uda, ssl)),
        **named(
            "own target",
            "adapt_anything",
            {"target.path": "photos", "classes": "classes.txt", "domain": "photos of a desk"},
            _own_target(),
        ),
        **_benchmarks(uda, ssl),
        **named("zodi/tiny", "zodi/tiny", {}, _zodi()),
        **named("own scenes", "zodi", ZODI_OWN, _own_scenes()),
        **_driving(),
        **named(
            "zodi/camvid",
            "zodi/camvid",
            {**_all("path", "camvid"), **_all("partial", True)},
            {
                "a part": {},
                "scaled": {"scale": 0.5},
                "own settings": {
                    "appearances": ("dusk", "night", "fog"),
                    "layout.crop": (48, 48),
                    "variants": ("relight", "img2img"),
                    "estimate": 1,
                },
            },
        ),
        **named(
            "zodi/camvid/subset",
            "zodi/camvid/subset",
            {**_all("path", "scenes.parquet"), **_all("classes", "camvid")},
            {
                "Parquet": {
                    "source.sequences": ("a",),
                    "source_test.sequences": ("b",),
                    "target.sequences": ("c",),
                },
            },
        ),
        **named("detection", "zodi/detection", {}, _detection()),
        **named(
            "own boxes",
            "zodi/detection/coco",
            COCO_OWN,
            {
                "COCO": {},
                "fog": {
                    "transfer.domain": "fog",
                    "target.path": "coco_test",
                    "target.limit": 2,
                    "source_test.path": "",
                },
                "images alone": {"target.path": "coco_test", "target.labels": "", "source_test.path": ""},
            },
        ),
        **named(
            "streets",
            "zodi/weights",
            {},
            {
                "two conditions": {"conditions": ("day", "night"), "scenes": 64},
                "layout": {"scenes": 8, "layout.steps": 10, "layout.flip": True, "seed": 3, "layout.seed": 3},
            },
        ),
        **named(
            "glyphs",
            "adapt_anything/glyphs",
            {"glyphs.fonts": ("pillow",)},  # other fonts are those of a machine
            {
                "one font": {"glyphs.size": 24},
                "seeds": {"seed": 1, "glyphs.seed": 1, "clip.seed": 1, "vae.seed": 1, "generator.seed": 1},
            },
        ),
    }


def _all(field: str, value: Any) -> Overrides:
    return {f"{data}.{field}": value for data in ("source", "source_test", "target")}


def _sda() -> dict[str, Overrides]:
    own = {
        "target.data.path": "photos",
        "target.data.image_size": 32,
        "target.data.channels": 3,
        "target.data.split": "all",
        "source.path": "photos",
        "source.split": "all",
        "source.channels": 3,
        "source.image_size": 32,
    }
    return {
        **each("align.guidance", "dda-batch", "none"),
        "gda": {"methods": ("source", "gda", "sda"), "align.gda.entropy_weight": 0.5},
        "gda with CLIP": {"methods": ("gda",), "align.gda.style_weight": 1.0, "align.gda.clip": "own/clip"},
        "aligned by gda": {"align.guidance": "gda"},
        "noise at the first step": {"align.noise_at_first_step": True, "align.start": 10},
        "projections as JPEG": {"project_storage": "jpeg75"},
        "align": {
            "align.scale": 1.0,
            "align.factor": 4,
            "align.respacing": 20,
            "align.precision": "bf16",
            "align.storage": "jpeg75",
        },
        **{
            f"method {m}": {"methods": (m,), "controls": ()}
            for m in ("source", "diffpure", "memo", "tent", "gda", "dda", "sda")
        },
        **{
            f"control {c}": {"methods": ("sda", "tent"), "controls": (c,)}
            for c in ("nonaligned", "real", "projection", "finetuned", "batchnorm")
        },
        "no controls, no figures": {"controls": (), "figures": False},
        "tent grid": {"tent_grid": True},
        "tent": {
            "tent.mixed_types": True,
            "tent.mixed_classes": False,
            "tent.batch_size": 1,
            "tent.optimizer": "sgd",
            "tent.steps": 2,
        },
        "memo": {"memo.limit": None, "memo.optimizer": "adamw", "memo.steps": 2, "memo.bn_prior": 8.0},
        "diffpure": {"diffpure.start": 2, "diffpure.noise_at_first_step": False},
        **{f"target {k}": {"target.kind": k} for k in ("watermark", "folder")},
        "severities": {
            "target.severities": (1, 3),
            "target.corruptions": ("fog", "frost"),
            "target.jpeg_quality": 85,
        },
        "frost textures": {"target.corruptions": ("frost",), "target.frost_textures": "frost"},
        "trained generators": {"synth.weights": "train", "align.weights": "train"},
        "trained generators, otherwise": {
            "synth.weights": "train",
            "align.weights": "train",
            "generator_fit.native_size": 8,
            "generator_fit.learn_sigma": True,
            "unconditional_fit.space_to_depth": 2,
            "generator_fit.save_precision": "fp16",
        },
        "generator in a latent space": {"synth.weights": "train", "generator_fit.latent": "own/vae"},
        "trained by a U-Net": {
            "synth.weights": "train",
            "generator_fit.architecture": "unet",
            "generator_fit.channels": (8, 16),
        },
        "seed 1": {
            "seed": 1,
            "classifier_fit.seed": 1,
            "finetune.seed": 1,
            "generator_fit.seed": 1,
            "unconditional_fit.seed": 1,
        },
        "a part of the data": {
            "source.part": (0.0, 0.5),
            "target.data.limit_per_class": 7,
            "target.data.block": 11,
        },
        "unlabelled": {"target.data.labels": "none"},
        "synthesis": {
            "synth.guidance": 4.0,
            "synth.sampler": "dpmsolver++",
            "synth.output": "truncate",
            "synth.guide_channels": "first3",
            "synth.images_per_class": 7,
            "synth.images_per_shard": 3,
            "synth.classes_per_shard": 4,
            "synth.precision": "fp16",
        },
        "synth.sampler=ddpm": {"synth.sampler": "ddpm"},
        "classifier settings": {
            "classifier.eval_resize": "native",
            "classifier.resize": 20,
            "classifier.precision": "bf16",
        },
        "classifier by name": {"classifier.name": "resnet50.tv_in1k", "classifier.arch": None},
        "classifier not at hand": {"classifier.name": "convnext_tiny.fb_in1k", "classifier.arch": None},
        "classifier on the hub": {"classifier.name": "hf-hub:golden/backbone", "classifier.arch": None},
        "classifier folder": {"classifier.name": "own/timm", "classifier.arch": None},
        "classifier file": {
            "classifier.name": "own/classifier.safetensors",
            "classifier.arch": "cifar_resnet8",
        },
        "classifier checkpoint": {
            "classifier.name": "own/checkpoint.pth",
            "classifier.arch": "cifar_resnet8",
            "methods": ("source", "gda", "memo", "tent"),
        },
        "generators of one's own": {"synth.weights": "own/dit", "align.weights": "own/adm"},
        "generators on the hub": {
            "synth.weights": "facebook/DiT-XL-2-256",
            "align.weights": "someone/unconditional",
        },
        "training": {
            "classifier_fit.optimizer": "sgd",
            "classifier_fit.schedule": "step",
            "classifier_fit.milestones": (2, 4),
            "finetune.augment": "transformer",
            "finetune.drop_path": 0.1,
            "finetune.clip_norm": 5.0,
            "finetune.precision": "bf16",
        },
        "images of one's own": own,
        "labels in a file": {
            **own,
            "target.kind": "folder",
            "target.data.path": "flat",
            "target.data.labels": "flat.csv",
            "target.data.classes": "classes.txt",
        },
        "execution alone": {
            "synth.batch_size": 7,
            "align.batch_size": 3,
            "classifier.batch_size": 5,
            "finetune.micro_batch": 4,
            "execution.runner": "local",
            "execution.actors": 3,
            "synth.compile": True,
            "memo.chunk": 2,
            "execution.threads": 2,
        },
    }


def _generators() -> dict[str, Overrides]:
    return {
        "photos": {},
        "class list": {"data.classes": "classes.txt"},
        "Parquet": {"data.path": "photos.parquet", "data.image_size": 32},
        "unconditional alone": {"train": ("unconditional",), "data.path": "flat"},
        "conditional alone": {
            "train": ("conditional",),
            "conditional.latent": "own/vae",
            "conditional.patch_size": 4,
        },
        "seed": {
            "seed": 2,
            "conditional.seed": 2,
            "unconditional.seed": 2,
            "unconditional.native_size": 32,
            "unconditional.flip": True,
        },
    }


def _adapt(uda: list[str], ssl: list[str]) -> dict[str, Overrides]:
    rules = ("last", "ensv", "im", "mixval", "snd", "corrc", "bnm", "classami", "oracle")
    samplers = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmsolver++", "unipc", "lcm")
    timm = {
        "backbone.arch": None,
        "backbone.in_channels": 3,
        "backbone.crop": 32,
        "backbone.mean": (0.5,) * 3,
        "backbone.std": (0.5,) * 3,
    }
    return {
        "one seed": {},
        **each("uda.method", *(m for m in uda if m != VIT_METHOD)),
        f"uda.method={VIT_METHOD}": {
            "uda.method": VIT_METHOD,
            "uda.epochs": 12,
            **timm,
            "backbone.name": "own/vit",
            "backbone.crop": 224,
        },
        **each("ssl.method", *ssl, "none"),
        **each("select.rule", *rules),
        **each("prompts.source", "template", "bank"),
        "prompts in a file": {
            "prompts.source": "file",
            "prompts.file": "prompts.csv",
            "target.path": "photos",
            "classes": "classes.txt",
            "clip.weights": "",
        },
        **{
            f"prompts by {b}": {
                "prompts.source": "llm",
                "prompts.llm.backend": b,
                "prompts.llm.model": "own/llm",
                "prompts.llm.endpoint": "http://localhost/v1",
            }
            for b in ("transformers", "openai", "ray")
        },
        "prompts on the hub": {"prompts.source": "llm"},
        "prompts": {
            "prompts.prompts_per_class": 7,
            "prompts.block": 3,
            "prompts.styles": ("drawn",),
            "prompts.lights": ("dim", "bright"),
        },
        **each("generator.scheduler", *samplers),
        "generator": {
            "generator.guidance": 3.0,
            "generator.negative_prompt": "blurry",
            "generator.store_size": 8,
            "generator.images_per_class": 30,
            "generator.images_per_shard": 7,
        },
        "generator of one's own": {"generator.weights": "own/sd"},
        "generator on the hub": {
            "generator.weights": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "generator.precision": "fp16",
        },
        "generator not at hand": {"generator.weights": "someone/else"},
        **each("controls", (), ("direct",), ("unfiltered",)),
        "filters": {"filters.near_duplicates": 3, "filters.clip": "own/clip", "filters.blank_std": 4.0},
        "filters by hub CLIP": {"filters.clip": "openai/clip-vit-base-patch32"},
        "no filter": {"filters.blank": False},
        "split by threshold": {"split.rule": "threshold", "split.threshold": 0.8},
        "seeds": {"seeds": (3, 5), "seed": 4},
        "sdat": {
            "uda.sdat": 0.02,
            "uda.sync_batch_norm": True,
            "uda.lr": 0.1,
            "ssl.lr": 0.2,
            "ssl.precision": "bf16",
        },
        **each("uda.augment", "uda", "center", "none"),
        "frozen": {"backbone.frozen": True, "backbone.name": "own/timm", **timm},
        "frozen by ensv": {
            "backbone.frozen": True,
            "backbone.name": "own/timm",
            **timm,
            "select.rule": "ensv",
            "backbone.weak_views": 2,
        },
        "backbone folder": {"backbone.name": "own/timm", **timm},
        "backbone by name": {"backbone.name": "resnet50.tv_in1k", **timm},
        "backbone not at hand": {"backbone.name": "resnet18.a1_in1k", **timm},
        "CLIP": {"clip.weights": "own/clip", "clip.templates": ("a {category}", "{domain}: {category}")},
        "no CLIP": {"clip.weights": ""},
        "no figures": {"figures": False},
        "real source": {
            "source.path": "embedded:digits",
            "source.split": "train",
            "source.image_size": 16,
            "source.channels": 1,
        },
        "unlabelled": {
            "target.labels": "none",
            "classes": "",
            "source.path": "embedded:digits",
            "source.split": "train",
        },
        "execution alone": {
            "generator.batch_size": 7,
            "backbone.batch_size": 5,
            "clip.batch_size": 3,
            "uda.checkpoint_every": 2,
            "ssl.checkpoint_every": 2,
            "execution.runner": "ray",
            "execution.actors": 3,
            "execution.train_workers": 2,
            "select.watch": "im",
        },
    }


def _own_target() -> dict[str, Overrides]:
    return {
        "photos": {},
        "flat folder": {"target.path": "flat", "target.labels": "none"},
        "flat folder refused": {"target.path": "flat"},
        "labels in a file": {"target.path": "flat", "target.labels": "flat.csv"},
        "labels not read": {"target.labels": "none"},
        "Parquet": {"target.path": "photos.parquet"},
        "class folders": {"classes": ""},
        "more classes": {"classes": "more_classes.txt"},
        "by sizes": {"target.fingerprint": "size"},
        "a glob": {"target.path": "flat/*.png"},
        "real source": {"source.path": "photos.parquet"},
        "own weights": {
            "generator.weights": "own/sd",
            "backbone.name": "own/timm",
            "clip.weights": "own/clip",
        },
        "frozen": {"backbone.name": "own/timm", "backbone.frozen": True},
    }


def _benchmarks(uda: list[str], ssl: list[str]) -> dict[str, tuple[str, Overrides]]:
    found: dict[str, tuple[str, Overrides]] = {}
    for recipe in (
        "office31/all",
        "office31/frozen",
        "officehome/all",
        "imageclef/all",
        "visda2017/all",
        "visda2017/synthetic",
        "domainnet/clipart_real",
        "domainnet/synthetic_sketch",
        "mnist_usps",
    ):
        folder = "digits" if recipe == "mnist_usps" else recipe.split("/")[0]
        found[f"a part of {recipe}"] = (
            f"adapt_anything/{recipe}",
            {"data.path": folder, "partial": True, "seeds": (0,)},
        )
    own = {"data.path": "officehome", "seeds": (0,)}
    found["own domains"] = ("adapt_anything/domains", own)
    base = {
        "data.path": "office31",
        "partial": True,
        "transfers": ("amazon-webcam", "synthetic-dslr"),
        "seeds": (0, 1),
    }
    found |= named(
        "office31",
        "adapt_anything/office31/all",
        base,
        {
            "every method": {
                "methods": tuple(uda),
                "ssl_methods": tuple(ssl),
                "ssl_after": uda[0],
                "backbone.name": "own/vit",
            },
            "with CLIP": {"clip.weights": "own/clip", "methods": ("mcc",)},
            "selected": {
                "select.rule": "snd",
                "methods": ("mcc",),
                "ssl_methods": ("fixmatch",),
                "ssl_after": "mcc",
            },
            "frozen": {"backbone.name": "own/timm", "backbone.frozen": True, "methods": ("dann",)},
            "class list": {"data.limit_per_class": 1, "data.block": 2, "methods": ("source_only",)},
        },
    )
    return found


def _zodi() -> dict[str, Overrides]:
    judged = {"source_test.limit": 8, "target.limit": 8, "source.limit": 16, "estimate": 4}
    return {
        **each("transfer.method", "stochastic", "edit_friendly", "img2img", "layout"),
        "aligned levels": {"transfer.aligned": True},
        **each("transfer.palette", "cityscapes", "ade20k"),
        **each("transfer.domain", "snow", "rain", "fog", "game", transfer__strength=None),
        "own domain": {
            "transfer.domain": "haze",
            "transfer.prompt": "driving in haze",
            "transfer.strength": 0.6,
        },
        "lcm": {"transfer.profile": "lcm", "transfer.steps": 4},
        "transfer": {
            "transfer.steps": 10,
            "transfer.eta": 0.5,
            "transfer.control_scale": 0.5,
            "transfer.suffix": "",
            "transfer.negative_prompt": "",
            "transfer.images_per_shard": 5,
            "transfer.size": 96,
            "transfer.precision": "bf16",
        },
        "quality off": {"quality.consistency": 0.0, "quality.retries": 0},
        "quality": {
            "quality.edges": 0.1,
            "quality.luminance": (10.0, 200.0),
            "quality.retries": 2,
            "quality.retry": "strength",
            "quality.strength_step": 0.2,
        },
        "quality by CLIP": {
            "quality.clip": "own/clip",
            "quality.clip_score": 0.5,
            "quality.consistency": 0.0,
        },
        "every variant": {
            "variants": ("img2img", "edit_friendly", "aligned", "layout", "relight"),
            "estimate": 0,
            "figures": False,
        },
        "no variants": {"variants": ()},
        **{
            f"method {m}": {"methods": (m,), "variants": ()}
            for m in ("source_only", "transferred_only", "both", "zodi")
        },
        **each("training.select", "last", "best_source", "oracle"),
        "training": {
            "training.similarity": 0.3,
            "training.crop": (32, 48),
            "training.optimizer": "sgd",
            "training.precision": "bf16",
            "training.batch_size": 4,
        },
        "seeds": {"seeds": (1, 2), "seed": 5},
        "scaled": {"scale": 2.0},
        "no test scenes": {"source_test.path": ""},
        "no target": {"target.path": "", "transfer.domain": "fog"},
        "fewer scenes": {**judged, "source.block": 5},
        "conditions": {"source.condition": "fog", "target.condition": "dusk", "transfer.domain": "fog"},
        "scenes resized": {**_all("size", (32, 48))},
        "own generator": {"transfer.weights": "own/sd_control"},
        "own generator and ControlNet": {
            "transfer.weights": "own/sd",
            "transfer.controlnet": "own/controlnet",
            "transfer.variant": "fp16",
            "transfer.lora": "own/lora.safetensors",
        },
        "generators on the hub": {
            "transfer.weights": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "transfer.controlnet": "lllyasviel/control_v11p_sd15_seg",
            "transfer.multiple": 64,
        },
        "trained generator": {
            "transfer.weights": "train",
            "appearances": ("night", "fog"),
            "layout.variants": 2,
            "layout.steps": 5,
        },
        "relight": {"variants": ("relight",), "transfer.domain": "night"},
        "segmenter": {
            "segmenter.width": 16,
            "segmenter.void_channel": True,
            "segmenter.dropout": 0.0,
            "segmenter.size": (96, 96),
            "segmenter.precision": "bf16",
        },
        "refinenet": {
            "segmenter.arch": "refinenet",
            "segmenter.backbone": "resnet50",
            "segmenter.weights": "imagenet",
        },
        "resnet101": {
            "segmenter.backbone": "resnet101",
            "segmenter.weights": "imagenet",
            "segmenter.frozen": True,
        },
        "segformer": {
            "segmenter.arch": "segformer",
            "segmenter.backbone": "nvidia/mit-b2",
            "segmenter.weights": "imagenet",
        },
        "segformer without weights": {
            "segmenter.arch": "segformer",
            "segmenter.backbone": "nvidia/mit-b0",
            "segmenter.weights": "none",
        },
        "segformer folder": {
            "segmenter.arch": "segformer",
            "segmenter.backbone": "own/segformer",
            "segmenter.weights": "own/segformer",
        },
        "linear head": {
            "segmenter.arch": "linear",
            "segmenter.backbone": "vit_tiny_patch16_224",
            "segmenter.weights": "own/vit",
            "segmenter.layers": 4,
        },
        "backbone folder": {
            "segmenter.backbone": "timm:mobilenetv2_100",
            "segmenter.weights": "own/mobilenetv2-q8",
        },
        "backbone file": {
            "segmenter.backbone": "resnet50",
            "segmenter.weights": "own/classifier.safetensors",
        },
        "backbone of timm": {
            "segmenter.backbone": "timm:mobilenetv2_100.ra_in1k",
            "segmenter.weights": "imagenet",
        },
        "execution alone": {
            "transfer.batch_size": 3,
            "segmenter.batch_size": 5,
            "training.checkpoint_every": 7,
            "execution.threads": 3,
        },
    }


def _own_scenes() -> dict[str, Overrides]:
    suffix = {"path": "scenes_suffix", "images": "photos", "labels": "truth", "classes": "cityscapes"}
    parquet = {"layout": "parquet", "path": "scenes.parquet", "classes": "scenes/classes.csv"}
    return {
        "folders": {},
        "no test, no target": {"source_test.path": "", "target.path": ""},
        "target without truth": {"target.labels": ""},
        "class table": {**_all("classes", "scenes/classes.csv")},
        "by sizes": {**_all("fingerprint", "size")},
        "resized": {**_all("size", (16, 24)), "source.limit": 3, "source.block": 2},
        "suffixes": {
            "source_test.path": "",
            "target.path": "",
            **{f"source.{k}": v for k, v in suffix.items()},
        },
        "one size": {
            "source_test.path": "",
            "target.path": "",
            **{f"source.{k}": v for k, v in suffix.items()},
            "source.only_size": (8, 12),
        },
        "Parquet": {
            "source_test.path": "",
            "target.path": "",
            **{f"source.{k}": v for k, v in parquet.items()},
            "source.sequences": ("a", "c"),
        },
        "COCO": {
            **_all("layout", "coco"),
            **_all("labels", "annotations.json"),
            "source.path": "coco",
            "source_test.path": "coco_test",
            "target.path": "",
        },
        "COCO with a class table": {
            **_all("layout", "coco"),
            **_all("labels", "annotations.json"),
            "source.path": "coco",
            "source_test.path": "",
            "target.path": "",
            "source.classes": "scenes/classes.csv",
        },
        "trained generator": {
            "transfer.weights": "train",
            "transfer.controlnet": "",
            "transfer.palette": "own",
        },
    }


def _driving() -> dict[str, tuple[str, Overrides]]:
    city = {
        "source.path": "cityscapes",
        "source.partial": True,
        "source_test.path": "cityscapes",
        "source_test.partial": True,
        "target.partial": True,
    }
    acdc = {**city, "target.path": "acdc"}
    found = {
        f"a part of zodi/cityscapes_acdc{c}": (f"zodi/cityscapes_acdc{c}", acdc)
        for c in ("", "/fog", "/rain", "/snow", "/refinenet", "/segformer", "/dinov2")
    }
    found["a part of zodi/cityscapes_gta5"] = (
        "zodi/cityscapes_gta5",
        {**city, "target.path": "gta5", "target.split_file": ""},
    )
    return {
        **found,
        **named(
            "cityscapes",
            "zodi/cityscapes_acdc",
            acdc,
            {
                "every condition": {"target.condition": ""},
                "train ids": {
                    "source.path": "cityscapes_train_ids",
                    "source_test.path": "cityscapes_train_ids",
                },
                "Dark Zurich": {"target.layout": "dark_zurich", "target.path": "dark_zurich"},
                "BDD100K": {"target.layout": "bdd100k", "target.path": "bdd100k", "target.condition": ""},
                "BDD100K's first release": {
                    "target.layout": "bdd100k",
                    "target.path": "bdd100k_first",
                    "target.condition": "",
                },
                "all of GTA5": {
                    "target.layout": "gta5",
                    "target.path": "gta5",
                    "target.split": "all",
                    "target.condition": "",
                },
                "one size": {"target.only_size": (8, 12), "source.size": (16, 24)},
            },
        ),
    }


def _detection() -> dict[str, Overrides]:
    backbone = {"detector.backbone": "timm:mobilenetv2_100.ra_in1k", "detector.weights": "imagenet"}
    whole = (
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "ssdlite320_mobilenet_v3_large",
        "retinanet_resnet50_fpn_v2",
        "fcos_resnet50_fpn",
    )
    return {
        **each("detector.arch", *whole, detector__backbone="", detector__weights="coco"),
        **each("detector.arch", "fasterrcnn", "retinanet"),
        "backbone of timm": backbone,
        "backbone of torchvision": {"detector.backbone": "resnet50", "detector.weights": "imagenet"},
        "transformers": {
            "detector.arch": "transformers",
            "detector.backbone": "own/detr",
            "detector.weights": "coco",
        },
        "transformers on the hub": {
            "detector.arch": "transformers",
            "detector.backbone": "facebook/detr-resnet-50",
            "detector.weights": "none",
        },
        "detector folder": {"detector.weights": "own/detector"},
        "detector file": {"detector.weights": "own/classifier.safetensors"},
        **{f"method {m}": {"methods": (m,)} for m in ("source_only", "transferred_only", "both")},
        "similarity": {"training.similarity": 0.1, "training.jitter": (0.1, 0.1, 0.1, 0.1)},
        "seeds": {"seeds": (1, 2), "seed": 3, "figures": False},
        "quality": {"quality.edges": 0.1, "quality.retries": 1, "transfer.method": "edit_friendly"},
        "thresholds": {"detector.score": 0.1, "detector.overlap": 0.4, "detector.detections": 50},
    }
