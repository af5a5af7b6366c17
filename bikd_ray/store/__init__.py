"""Results as plain Parquet under one URI: written once, committed by the jobs table, queried."""

from bikd_ray.store.queries import Store, open_store
from bikd_ray.store.write import Writer

__all__ = ["Store", "Writer", "open_store"]
