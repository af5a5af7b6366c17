"""Licences of pretrained weights, as far as their names say what they allow."""

import re

UNKNOWN = "unknown: see the base model"
HUB_IDS = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "apple-amlr",
    "apple-ascl",
    "gemma",
)
"""Those of timm's licences that the Hugging Face Hub knows by name; others are `other` there."""

RESEARCH_ONLY = ("apple-amlr",)
"""Licences that allow research alone, though their names do not say so."""


def is_non_commercial(licence: str | None) -> bool:
    """Whether a licence forbids commercial use: cc-by-nc-4.0 does; None, unknown, is not told."""
    name = (licence or "").lower()
    return name in RESEARCH_ONLY or bool(re.search(r"(^|[^a-z])nc([^a-z]|$)|non-?commercial", name))


def hub_licence(licence: str | None) -> dict[str, str]:
    """The licence as a Hugging Face model card's front matter has it."""
    name = (licence or "unknown").lower()
    if name == "unknown" or name in HUB_IDS:
        return {"license": name}
    return {"license": "other", "license_name": name}
