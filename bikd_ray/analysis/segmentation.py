"""Segmentation metrics from per-image pixel counts; of any images, and with values for intervals.

By detectron2's definitions, in percent: mIoU and mACC are means over the classes with labelled
pixels, fwIoU weighs IoU by those pixels, pACC is the share of labelled pixels that are right.
Pixels that are not labelled count nowhere, also not as predicted. Other libraries average over
all classes that are labelled or predicted; the two differ where a class has no labelled pixel.
Suffixes: N images, C classes, R sets of weights of the images.
"""

from dataclasses import dataclass

import numpy as np

from bikd_ray.analysis.scores import influence as leaving_out

MIOU, FWIOU, MACC, PACC, IMAGE_IOU = "miou", "fwiou", "macc", "pacc", "image_iou"
POOLED = (MIOU, FWIOU, MACC, PACC)
"""The metrics that are ratios of sums over images; image_iou is a mean of values of images."""


@dataclass(frozen=True)
class PixelCounts:
    """Labelled pixels of each image by class, integers [N, C]."""

    labelled_NC: np.ndarray
    right_NC: np.ndarray  # true positives
    predicted_NC: np.ndarray

    def of(self, rows: np.ndarray | slice) -> "PixelCounts":
        """Those of some images: indices, a mask or a slice."""
        return PixelCounts(self.labelled_NC[rows], self.right_NC[rows], self.predicted_NC[rows])

    def sums(self, weights_RN: np.ndarray | None = None) -> "PixelSums":
        """Sums over the images, or with a weight for each image and row (a bootstrap's counts)."""
        if weights_RN is None:
            return PixelSums(
                *(part.sum(0, dtype=np.int64).astype(float) for part in vars(self).values())
            )
        return PixelSums(*(weights_RN @ part.astype(float) for part in vars(self).values()))


@dataclass(frozen=True)
class PixelSums:
    """Sums of counts over images, float64 [..., C], and the metrics of them, [...] in percent.

    A class without labelled pixels has the IoU and accuracy NaN; so has a metric without any.
    """

    labelled_C: np.ndarray
    right_C: np.ndarray
    predicted_C: np.ndarray

    @property
    def union_C(self) -> np.ndarray:
        return self.labelled_C + self.predicted_C - self.right_C

    @property
    def iou_C(self) -> np.ndarray:
        return 100 * _ratio(self.right_C, self.union_C, self.labelled_C > 0)

    @property
    def accuracy_C(self) -> np.ndarray:
        return 100 * _ratio(self.right_C, self.labelled_C, self.labelled_C > 0)

    def metrics(self) -> dict[str, np.ndarray]:
        """The pooled metrics, [...] each."""
        there = self.labelled_C > 0
        pixels = self.labelled_C.sum(-1)
        any_there = pixels > 0
        weighted = np.where(there, self.iou_C, 0) * self.labelled_C
        return {
            MIOU: _mean(self.iou_C, there),
            FWIOU: _ratio(weighted.sum(-1), pixels, any_there),
            MACC: _mean(self.accuracy_C, there),
            PACC: 100 * _ratio(self.right_C.sum(-1), pixels, any_there),
        }


def metrics(counts: PixelCounts) -> dict[str, float]:
    """All metrics of some images, in percent; NaN where no pixel is labelled."""
    pooled = {name: float(value) for name, value in counts.sums().metrics().items()}
    per_image = image_iou_N(counts)
    known = per_image[~np.isnan(per_image)]
    return {**pooled, IMAGE_IOU: float(known.mean()) if len(known) else float("nan")}


def image_iou_N(counts: PixelCounts) -> np.ndarray:
    """Each image's mean IoU over the classes labelled in it, percent; NaN where none is.

    (mIoU^I of Wang et al., NeurIPS 2023.)
    """
    there = counts.labelled_NC > 0
    union = counts.labelled_NC + counts.predicted_NC - counts.right_NC
    return 100 * _mean(_ratio(counts.right_NC, union, there), there)


def scores(counts: PixelCounts) -> dict[str, np.ndarray]:
    """Scores of the images, float64 [N] for each metric, whose mean is the metric.

    Of the pooled ones by leaving each image out (`analysis.scores.influence`), whose intervals hold
    where a class is rare; of image_iou each image's own value, moved so that images without
    labelled pixels do not count.
    """
    found, sums = metrics(counts), counts.sums()
    each = (counts.labelled_NC, counts.right_NC, counts.predicted_NC)
    parts = (sums.labelled_C, sums.right_C, sums.predicted_C)
    without = PixelSums(*(of_all - one for of_all, one in zip(parts, each, strict=True))).metrics()
    values = {}
    for name in POOLED:
        known_N = np.where(np.isnan(without[name]), found[name], without[name])
        values[name] = leaving_out(found[name], known_N)
    return {**values, IMAGE_IOU: influence(counts)[IMAGE_IOU]}


