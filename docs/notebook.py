"""A notebook as a page of the site: its prose as it is, its code in fenced blocks.

python docs/notebook.py docs/tour.ipynb > docs/tour.md
"""

import json
import sys
from pathlib import Path


def cells(notebook: Path) -> list[tuple[str, str]]:
    """(kind, text) of each cell; kind: code or markdown."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found]


def page(notebook: Path) -> str:
    """The whole page as Markdown."""
    made = f"<!-- Made by `python docs/notebook.py` from {notebook.name}: change that instead. -->"
    parts = [made]
    for kind, text in cells(notebook):
        parts.append(f"```python\n{text}\n```" if kind == "code" else text)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
