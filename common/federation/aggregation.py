"""How a study's reports are combined: a mean, or a rule that bounds what one bad site can do."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from common.frozen import FrozenModel


class MeanConfig(FrozenModel):
    """The weighted mean: any site can move it anywhere that a valid report can be."""

    kind: Literal["mean"] = "mean"

    fewest_reports: ClassVar[int] = 1


class NormClippingConfig(FrozenModel):
    """The weighted mean, after longer changes were shortened.

    Attributes:
        times_median: Longest change, in medians of the sites' changes.
    """

    kind: Literal["norm_clipping"] = "norm_clipping"
    times_median: PositiveFloat = 1.0
    fewest_reports: ClassVar[int] = 3  # the median of two norms is drawn along by either


class MedianConfig(FrozenModel):
    """The median of every number (Yin et al. 2018)."""

    kind: Literal["median"] = "median"
    fewest_reports: ClassVar[int] = 3  # the median of two is their mean


class TrimmedMeanConfig(FrozenModel):
    """The mean of every number, without the largest and smallest (Yin et al. 2018).

    Attributes:
        trim: How many are left out at each end.
    """

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    trim: PositiveInt = 1

    @property
    def fewest_reports(self) -> int:
        """Reports that the rule needs."""
        return 2 * self.trim + 1


class KrumConfig(FrozenModel):
    """The report of one site, the one that is nearest to its neighbours (Blanchard et al. 2017).

    Attributes:
        faulty: Sites f that may send anything.
    """

    kind: Literal["krum"] = "krum"
    faulty: PositiveInt = 1

    @property
    def fewest_reports(self) -> int:
        """Reports that the rule needs: 2f + 3 (Blanchard et al. 2017, Proposition 1)."""
        return 2 * self.faulty + 3


AggregationConfig = Annotated[
    MeanConfig | NormClippingConfig | MedianConfig | TrimmedMeanConfig | KrumConfig,
    Field(discriminator="kind"),
]
WEIGHTED = ("mean", "norm_clipping")
"""Rules that know of weights, and that sums can be combined by."""
