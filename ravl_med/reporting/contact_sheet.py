"""A contact sheet: some films of a cohort with their regions drawn, to look at before an audit.

One PNG, whatever the number of films: four in a row, as many rows as it takes. Films are shown
whole, and no search finds all text that is burned in, so that the file is for its owner alone.
Colours are told apart with any colour vision, on grey: yellow, as boxes are in the report, and
vermilion and sky blue after Okabe and Ito, made lighter; what covers the whole film is grey.

References
----------
Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ravl_med.cohort.dicom_header import Edge
from ravl_med.config.cohort import RegionSource
from ravl_med.errors import ConfigError
from ravl_med.regions.geometry import common_area
from ravl_med.regions.region_set import RegionKind, RegionSet
from ravl_med.reporting.wording import EDGE_TEXT, REGION_PROBLEMS, font_file, plural, printable

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

DARK: Colour = (16, 22, 28)
PLATE = 14
"""Side in pixels of what a letter beside a film lies on."""
_DASH = 4  # pixels
_NAME_LIMIT = 26
_HIDDEN = 0.1  # share of a label that others may hide; more, and it is not written


@dataclass(frozen=True, slots=True)
class Look:
    """How the boxes of a source are drawn."""

    colour: Colour  # red, green, blue
    width: int = 1  # of the line in pixels
    opacity: float = 1.0
    dashed: bool = False
    text: int = 0  # size of the label in pixels; 0 for none


LOOKS: dict[RegionSource, Look] = {
    "annotations": Look((255, 216, 77), width=2, text=11),
    "artifacts": Look((245, 110, 48), width=2, text=11),
    "anatomy": Look((110, 196, 245), text=10),
    "windows": Look((214, 220, 226), opacity=0.5, dashed=True),
    "tiles": Look((170, 180, 188), opacity=0.55),
}
"""By source, the most specific first."""

_SHORT = {
    "right ": "R ",
    "left ": "L ",
    "upper lung zone": "upper",
    "middle lung zone": "middle",
    "lower lung zone": "lower",
    "lung apex": "apex",
    "costophrenic angle": "CPA",
    "hemidiaphragm": "dia.",
    "cardiac silhouette": "heart",
    "mediastinum": "mediast.",
    "trachea and neck": "trachea",
    "upper abdomen": "abdomen",
}


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font of the report at a size in pixels."""
    return _font(f"DejaVuSans{'-Bold' if bold else ''}", size)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file(name)), size)


def short_name(kind: RegionKind) -> str:
    """Return what is written beside a box: the name, how likely it is; of anatomy a short form."""
    name = kind.name
    if kind.source == "anatomy":
        for long, short in _SHORT.items():
            name = name.replace(long, short)
    shown = printable(name, _NAME_LIMIT)
    return shown if kind.score is None else f"{shown} {kind.score:.2f}"


def draw_edge(pen: ImageDraw.ImageDraw, edge: Edge, film: tuple[int, int]) -> None:
    """Write the side of the patient beside the left edge of a film, whose middle is (x, y)."""
    if not edge:
        return
    right, top = film[0] - 2, film[1] - PLATE // 2
    pen.rounded_rectangle((right - PLATE + 1, top, right, top + PLATE - 1), radius=2, fill=DARK)
    middle = (right - PLATE / 2 + 0.5, top + PLATE / 2)
    pen.text(middle, edge, fill=(255, 255, 255), font=font(11, bold=True), anchor="mm")


def draw_regions(pixels: NDArray[np.uint8], regions: RegionSet) -> Image.Image:
    """Draw the regions of a film (h, w), in its pixels, on it, the most specific on top; as RGB."""
    picture = Image.fromarray(pixels).convert("RGB")
    for source in reversed(LOOKS):
        rows = [row for row, kind in enumerate(regions.kinds) if kind.source == source]
        if rows:
            _draw_boxes(picture, regions.boxes[rows], LOOKS[source])
    _write_names(picture, regions)
    return picture


