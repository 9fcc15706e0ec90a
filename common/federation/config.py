"""The federation's part of a study: rounds, steps, sites, aggregation."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from common.federation.aggregation import WEIGHTED, AggregationConfig, MeanConfig
from common.frozen import FrozenModel

Momentum = Annotated[float, Field(ge=0, lt=1)]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]


class TrainingConfig(FrozenModel):
    """One stage's schedule; every number is public.

    Attributes:
        rounds: Rounds R; after each the server aggregates. 0 where a stage is not trained.
        local_steps: Optimizer steps S that a site makes in a round.
        batch_size: Volumes per step.
        learning_rate: Peak of the learning rate; it rises linearly over the first
            ``warmup_steps`` of the stage and falls as a cosine to a hundredth at the last step.
        warmup_steps: Steps of the rise.
    """

    rounds: NonNegativeInt
    local_steps: PositiveInt
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: PositiveInt = 20

    @property
    def total_steps(self) -> int:
        """Sequential optimizer steps of the stage, R x S."""
        return self.rounds * self.local_steps


class FedAvgConfig(FrozenModel):
    """Weighted mean of the sites' parameters (McMahan et al. 2017)."""

    kind: Literal["fedavg"] = "fedavg"


class FedProxConfig(FrozenModel):
    """FedAvg with a proximal pull of μ/2 ‖w - w_global‖² at each site (Li et al. 2020, Eq. 2)."""

    kind: Literal["fedprox"] = "fedprox"
    proximal_mu: NonNegativeFloat = 0.01


class FedAvgMConfig(FrozenModel):
    """Server momentum (Hsu et al. 2019)."""

    kind: Literal["fedavgm"] = "fedavgm"
    learning_rate: PositiveFloat = 1.0
    momentum: Momentum = 0.9


class FedAdamConfig(FrozenModel):
    """Adam on the server (Reddi et al. 2021, Algorithm 2)."""

    kind: Literal["fedadam"] = "fedadam"
    learning_rate: PositiveFloat = 1e-2
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.99
    tau: PositiveFloat = 1e-3


StrategyConfig = Annotated[
    FedAvgConfig | FedProxConfig | FedAvgMConfig | FedAdamConfig, Field(discriminator="kind")
]


class FederationConfig(FrozenModel):
    """Who takes part and how their work is combined.

    Attributes:
        sites: Names of the sites; a site's style label is its place in this list.
        weights: Public aggregation weight per site; equal when absent.
        min_sites: Valid reports a round needs; all sites when absent.
        round_deadline_s: Seconds after which a missing report counts as a dropout.
        round_attempts: Times a round is tried before the run stops with a named error.
        aggregation: How a round's reports become one.
        strategy: How that becomes the next global model.
    """

    sites: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")], ...], Field(min_length=1)
    ]
    weights: dict[str, PositiveFloat] | None = None
    min_sites: PositiveInt | None = None
    round_deadline_s: PositiveFloat = 3600.0
    round_attempts: PositiveInt = 2
    aggregation: AggregationConfig = MeanConfig()
    strategy: StrategyConfig = FedAvgConfig()

    @model_validator(mode="after")
    def _sound(self) -> "FederationConfig":
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"site names repeat: {', '.join(self.sites)}")
        if self.weights is not None and set(self.weights) != set(self.sites):
            raise ValueError("weights must name every site of `sites` and no other")
        if self.min_sites is not None and self.min_sites > len(self.sites):
            raise ValueError(f"min_sites {self.min_sites} is more than the {len(self.sites)} sites")
        rule = self.aggregation
        if self.quorum < rule.fewest_reports:
            raise ValueError(
                f"aggregation {rule.kind} needs {rule.fewest_reports} reports in every round, and a round "
                f"may have {self.quorum}: raise min_sites, or use another rule"
            )
        if self.weights is not None and rule.kind not in WEIGHTED:
            raise ValueError(
                f"aggregation {rule.kind} knows of no weights: leave weights out, or use "
                f"{' or '.join(WEIGHTED)}"
            )
        return self

    @property
    def quorum(self) -> int:
        """Valid reports that a round needs."""
        return self.min_sites if self.min_sites is not None else len(self.sites)

    def weight(self, site: str) -> float:
        """Public aggregation weight of ``site``."""
        return 1.0 if self.weights is None else self.weights[site]
