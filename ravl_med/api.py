"""The public API: audits, finished runs as tables and pictures, and RaVL's measures alone.

A run is its folder: what a notebook makes is what the command line makes, and either opens the
other's. Heavy libraries are imported when a function needs them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from html import escape
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import finalize

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from ravl_med.config.audit import GateConfig
from ravl_med.config.base import explain_problems
from ravl_med.config.loading import Config, load_config
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.results import SpuriousCorrelation
from ravl_med.storage.bounded_reading import parse_json, read_regular
from ravl_med.storage.cache import open_cache, user_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ravl_med.encoders.base import Encoder
    from ravl_med.reporting.pictures import Picture

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""

_FACTORY = "ravl_med.api:_model_in_memory"
_IN_MEMORY: ContextVar[Encoder] = ContextVar("model in memory")
_TONES: dict[str, Literal["good", "bad"]] = {"fail": "bad", "pass": "good"}
_LARGEST = 1 << 30  # bytes of a result.json


def audit(
    config: str | Path | Config | None = None,
    *,
    model: Any = None,
    films: pd.DataFrame | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    out: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    **sections: Any,
) -> Run:
    """Audit a model for shortcuts: of a config, or of model, films and classes.

    Parameters
    ----------
    config : str, Path or Config - a YAML file, or what `load_config` made of one
    model : object - folder of an open_clip or Hugging Face model; (model, processor) of Hugging
        Face or (model, tokenizer) of open_clip; or any object with ``encode_image``, (B, 3, S, S)
        to (B, D), and ``encode_text``, list of str to (T, D), see `ravl_med.encoders.objects`
    films : DataFrame - a row a film: ``image``, a path or an array (H, W) of uint8, uint16 or
        float of 0 to 1; ``patient``; ``label``, a name of a class, or a column of 0 and 1 for each
        class, or ``report``; and any of ``view``, ``sex``, ``age``, ``site``, ``manufacturer``
    classes : mapping of str to sequence of str - prompts of each class
    out : str or Path - run folder; None: a temporary one, which ends with the run object
    progress : callable - stage, done, total
    sections : mappings - settings of the config by section, ``evidence={"effect_films": 80}``,
        which take the place of those in the file

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line; nothing has been written by then.

    Examples
    --------
    >>> import ravl_med as rm
    >>> run = rm.audit(model=model, films=films, classes=classes, **small)
    >>> run.verdict in ("fail", "review", "pass", "not_auditable")
    True
    """
    with _settings(config, model, films, classes, sections) as settings:
        return _audited(settings, None if out is None else Path(out), progress)


def _audited(settings: Config, target: Path | None, progress: Progress) -> Run:
    """Run an audit and write its folder, a temporary one where none is named."""
    from ravl_med.pipeline.audit import audit as run_audit
    from ravl_med.reporting.files.audit_run import write_run
    from ravl_med.reporting.files.run_folder import prepare_folder

    if target is not None:
        prepare_folder(target)
    cached, today = open_cache(settings.cache.folder), date.today()
    made = run_audit(settings, key=user_key(), cache=cached, progress=progress, today=today)
    temporary = None if target is not None else Path(tempfile.mkdtemp(prefix="ravl-med-"))
    folder = target or cast(Path, temporary) / settings.name
    write_run(made, folder, date=today.isoformat(), history_root=None, progress=progress)
    return Run(folder, temporary)


@contextmanager
def _settings(
    config: str | Path | Config | None,
    model: Any,
    films: pd.DataFrame | None,
    classes: Mapping[str, Sequence[str]] | None,
    sections: Mapping[str, Any],
) -> Iterator[Config]:
    """Yield a config; of objects, one whose films and model lie in a folder for the time."""
    if config is not None:
        if isinstance(model, Mapping):
            model, sections = None, {**sections, "model": model}
        if model is not None or films is not None or classes is not None:
            raise ConfigError("audit: name a config, or model, films and classes; not both.")
        settings = config if isinstance(config, Config) else load_config(Path(config))
        yield _validated(_merged(settings.model_dump(), sections)) if sections else settings
        return
    if model is None or films is None or not classes:
        raise ConfigError("audit: expected a config, or all of model, films and classes.")
    from ravl_med.pipeline.initialise import relevance_table

    with tempfile.TemporaryDirectory(prefix="ravl-med-films-") as name:
        folder = Path(name)
        data: dict[str, Any] = {
            "name": "run",
            "cohort": _write_films(films, classes, folder),
            "task": {"classes": {key: {"prompts": list(texts)} for key, texts in classes.items()}},
            "evidence": {"relevance": str(relevance_table())},
        }
        token = None
        data["model"], encoder = _model_section(model, folder)
        if encoder is not None:
            if dict(sections.get("engine", {})).get("workers"):
                raise ConfigError("audit: workers cannot share a model in memory; name its folder.")
            token = _IN_MEMORY.set(encoder)
        try:
            yield _validated(_merged(data, sections))
        finally:
            if token is not None:
                _IN_MEMORY.reset(token)


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with changes put over them."""
    merged = dict(data)
    for name, change in changes.items():
        known = merged.get(name)
        both = isinstance(known, Mapping) and isinstance(change, Mapping)
        merged[name] = _merged(cast("Mapping[str, Any]", known), change) if both else change
    return merged