def _draw_boxes(picture: Image.Image, boxes: NDArray[np.float32], look: Look) -> None:
    """Draw boxes, light on dark: a halo around thick lines, a shadow beside thin ones."""
    last = np.array(picture.size * 2) - 1
    edges = [tuple(box) for box in np.clip(np.rint(boxes), 0, last).astype(int).tolist()]
    if look.width > 1:
        pen = ImageDraw.Draw(picture)
        for x0, y0, x1, y1 in edges:
            pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=DARK, width=look.width + 2)
    layer = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(layer)
    for edge in edges:
        pen.rectangle(edge, outline=round(255 * look.opacity), width=look.width)
    if look.dashed:
        across, down = np.arange(picture.width), np.arange(picture.height)[:, None]
        on = (across + down) // _DASH % 2 == 0
        layer = Image.fromarray(np.where(on, np.asarray(layer), 0).astype(np.uint8))
    if look.width == 1:
        shadow = np.zeros((picture.height, picture.width), dtype=np.uint8)
        shadow[1:, 1:] = np.asarray(layer)[:-1, :-1] // 2
        picture.paste(DARK, mask=Image.fromarray(shadow))
    picture.paste(look.colour, mask=layer)


def _write_names(picture: Image.Image, regions: RegionSet) -> None:
    """Write the names of the labelled sources where there is room for them."""
    rows = [row for row, kind in enumerate(regions.kinds) if LOOKS[kind.source].text]
    names = [short_name(regions.kinds[row]) for row in rows]
    looks = [LOOKS[regions.kinds[row].source] for row in rows]
    sizes = [
        (int(np.ceil(font(look.text).getlength(name))) + 4, look.text + 4)
        for name, look in zip(names, looks, strict=True)
    ]
    boxes = [(box[0], box[1], box[2], box[3]) for box in regions.boxes[rows].tolist()]
    beside = [look.width > 1 for look in looks]
    pen = ImageDraw.Draw(picture)
    places = place_labels(boxes, sizes, beside, picture.size)
    for name, look, place, (_, height) in zip(names, looks, places, sizes, strict=True):
        if place is not None:
            pen.text(
                (place[0] + 2, place[1] + height // 2),
                name,
                fill=look.colour,
                font=font(look.text),
                anchor="lm",
                stroke_width=2,
                stroke_fill=DARK,
            )


def place_labels(
    boxes: Sequence[Box],
    sizes: Sequence[tuple[int, int]],
    beside: Sequence[bool],
    picture: tuple[int, int],
) -> list[tuple[int, int] | None]:
    """Find room for the labels of boxes: first those beside their boxes, then the small boxes.

    A label keeps off earlier labels, and off boxes that it would seem to name: those that are named
    beside, and those that are smaller than its own.

    Parameters
    ----------
    boxes : sequence of (x0, y0, x1, y1), length r - in pixels of the picture
    sizes : sequence of (width, height), length r - of the labels
    beside : sequence of bool, length r - the label is wanted outside its box, which it would hide

    Returns
    -------
    list of (x, y) or None, length r - top left corner of each label; None where others would hide
        it or the picture is smaller
    """
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes]
    order = sorted(range(len(boxes)), key=lambda row: (not beside[row], areas[row]))
    placed: list[Box] = []
    corners: list[tuple[int, int] | None] = [None] * len(boxes)
    for row in order:
        width, height = sizes[row]
        if width > picture[0] or height > picture[1]:
            continue
        others = [b for i, b in enumerate(boxes) if beside[i] or areas[i] < areas[row]]
        least = np.inf
        for x, y in _candidates(boxes[row], width, height, outside=beside[row]):
            x, y = min(max(x, 0), picture[0] - width), min(max(y, 0), picture[1] - height)
            label = (x, y, x + width, y + height)
            hidden = sum(common_area(label, other) for other in placed) / (width * height)
            hiding = sum(common_area(label, other) for other in others) / (width * height)
            if hidden <= _HIDDEN and hidden + hiding / 2 < least:
                corners[row], least = (x, y), hidden + hiding / 2
        corner = corners[row]
        if corner is not None:
            placed.append((*corner, corner[0] + width, corner[1] + height))
    return corners


