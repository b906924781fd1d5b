"""A synthetic cohort of chest radiographs with a planted shortcut and its ground truth."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from ravl_med.config.base import explain_problems
from ravl_med.config.cohort import SyntheticConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.phantoms.anatomy import draw_body
from ravl_med.phantoms.devices import FEATURES
from ravl_med.phantoms.dicom import MAKERS, write_dicom
from ravl_med.phantoms.film import FINDINGS, LABELS, Phantom, render_phantom
from ravl_med.phantoms.plan import BYSTANDER_PHI, SPLITS, FilmPlan, cramers_v, plan_cohort
from ravl_med.phantoms.report import write_report
from ravl_med.storage.files import atomic_write_bytes

Box = tuple[str, int, int, int, int]

IN_PROCESS = 64  # films below which starting workers costs more than it saves
CHUNK = 16
MANIFEST_HEAD = ("image", "patient", "report", *FINDINGS, "view", "sex", "age", "site",
                 "manufacturer", "split")  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def synthesize(
    folder: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    splits: Collection[str] | None = None,
    **settings: Any,
) -> Path:
    """Write a cohort of phantom films with a planted feature, and return its ``manifest.csv``.

    On the fine-tuning films the feature goes with the finding at a given Cramér's V; on the
    validation and test films half of every class has it. The same seed writes the same bytes,
    whatever the number of workers. A bystander goes with the feature (phi 0.8 within every class)
    on the validation and test films, and lies on half of the fine-tuning films whatever their
    feature and finding: its regions show the feature's accuracy gap, and a model has no reason to
    use it.

    Parameters
    ----------
    folder : Path - gets ``images/``, ``truth/``, ``truth.csv``, ``cohort.json``, ``manifest.csv``
    workers : int or None - processes; None: one a core
    progress : callable or None - called with films written and films in all
    splits : collection of str or None - whose films are written; None: of all. The manifest lists
        every film
    settings - keys of `SyntheticConfig`

    Raises
    ------
    ConfigError
        A setting is out of range.
    DataError
        The folder already holds a cohort, or the workers could not start.
    """
    config = _checked(settings, workers)
    feature, finding, bystander = config.feature, config.finding, config.bystander
    manifest = folder / "manifest.csv"
    if manifest.exists():
        raise DataError(
            "The output folder already holds a manifest.csv; expected a folder without a cohort. "
            "Choose another folder or remove the old cohort."
        )
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    plans = plan_cohort(config.images, feature, finding, config.strength, config.seed, bystander)
    task = partial(_write_films, folder=folder, seed=config.seed, size=config.size)
    written = [plan for plan in plans if splits is None or plan.split in splits]
    boxes = _run(task, written, workers, progress)
    _write_truth(folder, written, boxes)
    summary = _summary(plans, feature, finding, config.strength)
    summary |= {"seed": config.seed, "size": config.size, "images": config.images}
    if bystander is not None:
        summary["bystander"] = _summarise_bystander(plans, feature, finding, bystander)
    (folder / "cohort.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _write_manifest(manifest, plans, config.seed)
    return manifest


def _checked(settings: dict[str, Any], workers: int | None) -> SyntheticConfig:
    try:
        config = SyntheticConfig(**settings)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_problems(error, SyntheticConfig))) from None
    feature, finding = config.feature, config.finding
    for name, got, allowed in (("feature", feature, FEATURES), ("finding", finding, FINDINGS)):
        if got not in allowed:
            raise ConfigError(
                f"cohort.synthetic.{name}: expected one of {', '.join(allowed)}; got {got!r}."
            )
    others = [name for name in FEATURES if name != feature]
    if config.bystander is not None and config.bystander not in others:
        raise ConfigError(
            f"bystander must be None or, beside the feature {feature!r}, one of "
            f"{', '.join(others)}. Got {config.bystander!r} instead."
        )
    if workers is not None and workers < 1:
        raise ConfigError(
            f"workers must be None or an int in the range [1, inf). Got {workers!r} instead; "
            "leave it out for one process a core."
        )
    return config


def render_film(plan: FilmPlan, *, seed: int, size: int) -> Phantom:
    """Render one planned film of a cohort; `size` is the nominal side in pixels."""
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
    """Render and write films; return number and boxes of each."""
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
    """Give processes that are started in the context one thread each."""
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
    """Write the manifest in one step: where it is, the cohort is whole."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
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
    atomic_write_bytes(path, text.getvalue().encode())


def _summary(
    plans: Sequence[FilmPlan], feature: str, finding: str, strength: float
) -> dict[str, object]:
    """Return for each split the requested and the reached strength."""
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
    """Return for each split how the bystander goes with the feature and with the finding."""
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
