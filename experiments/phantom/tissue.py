"""What a phantom is made of: the label values, and how bright each tissue is before and after contrast agent.

Signals are relative to unsuppressed fat of a T1-weighted gradient echo, and enhancements to the tissue's
own signal, (S(t) - S(0)) / S(0). Their order and rough size follow the signal intensity curves of
dynamic breast MRI (Kuhl et al. 1999, Radiology 211:101; ACR BI-RADS Atlas 2013, MRI): vessels and washing
out lesions peak early, parenchyma rises slowly and little, fat hardly at all.
"""

import enum
from dataclasses import dataclass


class Tissue(enum.IntEnum):
    """Value of a voxel in the phantom's label map."""

    AIR = 0
    SKIN = 1  # with the nipple
    FAT = 2
    FIBROGLANDULAR = 3
    MUSCLE = 4  # pectoral and intercostal
    RIB = 5
    LUNG = 6
    VESSEL = 7
    LESION = 8


class Kinetics(enum.Enum):
    """Shape of a lesion's curve after the early phase."""

    WASHOUT = "washout"
    PLATEAU = "plateau"
    PERSISTENT = "persistent"


@dataclass(frozen=True)
class Enhancement:
    """Relative enhancement of a tissue in the two phases after contrast agent.

    Attributes:
        early: About two minutes after injection.
        late: About six minutes after injection.
    """

    early: float
    late: float

    def scaled(self, factor: float) -> "Enhancement":
        """Return both phases times ``factor``."""
        return Enhancement(self.early * factor, self.late * factor)


BASE_SIGNAL: dict[Tissue, float] = {
    Tissue.AIR: 0.0,
    Tissue.SKIN: 0.50,
    Tissue.FAT: 1.0,
    Tissue.FIBROGLANDULAR: 0.56,
    Tissue.MUSCLE: 0.42,
    Tissue.RIB: 0.20,
    Tissue.LUNG: 0.04,
    Tissue.VESSEL: 0.45,
    Tissue.LESION: 0.50,
}

ENHANCEMENT: dict[Tissue, Enhancement] = {
    Tissue.AIR: Enhancement(0.0, 0.0),
    Tissue.SKIN: Enhancement(0.15, 0.25),
    Tissue.FAT: Enhancement(0.02, 0.03),
    Tissue.FIBROGLANDULAR: Enhancement(0.12, 0.25),
    Tissue.MUSCLE: Enhancement(0.10, 0.16),
    Tissue.RIB: Enhancement(0.05, 0.08),
    Tissue.LUNG: Enhancement(0.10, 0.10),
    Tissue.VESSEL: Enhancement(1.60, 1.10),
}

LESION_ENHANCEMENT: dict[Kinetics, Enhancement] = {
    Kinetics.WASHOUT: Enhancement(1.40, 1.00),
    Kinetics.PLATEAU: Enhancement(1.15, 1.20),
    Kinetics.PERSISTENT: Enhancement(0.80, 1.20),
}