def _candidates(box: Box, width: int, height: int, *, outside: bool) -> list[tuple[int, int]]:
    """Corners that a label may have, the best first."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    right, bottom = x1 - width, y1 - height
    around = [
        (x0, y0 - height - 1),
        (x0, y1 + 2),
        (x1 + 2, y0),
        (x0 - width - 2, y0),
        (x1 + 2, bottom),
        (x0 - width - 2, bottom),
        (right, y0 - height - 1),
        (right, y1 + 2),
    ]
    within = [
        (round(x0 + 1 + across * (right - x0 - 1)), round(y0 + 1 + down * (bottom - y0 - 1)))
        for down in (0.0, 1.0, 0.5, 0.25, 0.75)
        for across in (0.0, 1.0, 0.5)
    ]
    return around + within if outside else within + around


_SIDE = 420  # pixels of the long side of a film
_STEP, _CAPTION, _MARGIN = _SIDE + 2 * PLATE + 6, 46, 20
_COLUMNS, _LEAST_COLUMNS = 4, 3
_MUTED, _ALERT = (90, 103, 114), (176, 64, 0)
_MARK = "ravl-med regions"


@dataclass(frozen=True, slots=True, eq=False)
class SheetFilm:
    """A film made to the size of the sheet."""

    image_id: str  # pseudonym
    pixels: NDArray[np.uint8]  # (h, w)
    regions: RegionSet  # boxes in pixels of this picture
    edge: Edge = ""  # side of the patient at the left edge; blank where it is not stated

    @classmethod
    def of(
        cls, image_id: str, film: NDArray[np.uint8], regions: RegionSet, edge: Edge = ""
    ) -> SheetFilm:
        """Bring a film (H, W), uint8, and its regions to the size of the sheet."""
        rows, columns = film.shape
        scale = _SIDE / max(rows, columns)
        width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
        shown = Image.fromarray(film).resize(
            (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
        sides = np.array([width / columns, height / rows] * 2, dtype=np.float32)
        moved = replace(regions, boxes=regions.boxes * sides)
        return cls(image_id, np.asarray(shown), moved, edge)


@dataclass(frozen=True, slots=True, eq=False)
class ContactSheet:
    """Films with their regions, and what is said of them."""

    name: str  # of the config
    sources: tuple[RegionSource, ...]  # asked for
    description: str  # of the sources, in words
    cohort_films: int  # films that the sample was drawn from
    films: tuple[SheetFilm, ...]
    skipped: Mapping[str, int]  # films that were drawn and cannot be read, by reason
    problems: Mapping[str, int]  # why something did not become a region: counts
    text_note: str = "Burned-in text is shown."  # what was done about burned-in text

    def regions_a_film(self) -> dict[RegionSource, float]:
        """Return the mean number of regions of a film, by source, the most specific first."""
        counts = Counter(kind.source for film in self.films for kind in film.regions.kinds)
        return {
            source: counts[source] / len(self.films)
            for source in LOOKS
            if counts[source] or source in self.sources
        }

    def sentence(self) -> str:
        """Say in one line what the sheet shows."""
        means = ", ".join(f"{name} {mean:.1f}" for name, mean in self.regions_a_film().items())
        return f"{self._shown()}; regions per film: {means}. {self._problems()}"

    def lines(self) -> tuple[str, ...]:
        """Return what stands at the head of the sheet."""
        total = sum(self.regions_a_film().values())
        return (
            f"{self._shown()}, a random sample over the patients.",
            f"Regions: {self.description}. {total:.1f} per film (mean).",
            self._problems(),
        )

    def _shown(self) -> str:
        shown = f"{len(self.films):,} of {plural(self.cohort_films, 'film')} shown"
        if not self.skipped:
            return shown
        reasons = ", ".join(
            f"{reason.replace('_', ' ')} {count:,}"
            for reason, count in sorted(self.skipped.items())
        )
        return f"{shown}, {sum(self.skipped.values()):,} set aside ({reasons})"

    def _problems(self) -> str:
        text = "; ".join(
            f"{REGION_PROBLEMS.get(reason, printable(reason.replace('_', ' '), 40))}: {count:,}"
            for reason, count in sorted(self.problems.items())
        )
        return f"Problems: {text}." if text else "No problems."


def draw_sheet(sheet: ContactSheet) -> Image.Image:
    """Draw a contact sheet: a head that says what is seen, then the films, four in a row."""
    columns = max(_LEAST_COLUMNS, min(_COLUMNS, len(sheet.films)))
    head = _draw_head(sheet, columns * _STEP + 2 * _MARGIN)
    rows = [sheet.films[at : at + columns] for at in range(0, len(sheet.films), columns)]
    tall = [max(len(film.pixels) for film in row) for row in rows]
    size = (head.width, head.height + sum(tall) + len(rows) * _CAPTION + _MARGIN)
    drawn = Image.new("RGB", size, "white")
    drawn.paste(head)
    pen = ImageDraw.Draw(drawn)
    foot, number = head.height, 0
    for row, height in zip(rows, tall, strict=True):
        foot += height
        for column, film in enumerate(row):
            number += 1
            middle = _MARGIN + column * _STEP + _STEP // 2
            picture = draw_regions(film.pixels, film.regions)
            left, top = middle - picture.width // 2, foot - picture.height
            drawn.paste(picture, (left, top))
            draw_edge(pen, film.edge, (left, top + picture.height // 2))
            _write_caption(pen, film, number, (middle, foot + 5))
        foot += _CAPTION
    return drawn


def _write_caption(
    pen: ImageDraw.ImageDraw, film: SheetFilm, number: int, place: tuple[int, int]
) -> None:
    """Write number, pseudonym, count of regions and an unusual side under a film, then problems."""
    text = f"{number} · {film.image_id} · {plural(len(film.regions), 'region')}"
    text += "" if film.edge == "R" else f" · {EDGE_TEXT[film.edge]}"
    pen.text(place, text, fill=DARK, font=font(12), anchor="ma")
    counts = Counter(reason.replace("_", " ") for reason in film.regions.problems)
    if counts:
        problems = ", ".join(f"{r} ({n})" if n > 1 else r for r, n in sorted(counts.items()))
        below = (place[0], place[1] + 16)
        pen.text(below, printable(problems, 54), fill=_ALERT, font=font(11), anchor="ma")


def _draw_head(sheet: ContactSheet, width: int) -> Image.Image:
    """Draw what stands over the films."""
    inner = width - 2 * _MARGIN
    lines = [(part, 13, DARK) for line in sheet.lines() for part in _wrapped(line, 13, inner)]
    notes = [f"For looking, not for publication. {sheet.text_note}"]
    notes.append(_sides(sheet))
    shortened = _shortened(sheet)
    if shortened:
        notes.append(f"R and L are the patient's sides. {shortened}")
    if any(LOOKS[kind.source].text for film in sheet.films for kind in film.regions.kinds):
        notes.append("A box has no name where there is no room for it.")
    if any(kind.score is not None for film in sheet.films for kind in film.regions.kinds):
        notes.append("The number behind an artifact is how sure the segmenter is, at most 1.")
    lines += [(part, 12, _MUTED) for note in notes for part in _wrapped(note, 12, inner)]
    head = Image.new("RGB", (width, _MARGIN + 30 + 19 * len(lines) + 38), "white")
    pen = ImageDraw.Draw(head)
    title = f"{printable(sheet.name, 64)} – regions to look at before the audit"
    pen.text((_MARGIN, _MARGIN), title, fill=DARK, font=font(19, bold=True))
    top = _MARGIN + 32
    for text, size, colour in lines:
        pen.text((_MARGIN, top), text, fill=colour, font=font(size))
        top += 19
    _draw_legend(head, sheet, top + 6)
    return head


def _sides(sheet: ContactSheet) -> str:
    """Say what the letters beside the films mean, and how many films state their side."""
    stated = sum(film.edge != "" for film in sheet.films)
    text = (
        "The letter beside a film is the side of the patient at its left edge; "
        f"{stated:,} of {plural(len(sheet.films), 'film')} state it."
    )
    if stated < len(sheet.films) and "anatomy" in sheet.sources:
        text += " Where it is not stated, the heart shows it, or names say the picture's side."
    return text


def _draw_legend(head: Image.Image, sheet: ContactSheet, top: int) -> None:
    """Show a box of each source, as it is drawn, with its name and mean number."""
    pen, left = ImageDraw.Draw(head), _MARGIN
    for source, mean in sheet.regions_a_film().items():
        sample = np.full((18, 30), 70, dtype=np.uint8)
        kind = RegionSet(np.array([[4, 3, 25, 14]], np.float32), (RegionKind(source, ""),))
        head.paste(draw_regions(sample, kind), (left, top))
        text = f"{source}, {mean:.1f} per film"
        pen.text((left + 37, top + 9), text, fill=DARK, font=font(12), anchor="lm")
        left += 37 + round(font(12).getlength(text)) + 26


def _shortened(sheet: ContactSheet) -> str:
    """Say which short names stand for which regions, sides left out."""
    names: dict[str, str] = {}
    for film in sheet.films:
        for kind in film.regions.kinds:
            short = short_name(kind)
            if kind.source == "anatomy" and short != kind.name:
                plain = kind.name.removeprefix("right ").removeprefix("left ")
                names[short.removeprefix("R ").removeprefix("L ")] = plain
    pairs = ", ".join(f"{short} = {name}" for short, name in sorted(names.items()) if short != name)
    return f"{pairs}." if pairs else ""


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines that are at most `width` pixels wide."""
    lines: list[str] = [""]
    for part in text.split(" "):
        longer = f"{lines[-1]} {part}".strip()
        if lines[-1] and font(size).getlength(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def sheet_file(out: Path | None, name: str) -> Path:
    """Return where the contact sheet of a config goes: a file, or into a folder.

    Raises
    ------
    ConfigError
        It is neither a folder nor ends in .png, or something else than an earlier contact sheet is
        there.
    """
    path = out or Path("reports")
    if path.is_dir() or not path.suffix:
        path = path / f"{name}-regions.png"
    refuse_foreign_file(path)
    return path


def refuse_foreign_file(path: Path) -> None:
    """Refuse a path where no contact sheet may be written.

    Raises
    ------
    ConfigError
        It does not end in .png, or something else than an earlier contact sheet is there.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"--out: got {printable(path.name, 80)!r}; expected a folder, or a file that ends in "
            ".png."
        )
    if path.exists() and not _is_sheet(path):
        raise ConfigError(
            "--out: the file exists and is not an earlier contact sheet. Choose another name, or "
            "remove it."
        )


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _MARK
    except (OSError, UnidentifiedImageError):
        return False


def write_sheet(sheet: ContactSheet, path: Path) -> None:
    """Write a contact sheet as PNG, whole or not at all, for the eyes of its owner alone.

    An earlier contact sheet is replaced.

    Raises
    ------
    ConfigError
        Something else than a contact sheet is there, or it cannot be written.
    """
    refuse_foreign_file(path)
    mark = PngInfo()
    mark.add_text("Software", _MARK)
    drawn = draw_sheet(sheet)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            drawn.save(stream, format="png", pnginfo=mark)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--out: the file cannot be written ({type(error).__name__}). Choose another."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
