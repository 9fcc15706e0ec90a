"""What the events of a run mean: a row per round, a curve per stage, metric and site.

>>> round_1 = {"event": "round_finished", "stage": "codec", "round": 1, "seconds": 2.0, "bytes_up": 8,
...            "bytes_down": 8, "sites": {"a": {"steps": 5, "seconds": 1.5, "metrics": {"loss": 0.5}}}}
>>> RunHistory.from_events([round_1]).curves
(Curve(stage='codec', metric='loss', site='a', points=((1, 0.5),)),)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import RunError

Key = tuple[str, int]  # stage, round


@dataclass(frozen=True)
class Curve:
    """One metric of one site over the rounds of a stage.

    Attributes:
        stage: Which stage.
        metric: Name of the metric.
        site: Whose.
        points: Round and value, by ascending round.
    """

    stage: str
    metric: str
    site: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class RoundRow:
    """What one round cost and who took part.

    Attributes:
        stage: Which stage.
        round_index: From 1.
        seconds: Wall time at the server.
        bytes_up: From the sites to the server.
        bytes_down: From the server to the sites.
        sites: Seconds of training of each site whose report counted.
        shares: Part of what each of them sent that counted, where the study's aggregation bounds it.
    """

    stage: str
    round_index: int
    seconds: float
    bytes_up: int
    bytes_down: int
    sites: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunHistory:
    """A run as its event log tells it.

    Attributes:
        rounds: In the order they were first finished.
        curves: By stage, metric and site, in order of appearance.
        incidents: Dropouts, failures, rejected reports and resumptions, in words.
        started: Time of day at which the run began, ISO 8601; empty if unknown.
        finished: Whether the run came to its end.
    """

    rounds: tuple[RoundRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    incidents: tuple[str, ...] = ()
    started: str = ""
    finished: bool = False

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> "RunHistory":
        """Return the history; of a round that was done twice (a run killed and resumed) the last counts.

        Raises:
            RunError: A finished round without its stage, number, seconds, bytes or sites.
        """
        rounds: dict[Key, RoundRow] = {}
        values: dict[tuple[str, str, str], dict[int, float]] = {}
        incidents: list[str] = []
        started, finished = "", False
        for event in events:
            match event["event"]:
                case "run_started":
                    started = started or str(event.get("time", ""))
                case "run_finished":
                    finished = True
                case "round_finished":
                    row, metrics = _round_of(event)
                    rounds[row.stage, row.round_index] = row
                    for (site, metric), value in metrics.items():
                        values.setdefault((row.stage, metric, site), {})[row.round_index] = value
                case "run_resumed" | "site_missing" | "site_failed" | "report_rejected":
                    incidents.append(_incident(event))
        incidents += _shortened(rounds.values())
        curves = tuple(Curve(*key, points=tuple(sorted(points.items()))) for key, points in values.items())
        return cls(tuple(rounds.values()), curves, tuple(incidents), started, finished)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that have a finished round, in order."""
        return tuple(dict.fromkeys(row.stage for row in self.rounds))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites whose reports counted, sorted: their colours depend on it."""
        return tuple(sorted({site for row in self.rounds for site in row.sites}))


def _round_of(event: Mapping[str, Any]) -> tuple[RoundRow, dict[tuple[str, str], float]]:
    try:
        row = RoundRow(
            stage=str(event["stage"]),
            round_index=int(event["round"]),
            seconds=float(event["seconds"]),
            bytes_up=int(event["bytes_up"]),
            bytes_down=int(event["bytes_down"]),
            sites={name: float(facts["seconds"]) for name, facts in event["sites"].items()},
            shares={name: float(facts.get("share", 1)) for name, facts in event["sites"].items()},
        )
        metrics = {
            (site, metric): float(value)
            for site, facts in event["sites"].items()
            for metric, value in facts.get("metrics", {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"the event of {event.get('stage')} round {event.get('round')} is incomplete: {error!r}",
            "the log was written by another version, or edited; restore it",
        ) from None
    return row, metrics


def _shortened(rounds: Iterable[RoundRow]) -> list[str]:
    """Return, in words, of which sites less counted than they sent."""
    shares: dict[str, list[float]] = {}
    for row in rounds:
        for site, share in row.shares.items():
            shares.setdefault(site, []).append(share)
    return [
        f"Of what site {site} changed, {sum(parts) / len(parts):.0%} counted (mean of {len(parts)} rounds)."
        for site, parts in sorted(shares.items())
        if min(parts) < 1
    ]


def _incident(event: Mapping[str, Any]) -> str:
    if event["event"] == "run_resumed":
        return f"The run was resumed after {event.get('stage', '?')} round {event.get('round', '?')}."
    what = {
        "site_missing": "sent no report in time",
        "site_failed": f"could not do its order: {event.get('code', 'no code')}",
        "report_rejected": f"sent a report that was refused: {event.get('reason', 'no reason')}",
    }[event["event"]]
    return f"Site {event.get('site', '?')} {what} (attempt {event.get('attempt', 1)})."
