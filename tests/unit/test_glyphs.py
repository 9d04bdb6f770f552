"""Drawn glyphs and their captions, the tokenizer of whole words, and the shipped model that learned from
them."""

import json
import stat

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from diffadapt.core.errors import DataError
from diffadapt.models.clip import load_clip
from diffadapt.models.weights import ASSETS
from diffadapt.worlds.glyphs.captions import (
    DIGITS,
    GLUE,
    MAX_WORDS,
    MEDIA,
    PLACES,
    STYLES,
    caption,
    vocabulary,
)
from diffadapt.worlds.glyphs.drawing import GlyphConfig, GlyphSet, find_fonts, font_styles, fonts_revision
from diffadapt.worlds.glyphs.strokes import SKELETONS, curves
from diffadapt.worlds.tokenizer import MARKS, build_tokenizer, save_tokenizer, token_ids

PILLOW = GlyphConfig(fonts=("pillow",), examples=400)


@pytest.fixture(scope="module")
def glyphs():
    return GlyphSet(PILLOW)


def test_a_glyph_depends_on_its_index_alone(glyphs):
    other = GlyphSet(GlyphConfig(fonts=("pillow",), examples=50))
    for index in (0, 7, 31):
        image, text = glyphs[index]
        again, same = other[index]
        assert image.dtype == np.uint8 and image.shape == (16, 16, 3)
        assert (image == again).all() and text == same
    assert (glyphs[0][0] != glyphs[1][0]).any()
    assert GlyphSet(GlyphConfig(fonts=("pillow",), examples=50, seed=1))[0][1] != glyphs[0][1]
    with pytest.raises(IndexError):
        other[50]


