"""`clip-antidote benchmark`: poisoned models, a grid of defenses, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from clip_antidote.benchmark.grid import GridConfig, prepare_zoo, read_records, read_zoo, run_grid
from clip_antidote.benchmark.tables import curve_table, results_table, summary_table, zoo_table
from clip_antidote.cli.common import ConfigFile, Device, console
from clip_antidote.config import read_yaml
from clip_antidote.purification.config import CBPTConfig

app = typer.Typer(help="Compare defenses on poisoned models; resumable.", no_args_is_help=True)

Grid = Annotated[Path, typer.Argument(help="YAML file of the grid, like recipes/grid_120.yaml.")]
Data = Annotated[str, typer.Option(help="Problem folder of `clip-antidote data prepare`, or embedded:clothing.")]
Out = Annotated[Path, typer.Option(help="Benchmark folder.")]


@app.command("prepare")
def prepare(grid: Grid, data: Data, out: Out, device: Device = "cpu") -> None:
    """Make the poisoned models of a grid that are missing."""
    for record in prepare_zoo(GridConfig.build(read_yaml(grid)), data, out, device=device):
        poisoned = record["poisoned"]
        asr = f", ASR {poisoned['asr']:.1%}" if "asr" in poisoned else ""
        console.print(
            f"{record['name']}: CA {record['clean']['ca']:.1%} → {poisoned['ca']:.1%}{asr}, "
            f"implant check {record['implant_check']}",
            highlight=False,
        )


@app.command("run")
def run(grid: Grid, data: Data, out: Out, config: ConfigFile = None, device: Device = "cpu") -> None:
    """Run the cells of a grid that have no record yet."""
    settings = CBPTConfig.build(read_yaml(config) if config else {})
    for record in run_grid(GridConfig.build(read_yaml(grid)), data, out, config=settings, device=device):
        after = record["after"]
        asr = f", ASR {after['asr']:.2%}, PA {after['pa']:.1%}" if "asr" in after else ""
        console.print(
            f"{record['suspect']} {record['defense']} seed {record['seed']}: CA {record['before']['ca']:.1%} → "
            f"{after['ca']:.1%}{asr}, target {record['target_suspected']}, {record['seconds']:.0f} s",
            highlight=False,
        )


@app.command("zoo")
def zoo(out: Out) -> None:
    """Print the table of the poisoned models as Markdown, and write it to zoo.md."""
    _print_table(zoo_table(read_zoo(out)), out / "zoo.md")


@app.command("table")
def table(out: Out) -> None:
    """Print the tables of the results as Markdown, and write them to tables.md."""
    records = read_records(out)
    tables = [summary_table(records), results_table(records), curve_table(records)]
    _print_table("\n\n".join(part for part in tables if part), out / "tables.md")


def _print_table(text: str, file: Path) -> None:
    file.write_text(text + "\n", encoding="utf-8")
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text)
