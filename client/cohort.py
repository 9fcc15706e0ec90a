"""Whether a site has the patients that its own policy asks for, told from names alone."""

from client.dataset import listed_exams
from client.site_config import SiteConfig
from common.errors import DataError
from common.volume.spec import VolumeSpec


class SmallCohortError(DataError):
    """Fewer patients than the site's own policy asks for."""


def check_cohort(config: SiteConfig, spec: VolumeSpec) -> int:
    """Return how many patients the site has; no volume is opened.

    Raises:
        SmallCohortError: They are too few.
        DataError: The folder or the patient table is not what the study needs.
    """
    exams = listed_exams(config, spec)
    patients = len({files.exam if row is None else row.patient for files, row in exams})
    if patients < config.policy.min_patients:
        raise SmallCohortError(
            f"{patients} patients, and policy.min_patients is {config.policy.min_patients}",
            "take part when there are more, or ask your data protection officer for another limit",
        )
    return patients
