"""Images and labels: where they are, and how each model sees them."""

from bikd_ray.data.resolve import open_split, resolve_data

__all__ = ["open_split", "resolve_data"]
