"""A site of Flower's simulation: in the courier's own process, found by its number.

Sites are kept for the life of the process, so that a simulation loads volumes once.
"""

import functools
import os
from pathlib import Path

from client.site import Site
from client.site_config import load_site_config
from common.errors import ConfigError, ErrorCode, RunError
from common.federation.headers import FailureHeader, FollowUp, Introduction, OrderHeader, Question
from common.federation.packet import Packet
from common.federation.packing import order_from_packet, report_to_packet
from common.release import release
from common.study import load_study

STUDY_VARIABLE = "FEDVOX_STUDY"
SIMULATED_SITES_VARIABLE = "FEDVOX_SIMULATED_SITES"


class SimulatedDesk:
    """Does an order while the courier waits.

    Args:
        site_file: The site's file, in a folder of the site's name.
    """

    def __init__(self, site_file: Path) -> None:
        self._site_file = site_file

    def answer(self, packet: Packet) -> Packet:
        """Return the site's name, for which no volume is opened, or the report to an order."""
        name = self._site_file.parent.name
        header = packet.read()
        if isinstance(header, Question):
            return Packet.of(Introduction(nonce=header.nonce, site=name, release=release()))
        if isinstance(header, FollowUp):  # what is not done at once was lost with its process
            return Packet.of(FailureHeader(order_id=header.order_id, site=name, code=ErrorCode.UNKNOWN))
        order_id = packet.read_as(OrderHeader).order_id
        report = _open_site(self._site_file, _study_file()).execute(order_from_packet(packet))
        return report_to_packet(report, order_id)


def simulated_desk(index: object) -> SimulatedDesk:
    """Return the site of a node.

    Args:
        index: Number of the node.

    Raises:
        RunError: This process belongs to no simulation.
        ConfigError: The simulation has no site for the node.
    """
    folder = os.environ.get(SIMULATED_SITES_VARIABLE)
    if not folder:
        raise RunError("the node names no agent", "start it with --node-config 'agent-socket=\"...\"'")
    files = sorted(Path(folder).glob("*/site.yaml"))
    if not isinstance(index, int) or not 0 <= index < len(files):
        raise ConfigError(f"{folder} holds no site for this node", "let `fedvox study run` write them")
    return SimulatedDesk(files[index])


@functools.cache
def _open_site(site_file: Path, study_file: Path) -> Site:
    return Site(load_site_config(site_file), load_study(study_file))


def _study_file() -> Path:
    named = os.environ.get(STUDY_VARIABLE)
    if not named:
        raise RunError("no study given to the simulated site", f"set {STUDY_VARIABLE}")
    return Path(named)
