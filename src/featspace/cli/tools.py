"""Commands for a user's own images and networks: decode, and how fast that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from featspace.cli.options import Device, Layer, ParamsFile, ProfileName, Stem, app, keep_freed_memory, open_profile


@app.command()
def decode(
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="An encoder of the profile, a folder, or FAMILY:NAME (timm:resnet50.tv_in1k)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for the images and tables.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Photographs, folders of them, or .safetensors files of features.", show_default=False),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A caption, for encoders with a text tower.")] = None,
    layer: Layer = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Of the targets, only the one of this id; may be repeated.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Images a target.")] = None,
    preset: Annotated[str | None, typer.Option(help="fast or paper.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Of fast: guided evaluations an image.")] = None,
    stop_at: Annotated[float | None, typer.Option(help="Of fast: squared distance at which an image is done.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of paper: noise levels visited.")] = None,
    recurrences: Annotated[int | None, typer.Option(help="Of paper: guided evaluations a noise level.")] = None,
    emphasis_recurrences: Annotated[
        int | None, typer.Option(help="Of paper: those at each of the first noise levels (emphasis_steps).")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Of paper: guidance weight w.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Images decoded at once; of another number other images, by rounding alone."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Of eight parts the second: 2/8. Groups of targets that are decoded at once are dealt out in turn; a "
            "part that gets none writes its shard.json alone. `featspace merge` joins them."
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of the prior: float32 or bfloat16.")] = None,
    device: Device = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.", min=0)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it will take.")] = False,
    profile: ProfileName = None,
    params: ParamsFile = None,
) -> None:
    """Decode features into images: of photographs, of captions, or from a file.

    Whatever is not given here is as the profile says. Writes for each target and sample the nearest image found, the
    image of the last latent, and two tables.

    Example: featspace decode photo.jpg --encoder clip --out decoded
    """
    loaded, chosen = open_profile(params, profile)
    given = {
        "preset": preset,
        "evaluations": evaluations,
        "stop_at": stop_at,
        "samples": samples,
        "steps": steps,
        "recurrences": recurrences,
        "emphasis_recurrences": emphasis_recurrences,
        "guidance_weight": weight,
        "batch": batch,
        "precision": precision,
        "device": device,
        "emphasis_steps": None if steps is None else min(steps, chosen.decode.emphasis_steps),
    }
    given = {key: value for key, value in given.items() if value is not None}
    settings = chosen.decode.revised(**given)
    settings.refuse_idle(given)
    loaded = loaded if seed is None else replace(loaded, seed=seed)

    sources, text = sources or [], text or []

    from featspace.data.features import count_features
    from featspace.stages.shards import WHOLE, Shard
    from featspace.utils.files import refuse_taken
    from featspace.utils.resuming import settle

    part = None if shard is None else Shard.parse(shard)
    settle(out)
    refuse_taken(out)
    count_features(sources, text)  # what is wrong with them comes before diffusers, whose import takes long

    from featspace.config.params import encoder_params
    from featspace.stages.decode import run_decode

    if dry_run:
        from featspace.stages.plan import describe

        own = encoder_params(chosen, encoder, layer)
        for line in describe(loaded, chosen, own, sources, text, settings, target or [], part or WHOLE):
            typer.echo(line)
        return
    keep_freed_memory()
    table = run_decode(loaded, chosen, encoder, sources, text, out, settings, weight, layer, target or [], part)
    for row in table.itertuples():
        typer.echo(f"{out / f'{row.id}-{row.sample}.png'}  distance {row.saved_distance:.4g}  cosine {row.cosine:.4f}")
    if table.empty:
        typer.echo(f"{out}  shard {shard}: no images, as all targets are in other shards; merge it with them")


@app.command()
def merge(
    shards: Annotated[
        list[Path], typer.Argument(help="The folders that `featspace decode --shard` wrote, all of them.")
    ],
    out: Annotated[Path, typer.Option(help="New folder, the same as `featspace decode` without --shard writes.")],
) -> None:
    """Join the shards of a decoding.

    Example: featspace merge decoded.1 decoded.2 --out decoded
    """
    from featspace.stages.shards import run_merge

    table = run_merge(shards, out)
    typer.echo(f"{out}  {len(table)} images of {table['id'].nunique()} targets")


@app.command()
def speed(
    out: Stem,
    profile: ProfileName = "paper",
    params: ParamsFile = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images at once; by default 1, 4 and 16.", min=1)] = None,
    evaluations: Annotated[int, typer.Option(help="Timed guided evaluations of each way.", min=1)] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the prior, with torch.compile.")] = False,
    device: Device = None,
    shares: Annotated[
        bool,
        typer.Option("--shares", help="Instead: the shares of UNet, VAE decoder and encoder; writes a .csv alone."),
    ] = False,
) -> None:
    """Time guided decoding at a profile's shapes, beside the official implementation's way; weights are random.

    Nothing is downloaded. The .csv names the device; the figure shows milliseconds an image. With --shares the
    profile's own networks are loaded, and the parts of an evaluation are timed, at the first --batch (by default 1).
    """
    from featspace.benchmark.speed import run_shares, run_speed
    from featspace.figures.speed import run_speed_figure

    loaded, chosen = open_profile(params, profile, device)
    table = out.with_name(f"{out.name}.csv")
    keep_freed_memory()  # as in decoding
    if shares:
        parts = run_shares(chosen, table, loaded.root, batch=(batch or [1])[0], evaluations=evaluations)
        for row in parts.itertuples():
            both = f"{row.forward_ms:.1f} ms forward, {row.backward_ms:.1f} ms backward"
            typer.echo(f"{row.encoder}, {row.part}: {row.share:.0%} ({both})")
        return
    run_speed(chosen, batch or [1, 4, 16], table, loaded.root, compiled=compiled, evaluations=evaluations)
    run_speed_figure(table, out)


@app.command()
def sheet(
    decoded: Annotated[list[Path], typer.Argument(help="Folders that `featspace decode` wrote.")],
    out: Annotated[Path, typer.Option(help="New folder for sheet.png, names.txt and answers.csv, to be filled in.")],
    key: Annotated[Path, typer.Option(help="New CSV of what each number is: not for the one who names.")],
    side: Annotated[int, typer.Option(help="Pixels a side of each image.", min=32, max=1024)] = 256,
    seed: Annotated[int, typer.Option(help="Of the order.", min=0)] = 0,
) -> None:
    """Lay out decoded images in random order, numbered, for a blind test of whether their targets can be named.

    Example: featspace sheet data/mini/decoded/clip data/mini/decoded/vit --out sheet --key key.csv
    """
    from featspace.stages.naming import run_sheet

    count = len(run_sheet(decoded, out, key, side, seed))
    typer.echo(f"{out / 'sheet.png'}  {count} images; fill in {out / 'answers.csv'}, then: featspace score")


@app.command()
def score(
    answers: Annotated[Path, typer.Argument(help="The filled-in answers.csv of a sheet.")],
    key: Annotated[Path, typer.Option(help="The key that `featspace sheet` wrote.")],
    out: Annotated[Path, typer.Option(help="Table of what was right, by folder, with 95 % intervals.")],
) -> None:
    """Score the names that were given to the images of a sheet."""
    from featspace.stages.naming import run_score

    for row in run_score(answers, key, out).itertuples():
        typer.echo(
            f"{row.folder}: {row.right} of {row.images} right, {row.right_share:.0%} "
            f"[{row.right_low:.0%}, {row.right_high:.0%}], {row.clearly_right} of them clearly; chance {row.chance:.0%}"
        )
