"""`fedvox privacy`: what a privacy plan costs and promises, before anybody agrees to it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import out, print_json, table
from common.errors import ConfigError
from common.frozen import parse
from common.privacy.plan import PrivacyPlan, calibrate
from common.privacy.summary import NoiseToSignal, PrivacySummary, noise_to_signal, privacy_summary
from experiments.privacy_audit import audit
from experiments.privacy_plot import plot_attack_bounds

privacy_app = typer.Typer(
    help="Plan patient-level differential privacy, and audit it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@privacy_app.command("plan")
def plan(
    patients: Annotated[int, typer.Option("--patients", help="Public nominal number of patients PER SITE.")],
    sites: Annotated[int, typer.Option("--sites", help="Number of sites.", min=1)],
    epsilon: Annotated[float, typer.Option("--epsilon", help="Largest joint epsilon of all stages.")],
    delta: Annotated[float, typer.Option("--delta", help="Total delta.")],
    sampling_rate: Annotated[
        float, typer.Option("--sampling-rate", help="Probability that a patient takes part in a step.")
    ],
    steps: Annotated[int, typer.Option("--steps", help="Private steps of the denoiser, over all rounds.")],
    codec_steps: Annotated[
        int, typer.Option("--codec-steps", help="Private steps of the codec; 0 if it is public.", min=0)
    ] = 0,
    steps_per_round: Annotated[int, typer.Option("--steps-per-round", help="Private steps a round.")] = 1,
    spare_rounds: Annotated[
        int, typer.Option("--spare-rounds", help="Rounds of each stage that may be lost.", min=0)
    ] = 0,
    trainable: Annotated[int, typer.Option("--trainable", help="Trainable parameters.", min=1)] = 1500,
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled", help="Replies are noised sums of one step that the server shows only added up."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the bound on membership inference as a picture.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the noise that keeps a study within epsilon, and say what that promises.

    Example: [bold]fedvox privacy plan --patients 300 --sites 3 --epsilon 8 --delta 1e-5
    --sampling-rate 0.1 --steps 1000[/]
    """
    wanted = {
        stage: _stage(patients, sampling_rate, total, steps_per_round, spare_rounds)
        for stage, total in (("codec", codec_steps), ("diffusion", steps))
        if total
    }
    plans = dict(zip(wanted, calibrate(list(wanted.values()), epsilon, delta)[0], strict=True))
    summary = privacy_summary(plans, delta, quorum=sites if pooled else None)
    noise = {stage: noise_to_signal(plan, trainable, sites) for stage, plan in plans.items()}
    if plot is not None:
        plot_attack_bounds(summary, plot)
    if json:
        print_json(_document(plans, summary, noise))
        return
    first = next(iter(plans.values()))
    out.print(table("the plan", ["what", "value"], _plan_rows(first, plans, sites)))
    out.print(table("what it promises", ["epsilon", "value"], _promise_rows(summary, sites, pooled)))
    title = f"what the noise leaves of {trainable} trainable parameters"
    out.print(table(title, ["what", *noise], _noise_rows(list(noise.values()))))
    out.print(_READING, highlight=False)


