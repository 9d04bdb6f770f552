"""Plans count FLOPs: what a pass costs against published figures, what stages ask for, and the estimates made
of it. Networks that take seconds to count are marked slow; of them the shipped table is looked at."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from diffadapt.core import devices, prices
from diffadapt.core.artifact import Shard
from diffadapt.core.errors import RecipeError
from diffadapt.core.estimate import estimate
from diffadapt.core.flops import Call, Network, need, passes
from diffadapt.core.ledger import Measured
from diffadapt.core.stage import NodePlan, PlannedShard, Stage
from diffadapt.diffusion.aligners.config import AlignConfig, diffpure
from diffadapt.diffusion.generators.config import SynthConfig, TextToImageConfig
from diffadapt.diffusion.translation.config import TransferConfig
from diffadapt.methods.config import MemoConfig
from diffadapt.models import architectures, counts
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.counts import KnownCounts
from diffadapt.stages.align import Align
from diffadapt.stages.fit_generator import FitGenerator
from diffadapt.stages.synthesize import Synthesize
from diffadapt.stages.text_to_image import TextToImage
from diffadapt.stages.translate import TransferScenes
from diffadapt.tasks.classification.adapt_online import Memo
from diffadapt.tasks.classification.fit_classifier import FitClassifier
from diffadapt.tasks.classification.predict import Predict
from diffadapt.train.config import DiffusionFitConfig, FitConfig

TABLE = KnownCounts(counting=False)
ADM = architectures.part("adm-256-uncond", "unet")
DIT = architectures.part("facebook/DiT-XL-2-256", "transformer")
GMAC = {
    # multiply-accumulates of one image of 224 (256) pixels: He et al. 2016 and torchvision; timm's tables;
    # Dhariwal & Nichol 2021 (1,120 for the unconditional network); Peebles & Xie 2023, table 4
    "resnet50": (architectures.classifier(ClassifierConfig(name="resnet50.tv_in1k"), 1000), 4.1),
    "vit_b16": (architectures.classifier(ClassifierConfig(name="vit_base_patch16_224.augreg_in1k")), 17.6),
    "adm": (ADM, 1120.0),
    "dit": (DIT, 118.6),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["resnet50", "vit_b16", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adm", "dit"))]
)
def test_counted_flops_are_the_published_ones(name):
    network, published = GMAC[name]
    assert network is not None
    found = counts.count(network, "forward")
    assert found.flops / 2e9 == pytest.approx(published, rel=0.02)
    if (shipped := TABLE.of(network, "forward")) is not None:
        assert shipped == found


@pytest.mark.parametrize("name", ["adm", "dit"])
def test_the_shipped_table_has_the_published_networks(name):
    network, published = GMAC[name]
    assert network is not None
    found = TABLE.of(network, "forward")
    assert found is not None and found.flops / 2e9 == pytest.approx(published, rel=0.02)


def test_a_network_is_counted_once(tmp_path, monkeypatch):
    """Then by every process of this user; another setting is another network."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    network = Network.of("tests.unit.flopskit:linear", "linear", width=3)
    assert KnownCounts(counting=False).of(network, "forward") is None
    found = KnownCounts().of(network, "forward")
    assert found is not None and (found.flops, found.weights) == (2 * 3 * 3, 3 * 3 + 3)
    monkeypatch.setattr(counts, "count", lambda *_: pytest.fail("it was counted before"))
    assert (
        KnownCounts().of(network, "forward")
        == found
        == KnownCounts(counting=False).known(f"{network.digest}:forward")
    )
    assert Network.of("tests.unit.flopskit:linear", "linear", width=4).digest != network.digest


def test_what_a_backward_pass_costs(tmp_path, monkeypatch):
    """To the input alone as much as the forward pass; to the weights too, twice as much. Two layers of width
    8 keep what the backward pass needs."""
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    network = Network.of("tests.unit.flopskit:chain", "chain", width=8, layers=6)
    one, two, three = (counts.count(network, m) for m in ("forward", "gradient", "training"))
    assert two.flops == 2 * one.flops and 2.8 * one.flops < three.flops < 3 * one.flops
    assert one.memory < two.memory <= three.memory and one.memory <= 3 * 8 * 4


