"""A tiny world: random images in Parquet, networks of a few hundred weights, no Ray, no network."""

import io
import json
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from tests.browser import chromium
from tests.clusters import write_project

if TYPE_CHECKING:
    from playwright.sync_api import Browser

torch.set_num_threads(1)

CLASSES = 4


def write_images(path: Path, count: int, seed: int) -> Path:
    """Parquet as HF datasets write it: noise around one colour for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])
    rows = []
    for label in labels:
        noise = rng.normal(0, 60, (10, 12, 3)) + colours[label]
        stream = io.BytesIO()
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64())})
    pq.write_table(table, path, row_group_size=16)
    return path


def net(width: int = 4, dropout: float = 0.0, norm: bool = False) -> torch.nn.Sequential:
    """A zoo factory: one hidden layer on 8 x 8 images."""
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(3 * 16, width),
        torch.nn.BatchNorm1d(width) if norm else torch.nn.Identity(),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(width, CLASSES),
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a real Ray has that mark: it wants the machine for itself."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a test remembers or decodes reaches the person's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def own_credentials() -> None:
    """No test reaches a bucket of the person's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    os.environ.update(AWS_EC2_METADATA_DISABLED="true")


@pytest.fixture(scope="session")
def bucket(own_credentials: None) -> Iterator[Callable[..., str]]:
    """Makes a bucket on an S3 server of our own (moto), and returns the URI of a folder in it.

    denied: what nobody may do there, such as s3:PutObject.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())

    def put(path: str, content: bytes = b"") -> None:
        headers = {"Content-Type": "application/json"}  # without one moto takes it for a form
        request = urllib.request.Request(f"{endpoint}/{path}", content, headers, method="PUT")
        urllib.request.urlopen(request).close()

    def make(name: str, denied: list[str] | None = None) -> str:
        put(name)
        if denied:
            everything = {"Principal": "*", "Resource": f"arn:aws:s3:::{name}/*"}
            policy = {"Statement": [{"Effect": "Deny", "Action": denied, **everything}]}
            put(f"{name}?policy", json.dumps(policy).encode())
        return f"s3://{name}/in/store?region=us-east-1&endpoint_override={endpoint}"

    yield make
    server.stop()


@pytest.fixture(params=["local", "s3"])
def fs_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store: a folder on the disk, and one on S3."""
    if request.param == "local":
        return str(tmp_path / "store")
    name = "".join(c for c in tmp_path.name.lower() if c.isalnum())
    return request.getfixturevalue("bucket")(f"b{name[-60:]}")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet (62 images) and val.parquet (40)."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train.parquet", 62, 0)
    write_images(folder / "val.parquet", 40, 1)
    return folder


@pytest.fixture
def spec_file(images: Path, tmp_path: Path):
    """Writes a spec of tiny networks; keyword arguments replace top-level fields."""

    def write(**changes) -> Path:
        shape = {"input": {"size": 8, "crop_pct": 1.0}}
        spec = {
            "name": "tiny",
            "zoo": [
                {"factory": "tests.conftest:net", "alias": a, "kwargs": {"width": w}, **shape}
                for a, w in (("small", 4), ("medium", 6), ("large", 8))
            ],
            "data": {
                "train": {"source": "parquet", "path": str(images / "train.parquet")},
                "val": {"source": "parquet", "path": str(images / "val.parquet")},
                "cache": str(images / "views"),
            },
            "recipe": {"epochs": 2, "batch_size": 16, "lr": 1e-2},
            "seeds": [0, 1],
            "store": str(tmp_path / "store"),
            **changes,
        }
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path

    return write


@pytest.fixture(scope="session")
def cluster():
    """A real Ray of two CPUs, for the tests that need one."""
    import ray

    from bikd_ray.sweep import ray_env  # noqa: F401  (before Ray)

    ray.init("local", num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a person's own: a package, a module that it imports, and a spec."""
    return write_project(tmp_path / "project")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Of one module: its event loop is in the way of other tests' own."""
    with chromium() as browser:
        yield browser
