"""What a study may fill of the coordinator's disk, told before it begins.

Flower's database holds a round's messages until they are fetched, in write-ahead pages as well; the driver
spools the reports; two checkpoints are there while one follows the other.
"""

from common.federation.stage import Stage
from common.order_tensors import OrderTensors
from common.study import Study

COPIES_PER_SITE = 3  # a report in the database, in its write-ahead log, in the spool (measured: below 3)
COPIES = 8  # of the model: the order in the database and its log, checkpoints with moments and averages
SPARE_BYTES = 1 << 30  # logs, the finished run's volumes
LOG_BYTES = 16 << 20


def disk_need(study: Study) -> int:
    """Return the bytes that a study may fill at the coordinator."""
    return largest_message(study) * (COPIES_PER_SITE * len(study.federation.sites) + COPIES) + SPARE_BYTES


def least_room(study: Study) -> int:
    """Return the bytes without which no round can go on, whatever the study has filled already."""
    return largest_message(study) + LOG_BYTES


def largest_message(study: Study) -> int:
    """Return the bytes of the largest order; no report has more."""
    stages = [stage for stage in Stage if study.schedule_of(stage).rounds]
    return max(sum(OrderTensors.of(study, stage).sizes.values()) for stage in stages)
