"""Pictures of an opened pair: where one of the two answers better now, and where worse."""

from typing import Any

from bikd_dashboards.blocks import Gallery, PictureRow
from bikd_dashboards.snapshot import SettingView
from bikd_ray.formatting import difference, shown


def gallery(view: SettingView, model_id: str, partner_id: str) -> Gallery | None:
    """Those of one learner with one partner; None where its jobs kept none."""
    setting = view.setting
    if setting.recipe_id is None or setting.objective is None:
        return None
    of = model_id, partner_id, setting.data_id, setting.recipe_id, setting.objective
    store, most = view.snapshot.store, view.limits.pictures
    found = store.pictures(*of)
    better = [row for row in found if row["gain"] > 0][:most]
    worse = [row for row in found if row["gain"] < 0][::-1][:most]
    if not better and not worse:
        return None
    metric = store.metric(setting.data_id, found[0]["metric"])
    names = view.names[model_id], view.names[partner_id]
    several = len({row["seed"] for row in found}) > 1

    def line(row: dict[str, Any]) -> PictureRow:
        was, now = row["value_before"], row["value_after"]
        values = f"{shown(was, metric.unit, metric.title)} → {shown(now, metric.unit, '')}".strip()
        title = f"{row['name']}: {values} ({difference(now - was, metric.unit)})"
        title += f", seed {row['seed']}" * several
        captions = ("image", "truth", f"{names[0]} before", f"{names[0]} after", names[1])
        parts = ("image", "truth", "before", "after", "partner")
        pictures = zip(captions, (row[part] for part in parts), strict=True)
        return PictureRow(title, tuple(pictures))

    return Gallery(
        f"{names[0]}: where it changed most",
        f"The largest changes of {metric.title} on val at the last epoch, with {names[1]}: gains "
        f"first, then losses. {names[1]} as it was before training.",
        tuple(line(row) for row in [*better, *worse]),
    )
