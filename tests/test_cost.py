import time

import pytest
import timm
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bikd_ray.plan import Cost
from bikd_ray.specs import Recipe
from bikd_ray.zoo.cost import CUDA_CONTEXT, cost, inference_bytes, training_bytes


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 4 * 4, 10), nn.ReLU(), nn.Linear(10, 5)
    )  # fmt: skip


def convolutional(**conv) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, **conv), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5),
    )  # fmt: skip


def test_linear_layers_cost_what_a_hand_counts():
    found = cost(perceptron(), (3, 4, 4))
    assert found == Cost(
        params=48 * 10 + 10 + 10 * 5 + 5,
        flops=2 * (48 * 10 + 10 * 5),
        activations=4 * (48 + 10),  # what the two layers read; ReLU keeps what it wrote, which is
        peak=found.peak,  # the input of the second
        features=10,
    )
    # the image, one hidden vector before ReLU and one after it are the most that is ever there
    assert found.peak == 4 * (48 + 10 + 10)


def test_a_convolution_costs_what_a_hand_counts():
    out = 8 * 6 * 6
    assert cost(convolutional(bias=False), (3, 6, 6)).flops == 2 * (out * 3 * 9 + 8 * 5)
    strided = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, groups=1), nn.Flatten(), nn.Linear(32, 5))
    assert cost(strided, (3, 6, 6)).flops == 2 * (8 * 2 * 2 * 27 + 32 * 5)


def kept_bytes(network: nn.Module, batch: int, size: int) -> int:
    """What autograd keeps for backward, parameters left out by name: the slow way to count."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = network.train()(torch.randn(batch, 3, size, size))
    for tensor in (*network.parameters(), *network.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    assert output.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 64), ("vit_tiny_patch16_224", 64), ("mixer_s32_224", 64), ("test_convnext", 64)],
)
def test_activations_predict_what_a_larger_batch_keeps(name, size):
    fixed = {} if name in ("resnet18", "test_convnext") else {"img_size": size}
    network = timm.create_model(name, pretrained=False, **fixed)
    measured = kept_bytes(network, 8, size)
    assert 8 * cost(network, (3, size, size)).activations == pytest.approx(measured, rel=0.02)


def test_the_network_and_the_random_state_are_left_as_they_were():
    network = convolutional()
    network.train()
    network[1].eval()  # as a frozen batch norm is
    modes = [m.training for m in network.modules()]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    random = torch.get_rng_state()
    cost(network, (3, 6, 6))
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_constants_of_the_network_are_not_activations():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Parameter(torch.ones(500)), nn.Linear(12, 5)

        def forward(self, images):
            shift = self.table.exp().sum()  # keeps 500 numbers, once for the whole batch
            return self.head(images.flatten(1)) + shift

    assert cost(Shifted(), (3, 2, 2)).activations == 4 * 12


def test_a_view_of_a_parameter_that_is_handed_to_a_module_does_no_harm():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 12))
            self.mix, self.head = Mix(), nn.Linear(12, 5)

        def forward(self, images):
            return self.head(self.mix(images.flatten(1), self.token.expand(len(images), -1)))

    class Mix(nn.Module):
        def forward(self, features, token):
            return features * token

    assert cost(Token(), (3, 2, 2)).flops == 2 * 12 * 5


def test_features_are_unknown_where_no_layer_answers_the_logits():
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = perceptron()

        def forward(self, images):
            return self.inner(images) / 2

    assert cost(Halved(), (3, 4, 4)).features is None


def test_batch_norm_after_pooling_is_measured_too():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip
    assert cost(network, (3, 6, 6)).activations > 0


A = Cost(params=1_000_000, flops=0, activations=20_000, peak=3_000, features=None)
B = Cost(params=2_000_000, flops=0, activations=10_000, peak=5_000, features=None)


@pytest.mark.parametrize(("optimizer", "copies"), [("adam", 4), ("adamw", 4), ("sgd", 3)])
def test_training_holds_weights_gradients_and_optimizer_state(optimizer, copies):
    one = training_bytes([A], 1000, Recipe(batch_size=1, optimizer=optimizer))
    assert one == copies * 4_000_000 + 20_000 + 3_000 + 4 * 4 * 1000 + CUDA_CONTEXT


def test_models_together_add_up_but_for_the_largest_transient():
    together = training_bytes([A, B], 10, Recipe())
    assert together == 16 * 3_000_000 + 128 * (30_000 + 5_000 + 2 * 160) + CUDA_CONTEXT


def test_bf16_halves_activations_and_adds_copies_of_the_weights():
    fp32 = training_bytes([A, B], 10, Recipe())
    bf16 = training_bytes([A, B], 10, Recipe(precision="bf16"))
    assert fp32 - bf16 == 128 * 35_000 // 2 - 2 * 3_000_000


def test_inference_holds_weights_and_the_transients_of_a_batch():
    assert inference_bytes(A, 256) == 4_000_000 + 256 * 3_000 + CUDA_CONTEXT


def test_a_small_transformer_is_measured_in_moments():
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    start = time.perf_counter()
    found = cost(network, (3, 224, 224))
    assert time.perf_counter() - start < 20  # under 1 s on two quiet cores
    assert found.params == 5_717_416
    assert found.flops / 2e9 == pytest.approx(1.26, abs=0.02)  # GMACs as timm lists them
    assert found.features == 192
