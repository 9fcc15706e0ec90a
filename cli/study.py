"""`fedvox study`: the coordinator writes a study, checks it, runs it, resumes it, looks at it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.console import err, out, print_json, table
from cli.live import live_view
from cli.live import watch as watch_run
from cli.provision import HOME, Home
from cli.server import Port
from cli.server_study import run_on_server
from common.errors import ConfigError, RunError
from deploy.processes import INTERNAL_PORT
from experiments.finish_run import finish_run, test_datasets
from experiments.overview import data_overview, run_status, study_overview
from experiments.private_template import write_private_template
from experiments.run_study import PreparedRun, open_run, resume_run, start_run
from experiments.study_file import SimulationPlan, alone, load_study_file
from experiments.study_template import write_template
from server.coordinator import Coordinator
from server.events import EventLog
from server.ledger_heads import LedgerHeads
from server.run_folder import RunFolder

study_app = typer.Typer(
    help="Write, check, run, resume and watch a study.", no_args_is_help=True, rich_markup_mode="rich"
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder of volumes, or of one folder per site.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run.")]
NUM_SYNTHETIC = 32  # enough for the report's metrics
Device = Annotated[str, typer.Option("--device", help="Device of every simulated site: cpu or cuda.")]


@study_app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the study.")] = Path("study.yaml"),
    site: Annotated[list[str] | None, typer.Option("--site", help="Name of a site; repeat it.")] = None,
    shape: Annotated[str, typer.Option("--shape", help="Voxels along x, y, z.")] = "32,32,32",
    spacing: Annotated[str, typer.Option("--spacing", help="Millimetres along x, y, z.")] = "4,4,4",
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", help="Write a private study, from the public model of this run."),
    ] = None,
    patients: Annotated[
        int, typer.Option("--patients", help="Public nominal number of patients PER SITE.", min=1)
    ] = 300,
    epsilon: Annotated[float, typer.Option("--epsilon", help="What a private study promises.")] = 8.0,
    delta: Annotated[float, typer.Option("--delta", help="And its delta.")] = 1e-5,
    rounds: Annotated[
        int, typer.Option("--rounds", help="Rounds of one private step of the denoiser.", min=1)
    ] = 100,
    codec_rounds: Annotated[
        int, typer.Option("--codec-rounds", help="The same of the codec's decoder, before them.", min=0)
    ] = 0,
    split: Annotated[
        Path | None,
        typer.Option("--split", help="With --start-from: table that deals one data folder out to the sites."),
    ] = None,
) -> None:
    """Write a commented study to start from; with --start-from, a private one.

    Example: [bold]fedvox study init study.yaml --site north --site south[/]

    Example: [bold]fedvox study init private.yaml --start-from runs/public --site north --epsilon 8[/]
    """
    sites = tuple(site or ("north", "south", "west"))
    if start_from is None:
        write_template(path, sites, shape, spacing)
    else:
        write_private_template(path, start_from, sites, patients, epsilon, delta, rounds, codec_rounds, split)
    out.print(f"wrote {path}; next: fedvox study check {path}", highlight=False)


@study_app.command("check")
def check(
    study_file: StudyFile, data: Annotated[Path | None, typer.Option("--data")] = None, json: Json = False
) -> None:
    """Say what a study means, and whether the data fits it, before anything is trained.

    Example: [bold]fedvox study check study.yaml --data /data/breast-mri[/]
    """
    study, plan = load_study_file(study_file)
    facts = study_overview(study)
    sites = data_overview(study, plan, data) if data is not None else {}
    if json:
        print_json({"study": facts, "sites": sites})
        return
    out.print(table(f"{study.name}: the study", ["what", "value"], [[k, str(v)] for k, v in facts.items()]))
    if sites:
        rows = [[name, *(str(v) for v in facts.values())] for name, facts in sites.items()]
        out.print(table("the sites' data", ["site", *next(iter(sites.values()))], rows))
    out.print("[green]the study can be run[/]")


@study_app.command("run")
def run(
    study_file: StudyFile,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of volumes, or of one folder per site.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; the study's by default.")
    ] = None,
    runs: Runs = Path("runs"),
    device: Device = "cpu",
    server: Annotated[
        bool, typer.Option("--server", help="With the sites that are connected to this host's server.")
    ] = False,
    home: Home = HOME,
    port: Port = INTERNAL_PORT,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", help="Run of the public model, for a study with a privacy section."),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", help="Only this site, as if it had nobody to train with.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a study with all its sites on this machine, or go on with an interrupted run of it.

    Example: [bold]fedvox study run study.yaml --data /data/breast-mri[/]

    Example: [bold]fedvox study run study.yaml --data /data/breast-mri --site north[/]

    Example: [bold]fedvox study run study.yaml --server[/]
    """
    study, plan = load_study_file(study_file)
    if site is not None:
        study = alone(study, site)
    folder = runs / (name or study.name)
    if server:
        if site is not None:
            raise ConfigError("--site is of a run on this machine", "leave --server or --site out")
        run_on_server(study, Coordinator(home), folder, port, start_from, json)
        return
    if data is None:
        raise ConfigError("no data given", "--data FOLDER for sites on this machine, or --server")
    prepared = open_run(study, plan, data, folder, device, start_from)
    with live_view(prepared.run, study, enabled=not json):
        start_run(prepared)
    _finish(prepared, plan, json)