@privacy_app.command("audit")
def audit_step(
    epsilon: Annotated[float, typer.Option("--epsilon", help="What the step is to promise.")] = 1.0,
    delta: Annotated[float, typer.Option("--delta", help="Total delta.")] = 1e-5,
    noise_factor: Annotated[
        float, typer.Option("--noise-factor", help="Share of the promised noise that is added.", min=1e-9)
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the coins that decide who takes part.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Try to catch this installation's private step in breaking its promise; exit 1 if that works.

    With [bold]--noise-factor 0.125[/] it adds too little noise, and the audit must notice.

    Example: [bold]fedvox privacy audit --epsilon 1[/]
    """
    claimed = calibrate([_AUDITED], epsilon, delta)[0][0]
    run = claimed.with_noise(claimed.noise_multiplier * noise_factor)
    result = audit(run, delta, seed, claimed=claimed)
    if json:
        print_json(asdict(result) | {"passed": result.passed})
    else:
        rows = [
            ["promised epsilon", f"{result.claimed_epsilon:.3f}"],
            ["right guesses", f"{result.num_right} of {result.num_guesses}"],
            ["true epsilon is above (95 %)", f"{result.epsilon_lower_bound:.3f}"],
            ["verdict", "nothing contradicts the promise" if result.passed else "THE PROMISE IS BROKEN"],
        ]
        out.print(table("one-run audit with 200 canaries", ["what", "value"], rows))
        out.print("It catches gross faults only: noise or clipping left out, noise far too small.")
    if not result.passed:
        raise typer.Exit(1)


_AUDITED = PrivacyPlan(sampling_rate=0.25, nominal_patients=100, rounds=300, noise_multiplier=1.0)
_READING = (
    "Every epsilon is the larger of two accountants, for one patient more or less with all volumes. Sites "
    "are taken to share no patient; the rows for 2 and 3 sites say what holds otherwise. Epsilons of stages "
    "do not add up: the joint one is composed from all steps at the total delta."
)


def _stage(patients: int, sampling_rate: float, steps: int, steps_per_round: int, spare: int) -> PrivacyPlan:
    """Return the plan of one stage, still without its noise."""
    if steps_per_round < 1 or steps % steps_per_round:
        raise ConfigError(
            f"{steps} steps are no whole number of rounds of {steps_per_round}",
            "choose --steps divisible by --steps-per-round",
        )
    content = {
        "sampling_rate": sampling_rate,
        "nominal_patients": patients,
        "steps_per_round": steps_per_round,
        "rounds": steps // steps_per_round,
        "spare_rounds": spare,
        "noise_multiplier": 1.0,
    }
    return parse(PrivacyPlan, content, where="the plan")


def _plan_rows(first: PrivacyPlan, plans: dict[str, PrivacyPlan], sites: int) -> list[list[str]]:
    return [
        ["sites", str(sites)],
        ["patients per site (nominal)", str(first.nominal_patients)],
        ["sampling rate", f"{first.sampling_rate:g}"],
        ["noise multiplier (sigma)", f"{first.noise_multiplier:.4f}"],
        *([f"steps paid for, {stage}", str(plan.steps)] for stage, plan in plans.items()),
    ]


def _promise_rows(summary: PrivacySummary, sites: int, pooled: bool) -> list[list[str]]:
    rows = [[f"{stage} alone", f"{value:.3f}"] for stage, value in summary.by_stage.items()]
    rows.append(["against the server and every recipient, joint", f"{summary.against_server:.3f}"])
    rows += [[f"patient known to {times} sites", f"{value:.3f}"] for times, value in summary.known_to.items()]
    if pooled and summary.against_outsider is not None and summary.against_other_site is not None:
        rows.append([f"against recipients, noise of {sites} sites", f"{summary.against_outsider:.3f}"])
        rows.append([f"against another site, noise of {sites - 1}", f"{summary.against_other_site:.3f}"])
    rows.append(["delta, of each of these", f"{summary.delta:g}"])
    rows.append(["largest AUC of membership inference", f"{summary.bounds.auc:.3f}"])
    rows.append(["members found at 1 % false alarms, at most", f"{summary.bounds.tpr_at_1_percent:.1%}"])
    return rows


def _noise_rows(noise: list[NoiseToSignal]) -> list[list[str]]:
    return [
        ["noise over signal, one step", *(f"{n.per_step:.3g}" for n in noise)],
        ["noise over signal, whole run (optimistic)", *(f"{n.over_run:.3g}" for n in noise)],
        ["parameters in balance, one step", *(f"{n.balanced_dimension:,}" for n in noise)],
        [
            "parameters in balance, whole run (optimistic)",
            *(f"{n.balanced_dimension_over_run:,}" for n in noise),
        ],
    ]


def _document(
    plans: dict[str, PrivacyPlan], summary: PrivacySummary, noise: dict[str, NoiseToSignal]
) -> dict[str, Any]:
    """Return everything as one JSON document."""
    return {
        "noise_multiplier": next(iter(plans.values())).noise_multiplier,
        "plans": {stage: plan.model_dump(mode="json") for stage, plan in plans.items()},
        "delta": summary.delta,
        "epsilon": {
            "against_server": summary.against_server,
            "by_stage": dict(summary.by_stage),
            "patient_known_to": {str(times): value for times, value in summary.known_to.items()},
            "against_outsider": summary.against_outsider,
            "against_other_site": summary.against_other_site,
        },
        "membership_inference": {
            "largest_auc": summary.bounds.auc,
            "largest_tpr_at_1_percent_fpr": summary.bounds.tpr_at_1_percent,
        },
        "noise_to_signal": {stage: asdict(n) for stage, n in noise.items()},
    }
