"""Networks that predict where people look in a video, with the weights that others published."""

from bikd_ray.zoo.saliency.catalogue import (
    SALIENCY_MODELS,
    SaliencyModel,
    Window,
    load_encoder,
    load_published,
    saliency_model,
)
from bikd_ray.zoo.saliency.tmfi import tmfi_net
from bikd_ray.zoo.saliency.vinet_s3d import vinet_s
from bikd_ray.zoo.saliency.vinet_slowfast import vinet_a

__all__ = [
    "SALIENCY_MODELS",
    "SaliencyModel",
    "Window",
    "load_encoder",
    "load_published",
    "saliency_model",
    "tmfi_net",
    "vinet_a",
    "vinet_s",
]
