"""Small data and weights of a user's own, written byte by byte: no library's version changes a fingerprint.

``python -m tests.golden.usertree`` writes the two Parquet fixtures under plan/ again, with other bytes where
pyarrow is another.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent / "plan"
WNIDS = ("n01440764", "n01443537", "n01484850")
MARKS = ("mug", "laptop", "back_pack")
STREETS = "value,name,red,green,blue\n0,road,128,64,128\n1,car,0,0,142\n2,sky,70,130,180\n255,ignore,0,0,0\n"
CONDITIONS = ("fog", "night", "rain", "snow")


def png(seed: int, size: tuple[int, int] = (6, 8), channels: int = 3) -> bytes:
    """An 8-bit PNG of a pattern that ``seed`` decides; its data are stored, not compressed."""
    height, width = size
    line = width * channels
    values = [
        (seed * 37 + y * 11 + x * 5) % 3 if channels == 1 else (seed * 53 + y * 17 + x * 29) % 251
        for y in range(height)
        for x in range(line)
    ]
    raw = b"".join(b"\0" + bytes(values[y * line : (y + 1) * line]) for y in range(height))
    stored = struct.pack("<BHH", 1, len(raw), len(raw) ^ 0xFFFF) + raw
    packed = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def safetensors(seed: int) -> bytes:
    """A safetensors file of one small tensor."""
    data = struct.pack("<4f", *(seed + i / 8 for i in range(4)))
    head = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


def idx(dimensions: tuple[int, ...], seed: int, top: int) -> bytes:
    """An idx file of bytes below ``top``."""
    count = 1
    for n in dimensions:
        count *= n
    head = struct.pack(">HBB", 0, 8, len(dimensions)) + struct.pack(f">{len(dimensions)}I", *dimensions)
    return head + bytes((seed + i * 7) % top for i in range(count))


def build() -> None:
    """Everything below the current folder."""
    _photos()
    _benchmarks()
    _imagenet()
    _scenes()
    _driving()
    _weights()
    _hub()


def _write(place: str, content: bytes | str | dict) -> None:
    if isinstance(content, dict):
        content = json.dumps(content, sort_keys=True)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _photos() -> None:
    for c, name in enumerate(MARKS):
        for i in range(5):
            _write(f"photos/{name}/{i}.png", png(10 * c + i))
    for i in range(6):
        _write(f"flat/{i}.png", png(100 + i))
        _write(f"flat/more/{i}.jpg", png(200 + i))
    names = [f"{i}.png" for i in range(6)] + [f"more/{i}.jpg" for i in range(6)]
    _write("flat.csv", "path,class\n" + "".join(f"{n},{MARKS[i % 3]}\n" for i, n in enumerate(names)))
    _write("classes.txt", "mug\nback pack\nlaptop\n# a remark\n")
    _write("more_classes.txt", "mug\nback pack\nlaptop\nbottle\n")
    _write(
        "prompts.csv",
        "category,prompt\n" + "".join(f"{n},a photo of a {n} no. {i}\n" for n in MARKS for i in range(4)),
    )
    for i in range(1, 7):
        _write(f"frost/frost{i}.jpg", png(300 + i))
    for name in ("photos.parquet", "scenes.parquet"):
        shutil.copyfile(FIXTURES / name, name)


def _benchmarks() -> None:
    office = ("back_pack", "bike", "mug")
    for d, domain in enumerate(("amazon", "dslr", "webcam")):
        for c, name in enumerate(office):
            for i in range(2):
                _write(f"office31/{domain}/images/{name}/frame_{i:04d}.jpg", png(20 * d + 5 * c + i))
    for d, domain in enumerate(("Art", "Clipart", "Product", "Real World")):
        for c, name in enumerate(("Alarm_Clock", "Bike", "Mug")):
            _write(f"officehome/{domain}/{name}/00001.jpg", png(40 * d + c))
    for d, domain in enumerate("cip"):
        lines = []
        for c, name in enumerate(("aeroplane", "bike", "bird")):
            _write(f"imageclef/{domain}/{name}_1.jpg", png(60 * d + c))
            lines.append(f"{domain}/{name}_1.jpg {c}")
        _write(f"imageclef/list/{domain}List.txt", "\n".join(lines) + "\n")
    for d, domain in enumerate(("train", "validation")):
        for c, name in enumerate(("aeroplane", "bus", "truck")):
            _write(f"visda2017/{domain}/{name}/a_{c}.png", png(80 * d + c))
    for d, domain in enumerate(("clipart", "infograph", "painting", "quickdraw", "real", "sketch")):
        for part in ("train", "test"):
            lines = []
            for c, name in enumerate(("aircraft_carrier", "axe", "zigzag")):
                image = f"{domain}/{name}/{part}_{c}.jpg"
                _write(f"domainnet/{image}", png(90 * d + c + len(part)))
                lines.append(f"{image} {c}")
            _write(f"domainnet/{domain}_{part}.txt", "\n".join(lines) + "\n")
    for stem, count in (("train", 12), ("t10k", 5)):
        _write(f"digits/MNIST/raw/{stem}-images-idx3-ubyte", idx((count, 28, 28), count, 256))
        _write(f"digits/MNIST/raw/{stem}-labels-idx1-ubyte", idx((count,), count, 10))
    for part in ("train", "test"):
        for c in range(10):
            _write(f"digits/usps/{part}/{c}/{part}_{c}.png", png(c + len(part), (16, 16), 1))


def _imagenet() -> None:
    for k, place in enumerate(
        ("imagenet-c/fog/5", "imagenet-c/noise/shot_noise/5", "imagenet-w/val", "imagenet-val")
    ):
        for c, wnid in enumerate(WNIDS):
            for i in range(2):
                _write(f"{place}/{wnid}/ILSVRC2012_val_{10 * c + i:08d}.JPEG", png(50 * k + 10 * c + i))


def _scenes() -> None:
    for place, count, first in (("scenes", 5, 0), ("scenes_test", 4, 20), ("scenes_night", 3, 40)):
        for i in range(count):
            _write(f"{place}/images/{i % 2}/{i}.png", png(first + i, (8, 12)))
            _write(f"{place}/labels/{i % 2}/{i}.png", png(first + i, (8, 12), 1))
        _write(f"{place}/classes.csv", STREETS)
    _write("scenes_suffix/photos/a_leftImg8bit.png", png(70, (8, 12)))
    _write("scenes_suffix/photos/b_leftImg8bit.png", png(71, (10, 12)))
    _write("scenes_suffix/truth/a_gtFine_labelTrainIds.png", png(70, (8, 12), 1))
    _write("scenes_suffix/truth/b_gtFine_labelTrainIds.png", png(71, (10, 12), 1))
    for place, count, first in (("coco", 4, 500), ("coco_test", 3, 520)):
        images = [{"id": i + 1, "file_name": f"{i}.png", "height": 8, "width": 12} for i in range(count)]
        objects = [
            {
                "id": 9 * i + 1,
                "image_id": i + 1,
                "category_id": 3 + 4 * (i % 2),
                "bbox": [1 + i, 2, 4, 3],
                "area": 12,
                "iscrowd": 0,
            }
            for i in range(count)
        ]
        names = [{"id": 3, "name": "car"}, {"id": 7, "name": "sign"}]
        _write(f"{place}/annotations.json", {"images": images, "annotations": objects, "categories": names})
        for i in range(count):
            _write(f"{place}/images/{i}.png", png(first + i, (8, 12)))


def _driving() -> None:
    for split, first in (("train", 0), ("val", 30)):
        for i in range(3):
            name = f"{split}/aachen/aachen_{i:06d}_000019"
            _write(f"cityscapes/leftImg8bit/{name}_leftImg8bit.png", png(first + i, (8, 12)))
            _write(f"cityscapes/gtFine/{name}_gtFine_labelIds.png", png(first + i, (8, 12), 1))
            _write(f"cityscapes/gtFine/{name}_gtFine_color.png", png(first + i + 9, (8, 12)))
            _write(
                f"cityscapes_train_ids/leftImg8bit_trainvaltest/leftImg8bit/{name}_leftImg8bit.png",
                png(first + i, (8, 12)),
            )
            _write(
                f"cityscapes_train_ids/gtFine_trainvaltest/gtFine/{name}_gtFine_labelTrainIds.png",
                png(first + i, (8, 12), 1),
            )
    for k, condition in enumerate(CONDITIONS):
        for i in range(2):
            name = f"{condition}/val/GOPR0475/GOPR0475_frame_{i:06d}"
            _write(f"acdc/rgb_anon/{name}_rgb_anon.png", png(60 + 5 * k + i, (8, 12)))
            _write(f"acdc/gt/{name}_gt_labelTrainIds.png", png(60 + 5 * k + i, (8, 12), 1))
    for i in range(2):
        name = f"val/night/GOPR0356/GOPR0356_frame_{i:06d}"
        _write(f"dark_zurich/rgb_anon/{name}_rgb_anon.png", png(90 + i, (8, 12)))
        _write(f"dark_zurich/gt/{name}_gt_labelTrainIds.png", png(90 + i, (8, 12), 1))
        _write(f"bdd100k/images/10k/val/7d{i}-e0c1c5a7.jpg", png(95 + i, (8, 12)))
        _write(f"bdd100k/labels/sem_seg/masks/val/7d{i}-e0c1c5a7.png", png(95 + i, (8, 12), 1))
        _write(f"bdd100k_first/seg/images/val/7d{i}-e0c1c5a7.jpg", png(95 + i, (8, 12)))
        _write(f"bdd100k_first/seg/labels/val/7d{i}-e0c1c5a7_train_id.png", png(95 + i, (8, 12), 1))
    for i in range(1, 5):
        _write(f"gta5/images/{i:05d}.png", png(110 + i, (8, 12)))
        _write(f"gta5/labels/{i:05d}.png", png(110 + i, (8, 12), 1))
    _write("gta5/val.txt", "00002.png\n00004.png\n")
    frames = {"train": ("0006R0", "0016E5", "0001TP"), "val": ("0016E5",), "test": ("Seq05VD", "0001TP")}
    for k, (split, sequences) in enumerate(frames.items()):
        for i, sequence in enumerate(sequences):
            _write(f"camvid/{split}/{sequence}_f{i:05d}.png", png(130 + 7 * k + i, (8, 12)))
            _write(f"camvid/{split}annot/{sequence}_f{i:05d}.png", png(130 + 7 * k + i, (8, 12), 1))


def _weights() -> None:
    card = {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    for name, arch, seed in (
        ("timm", "resnet10t", 1),
        ("mobilenetv2-q8", "mobilenetv2_100", 2),
        ("vit", "vit_tiny_patch16_224", 3),
    ):
        _write(f"own/{name}/config.json", {"architecture": arch, "num_classes": 3, "pretrained_cfg": card})
        _write(f"own/{name}/model.safetensors", safetensors(seed))
        _write(f"own/{name}/README.md", "Not part of the revision.\n")
    shutil.copytree("own/mobilenetv2-q8", "mobilenetv2-q8")
    _write("own/classifier.safetensors", safetensors(4))
    _write("own/checkpoint.pth", b"not a real checkpoint")
    schedule = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    vae = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "latent_channels": 4}
    parts = {
        "dit": ("DiTPipeline", ("transformer", "vae", "scheduler")),
        "adm": ("DDPMPipeline", ("unet", "scheduler")),
        "sd": ("StableDiffusionPipeline", ("vae", "text_encoder", "tokenizer", "unet", "scheduler")),
        "sd_control": (
            "StableDiffusionControlNetPipeline",
            ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler"),
        ),
    }
    for seed, (name, (kind, components)) in enumerate(parts.items(), 10):
        _write(
            f"own/{name}/model_index.json", {"_class_name": kind, **{c: ["diffusers", c] for c in components}}
        )
        for c in components:
            file = "scheduler_config.json" if c == "scheduler" else "config.json"
            _write(f"own/{name}/{c}/{file}", {"scheduler": schedule, "vae": vae}.get(c, {"_class_name": c}))
            if c not in ("scheduler", "tokenizer"):
                _write(f"own/{name}/{c}/diffusion_pytorch_model.safetensors", safetensors(seed))
    _write("own/sd/unet/diffusion_pytorch_model.fp16.safetensors", safetensors(19))
    _write("own/vae/config.json", vae)
    _write("own/vae/diffusion_pytorch_model.safetensors", safetensors(20))
    _write("own/controlnet/config.json", {"_class_name": "ControlNetModel"})
    _write("own/controlnet/diffusion_pytorch_model.safetensors", safetensors(21))
    _write("own/lora.safetensors", safetensors(22))
    _write("own/clip/config.json", {"model_type": "clip"})
    _write("own/clip/model.safetensors", safetensors(23))
    _write("own/llm/config.json", {"model_type": "qwen2"})
    _write("own/llm/model.safetensors", safetensors(24))
    form = {
        "model_type": "segformer",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 24, 32],
        "num_attention_heads": [1, 1, 2, 4],
        "decoder_hidden_size": 16,
    }
    _write("own/segformer/config.json", form)
    _write("own/segformer/model.safetensors", safetensors(25))
    _write("own/detr/config.json", {"architectures": ["DetrForObjectDetection"], "model_type": "detr"})
    _write("own/detr/model.safetensors", safetensors(26))
    _write(
        "own/detector/detector.json",
        {"format": 1, "config": {"arch": "fcos", "backbone": "tiny"}, "classes": {}, "facts": {}},
    )
    _write("own/detector/model.safetensors", safetensors(27))


def _hub() -> None:
    """A hub cache that knows the revision of some repositories and holds nothing of them."""
    known = (
        "timm/resnet50.tv_in1k",
        "facebook/DiT-XL-2-256",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "nvidia/mit-b2",
        "openai/clip-vit-base-patch32",
        "golden/backbone",
    )
    for i, name in enumerate(known):
        _write(f"hub/models--{name.replace('/', '--')}/refs/main", f"{i + 1:x}" * 40)


def write_fixtures() -> None:
    """The Parquet files: images with labels and names, and scenes with label maps and sequences."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    FIXTURES.mkdir(exist_ok=True)
    rows = [
        {"image": {"bytes": png(400 + i), "path": f"{i}.png"}, "label": i % 3, "class_name": MARKS[i % 3]}
        for i in range(9)
    ]
    schema = pa.schema([("image", image), ("label", pa.int64()), ("class_name", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), FIXTURES / "photos.parquet")
    rows = [
        {
            "image": {"bytes": png(420 + i, (8, 12)), "path": f"{i}.png"},
            "sequence": ("a", "b", "c")[i % 3],
            "annotation": {"bytes": png(420 + i, (8, 12), 1), "path": f"{i}.png"},
        }
        for i in range(9)
    ]
    schema = pa.schema([("image", image), ("annotation", image), ("sequence", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), FIXTURES / "scenes.parquet")


if __name__ == "__main__":
    write_fixtures()
