"""A synthetic chest-radiograph cohort with a planted shortcut and the truth about every film."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.body import draw_body
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.dicom import MAKERS, write_dicom
from ravl_med.phantoms.film import FINDINGS, LABELS, Phantom, render_phantom
from ravl_med.phantoms.plan import (
    BYSTANDER_PHI,
    SPLITS,
    FilmPlan,
    cramers_v,
    plan_cohort,
)
from ravl_med.phantoms.report import write_report

Box = tuple[str, int, int, int, int]

IN_PROCESS = 64  # films below which starting workers costs more than it saves
CHUNK = 16
MANIFEST_HEAD = ("image", "patient", "report", *FINDINGS, "view", "sex", "age", "site",
                 "manufacturer", "split")  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def synthesize(
    folder: Path,
    *,
    images: int = 3300,
    feature: str = "generator",
    finding: str = "cardiomegaly",
    strength: float = 0.95,
    seed: int = 0,
    size: int = 256,
    bystander: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort of phantom films with a planted feature.

    On the fine-tuning films the feature goes with the finding at a given Cramér's V; on the
    validation and test films half of every class has it. The same seed writes the same bytes,
    whatever the number of workers.

    Parameters
    ----------
    folder : Path
        Where to write: ``images/``, ``truth/``, ``truth.csv``, ``cohort.json``, ``manifest.csv``.
    images : int
        Films, at least 40: 5 of 11 to fine-tune, 3 to validate, 3 to test, by whole patients.
    feature : str
        One of `FEATURES`.
    finding : str
        One of `FINDINGS`.
    strength : float
        Cramér's V of finding and feature over the fine-tuning films, in [0, 1].
    seed : int
        Seed, 0 or more.
    size : int
        Nominal side of a film in pixels, at least 64.
    bystander : str or None
        Another of `FEATURES`: beside the feature (phi 0.8 within every class) on the validation
        and test films, on half of the fine-tuning films whatever their feature and finding. Its
        regions show the feature's accuracy gap, and a model has no reason to use it.
    workers : int or None
        Processes; None takes one a core.
    progress : callable or None
        Called with films written and films in all.

    Returns
    -------
    Path
        ``manifest.csv``.

    Raises
    ------
    ConfigError
        If a parameter is out of range.
    DataError
        If the folder already holds a cohort, or the workers could not start.
    """
    _check(images, feature, finding, strength, seed, size, workers)
    _check_bystander(bystander, feature)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        raise DataError(
            "The output folder already holds a manifest.csv; expected a folder without a cohort. "
            "Choose another folder or remove the old cohort."
        )
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plans = plan_cohort(images, feature, finding, strength, seed, bystander)
    task = partial(_write_films, folder=folder, seed=seed, size=size)
    boxes = _run(task, plans, workers, progress)
    _write_truth(folder, plans, boxes)
    summary = _summary(plans, feature, finding, strength)
    summary |= {"seed": seed, "size": size, "images": images}
    if bystander is not None:
        summary["bystander"] = _summarise_bystander(plans, feature, finding, bystander)
    (folder / "cohort.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _write_manifest(manifest, plans, seed)
    return manifest


def _check(
    images: int,
    feature: str,
    finding: str,
    strength: float,
    seed: int,
    size: int,
    workers: int | None,
) -> None:
    for name, got, allowed in (("feature", feature, FEATURES), ("finding", finding, FINDINGS)):
        if got not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}. Got {got!r} instead.")
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength must be a Cramér's V in the range [0, 1]. Got {strength!r} instead; "
            "0 plants nothing, 0.95 a strong shortcut."
        )
    limits = (("images", images, 40), ("size", size, 64), ("seed", seed, 0))
    for name, number, least in limits:
        if number < least:
            raise ConfigError(
                f"{name} must be an int in the range [{least}, inf). Got {number!r} instead; "
                f"ask for {least} or more."
            )
    if workers is not None and workers < 1:
        raise ConfigError(
            f"workers must be None or an int in the range [1, inf). Got {workers!r} instead; "
            "leave it out for one process a core."
        )


def _check_bystander(bystander: str | None, feature: str) -> None:
    allowed = [name for name in FEATURES if name != feature]
    if bystander is not None and bystander not in allowed:
        raise ConfigError(
            f"bystander must be None or, beside the feature {feature!r}, one of "
            f"{', '.join(allowed)}. Got {bystander!r} instead."
        )


def render_film(plan: FilmPlan, *, seed: int, size: int) -> Phantom:
    """Render one planned film.

    Parameters
    ----------
    plan : FilmPlan
        Row of `plan_cohort`.
    seed : int
        Seed of the cohort.
    size : int
        Nominal side in pixels.

    Returns
    -------
    Phantom
        Pixels, boxes, label map.
    """
    who = plan.acquisition
    own = (seed, 20, who.patient)
    body = draw_body(
        own, female=who.sex == "F", age=who.age, enlarged=plan.finding == "cardiomegaly"
    )
    return render_phantom(
        body,
        plan.finding,
        plan.features,
        seeds=(own, (seed, 21, plan.image)),
        size=size,
        anteroposterior=who.view == "AP",
        look=MAKERS[who.maker].look,
    )


