"""Real T1 MRI around the hippocampus: twelve public subjects, ninety in three sites, five folds.

Public are the subjects whose images have the largest range of values, all above 1e4: one source of the data
set, as a hospital might find one in the open. The others are dealt to sites and folds by the SHA-256 of a
seed and the subject, which no version of a random generator can change. A subject is a ``pair``: both sides
of one person stay together.
"""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import DataError
from common.study import Study
from experiments.privacy_utility.cohort import Group, Replicate, write_table
from experiments.privacy_utility.settings import Settings

NUM_PUBLIC, NUM_FOLDS = 12, 5
SITES = ("east", "north", "west")
SEED = 20261
PUBLIC_SITE = "open"


class Hippocampus:
    """The MRI, dealt out.

    Args:
        data: Folder with ``images`` and ``manifest.csv``.
        folder: Where the table is written.
        settings: Folds and sampling rate.

    Raises:
        DataError: The data is not there.
    """

    def __init__(self, data: Path, folder: Path, settings: Settings) -> None:
        if not (data / "manifest.csv").is_file():
            raise DataError(
                f"{data} holds no manifest.csv", "name the folder above hippocampus-mri as --data"
            )
        self.data = data.resolve()
        self.settings = settings
        self.table = folder.resolve() / "hippocampus.csv"
        write_table(self.table, dealt(_manifest(data)))

    def public(self) -> Group:
        """Return the public subjects."""
        return Group(self.data, self.table, PUBLIC_SITE, ("public",))

    def replicate(self, fold: int, seed: int, study: Study, public: str) -> Replicate:
        """Return the sites without the subjects of ``fold``, who are the test; ``public`` names its model."""
        others = tuple(f"fold{index}" for index in range(NUM_FOLDS) if index != fold)
        patients = (len(_subjects(self.table)) - NUM_PUBLIC) * len(others) // (NUM_FOLDS * len(SITES))
        return Replicate(
            name=f"mri-from-{public}-f{fold}-s{seed}",
            unit=f"fold {fold}",
            study=study,
            training={site: Group(self.data, self.table, site, others) for site in SITES},
            test=[Group(self.data, self.table, site, (f"fold{fold}",)) for site in SITES],
            nominal_patients=patients,
            sampling_rate=self.settings.mri_sampling_rate,
            seed=seed,
        )


def dealt(manifest: Sequence[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Return (file, subject, site, part) of every image."""
    spread: dict[str, float] = {}
    for row in manifest:
        is_float = row["dtype"].startswith("float")
        reach = float(row["imax"]) - float(row["imin"]) if is_float else 0.0
        spread[row["pair"]] = max(reach, spread.get(row["pair"], 0.0))
    public = sorted(spread, key=lambda subject: (-spread[subject], subject))[:NUM_PUBLIC]
    place = dict.fromkeys(public, (PUBLIC_SITE, "public"))
    for position, subject in enumerate(sorted(spread.keys() - place.keys(), key=_order)):
        place[subject] = (SITES[position % len(SITES)], f"fold{position // len(SITES) % NUM_FOLDS}")
    return [(f"{row['case']}.nii.gz", row["pair"], *place[row["pair"]]) for row in manifest]


def _order(subject: str) -> str:
    return hashlib.sha256(f"{SEED} {subject}".encode()).hexdigest()


def _manifest(data: Path) -> list[dict[str, str]]:
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _subjects(table: Path) -> set[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return {row["patient"] for row in csv.DictReader(file)}
