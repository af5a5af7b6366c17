"""Networks are looked at before anything is trained: what stops it is refused, the rest told."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedInput
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import build, check_classes, load_resolved, rebuild, resolve_model, save_resolved
from bikd_ray.zoo.probe import probe

HALF = (0.5, 0.5, 0.5)
INPUT = ResolvedInput(8, HALF, (0.25, 0.25, 0.25), 1.0, "bilinear")


class Net(nn.Module):
    """A classifier of 5 classes; `after` sees its logits, and the module, and may change them."""

    def __init__(self, after=lambda logits, net: logits, before=lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 5)
        self.after, self.before = after, before

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(20 * self.head(self.body(self.before(x)).flatten(1)), self)


def looked_at(network: nn.Module) -> list[str]:
    classes, notes = probe("m", network.eval(), INPUT)
    assert classes == 5
    return notes


def refusal(network: nn.Module) -> str:
    with pytest.raises(UserError) as error:
        probe("m", network.eval(), INPUT)
    assert str(error.value).startswith("zoo: m ")
    assert "\n" not in str(error.value)
    return str(error.value)


# Sound ones


@pytest.mark.parametrize(
    "after",
    [
        lambda z, net: z,
        lambda z, net: z.log_softmax(1),
        lambda z, net: {"logits": z},
        lambda z, net: (z, z.softmax(1)),
        lambda z, net: (z, z) if net.training else z,  # inception's aux, distilled DeiT
        lambda z, net: z.sigmoid() * 10,
        lambda z, net: z.tanh(),  # a cosine classifier
        lambda z, net: z.relu(),
    ],
    ids=["plain", "log", "dict", "tuple", "tuple in training", "scaled", "cosine", "relu"],
)
def test_a_sound_network_passes_without_a_word(after):
    assert looked_at(Net(after)) == []


@pytest.mark.parametrize("network", [nn.Dropout(0.5), nn.BatchNorm2d(3), nn.LayerNorm([3, 8, 8])])
def test_what_draws_or_keeps_statistics_in_training_passes_and_is_left_as_it_was(network):
    whole = nn.Sequential(network, Net()).eval()
    whole[1].train()
    state = {k: v.clone() for k, v in whole.state_dict().items()}
    modes, drawn = [m.training for m in whole.modules()], torch.get_rng_state()
    assert probe("m", whole, INPUT) == (5, [])
    assert [m.training for m in whole.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, state[k]) for k, v in whole.state_dict().items())
    assert all(p.grad is None for p in whole.parameters())


def test_trained_logits_that_happen_to_lie_within_0_and_1_are_not_refused():
    def small(z, net):
        return 0.5 + z / (4 * (1 + z.abs()))

    network = Net(lambda z, net: 0.5 + z / 1e3)
    assert looked_at(network) == []
    assert "within 0–1 whatever the image" in looked_at(Net(small))[0]  # told, and no more


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "test_vit3"])
def test_timms_networks_pass(name):
    kwargs: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
    network = timm.create_model(name, pretrained=False, num_classes=5, **kwargs).eval()
    size = ResolvedInput(32, HALF, HALF, 1.0, "bicubic")
    assert probe("m", network, size) == (5, [])


# No logits


@pytest.mark.parametrize(
    "after",
    [
        lambda z, net: z.softmax(1),
        lambda z, net: z.softmax(1).view(len(z), -1).clone(),
        lambda z, net: z.exp() / z.exp().sum(1, keepdim=True),
        lambda z, net: 0.9 * z.softmax(1) + 0.1 / 5,
        lambda z, net: z.softmax(1).half(),
        lambda z, net: z if net.training else z.softmax(1),
        lambda z, net: z.softmax(1) if net.training else z,
        lambda z, net: (1000 * z + torch.arange(5) * 1e6).softmax(1),  # says the same of all
    ],
    ids=["softmax", "view", "by hand", "smoothed", "half", "in eval", "in training", "saturated"],
)
def test_probabilities_are_refused_with_the_fix(after):
    message = refusal(Net(after))
    assert "ends in a softmax: it answers probabilities, not logits" in message
    assert "remove that layer" in message


def test_a_sigmoid_at_the_end_is_refused_and_one_by_hand_is_told():
    assert "ends in a sigmoid" in refusal(Net(lambda z, net: z.sigmoid()))
    assert "ends in a sigmoid" in refusal(Net(lambda z, net: z.sigmoid() if net.training else z))
    (note,) = looked_at(Net(lambda z, net: 1 / (1 + (-z).exp())))
    assert "within 0–1 whatever the image" in note


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused_and_the_tensor_is_named(value):
    network = Net()
    with torch.no_grad():
        network.head.bias[1] = value
    message = refusal(network)
    assert "answers NaN or infinite logits" in message
    assert ("its tensor head.bias holds NaN" in message) == (value != value)


def test_nan_for_an_image_of_one_colour_is_told():
    def scaled(x):
        return x / (x - x.mean((1, 2, 3), keepdim=True)).std((1, 2, 3), keepdim=True)

    (note,) = looked_at(Net(before=scaled))
    assert "NaN or infinite logits for a black image" in note


def test_answers_that_do_not_depend_on_the_image_are_told():
    (note,) = looked_at(Net(before=lambda x: x * 0))
    assert "the same logits for every image" in note
    untrained = Net()
    nn.init.zeros_(untrained.head.weight)
    assert "the same logits for every image" in looked_at(untrained)[0]


def test_features_instead_of_logits_are_named():
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0).eval()
    assert "without a classifier (num_classes 0) and answers its 512 features" in refusal(network)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Net().body

        def forward(self, x):
            return self.body(x).flatten(1)

    model, _ = resolve_model(entry(Bare))
    with pytest.raises(UserError, match=r"outputs 6 classes, .* its classifier is missing"):
        check_classes(model, 5, None)


# What cannot be trained


def test_nothing_to_train_is_refused_and_a_part_is_told():
    network = Net()
    network.body.requires_grad_(False)
    (note,) = looked_at(network)
    assert note.startswith("82.8% of its parameters do not require gradients")
    network.requires_grad_(False)
    assert "has no trainable parameter" in refusal(network)
    assert "has no trainable parameter" in refusal(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()))


@pytest.mark.parametrize("how", [torch.no_grad(), torch.inference_mode()])
def test_logits_without_a_gradient_are_refused(how):
    class Closed(Net):
        @how
        def forward(self, x):
            return super().forward(x)

    assert "its logits carry no gradient" in refusal(Closed())
    assert "its logits carry no gradient" in refusal(Net(lambda z, net: z.detach()))


def test_a_body_without_a_gradient_is_told():
    class Probe(Net):
        def forward(self, x):
            with torch.no_grad():
                features = self.body(x).flatten(1)
            return self.head(features)

    (note,) = looked_at(Probe())
    assert "no gradient of the logits reaches 82.8% of its trainable parameters" in note


def test_an_operation_of_the_persons_own_hides_nothing_wrongly():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0]

    assert looked_at(Net(before=lambda x: Own.apply(x.requires_grad_()))) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda z, net: z[:, :3] if net.training else z, "answers [2, 3] in training mode"),
        (lambda z, net: {"loss": z} if net.training else z, "without logits"),
        (lambda z, net: z * float("nan") if net.training else z, "logits in training mode"),
        (lambda z, net: z.undefined if net.training else z, "cannot be trained as it is"),
    ],
)
def test_training_mode_is_looked_at_too(after, said):
    message = refusal(Net(after)) if "without" not in said else None
    if message is None:
        with pytest.raises(UserError, match=r"without logits.*\(in training mode\)"):
            looked_at(Net(after))
    else:
        assert said in message


# What depends on more than the image


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda z, net: z - z.mean(0), "depending on the images beside it"),
        (lambda z, net: z + torch.arange(len(z))[:, None], "depending on the images beside it"),
        (lambda z, net: nn.functional.dropout(z, 0.5), "from one time to the next in eval mode"),
        (lambda z, net: z.squeeze(), "answers [5] for one image alone"),
    ],
    ids=["statistics", "order", "dropout", "squeeze"],
)
def test_answers_that_depend_on_more_than_the_image_are_told(after, said):
    notes = looked_at(Net(after))
    assert [note for note in notes if said in note]


def test_a_network_that_breaks_on_one_image_is_named():
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False))
    assert "cannot answer one image alone" in refusal(nn.Sequential(norm, nn.Linear(192, 5)))


# Other inputs and kinds of numbers


@pytest.mark.parametrize(("channels", "said"), [(1, "1 channel;"), (4, "4 channels;")])
def test_other_channels_are_named(channels, said):
    network = nn.Sequential(nn.Conv2d(channels, 5, 8), nn.Flatten())
    message = refusal(network)
    assert f"takes images of {said} only RGB (3 channels) is supported" in message
    assert "input: {size" not in message


def test_another_size_is_still_named():
    assert "cannot take images of 8 x 8" in refusal(nn.Sequential(nn.Conv2d(3, 5, 9)))


MADE: dict[str, Any] = {}


def made(kind: str) -> nn.Module:
    return MADE[kind]()


def entry(make: Any) -> ZooEntry:
    MADE["it"] = make
    shape = {"input": {"size": 8}, "alias": "m", "kwargs": {"kind": "it"}}
    return ZooEntry.model_validate({"factory": "tests.test_probe:made", **shape})


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16])
def test_other_kinds_of_numbers_become_float32_and_that_is_told(kind):
    cast = entry(lambda: Net().to(kind))
    model, network = resolve_model(cast)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert any(f"built in {str(kind)[6:]}; it is measured" in note for note in model.notes)
    again = rebuild(model, network.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(build(cast).parameters(), network.parameters(), strict=True)
    )


def test_a_constant_of_another_kind_is_left_alone():
    def with_double():
        network = Net()
        network.register_buffer("steps", torch.ones(3, dtype=torch.float64))
        return network

    model, network = resolve_model(entry(with_double))
    assert network.steps.dtype == torch.float64
    assert model.notes == ()


# What is remembered


def test_notes_are_remembered_and_refused_networks_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network: Any = timm.create_model("test_resnet", pretrained=False, num_classes=5)
    nn.init.zeros_(network.get_classifier().weight)
    torch.save(network.state_dict(), tmp_path / "zero.pth")
    nn.init.constant_(network.get_classifier().weight, float("nan"))
    torch.save(network.state_dict(), tmp_path / "nan.pth")

    def tiny(file: str) -> ZooEntry:
        where = {"checkpoint": str(tmp_path / file), "input": {"size": 32}}
        return ZooEntry.model_validate(
            {"timm": "test_resnet", "kwargs": {"num_classes": 5}, **where}
        )

    model, _ = resolve_model(tiny("zero.pth"))
    assert "the same logits for every image" in model.notes[0]
    save_resolved(model)
    assert load_resolved(tiny("zero.pth")) == model
    with pytest.raises(UserError, match=r"its tensor fc\.weight holds NaN"):
        resolve_model(tiny("nan.pth"))
    assert load_resolved(tiny("nan.pth")) is None


def test_a_head_that_timm_has_just_initialised_is_told(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    state = timm.create_model("test_resnet", pretrained=False, num_classes=7).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(
        '{"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": '
        '{"num_classes": 7, "input_size": [3, 32, 32], "first_conv": "conv1", "classifier": "fc"}}'
    )
    where = {"timm": f"local-dir:{folder}", "input": {"size": 32}}
    own, _ = resolve_model(ZooEntry.model_validate(where))
    assert own.notes == ()
    fresh, _ = resolve_model(ZooEntry.model_validate({**where, "kwargs": {"num_classes": 4}}))
    assert "its classifier of 4 classes was just initialised" in fresh.notes[0]
    assert "own has 7" in fresh.notes[0]


def test_a_network_that_writes_to_its_images_is_sound():
    assert looked_at(Net(before=lambda x: x.mul_(2).sub_(0.5))) == []


def parallel() -> nn.Module:
    return nn.DataParallel(Net())


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))


def test_wrapped_networks_are_unwrapped_and_programs_named():
    network = build(ZooEntry.model_validate({"factory": f"{__name__}:parallel"}))
    assert isinstance(network, Net)
    with pytest.raises(UserError, match="returned TorchScript"):
        build(ZooEntry.model_validate({"factory": f"{__name__}:scripted"}))