def test_attention_is_counted_as_the_fused_kernel():
    import torch
    import torch.nn.functional as F

    from diffadapt.models.tally import Tally

    q = torch.empty(2, 3, 64, 16, device="meta")
    with Tally([q]) as tally, torch.no_grad():
        out = F.scaled_dot_product_attention(q, q, q)
    assert out.shape == q.shape and tally.flops == 2 * (2 * 2 * 3 * 64 * 64 * 16)
    assert tally.peak < 2 * q.numel() * 4, "the 64 x 64 weights of each head are never whole in memory"


def test_what_cannot_be_counted_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFADAPT_CACHE", str(tmp_path / "cache"))
    known = KnownCounts()
    broken = Network.of("tests.unit.flopskit:broken", "a broken one")
    assert known.of(broken, "forward") is None and known.uncounted == {"a broken one": "ValueError"}
    assert need([Call(broken)], known) is None and need(None, known) is None
    assert architectures.part("nobody/has-it", "unet") is None


# -- what stages ask for
# --------------------------------------------------------------------------------------------------


def asked(stage: Stage) -> dict[tuple[str, str], float]:
    out: dict[tuple[str, str], float] = {}
    for call in stage.calls({}) or ():
        key = (call.network.name.split(" ")[0], call.mode)
        out[key] = out.get(key, 0) + call.passes
    return out


def test_steps_guidance_and_views_count():
    adm, dit = "UNet2DModel", "DiTTransformer2DModel"
    assert asked(Align(AlignConfig())) == {(adm, "gradient"): 50}
    assert asked(Align(AlignConfig(guidance="none", start=20))) == {(adm, "forward"): 20}
    assert asked(Align(diffpure())) == {(adm, "forward"): 150}
    assert Align(AlignConfig(guidance="gda")).calls({}) is None, "its losses are not counted"
    assert asked(Synthesize(SynthConfig())) == {(dit, "forward"): 250, ("decoder", "forward"): 1}
    assert asked(Synthesize(SynthConfig(guidance=1.5, steps=100)))[dit, "forward"] == 200
    assert asked(TextToImage(TextToImageConfig())) == {
        ("UNet2DConditionModel", "forward"): 100,
        ("decoder", "forward"): 1,
    }
    plain = ClassifierConfig(name="resnet50.tv_in1k")
    assert asked(Predict(plain, 1000)) == {("resnet50", "forward"): 1}
    assert asked(Memo(MemoConfig(), plain, 1000)) == {
        ("resnet50", "training"): 64,
        ("resnet50", "forward"): 1,
    }
    assert asked(FitClassifier(FitConfig(), plain, 1000)) == {("resnet50", "training"): 1}
    # 18 of 20 steps under guidance and one of the encoding; network and ControlNet; both halves of the VAE
    assert asked(TransferScenes(TransferConfig())) == {
        ("UNet2DConditionModel", "forward"): 37,
        ("ControlNetModel", "forward"): 37,
        ("decoder", "forward"): 1,
        ("encoder", "forward"): 1,
    }


def test_resolution_counts():
    small, large = (TextToImage(TextToImageConfig(size=s)).calls({}) for s in (256, 512))
    assert small is not None and large is not None
    assert json.loads(small[0].network.settings)["height"] == 32
    assert "height" not in json.loads(large[0].network.settings), "the network's own size"


def test_a_trained_generator_is_the_one_that_its_users_ask():
    config = DiffusionFitConfig(architecture="unet", channels=(32, 64), attention_levels=(1,))
    fit = FitGenerator(config, 0, 16, 1)
    trained = NodePlan("unconditional", fit, "f", (), (), {}, tuple(fit.calls({})))
    (call,) = Align(AlignConfig(weights="train", start=7)).calls({"unconditional": trained}) or ()
    assert call.network == fit.network() and (call.passes, call.mode) == (7, "gradient")


# -- estimates
# -----------------------------------------------------------------------------------------------------------


def planned(stage: Stage, items: int = 1000, family: str = "f") -> dict[str, NodePlan]:
    shard = PlannedShard(Shard("k", {}, (), items), f"d-{family}", "p")
    return {"node": NodePlan("node", stage, family, (), (shard,), {}, tuple(stage.calls({}) or ()) or None)}


def seconds(stage: Stage, *measured: Measured, on: str = "H100 80GB", items: int = 1000) -> float:
    found = estimate(planned(stage, items), (), measured, on, TABLE)
    assert found.seconds > 0
    return found.seconds


