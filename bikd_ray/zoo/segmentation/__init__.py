"""Segmentation networks: loading them, and reading what they answer."""

from bikd_ray.zoo.segmentation.detectron2 import load_mask2former
from bikd_ray.zoo.segmentation.huggingface import criterion_of, from_config, load_transformers
from bikd_ray.zoo.segmentation.others import load_smp, load_torchvision
from bikd_ray.zoo.segmentation.outputs import map_output
from bikd_ray.zoo.segmentation.segmenter import Segmenter

__all__ = [
    "Segmenter",
    "criterion_of",
    "from_config",
    "load_mask2former",
    "load_smp",
    "load_torchvision",
    "load_transformers",
    "map_output",
]
