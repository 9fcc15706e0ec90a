"""A site: does the orders of one study on its own volumes, and answers with tensors or a code.

The same object runs inside Flower's simulation, in tests and at a hospital; only who calls
`execute` differs. Whatever goes wrong inside, what leaves is one of the codes of `ErrorCode`; the
text stays in the site's own log. In a private study, what patients can decide has one code.
"""

import errno
import logging

import torch

from client.admission import check_admitted
from client.codec_stage import train_codec_round
from client.cohort import check_cohort
from client.compute import applied
from client.dataset import VolumeDataset
from client.diffusion_stage import train_diffusion_round
from client.latent_store import LatentStore
from client.private_round import PrivateRounds
from client.progress import ProgressFile, StepCallback
from client.site_config import SiteConfig
from client.training_round import SiteContext
from common.errors import ErrorCode, FedvoxError
from common.federation.allow_list import check_report
from common.federation.messages import FailureReport, Report, TrainOrder, TrainReport
from common.federation.stage import Stage
from common.report_rules import rules_for
from common.study import Study

logger = logging.getLogger("fedvox.site")

SAYS_NOTHING_OF_PATIENTS = {
    ErrorCode.CONFIG,
    ErrorCode.NEED_FROZEN,
    ErrorCode.BUDGET,
    ErrorCode.LEDGER,
    ErrorCode.CANCELLED,
    ErrorCode.DEADLINE,
}


class Site:
    """One site of one study.

    Args:
        config: The site's own file: data, device, state folder.
        study: The study as the site knows it; orders of another are refused.
        stream: Name that the site's random streams are keyed with; the site's own name unless a
            test wants two sites to draw alike.
        on_step: Called after every local step; by default progress is written to the state folder.
    """

    def __init__(
        self,
        config: SiteConfig,
        study: Study,
        stream: str | None = None,
        on_step: StepCallback | None = None,
    ) -> None:
        self.config = config
        self.study = study
        self.stream = stream or config.name
        self.on_step = on_step or ProgressFile(config.state / "progress.json")
        self._dataset: VolumeDataset | None = None
        self._private: dict[Stage, PrivateRounds] = {}

    @property
    def name(self) -> str:
        """The site's name in the study."""
        return self.config.name

    @property
    def dataset(self) -> VolumeDataset:
        """The site's volumes, opened and checked at first use.

        Raises:
            DataError: A file is not what the study needs.
        """
        if self._dataset is None:
            self._dataset = VolumeDataset.open(self.config, self.study.volume)
        return self._dataset

    def execute(self, order: TrainOrder, on_step: StepCallback | None = None) -> Report:
        """Do one order; never raises for what an order or a file can cause.

        Args:
            order: What to do.
            on_step: Called after every local step instead of the site's own; what it raises stops the order.
        """
        try:
            report = self._train(order, on_step or self.on_step)
            check_report(report, order, rules_for(self.study, order))
        except Exception as error:
            logger.exception("order refused or failed")
            return FailureReport(self.name, self._told(code_of(error)))
        return report

    def _told(self, code: ErrorCode) -> ErrorCode:
        """Return what the coordinator may know: in a private study, nothing that patients can decide."""
        return code if self.study.privacy is None or code in SAYS_NOTHING_OF_PATIENTS else ErrorCode.INTERNAL

    def _train(self, order: TrainOrder, on_step: StepCallback) -> TrainReport:
        if order.study_digest != self.study.digest or order.site != self.name:
            raise WrongOrderError(f"order for study {order.study_digest[:12]}, site {order.site}")
        check_admitted(self.config, self.study)
        if self.study.privacy is None:  # else one patient would decide; it was checked at approval
            check_cohort(self.config, self.study.volume)
        if self.study.privacy is not None and order.stage not in self.study.private_plans:
            raise WrongOrderError(f"the study does not train its {order.stage.value} privately")
        # No data without its book.
        private = None if self.study.privacy is None else self._private_rounds(order.stage)
        with applied(self.config.compute) as device:
            context = SiteContext(self.study, self.dataset, self.config.compute, device, self.stream, on_step)
            store = LatentStore(self.config.state / "latents", self.study, device)
            if private is not None:
                return private.execute(order, context, store)
            if order.stage is Stage.CODEC:
                return train_codec_round(order, context)
            return train_diffusion_round(order, context, store)

    def _private_rounds(self, stage: Stage) -> PrivateRounds:
        if stage not in self._private:
            self._private[stage] = PrivateRounds(self.study, stage, self.config.policy)
        return self._private[stage]


def code_of(error: Exception) -> ErrorCode:
    """Return the code that stands for an error."""
    match error:
        case FedvoxError():
            return error.code
        case torch.OutOfMemoryError():
            return ErrorCode.MEMORY
        case torch.AcceleratorError():
            return ErrorCode.DEVICE
        case OSError():
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            return ErrorCode.DISK if full else ErrorCode.DATA
        case _:
            return ErrorCode.INTERNAL


class WrongOrderError(FedvoxError):
    """An order of another study, or for another site."""

    code = ErrorCode.CONFIG