def test_doubled_steps_double_the_estimate():
    one, two = (seconds(Align(AlignConfig(respacing=200, start=n))) for n in (50, 100))
    assert two == pytest.approx(2 * one)
    assert seconds(Align(AlignConfig()), items=2000) == pytest.approx(2 * seconds(Align(AlignConfig())))


def test_diffpure_costs_three_times_the_unguided_fifty():
    fifty = seconds(Align(AlignConfig(guidance="none")))
    assert seconds(Align(diffpure())) == pytest.approx(3 * fifty)
    assert seconds(Align(AlignConfig())) == pytest.approx(2 * fifty, rel=0.01), (
        "a gradient through frozen weights"
    )


def test_the_rate_is_the_devices():
    """1000 guided images on an H100: counted by hand."""
    h100 = devices.device("H100 80GB")
    assert h100 is not None and h100.peak["bf16"] == 989e12 and h100.memory == 80e9
    count = TABLE.of(ADM, "gradient") if ADM else None
    assert count is not None
    stage = Align(AlignConfig(precision="bf16"))
    assert seconds(stage) == pytest.approx(1000 * 50 * count.flops / (989e12 * h100.share["bf16"]))
    assert seconds(stage, on="A100 40GB") == pytest.approx(seconds(stage) * 989 / 312)
    found = estimate(planned(stage), (), (), "H100 80GB", TABLE)
    assert (found.stages[0].basis, found.stages[0].source(), found.counted) == (
        "counted",
        "counted",
        found.seconds,
    )
    assert (
        estimate(planned(stage), (), (), "", TABLE).seconds == 0
        and not estimate(planned(stage), (), (), "").complete
    )


def entry(stage: Stage, each: float, device: str, calls: dict[str, float] | None = None) -> Measured:
    given = passes(stage.calls({})) if calls is None else calls
    return Measured(
        "d", stage.kind, stage.label(), "another", 10, 10 * each, device, when=time.time(), calls=given
    )


def test_what_was_measured_on_the_device_comes_first_and_is_scaled():
    """Another number of steps, on that device: by FLOPs, not by images; on another device it is counted."""
    stage, half = Align(AlignConfig()), Align(AlignConfig(start=25))
    h100 = "NVIDIA H100 80GB HBM3"
    assert seconds(stage, entry(half, 3.0, h100)) == pytest.approx(1000 * 6.0)
    assert seconds(stage, entry(Align(diffpure()), 3.0, h100)) == pytest.approx(1000 * 2.0, rel=0.01)
    counted = seconds(stage)
    assert seconds(stage, entry(half, 3.0, "Tesla T4")) == pytest.approx(counted)
    assert seconds(stage, entry(half, 3.0, h100, {})) == pytest.approx(counted), (
        "not to be scaled, of that kind alone"
    )
    same = replace(entry(stage, 5.0, h100, {}), family="f")
    assert seconds(stage, same) == pytest.approx(1000 * 5.0)


def test_memory_at_the_recipes_batch():
    found = need(Align(AlignConfig(precision="fp16", batch_size=8)).calls({}), TABLE)
    count = TABLE.of(ADM, "gradient") if ADM else None
    assert found is not None and count is not None
    assert found.memory == pytest.approx(2 * count.weights + 8 * count.memory / 2 + 1e9) and found.batch == 8


@pytest.mark.parametrize(
    "words, name",
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100 NVL", "H100 NVL"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("A100 80GB", "A100 80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("Tesla T4", "T4"),
        ("cpu", "cpu"),
    ],
)
def test_devices_by_their_own_name(words, name):
    found = devices.device(words)
    assert (
        found is not None
        and found.name == name
        and found.source
        and 0 < found.rate("bf16") < found.peak["bf16"]
    )


def test_every_machine_of_the_price_list_can_be_counted_for():
    assert [m.name for m in prices.load().values() if devices.device(m.device) is None] == []
    assert devices.device("Quantum 9") is None


def test_devices_alone_are_priced_by_the_list():
    eight, listed = prices.find("8xH100"), prices.find("aws.p5.48xlarge")
    assert (eight.gpus, eight.device) == (8, "H100") and 0 < eight.on_demand <= listed.on_demand
    assert "by the device" in eight.source and eight.date
    assert prices.find("RTX 4090").on_demand == 0 and prices.find("A100 80GB").gpus == 1
    for wrong in ("8xQ100", "0xH100", "cpu", "8x"):
        with pytest.raises(RecipeError, match="8xH100"):
            prices.find(wrong)
