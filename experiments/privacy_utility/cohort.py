"""Whose volumes a comparison is about: who is public, who trains, who is tested."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.dataset import VolumeDataset
from client.site_config import Compute, Selection, SiteConfig
from common.artifact import write_text_atomic
from common.study import Study

ONE_THREAD = Compute(threads=1)  # jobs run side by side


@dataclass(frozen=True)
class Group:
    """Some patients of one data folder.

    Attributes:
        data: The folder.
        table: Patient table with the columns site and part.
        site: Value of the column ``site``.
        parts: Values of the column ``part``.
    """

    data: Path
    table: Path
    site: str
    parts: tuple[str, ...]

    def config(self, state: Path, compute: Compute) -> SiteConfig:
        """Return a site file for these patients, with the site's files under ``state``."""
        return SiteConfig(
            name=self.site,
            data=self.data,
            patients=self.table,
            select=Selection(site=self.site, part=self.parts),
            state=state,
            # Of the voxels, whoever asks for them: preprocessed once for all jobs.
            cache=self.data.parent / f"cache-{self.data.name}",
            compute=compute,
        )

    def dataset(self, study: Study, state: Path) -> VolumeDataset:
        """Return the patients' volumes."""
        return VolumeDataset.open(self.config(state, ONE_THREAD), study.volume)


@dataclass(frozen=True)
class Replicate:
    """One public model, sites that train on it, and patients to measure on.

    Attributes:
        name: Short name.
        unit: What is new in it: replicates of one unit are averaged.
        study: The public model's study, whose networks every arm has.
        training: Patients of each site.
        test: Patients whom no model saw.
        nominal_patients: Public number of patients of each site.
        sampling_rate: q.
        seed: Of the additions' initial values and of the synthetic volumes; noise has none.
    """

    name: str
    unit: str
    study: Study
    training: Mapping[str, Group]
    test: Sequence[Group]
    nominal_patients: int
    sampling_rate: float
    seed: int


def write_table(path: Path, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Write a patient table of (file, patient, site, part)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("file", "patient", "site", "part"), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text.getvalue())
