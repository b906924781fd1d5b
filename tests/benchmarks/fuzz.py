"""Mutated inputs of every kind: none may end outside a named error, hang, or take the memory.

``python -m tests.benchmarks fuzz --parts inputs`` makes the page; ``python -m tests.benchmarks.fuzz
--cases 10000 --journal fuzz.jsonl`` can be ended and goes on. Each case is the same for its number
and seed, and is done in a child process that is replaced when it dies or hangs. What is done is
noted in the journal, one line a case, and not done again. Exit code 1: something failed.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydicom
import torch
import typer
from PIL import Image

from ravl_med.cohort.film import FilmReader
from ravl_med.cohort.image_file import ImageContent, read_film_file
from ravl_med.cohort.manifest import read_manifest
from ravl_med.config.cohort import ReadingConfig
from ravl_med.config.loading import load_config
from ravl_med.discovery.candidates import FeatureDetector
from ravl_med.encoders.open_clip import save_model
from ravl_med.encoders.opening import open_model_folder
from ravl_med.errors import ImageError, RavlMedError
from ravl_med.evidence.audit_result import result_document
from ravl_med.evidence.disclosure_control import hide_small_cells
from ravl_med.evidence.results import ConfirmedFeature
from ravl_med.labelling.sections import read_radiology_report
from ravl_med.regions.annotations import AnnotationTable
from ravl_med.reporting.audit.history import ReportDetails
from ravl_med.reporting.comparison.runs import open_run
from ravl_med.reporting.files.run_folder import draft_folder, write_json, write_predictions_file
from ravl_med.reporting.files.run_record import peak_memory_mb
from ravl_med.reporting.files.saved_run import (
    SavedRun,
    redraw_run,
    write_archive,
    write_patients,
)
from ravl_med.reporting.files.tables import read_features, write_features
from tests.benchmarks import run_folders
from tests.benchmarks.made_up_audit import AuditSize, make_up_audit
from tests.benchmarks.runner import Page, Part, Setup
from tests.benchmarks.tables import Column, Row, Table, Target

LONGEST = 30.0  # seconds of a case
MOST_MB = 3000  # of data that a case may hold
_SHAPE = (48, 64)
_FILMS = 60  # of a run folder
_CODES = (0, 1, 2, 3)
_TOKENS = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"1e999", b"-1", b"99999999999999999999", b"null",
    b"true", b"[" * 300, b'{"a":' * 300, b"&a [*a, *a]", b"!!python/object:os.system x", b'"',
    b"http://127.0.0.1/a", b"../../etc/passwd", b"/dev/zero", b"\x1b[2J", b"=cmd()", b"\r", b",",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    "", "a\0b", "a\ud800b", "nan", "inf", "<b>&amp;", "no such name", 0, -1, 2**31, 10**30,
    0.0, -0.5, 1e300, True, False, None, [], {},
)  # fmt: skip
_CONFIG = """\
name: fuzz
cohort: {manifest: manifest.csv, split: null, max_seconds: 60}
task: {classes: {effusion: {prompts: [Fluid.]}, "no": {prompts: [Clear.], label: {effusion: 0}}}}
model: {path: model, threads: 2}
regions: {sources: [tiles], tiles: [6, 6]}
evidence: {relevance: relevance.yaml, draws: 10000}
"""
_DETAILS = ReportDetails(
    date="2026-11-20",
    config_yaml="name: run\n",
    versions={"ravl-med": "0"},
    digests={"model": "ab" * 32},
    seeds={"evidence": 0},
    thresholds={"gate.max_gap": "10 points"},
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input: its valid file, and what reads it."""

    file: Path  # that is mutated
    read: Callable[[], Any]
    mutate: Callable[[bytes, random.Random], bytes] | None = None  # None: at any bytes


READING = ReadingConfig(max_pixels=10_000_000, max_inflated_mb=64)


