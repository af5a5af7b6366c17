"""The Python by which an exported model is built again."""

from typing import Any

from bikd_ray.export.folder import WEIGHTS, input_config
from bikd_ray.plan import WHOLE, ResolvedInput, ResolvedModel

TIMM = """\
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()  # "." is this folder
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config)"""

OTHER = """\
{imports}
from safetensors.torch import load_file
from timm.data import create_transform

model = {call}
model.load_state_dict(load_file("{weights}"))  # of this folder
model.eval()
transform = create_transform({pixels})"""


TRANSFORMERS = """\
from torchvision.transforms import Normalize
from transformers import AutoModelFor{auto}

model = AutoModelFor{auto}.from_pretrained(".").eval()  # "." is this folder
normalise = Normalize({pixels})  # of pixels in 0–1; resize images yourself, as the card says"""

MAPS = """\
{imports}
from safetensors.torch import load_file
from torchvision.transforms import Normalize

model = {call}
model.load_state_dict(load_file("{weights}"))  # of this folder
model.eval()
normalise = Normalize({pixels})  # of pixels in 0–1"""


CLIPS = """\
{imports}
from safetensors.torch import load_file
from torchvision.transforms import Normalize

model = {call}
model.load_state_dict(load_file("{weights}"))  # of this folder
model.eval()
size, offsets = {size}, {offsets}
# offsets are of frames from the one whose map is asked for, clamped to the video's: each is
# resized to size by PIL's bilinear filter, whatever its shape, then pixels in 0–1
normalise = Normalize({pixels})  # and stacked as {stacked}"""


def snippet(model: ResolvedModel) -> str:
    """A Markdown block that builds `model` with its weights and its preprocessing."""
    entry = model.entry
    if entry.timm:
        return _block(TIMM)
    if entry.transformers or entry.detectron2:
        auto = "UniversalSegmentation" if "mask" in model.loss else "SemanticSegmentation"
        pixels = _arguments({"mean": model.input.mean, "std": model.input.std})
        return _block(TRANSFORMERS.format(auto=auto, pixels=pixels))
    if entry.torchvision:
        imports = "from torchvision.models import get_model"
        own = {k: v for k, v in entry.kwargs.items() if k != "weights"}
        listed = _arguments({"weights": None, "weights_backbone": None, **own})
        call = f"get_model({entry.torchvision!r}, {listed})"
    elif entry.smp:
        imports = "from segmentation_models_pytorch import create_model"
        listed = _arguments({**entry.kwargs, "encoder_weights": None})
        call = f"create_model({entry.smp!r}, {listed})"
    elif entry.saliency:
        imports = f"from bikd_ray.zoo.saliency import {entry.saliency}"
        call = f"{entry.saliency}({_arguments(entry.kwargs)})"
    elif entry.factory:
        module, _, function = entry.factory.partition(":")
        imports = f"from {module} import {function.partition('.')[0]}"
        call = f"{function}({_arguments(entry.kwargs)})"
    else:
        repository, _, function = (entry.hub or "").rpartition(":")
        local = "/" in repository and repository.startswith(("/", "."))
        where = repository if local else repository.replace("@", ":")
        how = {**({"source": "local"} if local else {}), **entry.kwargs}
        imports, listed = "import torch", _arguments(how)
        call = f"torch.hub.load({where!r}, {function!r}{', ' * bool(listed)}{listed})"
    if model.loss:
        pixels = _arguments({"mean": model.input.mean, "std": model.input.std})
        return _block(MAPS.format(imports=imports, call=call, weights=WEIGHTS, pixels=pixels))
    if model.input.crop_mode == WHOLE:
        return _block(_of_clips(model.input, imports, call))
    pixels = _arguments(input_config(model.input))
    return _block(OTHER.format(imports=imports, call=call, weights=WEIGHTS, pixels=pixels))


def _of_clips(how: ResolvedInput, imports: str, call: str) -> str:
    return CLIPS.format(
        imports=imports,
        call=call,
        weights=WEIGHTS,
        size=(how.size, how.width or how.size),
        offsets=(0,) if how.window is None else _short(how.window.offsets),
        pixels=_arguments({"mean": how.mean, "std": how.std}),
        stacked="[1, 3, H, W]" if how.window is None else "[1, 3, T, H, W]",
    )


def _short(offsets: tuple[int, ...]) -> range | tuple[int, ...]:
    """Evenly spaced numbers as a range."""
    first, *rest = offsets
    found = range(first, offsets[-1] + 1, rest[0] - first if rest else 1)
    return found if tuple(found) == offsets else offsets


def _arguments(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def _block(code: str) -> str:
    return f"```python\n{code}\n```"
