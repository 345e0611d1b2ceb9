"""The commands of the benchmark: `featspace bench …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import Device, Out, Stem, Targets, app, keep_freed_memory

bench = typer.Typer(
    help="Compare training-free methods on the same features, from the same seeds, at the same budget.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")


@bench.command()
def run(
    encoder: Annotated[str, typer.Option("--encoder", help="One of the parameter file's encoders.")],
    targets: Targets,
    out: Annotated[Path, typer.Option(help="Folder for images and their table; what is there is gone on with.")],
    params: Annotated[Path, typer.Option("--params", help="The benchmark's parameters.")] = Path("params.yaml"),
    only: Annotated[list[str] | None, typer.Option(help="Methods, instead of all.")] = None,
    weights_of: Annotated[
        Path | None,
        typer.Option(
            help="Tune nothing: the weights are those chosen on the first encoder of this folder's images.csv."
        ),
    ] = None,
    device: Device = None,
    photos: Annotated[
        int | None, typer.Option(help="Decode one image of so many photographs by every method.", min=1)
    ] = None,
) -> None:
    """Decode photographs from an encoder's features by every method, each at its best weight, and measure the images.

    Example: featspace bench run --params bench/params.yaml --encoder clip --targets data/mini/targets --out clip
    """
    from featspace.benchmark.run import run_bench
    from featspace.config.benchmark import BenchParams

    loaded = BenchParams.load(params)
    loaded = loaded if device is None else loaded.model_copy(update={"device": device})
    keep_freed_memory()  # as in decoding
    run_bench(loaded, params.parent / loaded.root, encoder, targets, out, only, weights_of, photos)


@bench.command()
def held_out(
    photographs: Annotated[Path, typer.Argument(help="Folder of val.parquet and classes.json, or of val.")],
    count: Annotated[int, typer.Option(help="How many, each of another class.", min=1)],
    resolution: Annotated[int, typer.Option(help="Pixels a side.", min=8)],
    out: Out,
) -> None:
    """Write held-out photographs as a folder of targets."""
    from featspace.benchmark.held_out import run_held_out

    run_held_out(photographs, count, resolution, out)


@bench.command()
def summary(
    results: Annotated[list[Path], typer.Argument(help="Folders that `featspace bench run` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
) -> None:
    """Put the results of several encoders into tables."""
    from featspace.benchmark.summary import run_bench_summary

    run_bench_summary(results, out)


@bench.command()
def figure(
    tables: Annotated[Path, typer.Argument(help="Folder that `featspace bench summary` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for bench.png, curve.png, and both as PDF.")],
) -> None:
    """Draw how the methods compare, and what `fast` gives for its budget."""
    from featspace.figures.bench import run_bench_figure

    run_bench_figure(tables, out)


@bench.command()
def load(
    out: Annotated[Path, typer.Option(help="The table of seconds, memory and sizes to write.")],
    root: Annotated[Path, typer.Option(help="The checkout, which has data/models.")] = Path(),
    targets: Annotated[list[int] | None, typer.Option(help="How many; by default 50 and 1000.", min=2)] = None,
    evaluations: Annotated[int, typer.Option(help="Guided evaluations of an image.", min=1)] = 2,
) -> None:
    """Run every stage on many targets, on one core, and list what each takes; the images are thrown away."""
    from featspace.benchmark.load import run_load

    run_load(root, targets or [50, 1000], out, evaluations)


@bench.command()
def scale(
    out: Stem,
    encoders: Annotated[int, typer.Option(help="How many.", min=1)] = 1000,
    targets: Annotated[int, typer.Option(help="Of each encoder, decoded once.", min=1)] = 50_000,
    seconds: Annotated[float, typer.Option(help="Of a GPU, for an image.")] = 8.2,
    spread: Annotated[
        float, typer.Option(help="Standard deviation of the logarithm of a job's duration.", min=0)
    ] = 0.3,
    latency: Annotated[float, typer.Option(help="Seconds before a job decodes.", min=0)] = 90.0,
    seed: Annotated[int, typer.Option(help="Of the jobs' durations.", min=0)] = 0,
) -> None:
    """Simulate how long many encoders and targets take, by GPUs and shards, with slow jobs and a lost node."""
    from featspace.benchmark.schedule import Workload, run_schedule
    from featspace.figures.schedule import run_schedule_figure

    table = out.with_name(f"{out.name}.csv")
    run_schedule(Workload(encoders, targets, seconds, spread, latency, seed), table)
    run_schedule_figure(table, out)
