"""Phantom hospitals on disk, as a scanner's export: 16-bit NIfTI in the scanner's own orientation.

    FOLDER/images/north-000-left_0000.nii.gz   before contrast agent; _0001 early, _0002 late
    FOLDER/labels/north-000-left.nii.gz        values of `Tissue`
    FOLDER/patients.csv                        file, patient, class (1 with a lesion, else 0)
    FOLDER/phantom.json                        what the set was made from

The same hospital and seed give the same bytes (with one build of zlib).
"""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations

from common.artifact import replaced_folder
from common.errors import RunError
from common.frozen import fingerprint
from experiments.phantom.exam import Appointment, all_appointments, make_exam
from experiments.phantom.hospital import Hospital

PHANTOM_VERSION = 1  # raised whenever the same seed gives other bits
IDENTITY = "phantom.json"
COMPRESSION_LEVEL = 1  # noise hardly compresses; more effort only costs time
SCANNER_COORDINATES = 1  # NIFTI_XFORM_SCANNER_ANAT


def write_hospital(hospital: Hospital, folder: Path, seed: int) -> None:
    """Write all exams of ``hospital`` into ``folder``; see `write_hospitals`."""
    write_hospitals([hospital], folder, seed)


def write_hospitals(hospitals: Sequence[Hospital], folder: Path, seed: int) -> None:
    """Write all exams of some hospitals into one folder, all or nothing.

    A folder that already holds this set is left as it is.

    Args:
        hospitals: Whose patients.
        folder: Where to; absent, empty, or written by an earlier call with the same arguments.
        seed: Seed of the whole phantom set.

    Raises:
        RunError: ``folder`` holds something else.
        ArtifactError: The disk is full or not writable; ``folder`` is as it was before.
    """
    identity = _identity(hospitals, seed)
    if _holds(folder, identity):
        return
    exams = [exam for hospital in hospitals for exam in all_appointments(hospital, seed)]
    with replaced_folder(folder) as partial:
        (partial / "images").mkdir()
        (partial / "labels").mkdir()
        for exam in exams:
            _write_exam(exam, partial)
        _write_table(exams, partial / "patients.csv")
        (partial / IDENTITY).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")


def _identity(hospitals: Sequence[Hospital], seed: int) -> dict[str, Any]:
    """Return what decides every bit of the set."""
    return {
        "version": PHANTOM_VERSION,
        "seed": seed,
        "hospital": ", ".join(hospital.name for hospital in hospitals),
        "config_sha256": ", ".join(fingerprint(hospital) for hospital in hospitals),
    }


def _holds(folder: Path, identity: dict[str, Any]) -> bool:
    """Return whether ``folder`` already is this set; False if it is absent or empty.

    Raises:
        RunError: It holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        if json.loads((folder / IDENTITY).read_text(encoding="utf-8")) == identity:
            return True
    except (OSError, ValueError):
        pass
    raise RunError(
        f"{folder} is not empty and does not hold phantom hospital {identity['hospital']} "
        f"of seed {identity['seed']}",
        "choose another folder, or remove this one",
    )


def _write_exam(appointment: Appointment, folder: Path) -> None:
    exam = make_exam(appointment)
    orientation = appointment.hospital.scanner.orientation
    for phase, channel in enumerate(exam.channels):
        path = folder / "images" / f"{appointment.name}_{phase:04d}.nii.gz"
        path.write_bytes(_nifti_bytes(channel.astype(np.int16), exam.affine, orientation))
    path = folder / "labels" / f"{appointment.name}.nii.gz"
    path.write_bytes(_nifti_bytes(exam.labels, exam.affine, orientation))


def _nifti_bytes(voxels: np.ndarray, affine: np.ndarray, orientation: str) -> bytes:
    """Return a compressed NIfTI file of RAS ``voxels``, stored in ``orientation``."""
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(orientation)
    )
    image = nib.Nifti1Image(voxels, affine).as_reoriented(turn)
    image.set_qform(image.affine, code=SCANNER_COORDINATES)
    image.set_sform(image.affine, code=SCANNER_COORDINATES)
    image.header.set_xyzt_units(xyz="mm")
    image.header["descrip"] = b"fedvox phantom, no patient"
    buffer = io.BytesIO()
    # An empty name and time 0 keep gzip's own header from telling one run from another.
    with gzip.GzipFile(
        filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=buffer, mtime=0
    ) as file:
        file.write(image.to_bytes())
    return buffer.getvalue()


def _write_table(exams: list[Appointment], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "patient", "class"])
        writer.writerows([exam.name, exam.patient, int(exam.has_lesion)] for exam in exams)