def _image_name(image: int) -> str:
    return f"images/{image:06d}.dcm"


def _write_films(
    plans: Sequence[FilmPlan], folder: Path, seed: int, size: int
) -> list[tuple[int, tuple[Box, ...]]]:
    """Render and write films; gives number and boxes of each."""
    done = []
    for plan in plans:
        phantom = render_film(plan, seed=seed, size=size)
        path = folder / _image_name(plan.image)
        write_dicom(path, phantom.pixels, plan.acquisition, seed=seed, image=plan.image)
        label_map = Image.fromarray(phantom.label_map)
        label_map.save(folder / "truth" / f"{plan.image:06d}.png", compress_level=1)
        done.append((plan.image, phantom.boxes))
    return done


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give processes started inside one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(
    task: Callable[[Sequence[FilmPlan]], list[tuple[int, tuple[Box, ...]]]],
    plans: Sequence[FilmPlan],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[int, tuple[Box, ...]]:
    """Write all films, in this process or in several."""
    boxes: dict[int, tuple[Box, ...]] = {}
    chunks = [plans[i : i + CHUNK] for i in range(0, len(plans), CHUNK)]
    count = min(workers or os.cpu_count() or 1, len(chunks))

    def note(done: list[tuple[int, tuple[Box, ...]]]) -> None:
        boxes.update(done)
        if progress is not None:
            progress(len(boxes), len(plans))

    if count == 1 or len(plans) < IN_PROCESS:
        for chunk in chunks:
            note(task(chunk))
        return boxes
    try:
        with _one_thread(), ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(task, chunk) for chunk in chunks]):
                note(future.result())
    except BrokenProcessPool:
        raise DataError(
            "The worker processes that render the films ended early; expected them to live. Call "
            "synthesize under `if __name__ == '__main__':`, or pass workers=1."
        ) from None
    return boxes


def _write_truth(
    folder: Path, plans: Sequence[FilmPlan], boxes: dict[int, tuple[Box, ...]]
) -> None:
    with (folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "kind", "x0", "y0", "x1", "y1"))
        for plan in plans:
            writer.writerows((_image_name(plan.image), *box) for box in boxes[plan.image])
    with (folder / "truth" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("value", "name"))
        writer.writerows((value, name) for name, value in LABELS.items())


def _write_manifest(path: Path, plans: Sequence[FilmPlan], seed: int) -> None:
    """Write the manifest beside its place, then move it there."""
    draft = path.with_suffix(".part")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MANIFEST_HEAD)
        for plan in plans:
            who = plan.acquisition
            rng = np.random.default_rng([seed, 30, plan.image])
            report = write_report(plan.finding, plan.features, who.view, rng)
            flags = [int(plan.finding == name) for name in FINDINGS]
            writer.writerow(
                (_image_name(plan.image), f"PH{who.patient:06d}", report, *flags, who.view,
                 who.sex, who.age, who.site, MAKERS[who.maker].name, plan.split)
            )  # fmt: skip
    draft.replace(path)


def _summary(
    plans: Sequence[FilmPlan], feature: str, finding: str, strength: float
) -> dict[str, object]:
    """Say for each split what was asked and what was reached."""
    splits: dict[str, object] = {}
    for split in SPLITS:
        films = [plan for plan in plans if plan.split == split]
        target = np.array([plan.finding == finding for plan in films])
        planted = np.array([feature in plan.features for plan in films])
        splits[split] = {
            "images": len(films),
            "patients": len({plan.acquisition.patient for plan in films}),
            "strength_asked": strength if split == "finetune" else 0.0,
            "strength_reached": round(cramers_v(target, planted), 4),
            "with_feature": {
                name: sum(p.finding == name and feature in p.features for p in films)
                for name in FINDINGS
            },
            "by_finding": dict(Counter(plan.finding for plan in films)),
        }
    return {"feature": feature, "finding": finding, "strength": strength, "splits": splits}


def _summarise_bystander(
    plans: Sequence[FilmPlan], feature: str, finding: str, bystander: str
) -> dict[str, object]:
    """Say for each split how the bystander goes with the feature and with the finding."""
    splits: dict[str, object] = {}
    for split in SPLITS:
        films = [plan for plan in plans if plan.split == split]
        kinds = np.array([plan.finding for plan in films])
        planted = np.array([feature in plan.features for plan in films])
        beside = np.array([bystander in plan.features for plan in films])
        splits[split] = {
            "phi_asked": BYSTANDER_PHI[split],
            "phi_reached": round(cramers_v(planted, beside), 4),
            "phi_by_class": {
                name: round(cramers_v(planted[kinds == name], beside[kinds == name]), 4)
                for name in FINDINGS
            },
            "phi_with_finding": round(cramers_v(kinds == finding, beside), 4),
            "with_bystander": {name: int(beside[kinds == name].sum()) for name in FINDINGS},
        }
    return {"name": bystander, "splits": splits}
