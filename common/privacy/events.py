"""What an accountant is told of a mechanism.

Every mechanism of fedvox is the same: patients are drawn by independent coins of rate q, each one's
contribution is clipped to a norm of C, and Gaussian noise of standard deviation sigma C is added to the
sum. One such sum is a step. Neighbouring datasets differ by one patient's being there or not, so the
sensitivity of a step is C (Abadi et al. 2016, with all volumes of a patient as one example).
"""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from common.frozen import FrozenModel

SamplingRate = Annotated[float, Field(gt=0, le=1)]


class SampledGaussian(FrozenModel):
    """``steps`` Poisson-sampled Gaussian sums.

    Attributes:
        sampling_rate: Probability q that a patient takes part in a step; 1 is everyone.
        noise_multiplier: sigma: standard deviation of the noise over the clip norm.
        steps: Steps that were begun, also those whose result was lost.
    """

    sampling_rate: SamplingRate
    noise_multiplier: PositiveFloat
    steps: PositiveInt

    def repeated(self, times: int) -> "SampledGaussian":
        """Return the event for a patient whom ``times`` sites know: the steps of all of them."""
        return self.model_copy(update={"steps": self.steps * times})
