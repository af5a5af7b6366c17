"""What the numbers of tables and axes are."""

from bikd_ray.formatting import difference_unit
from bikd_ray.metrics import Metric

_IN_WORDS = {"%": "percentage points"}


def units(metric: Metric) -> str:
    """Above a table of differences: `mIoU, percentage points, 95% intervals`."""
    unit = _IN_WORDS.get(metric.unit, metric.unit)
    return ", ".join(filter(None, (metric.title, unit, "95% intervals")))


def difference_title(metric: Metric) -> str:
    """On an axis of differences: `mIoU, pp`."""
    return ", ".join(filter(None, (metric.title, difference_unit(metric.unit))))
