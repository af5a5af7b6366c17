"""Epochs from the decoded cache, against decoding each time: what a small data set gains by it.

python tests/benchmarks/cache.py [PARQUET]

PARQUET is a file, folder or glob of small images; without it 10,000 PNGs of 32 x 32 random pixels
are written first. A pass is batches of 128 in a shuffled order: the whole epoch from the cache,
which lies in the page cache, and the first 500 or 2,500 samples of the order where each image is
decoded. `row groups` is the Parquet file itself (cache: none), where a shuffled order reads a row
group for nearly every image; `encoded copy` is what the loader makes of it where it may keep files
but not decoded ones. Figures are medians of passes that take turns, after one that is not counted.
Building is timed once: the cache with a thread on each core.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bikd_ray.data.cache import size_on_disk
from bikd_ray.data.encoded import encoded_copy
from bikd_ray.data.loader import Loader
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.plan import View
from tests.images import STRUCT, as_struct, png

BATCH, REPEATS = 128, 3
SIZES = ((32,), (32, 64))
CPU = torch.device("cpu")

T = TypeVar("T")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        where = sys.argv[1] if len(sys.argv) > 1 else _random_images(folder / "random.parquet")
        images = ParquetImages(where)
        count = len(images.labels)
        copy, seconds = _timed(lambda: encoded_copy(images, folder))
        print(f"{count:,} images, {images.nbytes / 1e6:.0f} MB encoded; copied in {seconds:.1f} s")
        print("views        from           workers   images/s  cache is faster by")
        order = np.random.default_rng(0).permutation(count)
        for sizes in SIZES:
            views = [View(size, 1.0, "bicubic", "center") for size in sizes]
            named = " + ".join(map(str, sizes)) + " px"
            cache = str(folder / named)
            kept, building = _timed(lambda v=views, c=cache: Loader(images, v, CPU, cache=c))
            ways = {("decoded cache", 0): (kept, order)}
            for source, rows, sample in (("encoded copy", copy, 2500), ("row groups", images, 500)):
                for workers in (0, 1):
                    loader = Loader(rows, views, CPU, cache="none", workers=workers)
                    ways[source, workers] = (loader, order[:sample])
            rates = _rates(ways)
            for (source, workers), rate in rates.items():
                ratio = rates["decoded cache", 0] / rate
                print(f"{named:11s}  {source:13s}  {workers:7d}  {rate:9,.0f}  {ratio:18.0f}")
            size = sum(size_on_disk(count, view) for view in views)
            print(
                f"  built in {building:.1f} s ({count / building:,.0f} images/s), "
                f"{size / 1e6:,.0f} MB, {size / images.nbytes:.1f} times the encoded images"
            )


def _random_images(path: Path) -> str:
    content = [png(seed, width=32, height=32) for seed in range(10_000)]
    labels = pa.array([seed % 10 for seed in range(len(content))])
    table = pa.table({"image": pa.array(as_struct(content), STRUCT), "label": labels})
    pq.write_table(table, path, row_group_size=1000)
    return str(path)


def _rates(
    ways: dict[tuple[str, int], tuple[Loader, np.ndarray]],
) -> dict[tuple[str, int], float]:
    """Images/s of each way."""

    def one_pass(loader: Loader, order: np.ndarray) -> int:
        return sum(len(batch.index) for batch in loader.batches(order, BATCH))

    seconds = {way: [] for way in ways}
    for _ in range(1 + REPEATS):
        for way, (loader, order) in ways.items():
            seen, taken = _timed(lambda x=loader, o=order: one_pass(x, o))
            assert seen == len(order)
            seconds[way].append(taken)
    return {way: len(ways[way][1]) / np.median(taken[1:]) for way, taken in seconds.items()}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
