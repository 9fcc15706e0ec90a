"""One arm: the public model, trained privately on a replicate's sites by the code that hospitals run."""

from functools import cache, partial
from pathlib import Path
from typing import Any

from client.policy import Policy
from client.private.ledger import Ledger
from client.site_config import SiteConfig
from common.frozen import parse
from common.privacy.accountant import epsilon
from common.privacy.plan import PrivacyPlan, calibrate
from common.study import Study
from experiments.in_process import run_in_process
from experiments.privacy_utility.cohort import ONE_THREAD, Replicate
from experiments.privacy_utility.public_model import PublicModel
from experiments.privacy_utility.settings import (
    DELTA,
    INFINITE,
    NO_NOISE,
    TRAINABLE_SETS,
    Candidate,
    Settings,
)
from server.state import GlobalState, start_from_public

_MARGIN = 1 + 1e-9  # over the epsilon of next to no noise, which is only there to be written down


def private_study(
    replicate: Replicate, public: PublicModel, candidate: Candidate, target: str, settings: Settings
) -> Study:
    """Return the private study of one arm.

    Args:
        replicate: Sites, numbers of patients, sampling rate.
        public: The model that it starts from.
        candidate: Trainable set and learning rate.
        target: Epsilon, or ``inf``.
        settings: Rounds and draws.
    """
    plan = PrivacyPlan(
        sampling_rate=replicate.sampling_rate,
        nominal_patients=replicate.nominal_patients,
        rounds=settings.rounds,
        noise_multiplier=NO_NOISE,
        draws=settings.draws,
    )
    if target == INFINITE:
        promised = epsilon([plan.event], DELTA) * _MARGIN
    else:
        promised = float(target)
        plan = _calibrated(plan, promised)
    content: dict[str, Any] = public.study.model_dump(mode="json", exclude_none=True)
    content["name"] = replicate.name
    content["seed"] = replicate.seed
    content["codec"].pop("training")
    content["diffusion"]["training"] = {
        "rounds": settings.rounds,
        "local_steps": 1,
        "learning_rate": candidate.learning_rate,
    }
    content["federation"] = {
        "sites": list(replicate.training),
        "strategy": {"kind": "fedadam", "learning_rate": candidate.learning_rate},
    }
    content["privacy"] = {
        "epsilon": promised,
        "delta": DELTA,
        "public_model": public.state.model_digest,
        "trainable": TRAINABLE_SETS[candidate.trainable].model_dump(mode="json", exclude_none=True),
        "diffusion": {
            name: getattr(plan, name)
            for name in ("sampling_rate", "nominal_patients", "noise_multiplier", "draws")
        },
    }
    return parse(Study, content, where=replicate.name)


@cache  # half a minute, and the same for all replicates of a size
def _calibrated(plan: PrivacyPlan, promised: float) -> PrivacyPlan:
    (calibrated,), _ = calibrate([plan], promised, DELTA)
    return calibrated


def train_arm(study: Study, replicate: Replicate, public: PublicModel, folder: Path) -> GlobalState:
    """Return the last state of an arm; an interrupted one goes on.

    Every site has a ledger of its own in ``folder``, marked RESEARCH.
    """
    configs = {
        name: _site_config(replicate, study, name, folder / "sites" / name) for name in replicate.training
    }
    source = {"table": {name: [g.table.name, *g.parts] for name, g in replicate.training.items()}}
    opening = partial(start_from_public, public.state, study)
    return run_in_process(study, configs, folder, source, opening)[1]


def _site_config(replicate: Replicate, study: Study, name: str, state: Path) -> SiteConfig:
    assert study.privacy is not None  # noqa: S101  private_study made it
    ledger = state.resolve() / "ledger"
    if not ledger.exists():
        Ledger.create(ledger)
    policy = Policy(epsilon=study.privacy.epsilon, delta=DELTA, ledger=ledger, mark="RESEARCH")
    config = replicate.training[name].config(state.resolve(), ONE_THREAD)
    return config.model_copy(update={"policy": policy})
