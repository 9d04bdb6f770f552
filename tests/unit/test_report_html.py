"""The HTML report: complete, self-contained, escaped, without secrets, and quick."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reportkit import fake_manifest, fake_run, fake_scores

from diffadapt.core.errors import StoreError
from diffadapt.core.runs import Root, Run
from diffadapt.report.html import render, write_report
from diffadapt.report.panels import png

EVIL = '<script>alert("x")</script>'
IMAGENET_C = {"target": {"kind": "imagenet-c"}, "classifier": {"name": "resnet50.tv_in1k"}, "seed": 0}


class Page(HTMLParser):
    """Tags with attributes, and whether every element is closed in order."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def picture(np_shape=(20, 30, 3)):
    import numpy as np

    return png(np.zeros(np_shape, np.uint8))


def test_the_report_is_written_where_it_says(tmp_path):
    run = fake_run(tmp_path)
    url = write_report(run)
    assert url == f"{tmp_path}/runs/quickstart-0123abcd/report.html" and Path(url).read_text().startswith(
        "<!doctype html>"
    )


def test_the_page_is_well_formed_and_asks_for_nothing(tmp_path):
    section = {"title": "Pairs", "caption": "c", "image": "a.png", "alt": "pairs of images"}
    text = render(fake_run(tmp_path, figures=[(section, picture())]))
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith("data:image/png;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    images = [a for t, a in page.tags if t == "img"]
    assert (
        images[0]["alt"] == "pairs of images" and images[0]["width"] == "30" and images[0]["height"] == "20"
    )


def test_every_row_group_and_finding_is_on_the_page(tmp_path):
    text = render(fake_run(tmp_path))
    for words in (
        "SDA without alignment",
        "controls",
        "300 of 9000",
        "gaussian noise",
        "jpeg compression",
        "Remark: SDA is 0.9 points below",
        "One seed (0)",
        "1 min 23 s",
        "sha256:0123abcd",
        "2.15.0",
        "synth",
        "guidance",
        "cifar_resnet8",
        "diffadapt run quickstart",
        "No item was quarantined",
    ):
        assert words in text, words
    assert text.count("<svg") >= 4


def test_all_user_text_is_escaped_everywhere(tmp_path):
    scores = fake_scores(
        main={"Source": 40, "DDA": 60, EVIL: 65}, controls={f"control {EVIL}": 66}, corruptions=("fog", EVIL)
    )
    scores = [s.__class__(**{**s.__dict__, "note": EVIL}) for s in scores]
    manifest = fake_manifest(
        EVIL, classes=[EVIL], config={EVIL: {EVIL: EVIL}, "plain": EVIL}, quarantined=[(f"{EVIL}.png", EVIL)]
    )
    manifest["nodes"][EVIL] = {**manifest["nodes"]["aligned"], "kind": EVIL, "revisions": {EVIL: EVIL}}
    manifest["versions"][EVIL] = EVIL
    section = {
        "title": EVIL,
        "caption": EVIL,
        "image": f"{EVIL.replace('/', '')}.png",
        "alt": f'"><script>{EVIL}',
    }
    run = fake_run(
        tmp_path,
        scores=scores,
        manifest=manifest,
        figures=[(section, picture())],
        recipe_json={"overrides": {EVIL: EVIL}},
        execution={"runner": EVIL, "seconds": 1, "batch_sizes": {EVIL: EVIL}},
    )
    text = render(run)
    assert "<script" not in text.lower() and "&lt;script" in text
    Page(text)


def test_secrets_are_masked(tmp_path):
    secret = "hunter2hunter2"
    config = {
        "hub_token": secret,
        "api_key": secret,
        "data": {"path": f"s3://user:{secret}@bucket/x?password={secret}"},
        "tokenizer": "kept",
    }
    manifest = fake_manifest(
        config=config,
        quarantined=[
            ("a.png", f"GET https://x/y?X-Amz-Signature={secret} failed"),
            ("b.png", "hf_" + "A1" * 12),
        ],
    )
    text = render(fake_run(tmp_path, manifest=manifest, recipe_json={"overrides": {"hub_token": secret}}))
    assert secret not in text and "hf_A1" not in text and "***" in text and "kept" in text


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (50, 50), (63, 50)])
def test_the_quarantine_counts_all_and_shows_fifty(tmp_path, count, shown):
    text = render(
        fake_run(
            tmp_path, manifest=fake_manifest(quarantined=[(f"img{i}.png", "truncated") for i in range(count)])
        )
    )
    assert text.count(">truncated<") == shown
    if count > 1:
        assert f"{count} items" in text


