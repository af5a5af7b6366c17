"""Images of known noise, written as each source expects them."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bikd_ray.data.sources import EncodedImages

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noise(seed: int, width: int = 11, height: int = 9) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def png(seed: int, **size: int) -> bytes:
    stream = io.BytesIO()
    noise(seed, **size).save(stream, "PNG")
    return stream.getvalue()


def write_folder(root: Path, per_class: int = 3) -> Path:
    """Classes cat and dog; one image lies in a sub-folder, and a text file lies beside them."""
    for label, name in enumerate(("cat", "dog")):
        (root / name / "more").mkdir(parents=True)
        for i in range(per_class):
            where = root / name / ("more" if i == 2 else ".")
            (where / f"{i}.png").write_bytes(png(10 * label + i))
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


def write_parquet(
    path: Path, labels: list, seeds: Sequence[int] | None = None, *, plain: bool = False, **how
) -> Path:
    """Images `noise(seed)` in HF's struct, or as plain binary; `how` goes to the writer."""
    content = [png(seed) for seed in seeds or range(len(labels))]
    images = pa.array(content, pa.binary()) if plain else pa.array(as_struct(content), STRUCT)
    names = how.pop("names", None)
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, **how)
    return path


def as_struct(content: list) -> list[dict]:
    return [{"bytes": value, "path": None} for value in content]


def same_image(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()


class Watched(EncodedImages):
    """An image set that notes which images are read, and may look on meanwhile."""

    def __init__(self, images: Any, watch: Callable[[], object] = lambda: None) -> None:
        self.images, self.watch, self.read = images, watch, []
        self.labels, self.source_id = images.labels, images.source_id
        self.location, self.stamps = images.location, images.stamps
        self.nbytes, self.random_access = images.nbytes, images.random_access

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.images.classes

    @property
    def notes(self) -> tuple[str, ...]:
        return self.images.notes

    def image(self, index: int) -> Image.Image:
        return self.images.image(index)

    def where(self, index: int) -> str:
        return self.images.where(index)

    def encoded(self, index: int) -> bytes:
        self.read.append(index)
        self.watch()
        return self.images.encoded(index)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def tar_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()
