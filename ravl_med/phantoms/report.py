"""Radiology reports for the synthetic cohort: varied sentences that name the finding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OPENING = (
    "", "", "{view} view of the chest.", "Single {view} view of the chest was obtained.",
    "Chest radiograph, {view} projection.", "{view} chest radiograph, no prior for comparison.",
)  # fmt: skip

_POSITIVE: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "The cardiac silhouette is enlarged.",
        "The heart is enlarged.",
        "There is moderate cardiomegaly.",
        "Heart size is increased, with a cardiothoracic ratio above one half.",
        "The cardiac silhouette is moderately enlarged, with prominence of the left ventricle.",
        "There is mild to moderate enlargement of the heart.",
        "Cardiomegaly is present.",
        "The heart is mildly enlarged without signs of decompensation.",
        "The transverse diameter of the heart exceeds half of the thoracic diameter.",
    ),
    "pleural effusion": (
        "There is blunting of the costophrenic angle with a meniscus.",
        "There is a pleural effusion with adjacent compressive change.",
        "Layering fluid obscures the hemidiaphragm.",
        "A meniscus at the lung base is consistent with pleural fluid.",
        "There is a small to moderate pleural effusion.",
        "The costophrenic sulcus is obscured by pleural fluid.",
        "Homogeneous basal opacity with an upward concave border is seen.",
        "Pleural fluid is seen at the lung base.",
    ),
    "pneumothorax": (
        "A thin pleural line is visible, with no lung markings beyond it.",
        "There is a pneumothorax with partial collapse of the lung.",
        "A visceral pleural line is seen along the lateral chest wall.",
        "Lucency without vascular markings is seen at the apex and laterally.",
        "There is a small to moderate pneumothorax.",
        "The lung edge is displaced from the chest wall, in keeping with a pneumothorax.",
        "Peripheral hyperlucency with an absent vascular pattern is noted.",
        "Air is seen in the pleural space.",
    ),
    "consolidation": (
        "There is a patchy airspace opacity.",
        "Focal consolidation is seen in one lung zone.",
        "An ill-defined opacity with air bronchograms is present.",
        "There is a new parenchymal opacity, concerning for pneumonia.",
        "Patchy airspace consolidation is noted.",
        "A focal area of increased density obscures the lung markings.",
        "Confluent opacity is seen in the lung parenchyma.",
        "There is an area of airspace disease.",
    ),
    "no finding": (
        "The lungs are clear.",
        "The lungs are well expanded and clear.",
        "Lungs are clear bilaterally.",
        "No focal airspace disease is seen.",
        "The cardiomediastinal silhouette is normal and the lungs are clear.",
        "The lungs are adequately inflated without focal abnormality.",
        "There is no acute abnormality of the heart or lungs.",
        "Heart size, mediastinal contours and pulmonary vascularity are normal.",
    ),
}

_NEGATIVE: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "Heart size is normal.",
        "The cardiac silhouette is within normal limits.",
        "The cardiomediastinal silhouette is unremarkable.",
        "The heart is not enlarged.",
    ),
    "pleural effusion": (
        "No pleural effusion.",
        "There is no pleural effusion.",
        "The costophrenic angles are sharp.",
        "No pleural fluid is identified.",
    ),
    "pneumothorax": (
        "No pneumothorax.",
        "There is no pneumothorax.",
        "No evidence of pneumothorax.",
        "No pneumothorax is identified.",
    ),
    "consolidation": (
        "No focal consolidation.",
        "There is no focal consolidation.",
        "No airspace consolidation is seen.",
        "The lungs are free of consolidation.",
    ),
}

_CLOSING = (
    "The osseous structures are intact.", "No acute bony abnormality.",
    "Visualized bones are unremarkable.", "The trachea is midline.",
    "Mild degenerative change of the thoracic spine.", "The mediastinal contours are normal.",
    "The upper abdomen is unremarkable.", "Pulmonary vascularity is normal.",
)  # fmt: skip

_IMPRESSION: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "Cardiomegaly.",
        "Cardiomegaly without acute pulmonary process.",
        "Moderate cardiomegaly.",
        "Mild cardiomegaly, no overt edema.",
        "Enlarged heart, consistent with cardiomegaly.",
    ),
    "pleural effusion": (
        "Pleural effusion.",
        "Small pleural effusion.",
        "Pleural effusion with basal atelectasis.",
        "Findings consistent with pleural effusion.",
        "Moderate pleural effusion.",
    ),
    "pneumothorax": (
        "Pneumothorax.",
        "Small pneumothorax.",
        "Pneumothorax without mediastinal shift.",
        "Findings consistent with pneumothorax.",
        "Apical and lateral pneumothorax.",
    ),
    "consolidation": (
        "Consolidation, concerning for pneumonia.",
        "Focal consolidation.",
        "Patchy consolidation, likely infectious.",
        "Airspace consolidation; follow up to resolution.",
        "Findings consistent with consolidation.",
    ),
    "no finding": (
        "No acute cardiopulmonary abnormality.",
        "Normal chest radiograph.",
        "No acute cardiopulmonary abnormality. Normal chest radiograph.",
        "Normal chest radiograph without acute disease.",
    ),
}

_DEVICE: dict[str, tuple[str, ...]] = {
    "generator": (
        "A left chest wall pacemaker is in place.",
        "Left-sided pacemaker with lead in the right ventricle.",
        "Cardiac pacing device projects over the left chest.",
    ),
    "tube": (
        "A chest tube is in place.",
        "Thoracostomy tube in unchanged position.",
        "A pleural drain projects over the hemithorax.",
    ),
    "electrode": (
        "Monitoring leads overlie the chest.",
        "ECG leads project over the thorax.",
        "External monitoring electrodes are noted.",
    ),
}
DEVICE_MENTIONED = 0.3

_JOINED = (
    "No pleural effusion or pneumothorax.",
    "There is no pleural effusion or pneumothorax.",
    "No evidence of pneumothorax or pleural effusion.",
)


def _pick(rng: np.random.Generator, sentences: Sequence[str]) -> str:
    return sentences[int(rng.integers(len(sentences)))]


def write_report(finding: str, features: Sequence[str], view: str, rng: np.random.Generator) -> str:
    """Write the report of a film as ``FINDINGS: ... IMPRESSION: ...`` on one line.

    The impression names the finding. One in three devices is mentioned, lettering never. `view` is
    ``PA`` or ``AP``.
    """
    sentences = [_pick(rng, _OPENING).format(view=view), _pick(rng, _POSITIVE[finding])]
    absent = [name for name in _NEGATIVE if name != finding]
    length = rng.random()
    negatives: list[str] = []
    if length > 0.2:
        if {"pleural effusion", "pneumothorax"} <= set(absent) and rng.random() < 0.6:
            negatives.append(_pick(rng, _JOINED))
            absent = [n for n in absent if n not in ("pleural effusion", "pneumothorax")]
        kept = absent if length > 0.45 else absent[:1]
        negatives += [_pick(rng, _NEGATIVE[name]) for name in kept]
    sentences += [negatives[i] for i in rng.permutation(len(negatives))]
    for feature in features:
        if feature in _DEVICE and rng.random() < DEVICE_MENTIONED:
            sentences.append(_pick(rng, _DEVICE[feature]))
    if length > 0.6:
        extra = rng.permutation(len(_CLOSING))[: int(rng.integers(1, 3))]
        sentences += [_CLOSING[i] for i in extra]
    body = " ".join(sentence for sentence in sentences if sentence)
    return f"FINDINGS: {body} IMPRESSION: {_pick(rng, _IMPRESSION[finding])}"
