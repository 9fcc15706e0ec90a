"""A small denoiser, patients made of noise, and a private step over them."""

import math

import torch

from client.private.gradient_engines import (
    hook_gradients,
    loop_gradients,
    vmap_gradients,
)
from client.private.private_step import PrivateStep
from client.private.secret_stream import RoundSecret
from common.diffusion.config import ConditionConfig, DenoiserConfig, DiffusionConfig
from common.diffusion.objective import Draws, make_objective
from common.diffusion.unet import UNetDenoiser, initial_denoiser_state, load_denoiser
from common.privacy.plan import PrivacyPlan

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)
CONFIG = DiffusionConfig(denoiser=SMALL, condition=ConditionConfig(kind="class", num_classes=2, dropout=0.2))
OBJECTIVE = make_objective(CONFIG)
ENGINES = {"loop": loop_gradients, "hooks": hook_gradients, "vmap": vmap_gradients}
NUM_VOLUMES = {"ann": 1, "bob": 3, "cyd": 2, "dee": 5}
DRAWS = 2


def denoiser(scale: float = 0.05) -> UNetDenoiser:
    """A network that has left its zero-initialised start, where most gradients are zero."""
    generator = torch.Generator().manual_seed(1)
    state = initial_denoiser_state(SMALL, 2, 2, torch.Generator().manual_seed(0))
    return load_denoiser(
        SMALL, 2, 2, {n: p + scale * torch.randn(p.shape, generator=generator) for n, p in state.items()}
    )


def loss(module, rows):
    draws = Draws(rows["time"], rows["eps"], rows["drop"])
    return OBJECTIVE.loss_at(module, rows["latent"], rows["label"], draws)


def rows_of(patient, stream):
    """Latents of a patient that depend on the name, with draws from the stream."""
    num = NUM_VOLUMES.get(patient, 2)
    content = torch.Generator().manual_seed(sum(map(ord, patient)))
    latent = torch.randn(num, 2, 4, 4, 4, generator=content).repeat_interleave(DRAWS, dim=0)
    draws = OBJECTIVE.draw(latent, torch.Generator().manual_seed(stream.seed()))
    label = torch.full((len(latent),), len(patient) % 2)
    return {"latent": latent, "label": label, "time": draws.time, "eps": draws.eps, "drop": draws.drop_label}


def gathered(patients):
    secret = RoundSecret(bytes(32))
    made = [rows_of(p, secret.stream("draws", p)) for p in patients]
    rows = {name: torch.cat([own[name] for own in made]) for name in made[0]}
    return rows, [len(own["latent"]) for own in made]


def step(engine=loop_gradients, rows=rows_of, **changes):
    usual = {
        "sampling_rate": 0.5,
        "nominal_patients": 8,
        "rounds": 4,
        "noise_multiplier": 1.5,
        "clip_norm": 0.8,
    }
    return PrivateStep(PrivacyPlan(**(usual | changes)), "diffusion", loss, rows, engine)


def norm(gradients) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in gradients.values()))


def difference(left, right):
    return {name: left[name] - right[name] for name in left}
