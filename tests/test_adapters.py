from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.zoo.adapters import features_of, logits_of

LOGITS = torch.arange(6.0).reshape(2, 3)

TINY = {
    "vit": lambda: VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ),
    "resnet": lambda: ResNet(
        BasicBlock,  # type: ignore[arg-type]
        (1, 1, 1, 1),
        channels=(8, 8, 8, 16),
        num_classes=5,
    ),
    "mixer": lambda: MlpMixer(img_size=32, patch_size=8, embed_dim=16, num_blocks=2, num_classes=5),
}


class Wrapped(nn.Module):
    """Hides that a network is timm's, and changes the form of what it returns."""

    def __init__(self, inner: nn.Module, form=lambda logits: logits):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, images):
        return self.form(self.inner(images))


def tiny(kind: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    network = TINY[kind]().eval()
    for parameter in network.parameters():  # some heads start at zero and would hide a wrong answer
        nn.init.normal_(parameter, std=0.2)
    return network, torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"logits": LOGITS, "loss": torch.zeros(())},
        OrderedDict(logits=LOGITS),
        SimpleNamespace(logits=LOGITS),
        (LOGITS, torch.zeros(2, 7)),
        [LOGITS],
    ],
    ids=["tensor", "dict", "ordered dict", "object", "tuple", "list"],
)
def test_logits_are_found_in_every_form(output):
    assert logits_of(output, "m") is LOGITS


@pytest.mark.parametrize("output", [{"scores": LOGITS}, (), "text", ({"logits": LOGITS},)])
def test_an_output_without_logits_is_refused_in_one_line(output):
    with pytest.raises(UserError, match=r"zoo: m returns a \w+ without logits; expected") as error:
        logits_of(output, "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", TINY)
@torch.no_grad()
def test_timm_and_the_hook_agree_and_the_head_makes_the_logits_of_them(kind):
    network, images = tiny(kind)
    features = features_of(network, images, "m")
    assert torch.equal(features, features_of(Wrapped(network), images, "m"))
    assert features.shape == (2, network.num_features)
    torch.testing.assert_close(network.get_classifier()(features), network(images))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: {"logits": x},
        lambda x: (x, x.mean()),
        lambda x: SimpleNamespace(logits=x),
        lambda x: x.view(2, 5) if len(x) == 2 else x.view(1, 5),
    ],
    ids=["dict", "tuple", "object", "view"],
)
@torch.no_grad()
def test_the_form_of_the_output_does_not_change_the_features(form):
    network, images = tiny("resnet")
    wrapped = Wrapped(network, form)
    by_timm = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.equal(features_of(wrapped, images, "m"), by_timm)


class FourLayerLinear(nn.Module):
    """The structure of DINOv2's linear classifier: a backbone, and a head that reads the class
    token of its last four blocks and the mean patch of the last.
    """

    def __init__(self):
        super().__init__()
        self.backbone: Any = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=5, num_heads=2, num_classes=0
        )
        self.linear_head = nn.Linear(5 * 16, 10)

    def forward_features(self, images):
        return self.backbone.forward_features(images)

    def head_input(self, images):
        layers = self.backbone.forward_intermediates(
            images, indices=4, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        return torch.cat([*(cls[:, 0] for _, cls in layers), layers[-1][0].mean(1)], dim=1)

    def forward(self, images):
        return self.linear_head(self.head_input(images))


@torch.no_grad()
def test_a_linear_classifier_over_four_layers_gives_its_head_input():
    network, images = FourLayerLinear().eval(), torch.randn(3, 3, 32, 32)
    features = features_of(network, images, "dinov2")
    assert features.shape == (3, 5 * 16)
    assert torch.equal(features, network.head_input(images))


@torch.no_grad()
def test_two_heads_are_read_as_timm_says():
    network = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=5
    ).eval()
    assert features_of(network, torch.randn(2, 3, 32, 32), "m").shape == (2, network.num_features)


@torch.no_grad()
def test_a_convolution_as_the_head_gives_flat_features():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Flatten()
    )
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(features_of(network, images, "m"), network[:2](images).flatten(1))


def test_features_carry_gradients_and_leave_no_hooks():
    network, images = tiny("resnet")
    features_of(Wrapped(network), images, "m").sum().backward()
    assert network.conv1.weight.grad.abs().sum() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_that_ends_in_no_layer_is_refused_in_one_line():
    network = Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), lambda x: x / 2)
    with pytest.raises(UserError, match=r"zoo: m: no layer answers the logits") as error:
        features_of(network, torch.randn(2, 3, 2, 2), "m")
    assert "\n" not in str(error.value)
