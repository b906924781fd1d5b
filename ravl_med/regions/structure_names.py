"""What other models and people call the structures that the segmenter knows.

References
----------
Lian et al., ChestX-Det, 2021 (the PSPNet of torchxrayvision); Seibold et al., CXAS, 2023.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ravl_med.regions.artifacts import ARTIFACT_NAMES
from ravl_med.regions.structures import STRUCTURES

__all__ = ["plain_name", "structure_of"]

_LUNG = (
    "{0} lung", "lung {0}", "{0} lung field", "{0} upper lobe", "{0} middle lobe", "{0} lower lobe",
    "{0} upper lung lobe", "{0} middle lung lobe", "{0} lower lung lobe", "lung upper lobe {0}",
    "lung middle lobe {0}", "lung lower lobe {0}", "{0} upper zone lung", "{0} mid zone lung",
    "{0} apical zone lung", "{0} lung base", "{0} upper lung zone", "{0} mid lung zone",
    "{0} middle lung zone", "{0} lower lung zone",
)  # fmt: skip
_VERTEBRAE = [
    f"vertebrae {part}{number}"
    for part, count in (("C", 7), ("T", 12), ("L", 5))
    for number in range(1, count + 1)
]
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "right lung": (*(name.format("right") for name in _LUNG), "r lung", "lung r"),
    "left lung": (*(name.format("left") for name in _LUNG), "l lung", "lung l"),
    "heart": (
        "cardiac silhouette", "cardiac shadow", "heart shadow", "heart myocardium",
        "heart atrium left", "heart atrium right", "heart ventricle left", "heart ventricle right",
    ),
    "mediastinum": (
        "mediastinal silhouette", "cardiomediastinum", "upper mediastinum", "lower mediastinum",
        "anterior mediastinum", "middle mediastinum", "posterior mediastinum",
    ),
    # Models of films draw the diaphragm as all that lies below its domes.
    "abdomen": (
        "upper abdomen", "facies diaphragmatica", "diaphragm", "hemidiaphragm",
        "left hemidiaphragm", "right hemidiaphragm", "hemidiaphragm left", "hemidiaphragm right",
        "subdiaphragm", "sub diaphragm", "liver", "stomach",
    ),
    "spine": (
        "spinal column", "vertebral column", "vertebra", "vertebrae", "cervical spine",
        "thoracic spine", "lumbar spine", *_VERTEBRAE,
    ),
    "body": ("body outline", "body contour"),
    "airway": (
        "airways", "trachea", "tracheal bifurcation", "carina", "weasand", "bronchi",
        "main bronchi", "trachea and bronchi", "trachea and main bronchi",
    ),
    "generator": ("pacemaker", "pacemaker generator", "icd", "cardiac device"),
    "lead": ("leads", "pacemaker lead", "pacemaker leads", "pacemaker wire", "pacing leads"),
    "tube": (
        "tubes", "line", "lines", "catheter", "endotracheal tube", "ett", "nasogastric tube", "ngt",
        "ng tube", "enteric tube", "chest tube", "tracheostomy tube", "drain", "cvc", "picc",
        "central venous catheter", "swan ganz catheter",
    ),
    "electrode": ("electrodes", "ecg electrode", "ecg electrodes", "ekg electrode"),
    "wire": ("wires", "ecg wire", "ecg lead", "ecg leads", "ekg lead"),
    "marker": ("side marker", "markers"),
    "text": ("texts", "letters"),
    "metal": (
        "clip", "clips", "surgical clip", "surgical clips", "sternal wire", "sternal wires",
        "implant", "prosthesis", "jewellery", "jewelry", "foreign object", "foreign body",
    ),
    "border": ("collimation", "collimator", "collimation border"),
}  # fmt: skip


def plain_name(name: str) -> str:
    """Return the words of a name in lower case: 'Left_Lung', 'left-lung' and 'LeftLung' are one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"\w+", spaced.replace("_", " ").casefold()))


_STRUCTURE_OF: Mapping[str, str] = {
    **{plain_name(name): kind for kind, name in ARTIFACT_NAMES.items()},
    **{plain_name(name): kind for kind, names in _SYNONYMS.items() for name in names},
    **{plain_name(kind): kind for kind in STRUCTURES},
}


def structure_of(name: str | None) -> str | None:
    """Return the one of `STRUCTURES` that a channel's name means; None where it is none of them."""
    return _STRUCTURE_OF.get(plain_name(name)) if name else None