@study_app.command("resume")
def resume(run_folder: RunOption, json: Json = False) -> None:
    """Go on with an interrupted run, on the data it was started with.

    Example: [bold]fedvox study resume --run runs/hippocampus[/]
    """
    prepared = resume_run(run_folder)
    with live_view(prepared.run, prepared.study, enabled=not json):
        start_run(prepared)
    _finish(prepared, SimulationPlan(), json)


@study_app.command("status")
def status(
    run_folder: RunOption,
    json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until the run is finished.")
    ] = False,
) -> None:
    """Say how far a run is, how each site stands, and what failed.

    Example: [bold]fedvox study status --run runs/hippocampus --watch[/]
    """
    if watch:
        run = RunFolder.open(run_folder)
        watch_run(run, run.study())
    facts = run_status(run_folder)
    if json:
        print_json(facts)
        return
    rows = [[key, str(value)] for key, value in facts.items() if not isinstance(value, dict | list)]
    out.print(table(f"run {run_folder}", ["what", "value"], rows))
    for site, words in facts["standing"].items():
        out.print(f"site {site}: {words}", highlight=False)
    if facts["went_on_without"]:
        sites = ", ".join(facts["went_on_without"])
        out.print(f"[yellow]some rounds went on without:[/] {sites}", highlight=False)
    for problem in facts["problems"]:
        out.print(f"[yellow]problem:[/] {escape(problem)}", highlight=False)


@study_app.command("trust-ledger")
def trust_ledger(
    run_folder: RunOption,
    site: Annotated[str, typer.Option("--site", help="The site whose ledger is taken as it is.")],
) -> None:
    """Take a site's privacy ledger as it is from now on, after asking the site why it did not continue.

    Example: [bold]fedvox study trust-ledger --run runs/hippocampus --site north[/]
    """
    run = RunFolder.open(run_folder)
    if site not in run.study().federation.sites:
        raise RunError(f"the study has no site {site}", f"it has {', '.join(run.study().federation.sites)}")
    LedgerHeads(run.ledger_heads).start_again(site)
    EventLog(run.events).append("ledger_trusted", site=site)
    out.print(f"the next report of {site} opens a new record of its ledger", highlight=False)


def _finish(prepared: PreparedRun, plan: SimulationPlan, json: bool) -> None:
    folder = prepared.run.path
    if not (folder / "report.html").exists():
        finish_run(prepared, test_datasets(prepared, plan), NUM_SYNTHETIC)
    facts = run_status(folder)
    if facts["state"] != "finished":
        raise RunError(f"{folder} did not finish", "see its events.jsonl and flower.log")
    if json:
        print_json(facts)
    else:
        err.print(f"finished; look at {folder / 'report.html'}", highlight=False)
        err.print(f"more volumes: fedvox synth --run {folder} --num 64 --out FOLDER", highlight=False)
