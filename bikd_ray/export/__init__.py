"""Taking a checkpoint home: which stored result, its weights as timm loads them, and its card."""

from bikd_ray.export.exporter import Exported, ExportRequest, export_model

__all__ = ["ExportRequest", "Exported", "export_model"]
