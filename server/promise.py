"""What a model says of differential privacy: in its manifests, and to whoever reads them."""

from typing import Any

from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.study import Study


def promise(study: Study) -> dict[str, Any] | None:
    """Return what the study promises to one patient of one site; None if it promises nothing."""
    if study.privacy is None:
        return None
    plan = study.private_plans[Stage.DIFFUSION]
    return {
        "epsilon": round(epsilon(study.private_events, study.privacy.delta), 4),
        "delta": study.privacy.delta,
        "unit": plan.unit,
        "relation": plan.relation,
        "mechanism": "Poisson-sampled Gaussian sums of clipped per-patient gradients",
        "stages": {
            stage.value: {
                "sampling_rate": plan.sampling_rate,
                "noise_multiplier": plan.noise_multiplier,
                "clip_norm": plan.clip_norm,
                "steps_paid_for": plan.steps,
            }
            for stage, plan in study.private_plans.items()
        },
        "public_model": study.privacy.public_model,
        "covers": "training at each site, by that site's own noise; not the choice of settings, and no "
        "measurement on patients that came after it",
    }
