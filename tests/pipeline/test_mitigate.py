"""A mitigation from config to folder, on a small cohort with a feature that is really there.

The audit of so few films confirms nothing, so its run folder is given a feature by hand: medoids in
the embedding space of the audited model, one of them the mean of the planted generator's regions.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import open_clip
import pytest
import torch
from pypdf import PdfReader

from ravl_med.cohort.film import FilmReader
from ravl_med.config.loading import Config, load_config
from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.encoders.base import Encoder
from ravl_med.encoders.open_clip import open_model
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.mitigation_result import MitigationResult
from ravl_med.evidence.results import ConfirmedFeature, Decision, Kind
from ravl_med.mitigation.distributed import Processes, make_fabric
from ravl_med.mitigation.spurious_regions import choose_features
from ravl_med.phantoms.cohort import synthesize
from ravl_med.pipeline.audit import audit
from ravl_med.pipeline.mitigate import (
    Mitigation,
    PastAudit,
    find_past_audit,
    mitigate,
    reaudit_config,
)
from ravl_med.pipeline.mitigation_folder import write_mitigation
from ravl_med.pipeline.mitigation_setup import open_work_folder
from ravl_med.pipeline.split_films import SplitFilms, read_split
from ravl_med.pipeline.stages import Run, prepare_model
from ravl_med.reporting.files.audit_run import write_run
from ravl_med.reporting.files.run_folder import copy_run, draft_folder
from ravl_med.reporting.files.run_record import digest_settings
from ravl_med.reporting.files.tables import write_features
from ravl_med.storage.cache import Cache
from ravl_med.storage.documents import schema_of

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
KEY = bytes(32)
CONFIG = """
name: small
cohort:
  manifest: cohort/manifest.csv
  workers: 0
task:
  name: finding
  classes:
    cardiomegaly: {prompts: [Cardiomegaly.]}
    pleural effusion: {prompts: [Pleural effusion.]}
    pneumothorax: {prompts: [Pneumothorax.]}
    consolidation: {prompts: [Consolidation.]}
    no finding: {prompts: [No acute cardiopulmonary abnormality.]}
model:
  quickstart: {tower: resnet, image_size: 64, epochs: 1, batch_size: 32}
regions:
  tiles: [4, 4]
discovery: {clusters: [8, 12]}
gate:
  min_films: 5
  max_prediction_share: 1.0
  min_prediction_share: 0.0
  min_auroc: 0.0
evidence:
  relevance: %s
  draws: 2400
  simulations: 20
  effect_films: 20
  dependence_films: 0
  max_pairs: 12
mitigation:
  epochs: 2
  batch_size: 32
  learning_rate: 1.0e-3
