"""What an experiment found, as files, and which of its arms another machine need not compute again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.artifact import write_text_atomic
from common.errors import ConfigError
from experiments.segmentation.plan import ArmConfig, SegmentationPlan


@dataclass(frozen=True)
class Compared:
    """An experiment that ran to its end.

    Attributes:
        results: What tables and plots show.
        figures: Of every fine-tuning: its arm, seeds, and scores by test patient, who have no names.
    """

    results: dict[str, Any]
    figures: list[dict[str, Any]]

    @classmethod
    def load(cls, file: Path) -> "Compared":
        """Return what `write` wrote: ``NAME.json``, with ``NAME.jsonl`` beside it.

        Raises:
            ConfigError: One of them is missing.
        """
        lines = file.with_suffix(".jsonl")
        for one in (file, lines):
            if not one.is_file():
                raise ConfigError(
                    f"{one} is not there", "give the NAME.json of results, with NAME.jsonl beside"
                )
        figures = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        return cls(json.loads(file.read_text(encoding="utf-8")), figures)

    def write(self, folder: Path, name: str) -> None:
        """Write results as ``NAME.json``, and figures as ``NAME.jsonl``, one fine-tuning a line."""
        folder.mkdir(parents=True, exist_ok=True)
        results = json.dumps(self.results, indent=1)  # arms stay in the order of their plan
        write_text_atomic(folder / f"{name}.json", results + "\n")
        lines = (json.dumps(one, sort_keys=True) + "\n" for one in self.figures)
        write_text_atomic(folder / f"{name}.jsonl", "".join(lines))

    def of_arms(self, plan: SegmentationPlan, basis: str) -> "Compared":
        """Return what it holds of a plan's arms as they are now, to be taken for computed.

        Args:
            plan: Whose arms are wanted.
            basis: Of the plan, study, volumes and code; see `Bench.basis`.

        Raises:
            ConfigError: It stands on another basis, or an arm lacks fine-tunings that the plan wants.
        """
        if self.results["basis"] != basis:
            raise ConfigError(
                f"these results of {self.results['experiment']} were made with other volumes, code, study or "
                f"settings: {self.results['basis']}, not {basis}",
                "run all arms here, or use that version",
            )
        facts = {arm.name: self.results["arms"][arm.name] for arm in plan.arms if self._has(arm)}
        figures = [one for one in self.figures if one["arm"] in facts]
        for name in facts:
            found = {(one["labels"], one["seed"]) for one in figures if one["arm"] == name}
            if found != set(plan.fine_tunings_of(name)):
                raise ConfigError(
                    f"the results of {name} have other numbers of labels or seeds than the plan",
                    "run it here",
                )
        return Compared(self.results | {"arms": facts}, figures)

    def _has(self, arm: ArmConfig) -> bool:
        return bool(self.results["arms"].get(arm.name, {}).get("key") == arm.key)
