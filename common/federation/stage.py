"""The stages of a study."""

import enum


class Stage(enum.Enum):
    """The two stages of a study, in the order they run."""

    CODEC = "codec"
    DIFFUSION = "diffusion"
