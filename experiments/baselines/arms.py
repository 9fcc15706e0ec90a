"""The models that are compared: what each learns from, and for how many steps.

Equal steps means R x S sequential optimizer steps of one batch size. A federated site makes S in each
of R rounds; the pooled and local-only models make the same R x S alone. The pooled model also gets
three times as many, which is what three sites compute together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.site_config import Compute, Selection, SiteConfig
from common.errors import RunError
from common.study import Study
from experiments.study_file import with_sites

LONGER = 3


@dataclass(frozen=True)
class Arm:
    """One model of the comparison.

    Attributes:
        name: ``federated``, ``pooled``, ``pooled-3x`` or ``local-SITE``.
        study: The study with this arm's sites and rounds.
        selections: The rows of the split that each site of the arm learns from.
    """

    name: str
    study: Study
    selections: Mapping[str, Selection]

    def site_configs(self, data: Path, split: Path, folder: Path, compute: Compute) -> dict[str, SiteConfig]:
        """Return the site files of this arm, with their state under ``folder``."""
        return {
            site: SiteConfig(
                name=site,
                data=data,
                patients=split,
                select=selection,
                compute=compute,
                state=folder / "sites" / site,
            )
            for site, selection in self.selections.items()
        }


def arms_of(study: Study, parts: tuple[str, ...]) -> tuple[Arm, ...]:
    """Return every arm of the comparison for one study.

    Args:
        study: The federated study.
        parts: Parts of the split that a generator may learn from.

    Raises:
        RunError: The study is private: equal steps would not be equal privacy, and these arms keep no ledger.
    """
    if study.privacy is not None:
        raise RunError(
            f"study {study.name} is private, and this comparison is of models without noise",
            "leave its privacy section out",
        )
    own = {site: Selection(site=site, part=parts) for site in study.federation.sites}
    everyone = {"pooled": Selection(part=parts)}
    alone = with_sites(study, ("pooled",))
    return (
        Arm("federated", study, own),
        Arm("pooled", alone, everyone),
        Arm(f"pooled-{LONGER}x", _with_rounds(alone, LONGER), everyone),
        *(Arm(f"local-{site}", with_sites(study, (site,)), {site: own[site]}) for site in own),
    )


def _with_rounds(study: Study, factor: int) -> Study:
    """Return ``study`` with every step of its schedules ``factor`` times as far along."""
    codec, diffusion = (
        stage.model_copy(
            update={"training": stage.training.model_copy(update={"rounds": factor * stage.training.rounds})}
        )
        for stage in (study.codec, study.diffusion)
    )
    discriminator = codec.model.discriminator
    if discriminator is not None:  # the same share of the stage is adversarial
        later = discriminator.model_copy(update={"start_step": factor * discriminator.start_step})
        codec = codec.model_copy(update={"model": codec.model.model_copy(update={"discriminator": later})})
    return study.model_copy(update={"codec": codec, "diffusion": diffusion})
