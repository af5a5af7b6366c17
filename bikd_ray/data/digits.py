"""scikit-learn's bundled handwritten digits."""

from typing import Any

import numpy as np
from PIL import Image

from bikd_ray.data.labels import NO_LABEL
from bikd_ray.identity import digest
from bikd_ray.specs import DigitsData, labelled


class DigitsImages:
    """UCI handwritten digits: 1,797 images of 8 x 8 pixels with 17 grey levels.

    train and val are disjoint halves, stratified by class, the same on every machine.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, source: DigitsData) -> None:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        order = order[np.argsort(digits.target[order], kind="stable")]
        rows = np.sort(order[1::2] if source.split == "val" else order[0::2])
        self._pixels = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)
        self.labels = digits.target[rows].astype(np.int64)
        self.classes: tuple[str, ...] | None = tuple(str(c) for c in digits.target_names)
        self.source_id = digest("digits", source.split, rows.tolist())
        if not labelled(source):
            self.labels, self.classes = np.full(len(rows), NO_LABEL), None
            self.source_id = digest(self.source_id, NO_LABEL)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert("RGB")
