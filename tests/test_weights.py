"""Weights from an address, and weights that the store keeps: the same wherever they lie."""

import json
import random
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.weights import base_path, keep_all, keep_base, network_of
from bikd_ray.zoo import build, resolve_model, weights_id

KWARGS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8, "num_classes": 3}


def entry(**fields) -> ZooEntry:
    return ZooEntry.model_validate(fields)


def tiny(seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("resnet18", pretrained=False, **KWARGS).eval()


def tiny_entry(checkpoint: object) -> ZooEntry:
    return entry(timm="resnet18", kwargs=KWARGS, checkpoint=str(checkpoint), input={"size": 32})


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


# Addresses


class Server(SimpleHTTPRequestHandler):
    """Serves a folder and counts what it was asked for; /cut/ answers half a file."""

    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if not self.path.startswith("/cut/"):
            super().do_GET()
            return
        content = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An address that serves tiny.safetensors and tiny.pth, and the count of what it was asked."""
    folder = tmp_path / "site"
    folder.mkdir()
    save_file(tiny().state_dict(), folder / "tiny.safetensors")
    torch.save({"state_dict": tiny().state_dict()}, folder / "tiny.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked = Counter()
    answers = type("Answers", (Server,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(answers, directory=str(folder)))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pth", "tiny.safetensors?token=a/b"])
def test_a_checkpoint_behind_an_address_is_fetched_once_and_kept(site, tmp_path, name):
    address, asked = site
    how = tiny_entry(f"{address}/{name}")
    assert same_state(build(how), tiny())
    assert same_state(build(how), tiny())
    assert asked == {f"/{name}": 1}
    assert len(list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())) == 1


def test_files_of_one_name_from_two_addresses_are_two_files(site, tmp_path):
    address, _ = site
    other = tmp_path / "site" / "other"
    other.mkdir()
    save_file(tiny(8).state_dict(), other / "tiny.safetensors")
    assert same_state(build(tiny_entry(f"{address}/tiny.safetensors")), tiny())
    assert same_state(build(tiny_entry(f"{address}/other/tiny.safetensors")), tiny(8))


def test_an_address_that_serves_nothing_is_one_line(site):
    address, _ = site
    with pytest.raises(UserError, match=r"cannot download .*/none\.pth \(HTTP Error 404") as raised:
        build(tiny_entry(f"{address}/none.pth"))
    assert "\n" not in str(raised.value)


def test_a_server_that_is_not_there_is_one_line(site):
    with pytest.raises(UserError, match=r"cannot download .*refused.*; correct the addr") as raised:
        build(tiny_entry("http://127.0.0.1:9/tiny.pth"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pth"])
def test_half_a_download_is_refused_and_not_kept(site, tmp_path, name):
    address, asked = site
    how = tiny_entry(f"{address}/cut/{name}")
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be read"):
            build(how)
    assert asked == {f"/cut/{name}": 2}
    assert not list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())


def test_without_weights_nothing_is_fetched(site):
    address, asked = site
    build(tiny_entry(f"{address}/tiny.pth"), weights=False)
    assert not asked


# What the store keeps


class Odd(nn.Module):
    """Tied weights, a transposed one, a view of another, half precision, counters, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(4, 2)
        self.head.weight = nn.Parameter(torch.randn(4, 2).T)
        self.register_buffer("part", self.encode.weight.detach()[1:3])
        self.register_buffer("coarse", torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("drawn", torch.randn(4), persistent=False)
        self.scale = torch.randn(2)  # in no state_dict

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = images.mean((2, 3))
        return self.head(self.encode(pooled) + self.decode(pooled) + self.drawn) * self.scale


class Drawing(nn.Module):
    """Initialises itself from every source of random numbers that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.bias[0] = random.random()
            self.head.bias[1] = float(np.random.rand())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


@pytest.fixture
def fs(tmp_path: Path) -> StoreFS:
    return StoreFS.at(str(tmp_path / "store"))


def kept(how: ZooEntry, fs: StoreFS) -> tuple[ResolvedModel, nn.Module]:
    model, network = resolve_model(how)
    keep_base(fs, model.weights_id, network)
    return model, network


def answer(network: nn.Module, size: int = 32) -> torch.Tensor:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(images)


def stored(fs: StoreFS, model: ResolvedModel) -> Path:
    return Path(fs.path(base_path(model.weights_id)))


def test_the_weights_of_a_model_are_written_once_under_their_id(fs):
    network = tiny()
    keep_base(fs, weights_id(network), network)
    (file,) = (path for path in Path(fs.root).rglob("*") if path.is_file())
    assert file.name == f"{weights_id(network)}.safetensors"
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in load_file(file).items())
    before = file.stat()
    keep_base(fs, weights_id(network), network)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_timm_model_is_built_from_the_store_when_its_checkpoint_is_gone(fs, tmp_path):
    checkpoint = tmp_path / "tiny.pth"
    torch.save(tiny().state_dict(), checkpoint)
    model, network = kept(tiny_entry(checkpoint), fs)
    checkpoint.unlink()
    again = network_of(model, fs)
    assert same_state(again, network)
    assert torch.equal(answer(again), answer(network))
    assert not again.training


def test_a_model_of_a_folder_is_built_from_the_store_when_the_folder_is_gone(fs, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    arguments = {k: v for k, v in KWARGS.items() if k != "num_classes"} | {"global_pool": "max"}
    shape = {"input_size": [3, 24, 24], "first_conv": "conv1", "classifier": "fc"}
    config = {"architecture": "resnet18", "num_classes": 3, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": shape}))
    save_file(tiny().state_dict(), folder / "model.safetensors")
    model, network = kept(entry(timm=f"local-dir:{folder}"), fs)
    shutil.rmtree(folder)
    again = network_of(model, fs)
    assert same_state(again, tiny())
    assert torch.equal(answer(again, 64), answer(network, 64))
    assert not torch.equal(
        answer(again, 64), answer(tiny(), 64)
    )  # which takes the mean, not the maximum


@pytest.mark.parametrize("name", ["Odd", "Drawing"])
def test_a_factorys_model_is_the_same_from_the_store(fs, name):
    model, network = kept(entry(factory=f"tests.test_weights:{name}", input={"size": 4}), fs)
    torch.manual_seed(11)
    again = network_of(model, fs)
    assert same_state(again, network)
    assert torch.equal(answer(again), answer(network))


def test_tied_weights_stay_tied(fs):
    model, _ = kept(entry(factory="tests.test_weights:Odd", input={"size": 4}), fs)
    again: Any = network_of(model, fs)
    assert again.encode.weight is again.decode.weight
    assert set(load_file(stored(fs, model))) >= {"encode.weight", "decode.weight", "part"}


def test_a_factory_that_draws_from_every_generator_is_one_model_on_every_build():
    how = entry(factory="tests.test_weights:Drawing", input={"size": 4})
    first = resolve_model(how)[0]
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)
    assert resolve_model(how)[0] == first


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_file_in_the_store_falls_back_on_the_models_own(fs, tmp_path, share):
    checkpoint = tmp_path / "tiny.pth"
    torch.save(tiny().state_dict(), checkpoint)
    model, _ = kept(tiny_entry(checkpoint), fs)
    content = stored(fs, model).read_bytes()
    stored(fs, model).write_bytes(content[: int(share * len(content))])
    assert same_state(network_of(model, fs), tiny())


def test_weights_other_than_the_plans_are_refused(fs, tmp_path):
    checkpoint = tmp_path / "tiny.pth"
    torch.save(tiny(1).state_dict(), checkpoint)
    model = resolve_model(tiny_entry(checkpoint))[0]
    torch.save(tiny(2).state_dict(), checkpoint)
    found = weights_id(tiny(2))
    with pytest.raises(
        BikdError, match=f"resnet18 has weights {found} on .* {model.weights_id} in"
    ):
        network_of(model, fs)


def test_weights_other_than_the_plans_never_reach_the_store(fs, tmp_path):
    checkpoint = tmp_path / "tiny.pth"
    torch.save(tiny(1).state_dict(), checkpoint)
    model = resolve_model(tiny_entry(checkpoint))[0]
    torch.save(tiny(2).state_dict(), checkpoint)
    with pytest.raises(BikdError, match="its checkpoint changed"):
        keep_all(fs, [model])
    assert not stored(fs, model).exists()
    torch.save(tiny(1).state_dict(), checkpoint)
    keep_all(fs, [model])
    checkpoint.unlink()
    keep_all(fs, [model])
    assert same_state(network_of(model, fs), tiny(1))


def test_a_stored_file_of_other_weights_is_refused(fs, tmp_path):
    torch.save(tiny(1).state_dict(), tmp_path / "tiny.pth")
    model = resolve_model(tiny_entry(tmp_path / "tiny.pth"))[0]
    keep_base(fs, model.weights_id, tiny(2))
    with pytest.raises(BikdError, match="on this node and"):
        network_of(model, fs)
