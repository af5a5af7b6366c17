"""What a network of videos wants to see, and whether it answers maps."""

import torch
from torch import nn

from bikd_ray.data.views import Normalise
from bikd_ray.errors import UserError
from bikd_ray.plan import WHOLE, ResolvedInput, Window
from bikd_ray.specs import FrameWindow, ZooEntry
from bikd_ray.tasks.saliency_maps import as_maps, fault
from bikd_ray.zoo.saliency.catalogue import IMAGENET, saliency_model


def clip_input(entry: ZooEntry) -> ResolvedInput:
    """Of a network of the catalogue as it was published, with the entry's overrides; of any other
    as its `input` says. Raises UserError where that lacks a size.
    """
    given = entry.input
    if given.crop_pct not in (None, 1.0) or given.interpolation not in (None, "bilinear"):
        raise UserError(
            f"zoo: {entry.name}: frames are resized as a whole, bilinearly; remove crop_pct and "
            "interpolation from input:"
        )
    known = saliency_model(entry.saliency) if entry.saliency else None
    if known is None and given.size is None:
        raise UserError(
            f"zoo: {entry.name}: say what it sees, such as input: {{size: 224, width: 384, "
            "window: {frames: 32}}"
        )
    height, width = (given.size, given.width or given.size) if known is None else known.size
    window = _window(given.window) if given.window else (known.window if known else None)
    return ResolvedInput(
        size=given.size or height or 0,
        mean=given.mean or (known.mean if known else IMAGENET["mean"]),
        std=given.std or (known.std if known else IMAGENET["std"]),
        crop_pct=1.0,
        interpolation="bilinear",
        crop_mode=WHOLE,
        width=given.width or width,
        window=window,
    )


def _window(given: FrameWindow) -> Window:
    ends_with_it = -(given.frames - 1) * given.stride
    first = ends_with_it if given.first is None else given.first
    return Window(given.frames, given.stride, first, given.phase)


def checked_map(entry: ZooEntry, network: nn.Module, how: ResolvedInput) -> None:
    """Raises UserError where a network in eval mode gives no map of noise."""
    drawn = torch.rand(1, *how.view.shape, generator=torch.Generator().manual_seed(0))
    pixels = Normalise(how, torch.device("cpu"))((255 * drawn).to(torch.uint8))
    with torch.no_grad():
        output = network(pixels)
    try:
        if not isinstance(output, torch.Tensor):
            raise UserError(f"it returns a {type(output).__name__}, not one map a clip")
        why = fault(as_maps(output))
    except UserError as error:
        raise UserError(f"zoo: {entry.name}: {error}") from None
    if why:
        raise UserError(f"zoo: {entry.name} answers no map: {why}")
