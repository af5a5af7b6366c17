"""Which frames of a video a model sees to predict the map of one of them."""

import numpy as np

from bikd_ray.plan import View


def places(view: View, target: int, count: int) -> np.ndarray:
    """int64 [T]: positions in a video of `count` frames, 0-based, that a view shows around the
    target; those before the first frame or after the last are that frame again. Without a window
    it is the target alone.
    """
    offsets = (0,) if view.window is None else view.window.offsets
    return np.clip(target + np.array(offsets, np.int64), 0, count - 1)
