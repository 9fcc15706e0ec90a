"""Which sites' reports counted in which rounds: what a model was made of, for its manifests.

A study that went on without a site must say so to whoever uses what it made.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.study import Study
from server.events import read_events
from server.run_folder import RunFolder


@dataclass(frozen=True)
class Participation:
    """Rounds by stage and site.

    Attributes:
        rounds: Finished rounds of each stage.
        counted: Of them, those that a report of the site counted in, by stage and site.
    """

    rounds: Mapping[str, int] = field(default_factory=dict)
    counted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder) -> "Participation":
        """Return that of a run."""
        return cls.from_events(run.study(), read_events(run.events))

    @classmethod
    def from_events(cls, study: Study, events: Iterable[Mapping[str, Any]]) -> "Participation":
        """Return it; of a round that was done twice (a run killed and resumed) the last counts."""
        took_part: dict[str, dict[int, set[str]]] = {}
        for event in events:
            if event["event"] == "round_finished":
                counted = {site for site, facts in event["sites"].items() if facts.get("share", 1) > 0}
                took_part.setdefault(event["stage"], {})[event["round"]] = counted
        return cls(
            {stage: len(rounds) for stage, rounds in took_part.items()},
            {
                stage: {
                    site: sum(site in sites for sites in rounds.values()) for site in study.federation.sites
                }
                for stage, rounds in took_part.items()
            },
        )

    @property
    def lost(self) -> list[str]:
        """Sites that some finished round went on without."""
        return sorted(
            {
                site
                for stage, sites in self.counted.items()
                for site, counted in sites.items()
                if counted < self.rounds[stage]
            }
        )

    def facts(self) -> dict[str, Any]:
        """Return it for a manifest."""
        return {
            "rounds": dict(self.rounds),
            "by_site": {k: dict(v) for k, v in self.counted.items()},
            "incomplete": self.lost,
        }
