"""What an accountant is told of a mechanism.

Every mechanism of fedvox is the same: patients are drawn by independent coins of rate q, each one's
contribution is clipped to a norm of C, and Gaussian noise of standard deviation sigma C is added to the
sum. One such sum is a step. Neighbouring datasets differ by one patient's being there or not, so the
sensitivity of a step is C (Abadi et al. 2016, with all volumes of a patient as one example).
"""

from typing import Annotated

from pydantic import Field

from common.frozen import FrozenModel

SamplingRate = Annotated[float, Field(gt=0, le=1)]
NoiseMultiplier = Annotated[float, Field(ge=1e-9, le=1e6)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
"""Bounds within which the accountants answer in seconds, and beyond which nothing is worth asking."""


class SampledGaussian(FrozenModel):
    """``steps`` Poisson-sampled Gaussian sums.

    Attributes:
        sampling_rate: Probability q that a patient takes part in a step; 1 is everyone.
        noise_multiplier: sigma: standard deviation of the noise over the clip norm.
        steps: Steps that were begun, also those whose result was lost.
    """

    sampling_rate: SamplingRate
    noise_multiplier: NoiseMultiplier
    steps: Steps

    def repeated(self, times: int) -> "SampledGaussian":
        """Return the event for a patient whom ``times`` sites know: the steps of all of them."""
        return SampledGaussian.model_validate(self.model_dump() | {"steps": self.steps * times})