def test_published_figures_stand_beside_ours_on_the_same_benchmark(tmp_path):
    text = render(
        fake_run(
            tmp_path, "sda-imagenet_c-00000000", manifest=fake_manifest("sda/imagenet_c", config=IMAGENET_C)
        )
    )
    beside = text[text.index("The paper's figures") :]
    assert re.search(r'scope="row">SDA</th><td>32.5</td><td>66.4</td><td>\+33.9</td><td>9000</td>', beside)
    assert (
        "<b>published</b> and was not measured here" in beside
        and "ResNet-50" in beside
        and "ImageNet-W" not in beside
    )


def test_on_other_data_the_published_figures_are_folded_away(tmp_path):
    text = render(fake_run(tmp_path))
    assert (
        "<details><summary>Show (published on other data, not measured here)" in text
        and "measured here</th>" not in text
    )


def test_a_benchmark_with_another_classifier_has_no_column_beside_ours(tmp_path):
    config = {**IMAGENET_C, "classifier": {"name": "vit_base_patch16_224"}}
    text = render(fake_run(tmp_path, manifest=fake_manifest("sda/imagenet_c", config=config)))
    assert (
        "does not report this run&#39;s classifier" in text or "does not report this run's classifier" in text
    )
    assert "measured here</th>" not in text


def test_missing_or_foreign_pictures_are_named_not_followed(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "secret.png").write_bytes(picture())
    sections = [
        {"title": "gone", "image": "gone.png"},
        {"title": "outside", "image": "../../secret.png"},
        {"title": "text", "image": "text.png"},
    ]
    run = fake_run(
        tmp_path, figures=[(sections[0], None), (sections[1], None), (sections[2], b"<svg onload=alert(1)>")]
    )
    text = render(run)
    assert (
        "gone.png is missing" in text
        and "is not the name of a file" in text
        and "neither PNG nor JPEG" in text
        and "<img" not in text
    )


def test_damaged_side_files_do_not_stop_the_report(tmp_path):
    run = fake_run(tmp_path)
    run.write("figures/figures.json", b"{")
    run.write("execution.json", b"[1]")
    assert "figures/figures.json is damaged" in render(run)


def test_a_run_without_labels_or_scores_says_so(tmp_path):
    assert "no scores" in render(fake_run(tmp_path, scores=[]))


def test_unfinished_and_damaged_runs_are_user_errors(tmp_path):
    with pytest.raises(StoreError, match="no manifest yet"):
        write_report(Run(Root(str(tmp_path)), "none"))
    run = fake_run(tmp_path)
    run.write("scores.parquet", b"PAR1")
    with pytest.raises(StoreError, match="damaged"):
        write_report(run)


def test_overrides_are_in_the_command(tmp_path):
    run = fake_run(
        tmp_path,
        recipe_json={
            "overrides": {
                "synth.images_per_class": 20,
                "target.corruptions": ["fog", "snow"],
                "data.path": "a b",
            }
        },
    )
    text = render(run)
    assert (
        f"diffadapt run quickstart --root {tmp_path} --synth.images-per-class 20 --target.corruptions fog"
        " snow --data.path &#39;a b&#39;" in text
    )
    assert "have to be given again" not in text and "have to be given again" in render(
        fake_run(tmp_path / "unknown")
    )


def test_a_report_of_15_corruptions_and_12_methods_takes_under_a_second_in_a_fresh_process(tmp_path):
    """Counted in processor seconds, interpreter included, so that a busy machine does not decide."""
    fake_run(tmp_path)
    platform = Path(__file__).parents[2] / "platform"
    code = (
        f"import sys; sys.path.insert(0, {str(platform)!r})\n"
        "from diffadapt.core.runs import Root, Run\nfrom diffadapt.report.html import write_report\n"
        "import diffadapt.report.compare, diffadapt.report.table\n"
        "assert 'pandas' not in sys.modules\n"
        f"write_report(Run(Root({str(tmp_path)!r}), 'quickstart-0123abcd'))\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'diffusers', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    taken = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 1.0, taken
