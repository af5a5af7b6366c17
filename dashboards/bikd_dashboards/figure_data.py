"""Content that a page unpacks only when it is wanted: compressed, in characters that HTML leaves
alone.
"""

import base64
import gzip
import json
from typing import Any

import numpy as np
import plotly.graph_objects as go

NOTHING = -32768
"""Of a matrix of whole numbers: NaN."""


def packed(text: str) -> str:
    """Gzip in base64. Equal texts give equal ones: there is no time of writing inside."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def unpacked(content: str) -> str:
    """What was `packed`."""
    return gzip.decompress(base64.b64decode(content)).decode()


def figure_text(figure: go.Figure) -> str:
    """A figure as JSON without its template, which the page adds by its theme.

    Matrices of numbers, in traces and in the layout's meta, are whole numbers of 16 bits with the
    finest decimal scale that holds them: {dtype, bdata, shape, scale}. That is half a float32 and
    a third of it once compressed.
    """
    traces: Any = figure.data
    data = [{**trace.to_plotly_json()} for trace in traces]
    for trace, drawn in zip(data, traces, strict=True):
        if trace["type"] == "heatmap" and isinstance(drawn["z"], np.ndarray):
            trace["z"] = matrix(drawn["z"])
    layout: Any = figure.layout.to_plotly_json()
    layout.pop("template", None)
    if "meta" in layout:
        layout["meta"] = {
            k: matrix(v) if isinstance(v, np.ndarray) else v for k, v in layout["meta"].items()
        }
    return json.dumps({"data": data, "layout": layout}, default=_plain, separators=(",", ":"))


def matrix(values: np.ndarray) -> dict[str, Any]:
    """[rows, columns] as whole numbers of 16 bits; NaN stays nothing."""
    most = float(np.nanmax(np.abs(values), initial=0.0, where=~np.isnan(values)))
    fine = 100_000 if most < 0.3 else 1000  # small numbers are shown with four decimals
    scale = next((s for s in (fine, 1000, 100, 10) if most * s < -NOTHING), 1)
    whole = np.where(np.isnan(values), NOTHING, np.clip(values * scale, NOTHING + 1, -NOTHING - 1))
    text = base64.b64encode(np.rint(whole).astype("<i2").tobytes()).decode()
    shape = ",".join(map(str, values.shape))
    return {"dtype": "i2", "bdata": text, "shape": shape, "scale": scale}


def _plain(value: Any) -> Any:
    return value.tolist()
