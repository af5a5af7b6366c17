"""Taking a checkpoint home: which stored result, its weights as timm loads them, and its card."""

from bikd_ray.export.take import Exported, Request, export_model

__all__ = ["Exported", "Request", "export_model"]
