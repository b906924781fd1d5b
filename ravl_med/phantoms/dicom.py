"""Synthetic films as DICOM files: four invented makers, each with its own pixel encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from ravl_med.phantoms.film import Look

FIELD_OF_VIEW = 400.0  # mm along the nominal side


@dataclass(frozen=True, slots=True)
class Maker:
    """One invented maker's encoding and look."""

    name: str
    model: str
    modality: str  # DX or CR
    inverted: bool  # MONOCHROME1 instead of MONOCHROME2
    bits: int  # stored
    signed: bool
    slope: float  # of the modality look-up; DX fixes slope and intercept at 1 and 0
    intercept: float
    centre: float  # of the linear window, in rescaled values
    width: float
    look: Look

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.uint16] | NDArray[np.int16]:
        """Encode a film (H, W) of [0, 1] as stored values (H, W)."""
        shown = 1 - pixels if self.inverted else pixels
        rescaled = (shown - 0.5) * (self.width - 1) + (self.centre - 0.5)  # PS3.3 C.11.2.1.2.1
        stored = np.rint((rescaled - self.intercept) / self.slope)
        values: NDArray[np.int16] | NDArray[np.uint16]
        values = stored.astype(np.int16 if self.signed else np.uint16)
        return values


MAKERS: tuple[Maker, ...] = (
    Maker("Northlight Imaging", "Aurora DX-1", "DX", False, 12, False, 1.0, 0.0, 2048.0, 3800.0,
          Look(0.85, 1.03, 1.1)),
    Maker("Heliograph Systems", "CR Reader 35", "CR", True, 12, False, 2.0, -512.0, 3600.0,
          7400.0, Look(1.25, 0.94, 0.8)),
    Maker("Meridian Radiography", "Parallax 14", "DX", True, 14, False, 1.0, 0.0, 8192.0, 15000.0,
          Look(0.95, 0.98, 1.25)),
    Maker("Kestrel Medical", "Mobile K2", "CR", False, 16, True, 0.5, 1024.0, 1040.0, 12000.0,
          Look(1.1, 1.05, 0.95)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Who was imaged, where and how."""

    patient: int
    sex: str  # F or M
    age: int
    view: str  # PA or AP
    site: str  # A, B or C
    maker: int  # row of `MAKERS`
    day: int  # after 1 January 2021
    burned_in: bool  # text is burned into the pixels


def make_uid(*parts: object) -> str:
    """Derive a valid UID, the same for the same parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return f"2.25.{int.from_bytes(digest, 'big')}"


def write_dicom(
    path: Path, pixels: NDArray[np.float32], acquisition: Acquisition, *, seed: int, image: int
) -> None:
    """Write one film (H, W) of [0, 1], bright is dense; seed and image number give its UIDs."""
    maker = MAKERS[acquisition.maker]
    sop_class = (
        DigitalXRayImageStorageForPresentation
        if maker.modality == "DX"
        else ComputedRadiographyImageStorage
    )
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(make_uid(seed, "image", image))
    film = FileDataset(BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID = sop_class
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _describe_patient(film, acquisition, seed, image)
    _describe_equipment(film, acquisition, maker)
    _describe_pixels(film, pixels, maker)
    film.BurnedInAnnotation = "YES" if acquisition.burned_in else "NO"
    film.save_as(path, enforce_file_format=True)


def _describe_patient(film: FileDataset, acquisition: Acquisition, seed: int, image: int) -> None:
    day = np.datetime64("2021-01-01") + np.timedelta64(acquisition.day, "D")
    date = str(day).replace("-", "")
    time = f"{7 + image % 13:02d}{image * 7 % 60:02d}{image * 11 % 60:02d}"
    film.SpecificCharacterSet = "ISO_IR 100"
    film.ImageType = ["ORIGINAL", "PRIMARY"]
    film.StudyDate = film.SeriesDate = film.AcquisitionDate = film.ContentDate = date
    film.StudyTime = film.SeriesTime = film.AcquisitionTime = film.ContentTime = time
    film.AccessionNumber = f"SY{image:06d}"
    film.ReferringPhysicianName = ""
    film.StudyDescription = "Chest radiograph (synthetic)"
    film.PatientName = f"Phantom^{acquisition.patient:06d}"
    film.PatientID = f"PH{acquisition.patient:06d}"
    film.PatientBirthDate = ""
    film.PatientSex = acquisition.sex
    film.PatientAge = f"{acquisition.age:03d}Y"
    film.StudyInstanceUID = make_uid(seed, "study", image)
    film.SeriesInstanceUID = make_uid(seed, "series", image)
    film.StudyID = str(image)
    film.SeriesNumber = 1
    film.InstanceNumber = 1


def _describe_equipment(film: FileDataset, acquisition: Acquisition, maker: Maker) -> None:
    film.Modality = maker.modality
    film.Manufacturer = maker.name
    film.ManufacturerModelName = maker.model
    film.InstitutionName = f"Site {acquisition.site}"
    film.BodyPartExamined = "CHEST"
    film.ViewPosition = acquisition.view
    film.PatientOrientation = ["L", "F"]
    if maker.modality == "DX":
        film.PresentationIntentType = "FOR PRESENTATION"
        film.ImageLaterality = "U"
        film.PixelIntensityRelationship = "LOG"
        film.PixelIntensityRelationshipSign = -1 if maker.inverted else 1
        film.PresentationLUTShape = "INVERSE" if maker.inverted else "IDENTITY"
        film.LossyImageCompression = "00"


def _describe_pixels(film: FileDataset, pixels: NDArray[np.float32], maker: Maker) -> None:
    stored = maker.encode(pixels)
    spacing = round(FIELD_OF_VIEW / min(pixels.shape), 4)
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = "MONOCHROME1" if maker.inverted else "MONOCHROME2"
    film.Rows, film.Columns = stored.shape
    film.ImagerPixelSpacing = [spacing, spacing]
    if maker.modality == "CR":
        film.PixelSpacing = [spacing, spacing]
    film.BitsAllocated = 16
    film.BitsStored = maker.bits
    film.HighBit = maker.bits - 1
    film.PixelRepresentation = int(maker.signed)
    film.WindowCenter = maker.centre
    film.WindowWidth = maker.width
    film.RescaleIntercept = maker.intercept
    film.RescaleSlope = maker.slope
    film.RescaleType = "US"
    film.PixelData = stored.astype("<i2" if maker.signed else "<u2").tobytes()
    film["PixelData"].VR = "OW"
