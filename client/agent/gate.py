"""Whether an order is one that the site has agreed to do, decided by its header alone.

No volume is opened and no tensor parsed. The courier is taken for hostile: it may send anything, and what
counts is the coordinator's seal and what the site's own people have approved.
"""

from client.approval import Approval, Approvals
from common.errors import ConfigError, UnapprovedError, VersionError
from common.federation.headers import PROTOCOL, OrderHeader, header_from_bytes
from common.federation.packet import sections_of
from common.federation.sealing import verified_header
from common.federation.stage import Stage
from common.order_tensors import OrderTensors
from common.study import Study

LONGEST_DEADLINE_S = 7 * 24 * 3600.0


class Gate:
    """Lets approved orders through.

    Args:
        site: Name of the site.
        approvals: What its people have agreed to.
    """

    def __init__(self, site: str, approvals: Approvals) -> None:
        self._site = site
        self._approvals = approvals
        self._tensors: dict[tuple[str, Stage], OrderTensors] = {}

    def order(self, header: bytes, seal: bytes) -> tuple[OrderHeader, Approval]:
        """Return the header of an order that may be done, and by whose leave.

        Raises:
            VersionError: It is of another protocol.
            UnapprovedError: Its study is not approved, or it goes beyond what was approved.
            SealError: The study's coordinator did not seal it.
            ConfigError: It is for another site, or its tensors are not those of the study.
            WireError: It is no order.
        """
        claimed = header_from_bytes(header)
        if not isinstance(claimed, OrderHeader):
            raise ConfigError(f"a {claimed.kind} where an order belongs", "compare fedvox versions")
        approval = self._approvals.of(claimed.study_digest)
        verified_header(header, seal, approval.key)
        if claimed.protocol != PROTOCOL:
            raise VersionError(
                f"the coordinator speaks protocol {claimed.protocol}, this site {PROTOCOL}",
                "install the same release of fedvox",
            )
        self._refuse_beyond(claimed, approval)
        return claimed, approval

    def _refuse_beyond(self, header: OrderHeader, approval: Approval) -> None:
        study = approval.study
        if header.site != self._site or self._site not in study.federation.sites:
            raise ConfigError(
                f"an order for site {header.site}", "check federation.sites and the site's name"
            )
        if not header.run:
            raise ConfigError("an order without a run", "compare fedvox versions")
        rounds = study.schedule_of(header.stage).rounds
        if header.round_index > rounds:
            raise UnapprovedError(
                f"{header.stage.value} round {header.round_index} of {rounds} that were approved",
                "approve a study with more rounds",
            )
        if header.deadline_s > LONGEST_DEADLINE_S:
            raise ConfigError(f"a deadline of {header.deadline_s:.0f} s", "lower federation.round_deadline_s")
        expected = self._tensors_of(study, header.stage)
        sizes = {name: section.size for name, section in sections_of(header).items()}
        if header.manifest != expected.manifest or not sizes.items() <= expected.sizes.items():
            raise ConfigError("an order for tensors that are not the study's", "compare fedvox versions")

    def _tensors_of(self, study: Study, stage: Stage) -> OrderTensors:
        key = (study.digest, stage)
        if key not in self._tensors:
            self._tensors[key] = OrderTensors.of(study, stage)
        return self._tensors[key]
