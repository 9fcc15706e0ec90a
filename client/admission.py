"""Whether a site takes part in a study: its own policy decides, before any patient is read."""

import functools

from client.site_config import SiteConfig
from common.errors import ErrorCode, PrivacyError
from common.privacy.accountant import epsilon
from common.privacy.events import SampledGaussian
from common.study import Study


class PolicyError(PrivacyError):
    """A study that the site's policy does not allow."""

    code = ErrorCode.CONFIG


def check_admitted(config: SiteConfig, study: Study) -> None:
    """Return if the site takes part in the study.

    Raises:
        PolicyError: It does not; the message says which line of site.yaml is why.
    """
    if study.federation.quorum < config.policy.min_sites:
        raise PolicyError(
            f"study {study.name} goes on with {study.federation.quorum} sites, and this one asks for "
            f"{config.policy.min_sites}",
            "the coordinator must raise federation.min_sites",
        )
    if study.privacy is None:
        if config.policy.refuses_studies_without_privacy:
            raise PolicyError(
                f"study {study.name} has no differential privacy, and what it tells is in no ledger",
                "the coordinator must add a privacy section; policy.require_privacy: false allows it all the "
                "same",
            )
        return
    _refuse_unknown_patients(config, study)
    _refuse_above_cap(config, study)


def _refuse_unknown_patients(config: SiteConfig, study: Study) -> None:
    """A person with two exams that count as two patients is protected half as well as is said."""
    if not config.knows_its_patients:
        raise PolicyError(
            f"study {study.name} protects patients, and nobody has said which exams are of one person",
            "name a table of files and patients as `patients` in site.yaml (simulated: patients.csv in the "
            "site's folder), or say one_exam_per_patient: true if it is so",
        )


def _refuse_above_cap(config: SiteConfig, study: Study) -> None:
    policy = config.policy
    if policy.epsilon is None:
        raise PolicyError(
            f"study {study.name} spends privacy, and site.yaml sets no cap",
            "set policy.epsilon, policy.delta and policy.ledger",
        )
    spends = _epsilon_of(study.private_events, policy.delta)
    if not spends <= policy.epsilon:
        raise PolicyError(
            f"study {study.name} may spend epsilon {spends:.3f} at delta {policy.delta:g}, above "
            f"policy.epsilon {policy.epsilon:g}",
            "raise the cap only if the data protection officer agrees",
        )


@functools.lru_cache(maxsize=8)
def _epsilon_of(events: tuple[SampledGaussian, ...], delta: float) -> float:
    """Return what all private stages spend, at the site's own delta; every order asks for it."""
    return epsilon(events, delta)