def _validated(data: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(dict(data), context={"folder": Path.cwd()})
    except ValidationError as error:
        lines = explain_problems(error, Config)
        raise ConfigError("\n".join(f"audit: {line}" for line in lines)) from None


def _model_section(model: Any, folder: Path) -> tuple[dict[str, Any], Encoder | None]:
    """Return the section of the config for a model, and the encoder of one that has no folder."""
    from ravl_med.encoders.base import pick_device
    from ravl_med.encoders.objects import encoder_of, save_huggingface

    if isinstance(model, (str, Path)):
        return {"path": str(Path(model).absolute())}, None
    if save_huggingface(model, folder / "model"):
        return {"path": str(folder / "model"), "name": type(model[0]).__name__}, None
    encoder = encoder_of(model, pick_device("auto"))
    return {"factory": _FACTORY, "allow_code": True, "name": encoder.info.architecture}, encoder


def _model_in_memory(device: Any) -> Encoder:
    """Return the model that `audit` was given; the config of its run names this function."""
    return _IN_MEMORY.get()


def _write_films(
    films: pd.DataFrame, classes: Mapping[str, Sequence[str]], folder: Path
) -> dict[str, Any]:
    """Write a manifest, and the films that are arrays; return the section of the config."""
    missing = [name for name in ("image", "patient") if name not in films.columns]
    if missing:
        raise DataError(
            f"films: the column {missing[0]!r} is missing; expected image and patient. Where every "
            "film is of another patient: films['patient'] = range(len(films))."
        )
    table = films.copy()
    if "label" in table.columns and not set(classes) <= set(table.columns):
        unknown = sorted(set(table["label"].dropna().astype(str)) - set(classes))
        if unknown:
            raise DataError(
                f"films: label {unknown[0][:40]!r} is no class; expected {', '.join(classes)}."
            )
        for name in classes:
            table[name] = (table["label"] == name).astype(int)
        table = table.drop(columns="label")
    paths = [
        _film_path(image, row, folder) for row, image in enumerate(table["image"].tolist(), start=1)
    ]
    table["image"] = [str(path) for path in paths]
    table.to_csv(folder / "manifest.csv", index=False)
    common = Path(os.path.commonpath([path.parent for path in paths]))
    roots = [common] if common != Path(common.anchor) else sorted({p.parent for p in paths})
    return {"manifest": str(folder / "manifest.csv"), "roots": [str(root) for root in roots]}


def _film_path(image: Any, row: int, folder: Path) -> Path:
    """Return where a film lies; an array is written as PNG first."""
    from PIL import Image

    if isinstance(image, (str, Path)):
        return Path(image).absolute()
    pixels = np.asarray(image)
    if pixels.ndim != 2 or pixels.dtype.kind not in "ufb":
        raise DataError(
            f"films: image of row {row} is an array of shape {pixels.shape}, {pixels.dtype}; "
            "expected (H, W) of uint8, uint16 or float of 0 to 1, or a path."
        )
    if pixels.dtype.kind in "fb":
        pixels = np.rint(np.clip(np.nan_to_num(pixels), 0.0, 1.0) * 65535.0)
    whole = pixels.astype(np.uint8 if pixels.dtype == np.uint8 else np.uint16)
    path = folder / "films" / f"{row}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(whole).save(path)
    return path


def load_run(folder: str | Path) -> Run:
    """Open the run folder of a finished audit.

    Raises
    ------
    ConfigError, DataError
        There is no run, or it cannot be used.
    """
    return Run(Path(folder))


class Run:
    """A finished audit.

    Examples
    --------
    >>> run.verdict
    'review'
    >>> run.correlations.loc[1, ["finding", "kind", "decision"]].tolist()
    ['disease', 'undecided', 'open']
    >>> run.films(1).columns.tolist()[:4]
    ['image_id', 'label', 'predicted', 'score']
    """

    def __init__(self, folder: Path, temporary: Path | None = None) -> None:
        """Open a run folder; a temporary one that it lies in is removed with this object."""
        from ravl_med.reporting.files.saved_run import read_run

        self.folder = folder
        self._remove = None if temporary is None else finalize(self, rmtree, temporary, True)
        self._saved = read_run(folder, "RUN")

    @property
    def result(self) -> AuditResult:
        """All that the audit found, before any review."""
        return self._saved.result

    @cached_property
    def _reviewed(self) -> dict[str, Any]:
        """What ``result.json`` says, which follows the decisions of reviewers."""
        found = parse_json(read_regular(self.folder / "result.json", _LARGEST))
        return cast("dict[str, Any]", found)

    @property
    def verdict(self) -> str:
        """The outcome, after any review: fail, review, pass, not_auditable or what else is told."""
        return str(self._reviewed["verdict"])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in sentences."""
        return tuple(self._reviewed["verdict_reasons"])

    @property
    def correlations(self) -> pd.DataFrame:
        """Correlations of features and findings, by rank.

        Columns: ``feature``, what most of its regions are; ``finding``, the class that it raises;
        ``gap`` with ``low`` and ``high``, accuracy on films of the finding with the feature minus
        without it, on held-out patients, as a share; ``q``; ``removal``, how far the margin falls
        when the feature is removed, in logits; ``used`` by the model, None where not tested;
        ``kind``; ``counts``; ``decision`` of a reviewer, ``open`` where one is asked for.
        """
        rows = [self._row(one) for one in self.result.correlations]
        names = ["rank", "feature", "finding", "gap", "low", "high", "q", "removal", "used",
                 "kind", "counts", "decision"]  # fmt: skip
        return pd.DataFrame(rows, columns=names).set_index("rank")

    def _row(self, one: SpuriousCorrelation) -> tuple[Any, ...]:
        raised, arms, tested = one.cluster.raised_class, one.confirmation.arms, one.counterfactual
        interval = arms.gap_interval[raised]
        both = None if tested is None else tested.removal.both
        described = one.description(self.result).split("; ")[0]
        return (
            one.rank,
            described or f"cluster {one.cluster.cluster}",
            one.raised_class(self.result),
            float(arms.gap[raised]),
            interval.low,
            interval.high,
            one.confirmation.q_value,
            np.nan if both is None else both.contrast,
            None if tested is None else tested.used,
            one.kind,
            one.counts,
            self._decisions.get(one.rank, ""),
        )

    @cached_property
    def _decisions(self) -> dict[int, str]:
        from ravl_med.evidence.verdict import open_correlations

        gate = GateConfig.model_validate_json(self._saved.gate)
        asked = {one.rank: "open" for one in open_correlations(self.result.correlations, gate)}
        said = {one["rank"]: one["word"] for one in self._reviewed["rulings"] if one["in_force"]}
        return asked | said

    def _correlation(self, rank: int) -> SpuriousCorrelation:
        found = [one for one in self.result.correlations if one.rank == rank]
        if not found:
            last = len(self.result.correlations)
            raise ValueError(f"rank is {rank}; expected 1 to {last}" if last else "nothing found")
        return found[0]

    def films(self, rank: int | None = None) -> pd.DataFrame:
        """Return the audited films: label, answer and scores of each.

        With a rank, also whether a film has the feature, and the removal effect of its strongest
        region in logits, NaN where none was measured.
        """
        table = pd.read_parquet(self.folder / "predictions.parquet")
        scores = [name for name in table.columns if name.startswith("score:")]
        best = table[scores].to_numpy().argmax(axis=1)
        called = np.array([name.removeprefix("score:") for name in scores])[best]
        films = pd.DataFrame(
            {
                "image_id": table["image_id"],
                "label": table["label"],
                "predicted": called,
                "score": table[scores].to_numpy()[np.arange(len(table)), best],
            }
        )
        films["right"] = films["label"] == films["predicted"]
        own = [name for name in ("patient", "half") if name in table.columns]
        films[own] = table[own]
        if rank is None:
            return films.join(table[scores])
        correlation = self._correlation(rank)
        films["has_feature"] = correlation.cluster.present
        films["removal_effect"] = self._effects(correlation)
        return films

    def _effects(self, correlation: SpuriousCorrelation) -> NDArray[np.float64]:
        from ravl_med.reporting.pictures import removal_effect

        images = self.result.region_image[correlation.cluster.regions]
        measured = removal_effect(correlation)
        known = np.isfinite(measured)
        effects = np.full(len(self.result.image_ids), -np.inf)
        np.maximum.at(effects, images[known], measured[known])
        return np.where(np.isneginf(effects), np.nan, effects)

    def plot(self, rank: int = 1) -> Figure:
        """Return a figure of the accuracy on each class, with the feature and without it."""
        from ravl_med.reporting.slides import correlation_figure

        return correlation_figure(self.result, self._correlation(rank))

    def show(
        self,
        rank: int = 1,
        which: Literal["mistakes", "changes", "random", "without"] = "mistakes",
        count: int = 4,
    ) -> Figure:
        """Return a figure of films, the feature outlined, each with its label and answer.

        Films with the feature that are called wrongly; or before and after the feature is taken
        out or put in, one below the other; or with the feature, or without it, at random.

        Raises
        ------
        DataError
            No such film was kept in the run folder.
        """
        from matplotlib.figure import Figure

        from ravl_med.reporting.audit import review_page as page
        from ravl_med.reporting.files.saved_run import read_kept

        film = read_kept(self.folder / "private" / "films")
        groups = page.review_films(self.result, self._correlation(rank), film)
        names = {
            "mistakes": page.MISTAKES,
            "changes": page.CHANGED,
            "random": page.AT_RANDOM,
            "without": page.WITHOUT,
        }
        shown = groups.get(names[which], ())[:count]
        if not shown:
            raise DataError(f"No film of correlation {rank} was kept for {which!r}.")
        rows = 2 if which == "changes" else 1
        figure = Figure(figsize=(2.6 * len(shown), 3.2 * rows), layout="constrained")
        for column, one in enumerate(shown, start=1):
            pairs = ((one.picture, one.said), (one.after, one.said_after))
            for row, (picture, said) in enumerate(pairs[:rows]):
                if picture is not None:
                    axes = figure.add_subplot(rows, len(shown), row * len(shown) + column)
                    _draw_film(axes, picture, said)
        return figure

    def save(self, folder: str | Path) -> Path:
        """Copy the run into a folder, which is from then on its own; return it.

        Raises
        ------
        ConfigError
            The folder is something else than an earlier run, or cannot be written.
        """
        from ravl_med.reporting.files.run_folder import copy_run, draft_folder

        target = Path(folder)
        with draft_folder(target) as draft:
            copy_run(self.folder, draft, without=())
        self.folder = target
        if self._remove is not None:
            self._remove()
        return target

    def __repr__(self) -> str:
        return f"Run({self.result.name!r}, verdict={self.verdict!r})"

    def _repr_html_(self) -> str:
        """Return verdict, reasons and what counts or is open, for a notebook."""
        from ravl_med.reporting.layout.drawings import BANNER_LOOK

        fill, colour, edge = BANNER_LOOK[_TONES.get(self.verdict, "caution")]
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons)
        shown = self.correlations
        shown = shown[shown["counts"] | (shown["decision"] != "")]
        table = shown.to_html(float_format="{:.2f}".format) if len(shown) else ""
        name = escape(self.verdict.replace("_", " ").upper())
        return (
            f'<div style="background:{fill};color:{colour};border:2px solid {edge};padding:.6em">'
            f"<b>{name}</b> {escape(self.result.name)}</div><ul>{reasons}</ul>{table}"
        )


def _draw_film(axes: Axes, picture: Picture, said: str) -> None:
    """Draw a film with its boxes, and label and answer above it."""
    from matplotlib.patches import Rectangle

    height, width = picture.pixels.shape
    axes.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255)
    for x0, y0, x1, y1 in picture.boxes:
        corner, sides = (x0 * width, y0 * height), ((x1 - x0) * width, (y1 - y0) * height)
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="#ffd84d"))
    axes.set_title(said.replace(", called", "\ncalled"), fontsize=8, parse_math=False)
    axes.set_axis_off()


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two audits side by side; differences are B minus A."""

    value: Any  # ravl_med.reporting.comparison.compare.Comparison
    folder: Path | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """What differs: accuracy, worst class, decisions, correlations."""
        from ravl_med.reporting.comparison.report import difference_sentences

        return tuple(difference_sentences(self.value))

    def save(self, folder: str | Path) -> Path:
        """Write report and numbers into a folder; return it."""
        from ravl_med.reporting.comparison.report import write_comparison

        write_comparison(self.value, Path(folder))
        return Path(folder)

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in self.sentences) + "</ul>"


