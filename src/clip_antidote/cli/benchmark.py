"""`clip-antidote benchmark`: poisoned models, a grid of defenses, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import ConfigFile, Device, JsonFlag, Seed, console, print_json, resolve_device, say
from clip_antidote.plain import plain

app = typer.Typer(help="Compare defenses on poisoned models; resumable.", no_args_is_help=True)

Grid = Annotated[Path, typer.Argument(help="YAML file of the grid, like recipes/grid_120.yaml.")]
Recipe = Annotated[Path, typer.Argument(help="YAML file of the population, like recipes/population.yaml.")]
Data = Annotated[str, typer.Option(help="Problem folder of `clip-antidote data prepare`, or embedded:clothing.")]
Out = Annotated[Path, typer.Option(help="Benchmark folder.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model by its name; may be repeated. All by default.")
]


@app.command("prepare")
def prepare(grid: Grid, data: Data, out: Out, device: Device = "auto") -> None:
    """Make the poisoned models of a grid that are missing."""
    from clip_antidote.benchmark.grid import GridConfig, prepare_zoo
    from clip_antidote.config import read_yaml

    for suspect in prepare_zoo(GridConfig.build(read_yaml(grid)), data, out, device=resolve_device(device)):
        poisoned = suspect.poisoned
        asr = f", ASR {poisoned.asr.value:.1%}" if poisoned.asr else ""
        say(
            f"{suspect.name}: CA {suspect.clean.ca.value:.1%} → {poisoned.ca.value:.1%}{asr}, "
            f"implant check {suspect.implant_check}"
        )


@app.command("run")
def run(
    grid: Grid,
    data: Data,
    out: Out,
    config: ConfigFile = None,
    device: Device = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Make the runs again that failed.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(help='Address of a Ray cluster, or "local" for this machine (extra ray).', metavar="ADDRESS"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: how many workers.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: what a worker takes of a GPU.")] = 0,
) -> None:
    """Run the cells of a grid that have no record yet; one that fails is tried twice and kept as failed."""
    from clip_antidote.benchmark.grid import GridConfig, run_grid
    from clip_antidote.benchmark.tables import why_not
    from clip_antidote.config import read_yaml
    from clip_antidote.jobs.purify import purify_settings

    settings = purify_settings(config)
    recipe = GridConfig.build(read_yaml(grid))
    if ray is None:
        made = run_grid(recipe, data, out, config=settings, device=resolve_device(device), retry=retry)
    else:
        from clip_antidote.benchmark.ray_workers import run_on_ray

        made = run_on_ray(recipe, data, out, config=settings, address=ray, workers=workers, gpus=gpus, retry=retry)
    for record in made:
        if not record.done:
            say(f"{record.suspect} {record.defense} seed {record.seed}: {why_not(record)}")
            continue
        after = record.after
        asr = f", ASR {after.asr.value:.2%}, PA {after.pa.value:.1%}" if after.asr and after.pa else ""
        say(
            f"{record.suspect} {record.defense} seed {record.seed}: CA {record.before.ca.value:.1%} → "
            f"{after.ca.value:.1%}{asr}, target {record.target_suspected}, {record.seconds:.0f} s"
        )


@app.command("population")
def population(
    recipe: Recipe,
    data: Data,
    out: Out,
    model: Models = None,
    device: Device = "auto",
) -> None:
    """Make the models of a population that are missing; start it several times to use several processes."""
    from clip_antidote.benchmark.populating import make_population
    from clip_antidote.benchmark.population import PopulationConfig
    from clip_antidote.config import read_yaml

    config = PopulationConfig.build(read_yaml(recipe))
    for record in make_population(config, data, out, device=resolve_device(device), names=model or ()):
        asr = f", ASR {record.measured.asr.value:.1%}, {record.implant_check}" if record.measured.asr else ""
        say(f"{record.name}: CA {record.measured.ca.value:.1%}{asr}, {record.seconds:.0f} s")


@app.command("survey")
def survey(
    recipe: Recipe,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the population.")],
    model: Models = None,
    device: Device = "auto",
) -> None:
    """Survey the models of a population that were not surveyed yet: what the evidence is fitted to."""
    from clip_antidote.benchmark.population import PopulationConfig
    from clip_antidote.benchmark.surveys import survey_population
    from clip_antidote.config import read_yaml

    looks = PopulationConfig.build(read_yaml(recipe)).looks
    for record in survey_population(out, data, looks, device=resolve_device(device), names=model or ()):
        say(f"{record.model}, {record.look}: {len(record.classes)} classes, {record.seconds:.0f} s")


@app.command("keep")
def keep(
    out: Annotated[Path, typer.Option(help="Folder of the population.")],
    records: Annotated[Path, typer.Option(help="Folder of the records to add it to.")],
) -> None:
    """Add manifest and surveys of a population to small files for a repository."""
    from clip_antidote.benchmark.survey_file import keep_population

    models, surveys = keep_population(out, records)
    say(f"{records}: {models} models, {surveys} surveys")


@app.command("judge")
def judge(
    records: Annotated[Path, typer.Option(help="Folder of the records, see `benchmark keep`.")],
    fit: Annotated[
        Path | None, typer.Option(help="Also fit the evidence to all of them, and write it here.", metavar="FILE")
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            help="Also add to the clean models in this file of evidence the looks that it has not of them.",
            metavar="FILE",
        ),
    ] = None,
    apart: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of image tower that nothing is fitted to, and that is judged apart; may be repeated."
        ),
    ] = None,
) -> None:
    """Judge every model by evidence fitted to other kinds of image tower, and print the tables."""
    from clip_antidote.benchmark.detection_tables import all_tables
    from clip_antidote.benchmark.judging import judge_records

    judgments = judge_records(records, fit=fit, extend=extend, apart=apart or ())
    for title, table in all_tables(judgments).items():
        say(f"## {title}")
        console.print(table, highlight=False, markup=False, soft_wrap=True)


@app.command("zoo")
def zoo(out: Out) -> None:
    """Print the table of the poisoned models as Markdown; write it to zoo.md, its records to suspects.json."""
    from clip_antidote.benchmark.store import read_suspects, write_suspects
    from clip_antidote.benchmark.tables import zoo_table

    suspects = read_suspects(out)
    write_suspects(out, suspects)
    _print_table(zoo_table(suspects), out / "zoo.md")


@app.command("table")
def table(out: Out) -> None:
    """Print the tables as Markdown; write tables.md, runs.csv and leaderboard.html, a page that sorts."""
    from clip_antidote.benchmark.costs import costs_table
    from clip_antidote.benchmark.leaderboard import leaderboard
    from clip_antidote.benchmark.published import published_table, read_published
    from clip_antidote.benchmark.runs_csv import runs_csv
    from clip_antidote.benchmark.store import read_runs
    from clip_antidote.benchmark.tables import curve_table, refused_table, results_table, summary_table
    from clip_antidote.files import write_text

    runs, refused, published = read_runs(out), read_runs(out, refused=True), read_published(out)
    tables = [make(runs) for make in (summary_table, results_table, curve_table, costs_table) if runs]
    tables += [refused_table(refused), published_table(published)]
    write_text(out / "runs.csv", runs_csv([*runs, *refused]))
    write_text(out / "leaderboard.html", leaderboard(runs, refused, published))
    _print_table("\n\n".join(part for part in tables if part), out / "tables.md")


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Benchmark folder; with --out a defense of that folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    out: Annotated[Path | None, typer.Option(help="Benchmark folder in which A and B are two defenses.")] = None,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare two grids, or two defenses of one grid, cell by cell, with paired statistics over models."""
    from clip_antidote.benchmark.comparing import compare as compare_pairs
    from clip_antidote.benchmark.comparison_tables import as_json as to_json
    from clip_antidote.benchmark.comparison_tables import cells_table, models_table, sentences
    from clip_antidote.benchmark.pairing import pair_defenses, pair_grids

    pairs = pair_grids(Path(a), Path(b)) if out is None else pair_defenses(out, a, b)
    compared = compare_pairs(pairs.pairs, seed=seed)
    if as_json:
        print_json(to_json(compared, pairs))
    else:
        _show("\n\n".join([models_table(compared), cells_table(pairs.pairs), *sentences(compared, pairs)]))


def _print_table(text: str, file: Path) -> None:
    from clip_antidote.files import write_text

    write_text(file, text + "\n")
    _show(text)


def _show(text: str) -> None:
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown("\n".join(map(plain, text.splitlines())), hyperlinks=False))
    else:
        print(text)