def test_pictures_hold_ink_and_stay_inside(glyphs):
    for image, text in (glyphs[i] for i in range(200)):
        levels = image[..., 0].astype(int)
        assert np.ptp(levels) > 40, text
        assert (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()


def test_other_sizes():
    image, _ = GlyphSet(GlyphConfig(size=32, fonts=("pillow",), examples=1))[0]
    assert image.shape == (32, 32, 3)


def test_captions_name_the_character_and_the_style_shows(glyphs):
    rng = np.random.default_rng(0)
    for k in range(300):
        text = caption("7" if k % 2 else "G", ["thin", "large", "blurry"], rng).split()
        assert len(text) <= MAX_WORDS
        if k % 2:
            assert "seven" in text or "7" in text
        else:
            assert text[text.index("letter") - 1] == "capital" and text[text.index("letter") + 1] == "g"
    texts = [caption("7", ["thin"], rng).split() for _ in range(200)]
    named = sum(any(w in t for w in STYLES["thin"]) for t in texts)
    assert 0.6 < named / 200 < 0.95  # most captions say the style, some leave it open


def test_styles_are_seen_in_the_pictures():
    from diffadapt.worlds.glyphs.drawing import _finish, _handwritten, _printed

    def ink(styles, draw):
        return np.mean([draw(styles, np.random.default_rng(i)).mean() for i in range(12)])

    def hand(styles, rng):
        return _handwritten(3, styles, 16, rng)

    def type_(styles, rng):
        return _printed("3", "pillow", styles, 16, rng)

    for draw in (hand, type_):
        assert ink(["thick"], draw) > 1.3 * ink(["thin"], draw)
        assert ink(["large"], draw) > 1.2 * ink(["small"], draw)
    mask = hand([], np.random.default_rng(0))
    assert (
        _finish(mask, ["inverted"], np.random.default_rng(0)).mean()
        > 128
        > _finish(mask, [], np.random.default_rng(0)).mean()
    )
    assert (
        _finish(mask, ["faint"], np.random.default_rng(0)).max()
        < 180
        < _finish(mask, ["bright"], np.random.default_rng(0)).max()
    )


def test_no_word_means_two_things():
    words = [w for options in STYLES.values() for option in options for w in option.split()]
    assert len(words) == len(set(words))
    assert not set(words) & {*MEDIA, *PLACES, *GLUE, *DIGITS}


@pytest.mark.parametrize("digit", range(10))
def test_strokes_are_smooth_and_near_the_unit_square(digit):
    assert len(SKELETONS) == 10
    for seed in range(8):
        for line in curves(digit, 0.03, np.random.default_rng(seed)):
            assert line.ndim == 2 and np.isfinite(line).all() and line.min() > -0.3 and line.max() < 1.3
    a, b = (np.vstack(curves(digit, 0.03, np.random.default_rng(0))) for _ in range(2))
    assert (a == b).all()


def test_fonts_count_by_their_bytes():
    assert find_fonts(("pillow",)) == ("pillow",)
    assert "printed" in font_styles("pillow")
    assert {"serif", "slanted", "thick"} <= set(font_styles("/fonts/DejaVuSerif-BoldItalic.ttf"))
    assert fonts_revision(("pillow",)) == fonts_revision(("pillow",))
    every = find_fonts(("pillow", "matplotlib", "system"))
    if len(every) > 1:
        assert fonts_revision(("pillow", "matplotlib", "system")) != fonts_revision(("pillow",))
    with pytest.raises(DataError, match="No font was found"):
        find_fonts(("nowhere",))


def test_one_token_a_word(tmp_path):
    words = vocabulary()
    assert len(words) == len(set(words))
    tokenizer = build_tokenizer(words, 40)
    for word in words:
        (token,) = tokenizer(word, add_special_tokens=False).input_ids
        assert token == words.index(word) + len(MARKS), word
    ids = tokenizer("A Hand-drawn gobbledegook 7, 'photo'!", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "hand", "drawn", "<unk>", "7", "photo"]
    full = token_ids(tokenizer, ["seven " * 99, ""])
    assert full.shape == (2, 40) and full[0, -1] == tokenizer.eos_token_id
    assert full[1].tolist() == [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        *[tokenizer.pad_token_id] * 38,
    ]
    save_tokenizer(tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (token_ids(again, ["a photo of a seven"]) == token_ids(tokenizer, ["a photo of a seven"])).all()
    assert again.model_max_length == 40


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(ASSETS / "glyphs"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts, seed=0):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    images = pipe(
        prompts, num_inference_steps=10, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    return list((images * 255).round().astype(np.uint8))


def test_the_shipped_folder_is_a_stable_diffusion_pipeline(pipe):
    from diffusers import AutoPipelineForText2Image

    assert pipe.safety_checker is None
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert type(AutoPipelineForText2Image.from_pretrained(str(ASSETS / "glyphs"))) is type(pipe)
    first, second = draw(pipe, ["a seven"]), draw(pipe, ["a seven"])
    assert first[0].shape == (16, 16, 3) and (first[0] == second[0]).all()


@pytest.mark.parametrize("name, limit", [("glyphs", 4_000_000), ("glyphs-clip", 1_000_000)])
def test_shipped_files_are_small_readable_and_explained(name, limit):
    files = [f for f in (ASSETS / name).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= limit
    assert all(f.stat().st_mode & stat.S_IROTH for f in files)
    card = (ASSETS / name / "README.md").read_text()
    assert "diffadapt run adapt_anything/glyphs" in card and "Fonts: " in card
    for file in files:
        if file.suffix == ".json":
            json.loads(file.read_text())


LONG = (
    "an impressionist painting of a {} in a crowded room filled with unusual furniture, seen from slightly"
    " above, in cold morning light"
)


@pytest.mark.parametrize("template, least", [("photo of a {}", 0.8), (LONG, 0.7)])
def test_shipped_generator_draws_what_is_asked_for(pipe, template, least):
    """Judged by the shipped CLIP model, for each digit under its own and the nine other names."""
    clip = load_clip(str(ASSETS / "glyphs-clip"), "cpu", "fp32")
    prompts = [template.format(name) for name in DIGITS for _ in range(4)]
    images = clip.image_features(draw(pipe, prompts))
    texts = clip.text_features([f"a photo of the digit {name}" for name in DIGITS])
    right = (images @ texts.T).argmax(1) == torch.arange(10).repeat_interleave(4)
    assert right.float().mean() >= least