def make_corpus(root: Path, reader: FilmReader | None = None) -> dict[str, Kind]:
    """Write a valid input of every kind, and return them by name.

    Films and annotations are read by the reader's processes, as the tool does; None: in this one.
    """
    reader = reader or FilmReader(READING)
    bundled = Path(pydicom.__file__).parent / "data" / "test_files"
    for name, source in _BUNDLED.items():
        (root / name).write_bytes((bundled / source).read_bytes())
    values = np.zeros(_SHAPE, dtype=np.uint8)
    values[8:24, 8:40] = 1
    film = np.random.default_rng(0).integers(0, 255, _SHAPE).astype(np.uint8)
    for name in ("film.png", "film.jpg"):
        Image.fromarray(film).save(root / name)
    Image.fromarray(values).save(root / "mask.png")
    _save_nifti(root / "film.nii", film)
    texts = {
        "audit.yaml": _CONFIG,
        "manifest.csv": "image,patient,view,effusion,report\n"
        + "".join(f"{i}.dcm,p{i // 2},PA,{i % 2},Small effusion.\n" for i in range(12)),
        "report.txt": "FINDINGS: Clear lungs.\nIMPRESSION: No effusion.\n",
        "boxes.csv": "image,name,x0,y0,x1,y1\n" + "film.png,lead,1,2,30,40\n" * 5,
        "boxes.json": json.dumps(_COCO),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    _save_model(root / "model")
    names = [root / "film.png"]
    kinds = {
        name: Kind(root / name, partial(_read_film, reader, root / name))
        for name in ("film.png", "film.jpg", "film.nii", *_BUNDLED)
    }
    kinds["audit.yaml"] = Kind(root / "audit.yaml", lambda: load_config(root / "audit.yaml"))
    kinds["manifest.csv"] = Kind(
        root / "manifest.csv", lambda: read_manifest(root / "manifest.csv", split=None)
    )
    kinds["report.txt"] = Kind(
        root / "report.txt", lambda: read_radiology_report(root / "report.txt")
    )
    for name in ("boxes.csv", "boxes.json"):
        kinds[name] = Kind(root / name, partial(AnnotationTable.read, root / name, names))
    kinds["mask.png"] = Kind(
        root / "mask.png",
        lambda: reader.annotation(root / "mask.png", names[0], _SHAPE, {}, None),
    )
    kinds["model config"] = Kind(
        root / "model" / "open_clip_config.json",
        lambda: open_model_folder(root / "model", torch.device("cpu")),
    )
    kinds["model weights"] = replace(
        kinds["model config"], file=root / "model" / "open_clip_model.safetensors"
    )
    return kinds | _of_runs(root)


def _of_runs(root: Path) -> dict[str, Kind]:
    """Return the files of a run folder; of those that only its digests guard, in one without."""
    save_run(root / "run")
    shutil.copytree(root / "run", root / "bare")
    (root / "bare" / "private" / "files.json").unlink()
    kinds = {
        f"run {name}": Kind(root / folder / name, partial(open_run, root / folder, "RUN_A"))
        for folder, name in (
            ("run", "run.json"), ("run", "result.json"), ("run", "predictions.parquet"),
            ("run", "private/files.json"), ("run", "private/archive.npz"),
            ("bare", "private/archive.json"), ("bare", "private/patients.npy"),
        )
    }  # fmt: skip
    arrays = root / "bare" / "private" / "archive.npz"
    kinds["run arrays, no digest"] = Kind(arrays, partial(open_run, root / "bare", "RUN_A"))
    kinds["run drawn"] = Kind(
        root / "bare" / "private" / "archive.json",
        partial(_draw_again, root / "bare"),
        mutate_values,
    )
    features = root / "run" / "private" / "features.npz"
    kinds["run private/features.npz"] = Kind(features, partial(_features, features))
    return kinds


def _draw_again(folder: Path) -> None:
    """Draw a copy of a run folder again, with a film of one gray for each that may be shown."""
    copied = folder.with_name("drawn")
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(folder, copied)
    (copied / "private" / "films").mkdir()
    for index in range(_FILMS):
        Image.new("L", (48, 60), 90).save(copied / "private" / "films" / f"{index}.png")
    redraw_run(copied, date(2026, 11, 28))


def _features(path: Path) -> Any:
    """Read features as a mitigation does, which takes these errors for a run to be made again."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return read_features(path)


def save_run(folder: Path, note: str = "") -> None:
    """Write a small run folder with all that is read of one again, but for its pages."""
    size = AuditSize(
        films=_FILMS, correlations=2, classes=3, shape=(60, 48), subgroups=2, clusters=20
    )
    result = make_up_audit(size)
    labels = np.arange(size.films) % size.classes
    detector = FeatureDetector(
        medoids=np.eye(3, 8, dtype=np.float32), label=1, raised_class=0, lowered_class=1
    )
    with draft_folder(folder) as draft:
        (draft / "private").mkdir(mode=0o700)
        write_archive(SavedRun(result, _DETAILS, "{}", 5, None, 11), draft / "private")
        write_features(
            draft / "private" / "features.npz",
            [ConfirmedFeature(rank=1, kind="shortcut", counts=True, detector=detector)],
        )
        write_patients(draft, np.arange(size.films))
        document = result_document(hide_small_cells(result, 11), 5)
        write_json(draft / "result.json", document.model_dump(mode="json"))
        write_predictions_file(
            draft / "predictions.parquet",
            result.image_ids,
            [result.classes[c] for c in labels],
            result.classes,
            np.eye(size.classes, dtype=np.float32)[labels],
        )
        write_json(draft / "run.json", {"tool": {"name": "ravl-med"}, "note": note})


def _read_film(reader: FilmReader, path: Path) -> ImageContent | ImageError:
    if reader.pool is None:
        return read_film_file(path, READING)
    return next(reader.pool.read([(path, None)]))


_BUNDLED = {
    "film.dcm": "MR_small.dcm",
    "rle.dcm": "MR_small_RLE.dcm",
    "jpeg.dcm": "JPGExtended.dcm",
    "jpeg2000.dcm": "MR_small_jp2klossless.dcm",
}
_COCO = {
    "images": [{"id": 1, "file_name": "film.png", "height": 48, "width": 64}],
    "categories": [{"id": 1, "name": "lead"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}],
}


def _save_nifti(path: Path, film: np.ndarray[Any, Any]) -> None:
    import nibabel as nib

    kind: Any = nib.Nifti1Image
    image = kind(film.astype(np.float32)[:, :, None], np.eye(4))
    image.to_filename(path)


def _save_model(folder: Path) -> None:
    import open_clip

    layout: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16,
                       "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    save_model(open_clip.CLIP(**layout), {"model_cfg": layout, "preprocess_cfg": {}}, folder)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return content that was changed at one to six places."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(6):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del made[at : at + rng.choice((1, 4, 64, 100_000))]
            case 2:
                made[at:at] = made[at : at + rng.choice((1, 16, 256))]
            case 3:
                token = rng.choice(_TOKENS)
                made[at : at + rng.choice((0, len(token)))] = token
            case 4 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case _:
                other = rng.randrange(len(made) + 1)
                made[at : at + 32], made[other : other + 32] = (
                    made[other : other + 32],
                    made[at : at + 32],
                )
    return bytes(made)


def mutate_values(content: bytes, rng: random.Random) -> bytes:
    """Return JSON of which one to three values are others, most of them of the same type."""
    made = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        part: Any = made
        above: Any = made
        key: Any = None
        while isinstance(part, (dict, list)) and part:
            places: Any = list(part) if isinstance(part, dict) else range(len(part))
            above, key = part, rng.choice(places)
            part = above[key]
        same = [one for one in _VALUES if type(one) is type(part)]
        above[key] = rng.choice(same if same and rng.random() < 0.8 else _VALUES)
    return json.dumps(made).encode("ascii")


def run_case(kinds: dict[str, Kind], number: int, seed: int) -> tuple[str, str, float]:
    """Do one case; return its kind, what came of it (blank if all is well), and the seconds."""
    rng = random.Random(f"{seed} {number}")
    name = sorted(kinds)[number % len(kinds)]
    kind = kinds[name]
    whole = kind.file.read_bytes()
    start = time.monotonic()
    try:
        kind.file.write_bytes((kind.mutate or mutate)(whole, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read()
        fault = ""
    except RavlMedError as error:
        fault = "" if error.exit_code in _CODES else f"exit code {error.exit_code}"
    except Exception as error:  # what the harness is there to find
        fault = type(error).__name__
    finally:
        kind.file.write_bytes(whole)
    seconds = time.monotonic() - start
    return name, fault or (f"{seconds:.0f} s" if seconds > LONGEST else ""), seconds


def _child(first: int, last: int, seed: int) -> None:
    """Do cases and print a line before and after each."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MB * 1_000_000,) * 2)
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        FilmReader(READING, workers=1).kept_open() as reader,
    ):
        kinds = make_corpus(Path(folder), reader)
        for number in range(first, last):
            print(json.dumps({"begun": number}), flush=True)  # noqa: T201
            kind, fault, seconds = run_case(kinds, number, seed)
            line = {"case": number, "kind": kind, "fault": fault, "seconds": round(seconds, 2)}
            line["memory"] = peak_memory_mb()
            print(json.dumps(line), flush=True)  # noqa: T201