def compare(a: Run | str | Path, b: Run | str | Path) -> Comparison:
    """Compare two audits: two models on the same films, or one model before and after.

    Raises
    ------
    ConfigError, DataError
        One is no run, or they are of other tasks or films.
    """
    from ravl_med.reporting.comparison.compare import compare_runs

    return Comparison(compare_runs(*(r.folder if isinstance(r, Run) else Path(r) for r in (a, b))))


@dataclass(frozen=True, slots=True, eq=False)
class Mitigated:
    """A model that was trained away from its shortcut, in its run folder."""

    folder: Path
    result: Any  # ravl_med.evidence.mitigation_result.MitigationResult

    @property
    def verdict(self) -> str:
        """The outcome: improved, no_change, worse or nothing_to_do."""
        return str(self.result.verdict.name)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in sentences."""
        return tuple(self.result.verdict.reasons)

    @property
    def arms(self) -> pd.DataFrame:
        """Accuracy of each way of training on patients that none was trained on, as shares."""
        rows = [
            (
                arm.title,
                arm.image_overall.before,
                arm.image_overall.after,
                arm.image_worst.before,
                arm.image_worst.after,
                arm.delivered,
            )
            for arm in self.result.arms
        ]
        names = ["arm", "overall_before", "overall", "worst_before", "worst", "delivered"]
        return pd.DataFrame(rows, columns=names).set_index("arm")

    @property
    def model(self) -> Path | None:
        """Folder of the new model; None where there is none."""
        place = self.folder / "model"
        return place if place.is_dir() else None

    def __repr__(self) -> str:
        return f"Mitigated({self.result.name!r}, verdict={self.verdict!r})"


def mitigate(
    config: str | Path | Config,
    *,
    out: str | Path | None = None,
    audit_run: Run | str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    **sections: Any,
) -> Mitigated:
    """Fine-tune the audited model away from its shortcut, as ``ravl-med mitigate`` does.

    Parameters
    ----------
    config : str, Path or Config - of the audit
    out : str or Path - run folder; default ``reports/NAME-mitigation``
    audit_run : Run or path - of this config; None: ``reports/NAME``, which is made where it lacks
    progress : callable - stage, done, total
    sections : mappings - sections of the config that take the place of its own

    Raises
    ------
    ConfigError, ModelError, DataError
        With one clear line.
    """
    from ravl_med.mitigation.distributed import Processes, make_fabric
    from ravl_med.pipeline.mitigate import mitigate as run_mitigation
    from ravl_med.pipeline.mitigation_folder import write_mitigation
    from ravl_med.pipeline.mitigation_setup import open_work_folder
    from ravl_med.reporting.files.audit_run import write_run
    from ravl_med.reporting.files.run_folder import prepare_folder

    with _settings(config, None, None, None, sections) as settings:
        folder = Path(out) if out is not None else Path("reports") / f"{settings.name}-mitigation"
        known = audit_run.folder if isinstance(audit_run, Run) else audit_run
        audited = Path(known) if known is not None else Path("reports") / settings.name
        prepare_folder(folder)
        noted: Any = {"date": date.today().isoformat(), "history_root": None}
        cached = open_cache(settings.cache.folder)
        processes = Processes(make_fabric(settings.model.device, settings.mitigation.precision))
        with processes:
            made = run_mitigation(
                settings,
                key=user_key(),
                cache=cached,
                work=open_work_folder(settings, cached, processes, resume=False),
                processes=processes,
                earlier_run=audited,
                keep_audit=lambda run: write_run(run, audited, **noted, replace=True),
                progress=progress,
            )
            write_mitigation(made, folder, **noted)
    return Mitigated(folder, made.result)