def influence(counts: PixelCounts) -> dict[str, np.ndarray]:
    """Scores of the images, float64 [N] for each metric: their mean is the metric itself.

    u_n = M + N * sum_c dM/dT_c (t_nc - T_c / N) for a metric M of the sums T of counts t_n: the
    value of an image is what a little more of its weight adds, so that a difference of two models'
    scores has the standard error of the metric's difference (the infinitesimal jackknife). A mean
    over a part of the images is not that part's metric: take the influence of `counts.of(part)`.
    """
    sums, images = counts.sums(), len(counts.labelled_NC)
    found = metrics(counts)
    slopes = _slopes(sums, found)
    parts = (counts.labelled_NC, counts.right_NC, counts.predicted_NC)
    moved_NM = sum(part @ slope for part, slope in zip(parts, slopes, strict=True))
    scores = {
        name: found[name] + 100 * images * moved_N
        for name, moved_N in zip(POOLED, np.transpose(moved_NM), strict=True)
    }
    per_image = image_iou_N(counts)
    known = ~np.isnan(per_image)
    apart = np.where(known, per_image - found[IMAGE_IOU], 0)
    return {**scores, IMAGE_IOU: found[IMAGE_IOU] + apart * images / max(int(known.sum()), 1)}


def _slopes(sums: PixelSums, found: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a pooled metric (a fraction, POOLED in order) changes by a pixel more that is labelled,
    right or predicted: [C, 4] each.

    All are ratios of sums, so that sum_c dM/dT_c T_c = 0. 0 where a class is not there.
    """
    there = sums.labelled_C > 0
    pixels, classes = max(sums.labelled_C.sum(), 1.0), max(int(there.sum()), 1)
    iou, accuracy = (np.where(there, v, 0) / 100 for v in (sums.iou_C, sums.accuracy_C))
    union, labelled = (np.where(there, v, np.inf) for v in (sums.union_C, sums.labelled_C))
    share, nothing, every = sums.labelled_C / pixels, np.zeros_like(iou), np.ones_like(iou)
    fwiou, pacc = (found[name] / 100 * every / pixels for name in (FWIOU, PACC))
    d_labelled = [
        -iou / union / classes,
        iou / pixels - share * iou / union - fwiou,
        -accuracy / labelled / classes,
        -pacc,
    ]
    d_right = [
        (1 + iou) / union / classes,
        share * (1 + iou) / union,
        1 / labelled / classes,
        every / pixels,
    ]
    d_predicted = [-iou / union / classes, -share * iou / union, nothing, nothing]
    return np.stack(d_labelled, 1), np.stack(d_right, 1), np.stack(d_predicted, 1)


def metrics_of_parts(
    image_X: np.ndarray, class_X: np.ndarray, counts_3X: np.ndarray, parts_TN: np.ndarray
) -> dict[str, np.ndarray]:
    """The pooled metrics [T] of parts of the images, each worked out anew from its own sums.

    image, class: of each count, as `labelled`, `right` and `predicted` have them. parts_TN: bool.
    """
    classes = int(class_X.max(initial=-1)) + 1
    sums = np.array(
        [
            [np.bincount(class_X, values_X * inside_N[image_X], classes) for inside_N in parts_TN]
            for values_X in counts_3X
        ]
    )
    return PixelSums(*sums).metrics()


def class_iou(
    class_X: np.ndarray, counts_3X: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """IoU [C] in percent over all images, NaN where no pixel is labelled; and how many images have
    labelled pixels of each class [C].
    """
    sums = [np.bincount(class_X, values_X, classes) for values_X in counts_3X]
    return PixelSums(*sums).iou_C, np.bincount(class_X, counts_3X[0] > 0, classes).astype(int)


def _ratio(part: np.ndarray, whole: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Part / whole where there is any, else NaN."""
    return np.where(there, part / np.where(there, whole, 1), np.nan)


def _mean(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is there; NaN where nothing is."""
    count = there.sum(-1)
    return _ratio(np.where(there, values, 0).sum(-1), count, count > 0)