def run_cases(first: int, last: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each case of a range, from children that are replaced when they end."""
    while first < last:
        command = [sys.executable, "-m", "tests.benchmarks.fuzz", "--child"]
        command += ["--first", str(first), "--cases", str(last), "--seed", str(seed)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        watch = threading.Timer(10 * LONGEST, process.kill)  # the corpus is made first
        watch.start()
        begun: int | None = None
        for line in process.stdout:
            watch.cancel()
            watch = threading.Timer(2 * LONGEST, process.kill)
            watch.start()
            entry = json.loads(line)
            begun = entry.get("begun", begun)
            if "case" in entry:
                first, begun = entry["case"] + 1, None
                yield entry
        watch.cancel()
        code = process.wait()
        if begun is not None:
            yield {"case": begun, "kind": "", "fault": f"the process ended ({code})",
                   "seconds": 0.0, "memory": 0.0}  # fmt: skip
            first = begun + 1
        elif first < last:
            raise RuntimeError(f"the child did not begin ({code})")


def main(
    cases: Annotated[int, typer.Option(help="Cases to do, from 0 on.")] = 10_000,
    journal: Annotated[Path, typer.Option(help="What is done, one line a case.")] = Path(
        "fuzz.jsonl"
    ),
    seed: Annotated[int, typer.Option(help="Other cases.")] = 0,
    first: Annotated[int, typer.Option(hidden=True)] = 0,
    child: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Do so many cases, and say what failed."""
    if child:
        _child(first, cases, seed)
        return
    done = []
    if journal.is_file():
        done = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    first = max((entry["case"] + 1 for entry in done), default=0)
    with journal.open("a", encoding="utf-8") as stream:
        for entry in run_cases(first, cases, seed):
            done.append(entry)
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
    faults = [entry for entry in done if entry["fault"]]
    counts = Counter(entry["kind"] for entry in done)
    typer.echo(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    for entry in faults:
        typer.echo(f"case {entry['case']} ({entry['kind']}): {entry['fault']}")
    typer.echo(f"{len(faults)} of {len(done)} failed")
    raise typer.Exit(1 if faults else 0)


def measure_inputs(cases: int, seed: int, progress: run_folders.Progress) -> Iterator[Row]:
    """Do so many cases, and yield a row for each kind, and one for all."""
    done = []
    for entry in run_cases(0, cases, seed):
        done.append(entry)
        progress("mutated inputs", len(done), cases)
    for kind in (*sorted({entry["kind"] for entry in done}), "all"):
        own = [entry for entry in done if kind in ("all", entry["kind"])]
        yield {
            "kind": kind or "unknown: the process ended",
            "cases": len(own),
            "faults": sum(bool(entry["fault"]) for entry in own),
            "named": ", ".join(sorted({entry["fault"] for entry in own} - {""})),
            "slowest": max(entry["seconds"] for entry in own),
            "memory": max(entry["memory"] for entry in own),
        }


def _inputs(setup: Setup) -> Iterator[Row]:
    return measure_inputs(setup.size("cases"), 0, setup.progress)


PAGE = Page(
    "fuzz",
    "Hostile inputs, foreign files, kills",
    "Mutated inputs of every kind, reruns into folders with foreign files, and kills.",
    (
        Part(
            "inputs",
            "Mutated inputs",
            "A valid input of each kind is changed at one to six places: bytes, cuts, copies, "
            "hostile words. What reads it in the tool reads it, in a process with 3 GB; films and "
            "annotations are read by a reading process, as in an audit. A case fails where it ends "
            "in anything but a result or a named error with an exit code from 0 to 3, or takes "
            "more than 30 s. Files that the digests of a run folder guard are changed in one "
            "without digests as well.",
            [
                Table(
                    Column("input", "{kind}"),
                    Column("cases", "{cases:,}"),
                    Target("faults", 0).beside("failed", "{faults}"),
                    Column("slowest, s", "{slowest:.1f}"),
                    Column("memory of the process so far, MB", "{memory:,.0f}"),
                )
            ],
            _inputs,
            {"cases": 10_000},
        ),
        *run_folders.PARTS,
    ),
)


if __name__ == "__main__":
    typer.run(main)
