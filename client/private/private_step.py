"""One step of DP-SGD whose unit is the patient (Abadi et al. 2016, Algorithm 1).

    sum over the drawn patients of clip(gradient of the patient's mean loss, C), plus N(0, (sigma C)^2),
    divided by q N

Whom the sum holds is decided by coins, what it is divided by is public, and the noise is added once,
after the last patient. Patients go through the network one at a time: a kernel may round the same row
differently in a larger batch, and weights made for that turn the last digit into a whole gradient (1.7 C was
reached on the U-Net). So what a patient adds has the same bits whoever else is drawn, and one patient
more or less moves the sum by at most C whatever the weights, the data and the other patients are. Of a
patient with many volumes, one at a time goes through the network with its draws: a step needs no more memory
for that patient than for others, so that a round does not fail because somebody has many exams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.private.noise import noised
from client.private.patient_sampling import drawn_patients
from client.private.secret_stream import RoundSecret, SecretStream
from common.privacy.patient_gradients import (
    GradientEngine,
    Gradients,
    RowLoss,
    Rows,
    count_rows,
    trainable,
)
from common.privacy.plan import PrivacyPlan

RowsOf = Callable[[str, SecretStream], Rows]
"""All rows of one patient: volumes times augmentations times draws, drawn from the stream."""


@dataclass(frozen=True)
class PrivateStep:
    """What does not change from step to step.

    Attributes:
        plan: Clip norm, sampling rate, noise and normaliser.
        stage: Stage of the study.
        loss: One loss per row.
        rows_of: Makes the rows of a patient.
        engine: How gradients are computed.
    """

    plan: PrivacyPlan
    stage: str
    loss: RowLoss
    rows_of: RowsOf
    engine: GradientEngine

    def gradient(
        self, module: nn.Module, patients: Sequence[str], secret: RoundSecret, step: int
    ) -> dict[str, Tensor]:
        """Return the private mean gradient of every trainable parameter, on its device and in its dtype.

        Args:
            module: The network.
            patients: Pseudonyms of all patients of the site, each once.
            secret: Randomness of this round's execution.
            step: Step of the stage, over all rounds.
        """
        drawn = drawn_patients(patients, self.plan.sampling_rate, secret, self.stage, step)
        total = self.clipped_sum(module, drawn, secret, step)
        stream = secret.stream("noise", self.stage, step)
        deviation = self.plan.noise_multiplier * self.plan.clip_norm
        parameters = trainable(module)
        return {
            name: (noised(total[name], deviation, stream) / self.plan.nominal_batch).to(
                parameters[name].device, parameters[name].dtype
            )
            for name in parameters
        }

    def clipped_sum(
        self, module: nn.Module, drawn: Sequence[str], secret: RoundSecret, step: int
    ) -> dict[str, Tensor]:
        """Return the sum over ``drawn`` before the noise, in float64 on the CPU; nobody is a sum of zero."""
        parameters = trainable(module)
        total = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
        for patient in drawn:
            rows = self.rows_of(patient, secret.stream("draws", self.stage, step, patient))
            gradients = self._of_patient(module, rows)
            for name, tensor in clip_and_sum(gradients, self.plan.clip_norm).items():
                total[name] += tensor
        return total

    def _of_patient(self, module: nn.Module, rows: Rows) -> Gradients:
        """Return the gradient of one patient's mean loss, a volume at a time."""
        num = count_rows(rows)
        mean: Gradients = {}
        for start in range(0, num, self.plan.draws):
            part = {name: tensor[start : start + self.plan.draws] for name, tensor in rows.items()}
            share = count_rows(part) / num
            # Half precision would round away what the guard proved; on the CPU it computes wrong gradients.
            with torch.autocast(next(iter(part.values())).device.type, enabled=False):
                gradients = self.engine(module, self.loss, part, [count_rows(part)])
            for name, tensor in gradients.items():
                mean[name] = mean[name] + share * tensor if name in mean else share * tensor
        return mean


def clip_and_sum(gradients: Gradients, clip_norm: float) -> dict[str, Tensor]:
    """Return the sum over patients of their gradients scaled to a norm of at most ``clip_norm``, in float64.

    A patient whose gradient is not finite contributes zero. That rule reads this patient only, and
    nobody learns whether it was applied.
    """
    norms = torch.stack([_norm(tensor) for tensor in gradients.values()]).square().sum(dim=0).sqrt()
    finite = torch.isfinite(norms)
    factors = torch.where(finite, (clip_norm / norms).clamp(max=1.0), 0.0)
    return {name: _weighted_sum(tensor, factors, finite) for name, tensor in gradients.items()}


def _norm(per_patient: Tensor) -> Tensor:
    """Return the norm over all axes but the first, in float64."""
    norms: Tensor = torch.linalg.vector_norm(per_patient.flatten(1), dim=1, dtype=torch.float64)
    return norms


def _weighted_sum(per_patient: Tensor, factors: Tensor, finite: Tensor) -> Tensor:
    """Return the weighted sum over the first axis, leaving out patients that are not finite."""
    # A factor of zero is not enough: zero times infinity is not a number.
    kept = torch.where(finite.unsqueeze(1), per_patient.flatten(1), 0.0).double()
    return (factors @ kept).reshape(per_patient.shape[1:]).cpu()
