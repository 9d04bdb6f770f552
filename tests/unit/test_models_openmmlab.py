"""OpenMMLab checkpoints under timm's names: every key used, and the same logits as an independent forward
pass."""

import re

import pytest
import timm
import torch

from diffadapt.core.errors import WeightsError
from diffadapt.models.classifier import load_classifier
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.export import import_openmmlab
from diffadapt.models.importers.openmmlab import check_openmmlab, convert_openmmlab, is_openmmlab


def invert_swin(state):
    """timm -> OpenMMLab names, written independently of the converter."""
    out = {}
    for key, value in state.items():
        if match := re.match(r"layers\.(\d)\.downsample\.(.*)", key):
            c = value.shape[-1] // 4
            columns = [(w * 2 + h) * c + ch for ch in range(c) for h in (0, 1) for w in (0, 1)]
            out[f"backbone.stages.{int(match[1]) - 1}.downsample.{match[2]}"] = value[..., columns]
            continue
        for old, new in (
            ("patch_embed.proj.", "patch_embed.projection."),
            (".attn.", ".attn.w_msa."),
            (".mlp.fc1.", ".FFN.0.0."),
            (".mlp.fc2.", ".FFN.1."),
            ("layers.", "stages."),
            (".FFN.", ".ffn.layers."),
        ):
            key = key.replace(old, new)
        key = "norm3" + key[4:] if key.startswith("norm.") else key
        out[key if key.startswith("head.") else f"backbone.{key}"] = value
    for key in list(out):
        if key.endswith("relative_position_bias_table"):
            out[key.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.long)
    return out


def random_state(arch):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=7)
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            scale = (
                0.5
                if "bias" in key or "norm" in key or "bn" in key
                else 1.0 / max(1, value[0].numel()) ** 0.5
            )
            value.copy_(torch.randn_like(value) * scale)
            if key.endswith("running_var") or (key.endswith("weight") and value.ndim == 1):
                value.abs_().add_(0.5)
    if arch == "resnet50":
        return {(f"head.{k}" if k.startswith("fc.") else f"backbone.{k}"): v for k, v in state.items()}
    return invert_swin(state)


@pytest.mark.parametrize("arch", ["resnet50", "swin_tiny_patch4_window7_224"])
def test_conversion_equals_an_independent_forward_pass(arch, tmp_path):
    state = random_state(arch)
    assert is_openmmlab(state)
    assert convert_openmmlab(state)[0] == arch
    assert check_openmmlab(state) < 1e-4
    file = tmp_path / "mm.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, file)
    classifier = load_classifier(ClassifierConfig(name=str(file)), num_classes=7)
    assert classifier.arch == arch
    assert import_openmmlab(str(file), tmp_path / "out") < 1e-4
    exported = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).state_dict()
    assert all(torch.equal(v, exported[k]) for k, v in classifier.model.state_dict().items())
    torch.save(classifier.model.state_dict(), file)
    with pytest.raises(WeightsError, match="not an OpenMMLab"):
        import_openmmlab(str(file), tmp_path / "out")


def test_swin_base_is_recognised_and_no_key_is_left_over():
    state = random_state("swin_base_patch4_window7_224")
    arch, converted = convert_openmmlab(state)
    assert arch == "swin_base_patch4_window7_224"
    assert set(converted) == set(timm.create_model(arch, num_classes=7).state_dict())


def test_the_merging_order_matters_and_the_check_sees_it():
    state = random_state("swin_tiny_patch4_window7_224")
    arch, converted = convert_openmmlab(state)
    key = "backbone.stages.0.downsample.reduction.weight"
    assert not torch.equal(converted["layers.1.downsample.reduction.weight"], state[key])
    import diffadapt.models.importers.openmmlab as module

    right = module._unfold_to_timm_order
    module._unfold_to_timm_order = lambda v: v
    try:
        with pytest.raises(WeightsError, match="differs from the original"):
            check_openmmlab(state)
    finally:
        module._unfold_to_timm_order = right


def test_other_networks_are_refused():
    with pytest.raises(WeightsError, match="another network"):
        convert_openmmlab(
            {
                "backbone.conv1.weight": torch.zeros(1),
                "head.fc.weight": torch.zeros(1),
                "head.fc.bias": torch.zeros(1),
            }
        )
    with pytest.raises(WeightsError, match="neck.x"):
        convert_openmmlab(
            {"neck.x": torch.zeros(1), "head.fc.weight": torch.zeros(1), "head.fc.bias": torch.zeros(1)}
        )
