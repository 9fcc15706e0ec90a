"""Whether the coordinator's disk holds a study, asked before it begins.

Flower's database holds a round's messages until they are fetched, in write-ahead pages as well; the driver
spools the reports; two checkpoints are there while one follows the other.
"""

import shutil
from pathlib import Path

from common.errors import RunError
from common.federation.stage import Stage
from common.order_tensors import OrderTensors
from common.study import Study

COPIES_PER_SITE = 3  # a report in the database, in its write-ahead log, in the spool (measured: below 3)
COPIES = 8  # of the model: the order in the database and its log, checkpoints with moments and averages
SPARE_BYTES = 1 << 30  # logs, the finished run's volumes


def disk_need(study: Study) -> int:
    """Return the bytes that a study may fill at the coordinator."""
    stages = [stage for stage in Stage if study.schedule_of(stage).rounds]
    model = max(sum(OrderTensors.of(study, stage).sizes.values()) for stage in stages)
    return model * (COPIES_PER_SITE * len(study.federation.sites) + COPIES) + SPARE_BYTES


def refuse_full_disk(study: Study, *folders: Path) -> None:
    """Return if every folder's disk has room for the study.

    Raises:
        RunError: One has not.
    """
    needed = disk_need(study)
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise RunError(
                f"{free / 1e9:.1f} GB are free in {folder}, and this study may fill {needed / 1e9:.1f} GB",
                "free some disk space, or use another folder",
            )