privacy: {burned_in_text: show}  # `test_privacy` is about it; looking takes a second a film
"""


class Workplace:
    """A cohort, its config, an audit of it, and a folder for everything else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = Cache(root / "cache")
        synthesize(root / "cohort", images=220, size=96, seed=3, workers=1)
        relevance = REPOSITORY / "configs" / "relevance" / "chest.yaml"
        (root / "small.yaml").write_text(CONFIG % relevance, encoding="utf-8")
        self.config = self.load()
        run = audit(self.config, key=KEY, cache=self.cache)
        write_run(run, root / "audit", date=None, history_root=None)

    def load(self, *overrides: str) -> Config:
        return load_config(self.root / "small.yaml", overrides)

    def feature(self, kind: Kind = "shortcut") -> ConfirmedFeature:
        """The generator, as an audit would describe it."""
        reader = FilmReader()
        manifest = self.root / "cohort" / "manifest.csv"
        folder, _ = prepare_model(self.config, manifest, reader, Run(self.cache))
        films = self.validation(open_model(folder, torch.device("cpu")))
        with (self.root / "cohort" / "truth.csv").open(encoding="utf-8") as stream:
            boxes = {
                row["image"]: [float(row[k]) for k in ("x0", "y0", "x1", "y1")]
                for row in csv.DictReader(stream)
                if row["kind"] == "generator"
            }
        embeddings = films.embeddings
        regions, tiles = embeddings.region_image, embeddings.region_boxes
        held = np.zeros(len(regions), dtype=bool)
        for number, path in enumerate(films.cohort.paths):
            box = boxes.get(path.relative_to(self.root / "cohort").as_posix())
            if box is not None:
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                inside = (tiles[:, 0] <= x) & (x < tiles[:, 2]) & (tiles[:, 1] <= y)
                held |= (regions == number) & inside & (y < tiles[:, 3])
        assert held.sum() > 20
        embedded = embeddings.region
        others = embedded[~held].reshape(-1, embedded.shape[1])[:: max((~held).sum() // 15, 1)]
        medoids = np.concatenate([embedded[held].mean(axis=0, keepdims=True), others])
        medoids /= np.linalg.norm(medoids, axis=1, keepdims=True)
        return ConfirmedFeature(1, kind, True, FeatureDetector(medoids, 0, 0, 4))

    def validation(self, encoder: Encoder) -> SplitFilms:
        """The audited films as a model sees them."""
        manifest, run = self.root / "cohort" / "manifest.csv", Run(self.cache)
        return read_split(self.config, manifest, "validation", (encoder, None), run, self.root)

    def audited_with(self, *features: ConfirmedFeature, name: str) -> Path:
        """A copy of the audit's run folder that has confirmed other features."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        with draft_folder(folder) as draft:
            copy_run(self.root / "audit", draft, without=())
            (draft / "private" / "features.npz").unlink()
            write_features(draft / "private" / "features.npz", features)
        return folder

    def mitigate(self, config: Config, earlier: Path | None, *, resume: bool = False) -> Mitigation:
        processes = Processes(make_fabric())
        work = open_work_folder(config, self.cache, processes, resume=resume)
        assert work.lock is not None
        with work.lock:  # what ends with an error ends with its process
            return mitigate(
                config,
                key=KEY,
                cache=self.cache,
                work=work,
                processes=processes,
                earlier_run=earlier,
            )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("mitigating"))


@pytest.fixture(scope="module")
def finished(workplace: Workplace) -> tuple[Mitigation, Path]:
    """A whole mitigation, and the folder that it left."""
    earlier = workplace.audited_with(workplace.feature(), name="with-generator")
    config = workplace.load("mitigation.compare=[standard, ravl]")
    run = workplace.mitigate(config, earlier)
    folder = workplace.root / "mitigation"
    write_mitigation(run, folder, date="2026-11-25", history_root=None)
    return run, folder


def test_the_whole_of_it(finished: tuple[Mitigation, Path]) -> None:
    run, folder = finished
    result = run.result
    assert result.audit_reused
    assert run.audit is None
    assert result.verdict.name in ("improved", "no_change", "worse")
    assert result.arms[0].name == "before"
    assert {"standard", "ravl", "counterfactual", "dfr", "projection"} <= set(run.predictions)
    delivered = result.delivered
    assert delivered is not None
    assert delivered.name == "counterfactual"
    assert delivered.curve is not None
    assert len(delivered.curve.worst_group) == 2
    assert [m.rank for m in result.mitigated] == [1]
    assert result.mitigated[0].finetune_films > 10
    before = result.arms[0]
    assert before.image_worst.difference == 0.0
    assert before.image_worst.difference_interval.low == 0.0
    for split, films in zip(result.splits, (30, 30, 100, 60), strict=True):
        assert split.films == pytest.approx(films, abs=12)
    for name in ("report.pdf", "report.html", "mitigation.json", "run.json", "config.yaml"):
        assert (folder / name).stat().st_size > 0
    assert len(PdfReader(folder / "report.pdf").pages) >= 4
    document = json.loads((folder / "mitigation.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema_of(MitigationResult))
    assert (folder / "reaudit" / "report.pdf").is_file()
    assert (folder / "reaudit" / "report.html").is_file()
    assert not list((folder / "private").glob("*.ckpt"))
    assert (folder / "private").stat().st_mode & 0o777 == 0o700


def test_open_clip_opens_the_new_model(finished: tuple[Mitigation, Path]) -> None:
    run, folder = finished
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'model'}")
    assert sum(p.numel() for p in model.parameters()) > 0
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert run.result.audited_digest[:12] in card
    encoder = open_model(folder / "model", torch.device("cpu"))
    assert encoder.info.digest == run.result.new_digest != run.result.audited_digest


def test_the_text_tower_is_that_of_the_audited_model(
    workplace: Workplace, finished: tuple[Mitigation, Path]
) -> None:
    manifest = workplace.root / "cohort" / "manifest.csv"
    start, _ = prepare_model(workplace.config, manifest, FilmReader(), Run(workplace.cache))
    old, new = (open_model(f, torch.device("cpu")) for f in (start, finished[1] / "model"))
    texts = ["Cardiomegaly.", "Pneumothorax."]
    assert torch.equal(old.encode_text(texts), new.encode_text(texts))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(old.encode_image(image), new.encode_image(image), atol=1e-3)


def test_no_identity_leaves_the_private_folders(
    workplace: Workplace, finished: tuple[Mitigation, Path]
) -> None:
    with (workplace.root / "cohort" / "manifest.csv").open(encoding="utf-8") as stream:
        secrets = {row["patient"].encode() for row in csv.DictReader(stream)}
    secrets |= {str(workplace.root).encode(), b"manifest.csv"}
    public = [
        path
        for path in finished[1].rglob("*")
        if path.is_file() and "private" not in path.parts and path.suffix in
        (".json", ".html", ".yaml", ".md")
    ]  # fmt: skip
    assert len(public) >= 5
    for path in public:
        content = path.read_bytes()
        assert not [secret for secret in secrets if len(secret) > 4 and secret in content], path


def test_an_earlier_audit_counts_only_for_the_same_model_films_and_settings(
    workplace: Workplace,
) -> None:
    manifest = workplace.root / "cohort" / "manifest.csv"
    reader = FilmReader()
    start, _ = prepare_model(workplace.config, manifest, reader, Run(workplace.cache))
    encoder = open_model(start, torch.device("cpu"))
    films = workplace.validation(encoder)
    digest, folder = encoder.info.digest, workplace.root / "audit"
    assert find_past_audit(folder, workplace.config, digest, films) is not None
    assert find_past_audit(folder, workplace.load("mitigation.epochs=9"), digest, films)
    assert find_past_audit(folder, workplace.load("evidence.seed=1"), digest, films) is None
    staged = workplace.load("model.region_pooling=last_stage")
    assert find_past_audit(folder, staged, digest, films) is None
    assert reaudit_config(staged, folder).model.region_pooling == "last_stage"
    assert find_past_audit(folder, workplace.config, "another", films) is None
    assert find_past_audit(workplace.root, workplace.config, digest, films) is None
    assert find_past_audit(None, workplace.config, digest, films) is None

    def found(change: Callable[[Path], object], name: str) -> object:
        edited = shutil.copytree(folder, workplace.root / "edited")
        try:
            change(edited / name)
            return find_past_audit(edited, workplace.config, digest, films)
        finally:
            shutil.rmtree(edited)

    def forge(path: Path) -> None:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["rulings"] = [{"rank": 1, "word": "disease", "in_force": True}]
        path.write_text(json.dumps(result), encoding="utf-8")

    for change, name in (
        (forge, "result.json"),
        (lambda path: path.write_bytes(b"[" * 100_000), "result.json"),
        (lambda path: path.unlink() or os.mkfifo(path), "result.json"),
        (lambda path: path.write_bytes(b"other"), "private/features.npz"),
        (lambda path: path.write_text("{}", encoding="utf-8"), "private/files.json"),
    ):
        with pytest.raises(DataError, match=f"--audit: {name} changed since the run wrote it"):
            found(change, name)
    for change, name in (
        (Path.unlink, "private/files.json"),  # nothing vouches for the features
        (lambda path: path.write_bytes(b"[" * 100_000), "run.json"),
        (lambda path: path.unlink() or os.mkfifo(path), "run.json"),
    ):
        assert found(change, name) is None


def test_an_audit_is_seen_as_reviewers_see_it(workplace: Workplace) -> None:
    """One that is made for the mitigation as one that is used again."""
    kinds: tuple[Kind, ...] = ("shortcut", "undecided", "shortcut", "shortcut")
    features = [replace(workplace.feature(kind), rank=n) for n, kind in enumerate(kinds, 1)]
    rulings: tuple[tuple[int, Decision, bool], ...] = (
        (1, "disease", True), (2, "shortcut", True), (3, "disease", False), (4, "accepted", True),
    )  # fmt: skip

    seen = PastAudit.of("fail", features, rulings)

    assert [one.rank for one in choose_features(seen.features, ())] == [2, 3, 4]


def test_nothing_to_do_is_said_and_written(workplace: Workplace, tmp_path: Path) -> None:
    sign = workplace.feature("plausible_sign")
    for features in ((), (sign,)):
        earlier = workplace.audited_with(*features, name="nothing")
        run = workplace.mitigate(workplace.config, earlier)
        assert run.result.verdict.name == "nothing_to_do"
        assert "not changed" in run.result.verdict.reasons[0]
        assert ("1 other confirmed" in run.result.verdict.reasons[0]) == bool(features)
        assert run.model is None
        write_mitigation(run, tmp_path / f"{len(features)}", date=None, history_root=None)
        assert (tmp_path / f"{len(features)}" / "report.pdf").is_file()
        assert not (tmp_path / f"{len(features)}" / "model").exists()


def test_what_is_forced_is_mitigated(workplace: Workplace) -> None:
    earlier = workplace.audited_with(workplace.feature("undecided"), name="forced")
    config = workplace.load(
        "mitigation.force=[1]",
        "mitigation.epochs=1",
        "mitigation.heads=false",
        "mitigation.compare=[]",
        "mitigation.classes_from=reports",
    )
    run = workplace.mitigate(config, earlier)
    assert [(m.kind, m.forced) for m in run.result.mitigated] == [("undecided", True)]
    assert [arm.name for arm in run.result.arms] == ["before", "counterfactual"]
    unnamed = [note for note in run.result.notes if "fine-tuning reports name no class" in note]
    assert len(unnamed) == 1
    assert int(unnamed[0].split()[0]) < 0.2 * int(unnamed[0].split()[2])


def test_an_arm_that_diverges_is_told(workplace: Workplace) -> None:
    earlier = workplace.audited_with(workplace.feature(), name="diverging")
    config = workplace.load(
        "mitigation.learning_rate=100.0", "mitigation.epochs=1", "mitigation.compare=[]",
        "mitigation.heads=false",
    )  # fmt: skip
    run = workplace.mitigate(config, earlier)
    delivered = run.result.delivered
    assert delivered is not None
    assert delivered.curve is not None
    assert delivered.curve.stopped == "diverged"
    assert any("no longer finite" in note for note in run.result.notes)
    assert delivered.curve.best == -1  # nothing before that was good: the audited model stands
    assert delivered.image_overall.difference == 0.0
    assert run.result.verdict.name != "improved"


def test_an_unknown_rank_is_refused(workplace: Workplace) -> None:
    earlier = workplace.audited_with(workplace.feature(), name="rank")
    with pytest.raises(ConfigError, match=r"mitigation\.force names rank 7; expected .*: 1\."):
        workplace.mitigate(workplace.load("mitigation.force=[7]"), earlier)


def test_another_audited_split_is_refused(workplace: Workplace) -> None:
    with pytest.raises(ConfigError, match=r"cohort\.split is 'test'; mitigate needs 'validation'"):
        workplace.mitigate(workplace.load("cohort.split=test"), None)


def test_a_final_test_that_is_too_small_is_told_before_the_work(workplace: Workplace) -> None:
    few = workplace.load("gate.min_films=17")
    with pytest.raises(DataError, match=r"split \w+: too few films of .*at least 17 of each class"):
        workplace.mitigate(few, None)


@pytest.fixture
def edited(
    workplace: Workplace, tmp_path: Path
) -> Callable[[Callable[[dict[str, str]], dict[str, str]]], Path]:
    """A manifest beside the films whose rows were changed by a function."""

    def write(change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
        source = workplace.root / "cohort" / "manifest.csv"
        with source.open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        target = source.with_name(f"{tmp_path.name}.csv")
        with target.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(change(dict(row)) for row in rows)
        return target

    return write


def test_shared_patients_are_refused_with_their_number(
    workplace: Workplace,
    edited: Callable[[Callable[[dict[str, str]], dict[str, str]]], Path],
) -> None:
    taken: dict[str, str] = {}

    def share(row: dict[str, str]) -> dict[str, str]:
        if row["split"] == "finetune" and len(taken) < 3:
            taken[row["patient"]] = row["patient"]
        elif row["split"] == "test" and len(taken) == 3:
            row["patient"] = next(iter(taken))
            taken["done"] = ""
        return row

    manifest = edited(share)
    config = workplace.load(f"cohort.manifest={manifest}")
    with pytest.raises(DataError, match=r"in two splits \(finetune and test share 1\)"):
        workplace.mitigate(config, None)


def test_a_fine_tuning_set_without_a_class_is_refused(
    workplace: Workplace,
    edited: Callable[[Callable[[dict[str, str]], dict[str, str]]], Path],
) -> None:
    def without(row: dict[str, str]) -> dict[str, str]:
        if row["split"] == "finetune" and row["pneumothorax"] == "1":
            row["pneumothorax"] = "-1"
        return row

    config = workplace.load(
        f"cohort.manifest={edited(without)}", f"model.path={_model(workplace)}",
        "model.quickstart=null", "mitigation.force=[1]",
    )  # fmt: skip
    earlier = workplace.audited_with(workplace.feature(), name="other")  # of the same films
    record = json.loads((earlier / "run.json").read_text(encoding="utf-8"))
    record["digests"]["settings"] = digest_settings(config)
    (earlier / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=r"fine-tuning: none of \d+ films has class pneumothorax"):
        workplace.mitigate(config, earlier)


def test_a_fine_tuning_set_without_the_feature_is_refused(workplace: Workplace) -> None:
    feature = workplace.feature()
    medoids = feature.detector.medoids.copy()
    medoids[0] = -medoids[1:].mean(axis=0)  # opposite to everything
    medoids[0] /= np.linalg.norm(medoids[0])
    absent = ConfirmedFeature(1, "shortcut", True, FeatureDetector(medoids, 0, 0, 4))
    earlier = workplace.audited_with(absent, name="absent")
    with pytest.raises(DataError, match="holds a region of the mitigated features"):
        workplace.mitigate(workplace.config, earlier)


def _model(workplace: Workplace) -> Path:
    manifest = workplace.root / "cohort" / "manifest.csv"
    folder, _ = prepare_model(workplace.config, manifest, FilmReader(), Run(workplace.cache))
    return folder
