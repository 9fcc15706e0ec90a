"""The ledger for a person who must answer for it: what was spent, on what, and in a public registry's fields.

What is for the public has no time of day, no fingerprint of the patient set and no order's own name: they
would say when a site worked and whether its patients changed.

The fields follow the registry of differential privacy deployments that OpenDP and partners keep: data
product, unit, budget, relation, mechanism, parameters and accounting.
"""

from typing import Any

from client.private.budget import Budget
from client.private.ledger import Ledger
from common.privacy.ledger_format import Commit, Reserve


def ledger_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return one row per reservation, oldest first."""
    entries = ledger.entries()
    answered = {entry.order for entry in entries if isinstance(entry, Commit)}
    return [
        {
            "time": entry.time.isoformat(timespec="seconds"),
            "run": entry.order.run,
            "study": entry.order.study,
            "stage": entry.order.stage,
            "round": entry.order.round_index,
            "sampling_rate": entry.event.sampling_rate,
            "noise_multiplier": entry.event.noise_multiplier,
            "steps": entry.event.steps,
            "clip_norm": entry.clip_norm,
            "patients": entry.patients,
            "code": entry.code,
            "mark": entry.mark,
            "answered": entry.order in answered,
        }
        for entry in entries
        if isinstance(entry, Reserve)
    ]


def ledger_summary(ledger: Ledger, budget: Budget) -> dict[str, Any]:
    """Return what the whole ledger comes to."""
    rows = ledger_rows(ledger)
    spent = ledger.spent(budget.delta)
    return {
        "head": ledger.head,
        "orders paid for": len(rows),
        "orders answered": sum(row["answered"] for row in rows),
        "studies": len({row["study"] for row in rows}),
        "patient sets": len({row["patients"] for row in rows}),
        "private steps": sum(row["steps"] for row in rows),
        "epsilon spent": spent,
        "epsilon cap": budget.epsilon,
        "delta": budget.delta,
        "research": any(row["mark"] for row in rows),
    }


def registry_entry(ledger: Ledger, budget: Budget, site: str) -> dict[str, Any]:
    """Return the ledger as an entry of the public registry of deployments."""
    summary = ledger_summary(ledger, budget)
    return {
        "deployment": f"fedvox at {site}",
        "data_product": "weights of a generative model of 3D medical images",
        "deployment_model": "central at the site, local against the coordinator",
        "privacy_unit": "patient, with all volumes",
        "neighbouring_relation": "add or remove one patient",
        "flavour": "approximate differential privacy",
        "parameters": {
            "epsilon": summary["epsilon spent"],
            "delta": budget.delta,
            "epsilon_cap": budget.epsilon,
        },
        "mechanism": "Poisson-sampled Gaussian sums of clipped per-patient gradients (DP-SGD)",
        "accounting": "joint composition; the larger of privacy loss distributions and PRV",
        "scope": "every order that was paid for, answered or lost, of all studies and coordinators",
        "research_only": summary["research"],
        "ledger_head": summary["head"],
        "events": _public_events(ledger),
    }


def _public_events(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what was paid for, equal orders of a study counted together."""
    shown = ("study", "stage", "sampling_rate", "noise_multiplier", "clip_norm", "code", "mark")
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in ledger_rows(ledger):
        key = tuple(row[name] for name in shown)
        group = groups.setdefault(key, {**dict(zip(shown, key, strict=True)), "orders": 0, "steps": 0})
        group["orders"] += 1
        group["steps"] += row["steps"]
    return list(groups.values())
