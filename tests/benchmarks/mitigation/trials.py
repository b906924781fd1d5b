"""Mitigations of phantom models whose shortcut was planted, every arm against the truth."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config
from ravl_med.config.mitigation import ArmName
from ravl_med.encoders.base import pick_device
from ravl_med.encoders.opening import open_encoder
from ravl_med.encoders.zero_shot import embed_classes
from ravl_med.mitigation.arms import ImageTower
from ravl_med.mitigation.distributed import Processes
from ravl_med.mitigation.final_test import Predictions
from ravl_med.mitigation.groups import PseudoGroups
from ravl_med.mitigation.training import predict_films_and_regions
from ravl_med.pipeline.mitigate import Mitigation, mitigate
from ravl_med.pipeline.mitigation_setup import WorkFolder
from ravl_med.pipeline.split_films import SplitFilms
from ravl_med.pipeline.stages import (
    Progress,
    Run,
    prepare_manifest,
    prepare_model,
)
from ravl_med.storage.cache import Cache
from tests.benchmarks.quickstart.trials import Trial, phantom_settings


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm on the final test of one cohort, groups by the truth.

    Attributes
    ----------
    seed : int - of films and model
    arm, title : str
    published : bool
    head : bool - trains no tower
    image_overall, image_worst, region_overall, region_worst : float - NaN where not defined
    raised_gap, lowered_gap : float - by true presence of the feature: accuracy on the planted
        finding with minus without it; the largest, over other classes, of without minus with it
    seconds : float - of the training; NaN for what is not trained here
    verdict : str - of the mitigation, on the delivered arm; blank elsewhere
    gone : bool - on the delivered arm: its re-audit finds the shortcut no more
    """

    seed: int
    arm: str
    title: str
    published: bool
    head: bool
    image_overall: float
    image_worst: float
    region_overall: float
    region_worst: float
    raised_gap: float
    lowered_gap: float
    seconds: float
    verdict: str
    gone: bool


def every_arm(config: Config) -> Config:
    """Return the config with all arms compared."""
    mitigation = config.mitigation.model_copy(update={"compare": get_args(ArmName)})
    return config.model_copy(update={"mitigation": mitigation})


def measure_arms(
    config: Config,
    seed: int,
    work: WorkFolder,
    *,
    key: bytes,
    cache: Cache,
    processes: Processes,
    progress: Progress,
) -> list[ArmRow]:
    """Mitigate one planted model by every arm, beside a model that never saw the correlation.

    Parameters
    ----------
    config : Config - of a synthetic cohort and a quickstart model
    seed : int - of films, model and mitigation
    work : WorkFolder - empty
    key : bytes - secret of the pseudonyms
    cache : Cache
    processes : Processes
    progress : callable - called with (stage, done, total)

    Returns
    -------
    list of ArmRow - empty where the audit has found no shortcut to mitigate

    Raises
    ------
    ConfigError
        The config names a cohort or a model of the user's own.
    """

    def told(stage: str, done: int, total: int) -> None:
        progress(f"seed {seed}: {stage}", done, total)

    tower = config.model.quickstart.tower if config.model.quickstart else "resnet"
    planted = every_arm(phantom_settings(config, Trial(True, seed, tower, config.regions.tiles)))
    planted = planted.model_copy(
        update={"mitigation": planted.mitigation.model_copy(update={"seed": seed})}
    )
    run = mitigate(planted, key=key, cache=cache, work=work, processes=processes, progress=told)
    if run.test is None:
        return []
    truth = _Truth.of(planted, run.test)
    curves = {arm.name: arm.curve for arm in run.result.arms}
    rows = []
    for arm in run.result.arms:
        curve = curves[arm.name]
        rows.append(
            truth.row(
                seed,
                arm.name,
                arm.title,
                run.predictions[arm.name],
                published=arm.published,
                head=arm.role == "head",
                seconds=math.nan if curve is None else curve.seconds,
                verdict=run.result.verdict.name if arm.delivered else "",
                gone=arm.delivered and _is_gone(run),
            )
        )
    clean = phantom_settings(config, Trial(False, seed, tower, config.regions.tiles))
    answered = _ask_clean_model(clean, run.test, cache, told)
    title = "trained without the correlation"
    rows.append(truth.row(seed, "clean", title, answered, published=False))
    return rows


def _is_gone(run: Mitigation) -> bool:
    return run.result.reaudit is not None and not run.result.reaudit.remaining


def _ask_clean_model(
    config: Config, test: SplitFilms, cache: Cache, progress: Progress
) -> Predictions:
    """Train a model on the same plan without the correlation; what it says of the same films."""
    reader = FilmReader.of(config.cohort)
    manifest = prepare_manifest(config, Run(cache, progress))
    folder, _ = prepare_model(config, manifest, reader, Run(cache, progress))
    encoder = open_encoder(config.model, folder, pick_device(config.model.device))
    classes = torch.from_numpy(embed_classes(encoder, config.task.texts()))
    return predict_films_and_regions(
        ImageTower(encoder.model, config.model.region_pooling),
        test.films,
        test.regions,
        classes,
        config.task.temperature,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """Where the planted feature really is."""

    groups: PseudoGroups
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]
    target: int

    @classmethod
    def of(cls, config: Config, test: SplitFilms) -> _Truth:
        planted = config.cohort.synthetic
        assert planted is not None  # phantom_settings has seen to it
        root = Path(str(test.cohort.paths[0])).parents[1]
        with (root / "truth.csv").open(encoding="utf-8", newline="") as stream:
            holding = {
                row["image"] for row in csv.DictReader(stream) if row["kind"] == planted.feature
            }
        names = [path.relative_to(root).as_posix() for path in test.cohort.paths]
        present = np.array([name in holding for name in names])
        labels, classes = test.cohort.labels, test.cohort.classes
        return cls(
            PseudoGroups.cross(labels, present, classes),
            labels,
            present,
            classes.index(planted.finding),
        )

    def row(
        self,
        seed: int,
        name: str,
        title: str,
        answered: Predictions,
        *,
        published: bool,
        head: bool = False,
        seconds: float = math.nan,
        verdict: str = "",
        gone: bool = False,
    ) -> ArmRow:
        right = answered.logits.argmax(axis=1) == self.labels
        by_group = self.groups.accuracy(right)
        region = {"overall": math.nan, "worst": math.nan}
        if answered.region_class is not None:
            hit = answered.region_class == self.labels
            region = {
                "overall": float(hit.mean()),
                "worst": float(np.nanmin(self.groups.accuracy(hit))),
            }
        without, having = by_group[0::2], by_group[1::2]
        others = np.arange(len(without)) != self.target
        return ArmRow(
            seed=seed,
            arm=name,
            title=title,
            published=published,
            head=head,
            image_overall=float(right.mean()),
            image_worst=float(np.nanmin(by_group)),
            region_overall=region["overall"],
            region_worst=region["worst"],
            raised_gap=float(having[self.target] - without[self.target]),
            lowered_gap=float(np.max((without - having)[others])),
            seconds=seconds,
            verdict=verdict,
            gone=gone,
        )
