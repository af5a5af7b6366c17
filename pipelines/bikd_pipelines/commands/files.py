"""A store's files."""

from bikd_pipelines.commands.options import Format, HowShown, StoreUri, opened, show
from bikd_ray.errors import BikdError


def compact(store: StoreUri = None, format: HowShown = Format.table) -> None:
    """Merge small files; safe while sweeps and readers are at work.

    A sweep does it at its end by itself.

    [dim]Example: bikd store compact --store s3://bucket/bikd[/dim]
    """
    from bikd_ray.store.compact import compact

    show(compact(opened(store).uri), format, "merged")


def check_files(store: StoreUri = None, format: HowShown = Format.table) -> None:
    """Read every file and name those that are damaged or belong to nothing.

    [dim]Example: bikd store check[/dim]
    """
    from bikd_ray.store.check import check

    found = check(opened(store).uri)
    show(found, format, "findings")
    errors = found["severity"].to_pylist().count("error")
    if errors:
        raise BikdError(f"{errors} of the store's files or jobs are not whole")
