"""All methods on one encoder's features of photographs: decoded, saved, and measured from what was saved."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from featspace.benchmark.identity import code_sum, identity_of
from featspace.benchmark.measure import Measure
from featspace.benchmark.methods import AUTOENCODER, METHODS
from featspace.benchmark.methods import compared as compared_methods
from featspace.benchmark.summary import chosen_weights
from featspace.config.benchmark import BenchParams, Images
from featspace.data.targets import read_targets
from featspace.encoders.encoder import load_encoder
from featspace.methods.saved import as_saved
from featspace.pipelines.loading import load_pipeline
from featspace.pipelines.problem import problem_of
from featspace.utils.devices import choose_device, device_name, weights_sum
from featspace.utils.errors import FeatspaceError, UsageError, enough_memory, suggest
from featspace.utils.files import atomic_file, sha256
from featspace.utils.images import read_image, save_png, to_tensor
from featspace.utils.locks import alone
from featspace.utils.seeds import seed_of
from featspace.utils.tables import BENCH, read_table, write_table

TABLE = "images.csv"


@dataclass(frozen=True)
class Job:
    """A method at a budget and a weight, 0 where it has none."""

    method: str
    evaluations: int
    weight: float = 0.0

    @property
    def folder(self) -> str:
        return f"{self.method}-{self.evaluations}-{self.weight:g}"


Key = tuple[Job, str, int]
"""A job, a target's id, and a sample's index."""


def run_bench(
    params: BenchParams,
    root: Path,
    name: str,
    targets: Path,
    out: Path,
    only: Iterable[str] | None = None,
    weights_of: Path | None = None,
    photos: int | None = None,
) -> pd.DataFrame:
    """Decodes photographs from the features of encoder `name`; writes <out>/images.csv (tables.BENCH) and the PNGs.

    Each method with several weights first decodes `params.tuning` at each; at the weight of the greatest median cosine,
    measured from the saved PNGs, it decodes `params.compared`. `fast` decodes `params.fast`, and the curve as well. The
    autoencoder's reconstructions are measured beside them. With `weights_of`, the folder of another run or of tables,
    nothing is tuned: weights are those chosen there on its first encoder. `photos`: every method decodes one image of
    that many photographs instead, and there is no curve. `only`: these methods alone, the others' images stay.

    What is in `out` already is kept and not decoded again, as far as the same parameters, weights, photographs and code
    made it; a run that is cut off goes on, in the same batches. Raises UsageError for too few photographs, a method
    that there is not, a judge that is the encoder, or if another run decodes into `out`; FeatspaceError for what cannot
    be read, has no finite distance, or does not fit the memory.
    """
    methods = list(only or METHODS)
    if unknown := sorted(set(methods) - set(METHODS)):
        raise UsageError(f"no method {unknown[0]}{suggest(unknown[0], METHODS)}; there are: {', '.join(METHODS)}")
    settings, budget = params.encoder(name), params.evaluations
    compared, fast = (Images(photos=photos),) * 2 if photos else (params.compared, params.fast)
    with alone(Path(out)):
        bench = _Bench(params, root, name, targets, out)
        for images in (compared, fast, *([] if weights_of else [params.tuning])):
            bench.first(images)  # raises now, before anything is decoded
        tuned = [method for method in methods if len(METHODS[method].weights) > 1]
        planned: set[Key] = set()

        def decode(jobs: list[Job], images: Images, stage: str) -> None:
            keys = [[(job, *image) for image in bench.first(images) if (job, *image) not in planned] for job in jobs]
            planned.update(key for part in keys for key in part)
            for part in tqdm(keys, desc=f"{name}, {stage}", unit="job", disable=not keys):
                bench.decode(part)

        if weights_of is None:
            tuning = [Job(method, budget, weight) for method in tuned for weight in METHODS[method].weights]
            decode(tuning, params.tuning, "tuning")
            weights = chosen_weights(bench.table(planned)) if tuned else {}
        else:
            given = read_table(weights_of / TABLE, BENCH)
            bench.tuned_on = given["encoder"].iloc[0]
            tuned_there = (given["encoder"] == bench.tuned_on) & (given["evaluations"] == budget)
            weights = chosen_weights(given[tuned_there])
            if lacking := [method for method in tuned if method not in weights]:
                raise FeatspaceError(f"{weights_of}: no weight of {lacking[0]} for {budget} evaluations; run it first")
        others = [method for method in methods if method != "fast"]
        decode([Job(method, budget, weights.get(method, 0.0)) for method in others], compared, "methods")
        if "fast" in methods:
            curve = [] if photos else settings.curve
            decode([Job("fast", evaluations) for evaluations in sorted({budget, *curve})], fast, "fast")
        decode([Job(AUTOENCODER, 0)], Images(photos=max(compared.photos, fast.photos)), AUTOENCODER)
        if only is None:
            bench.keep(planned)
        return bench.table()


class _Bench:
    """Networks, photographs and what is decoded so far, in a folder that is whole whenever a run is cut off."""

    def __init__(self, params: BenchParams, root: Path, name: str, targets: Path, out: Path):
        self.params, self.name, self.out, self.tuned_on = params, name, Path(out), name
        self.settings, self.device = params.encoder(name), choose_device(params.device)
        self.encoder = load_encoder(self.settings.network, root, layer=self.settings.layer).to(self.device)
        judge = load_encoder(self.settings.judge, root).to(self.device)
        network = weights_sum(self.encoder.model)
        if self.settings.judge == self.settings.network or weights_sum(judge.model) == network:
            raise UsageError(f"{name}: the judge, {self.settings.judge}, is the encoder itself; name another network")
        pipeline = load_pipeline(params.prior, root, params.precision, self.device)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        self.prior = pipeline.prior()
        self.pixels = f"of {self.prior.image_size}x{self.prior.image_size} pixels"
        known = [target for target in read_targets(targets) if target.kind == "photo"]
        self.photographs = {target.id: read_image(targets / f"{target.id}.png") for target in known}
        self.targets = targets
        for photograph in self.photographs.values():
            self.prior.check_resolution(photograph.width)
        self.measure = Measure(self.encoder, judge, self.prior, list(self.photographs.values()))
        self.truths = {id: self.measure.truth(photograph) for id, photograph in self.photographs.items()}
        parts = {
            "seed": params.seed,
            "precision": params.precision,
            "batch": params.batch,  # images of another differ by rounding
            "encoder": [network, self.settings.layer, self.encoder.input_size, self.settings.clip_std],
            "judge": weights_sum(judge.model),
            "prior": weights_sum(pipeline.unet, pipeline.vae, pipeline.text_encoder),
            "schedule": [self.prior.prediction_type, self.prior.alphas_cumprod.sum().item()],
            "photographs": {id: sha256(targets / f"{id}.png") for id in self.photographs},
        }
        modules = {method: f"featspace.methods.{way.module}" for method, way in METHODS.items()}
        modules[AUTOENCODER] = "featspace.priors.prior"
        code = {module: code_sum(module) for module in set(modules.values())}
        self.identities = {method: identity_of(**parts, code=code[module]) for method, module in modules.items()}
        self.rows: dict[Key, dict] = self._read()

    def first(self, images: Images) -> list[tuple[str, int]]:
        if images.photos > len(self.photographs):
            raise UsageError(f"photos is {images.photos}: {self.targets} has {len(self.photographs)}")
        return [(id, sample) for id in list(self.photographs)[: images.photos] for sample in range(images.samples)]

    def decode(self, keys: list[Key]) -> None:
        """Decodes one job's images in batches, but for those that are there as a whole; writes each when it is done."""
        for start in range(0, len(keys), self.params.batch):
            part = keys[start : start + self.params.batch]
            if all(key in self.rows for key in part):
                continue
            begin = time.perf_counter()
            with enough_memory(f"on {self.device} with {len(part)} images {self.pixels} at once", "lower `batch`"):
                images = self._images(part)
            seconds = (time.perf_counter() - begin) / len(part)
            for key, image in zip(part, images, strict=True):
                job, id, sample = key
                with atomic_file(self._png(key)) as partial:
                    save_png(partial, image)
                self.rows[key] = {
                    **{"method": job.method, "evaluations": job.evaluations, "weight": job.weight},
                    **{"id": id, "sample": sample},
                    **_as_written(self.measure(read_image(self._png(key)), self.truths[id])),
                    **{"seconds": seconds, "device": device_name(self.device)},
                    "identity": self.identities[job.method],
                }
            write_table(self.table(), self.out / TABLE)

    def _images(self, keys: list[Key]) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] of keys of one job."""
        job, ids = keys[0][0], [id for _, id, _ in keys]
        if job.method == AUTOENCODER:
            photographs = torch.stack([to_tensor(self.photographs[id]) for id in ids]).to(self.device)
            with torch.no_grad():
                return as_saved(self.prior.decode(self.prior.encode(photographs * 2 - 1)))
        features = torch.stack([self.truths[id].feature for id in ids]).to(self.device)
        generators = [torch.Generator().manual_seed(seed_of(self.params.seed, id, sample)) for _, id, sample in keys]
        problem = problem_of(self.prior, self.encoder, features, generators, copies=len(self.encoder.shape) == 1)
        decode = compared_methods(self.settings.clip_std)[job.method].decode
        return as_saved(decode(problem, job.evaluations, job.weight).images)

    def table(self, keys: Collection[Key] | None = None) -> pd.DataFrame:
        """The rows of `keys`, by default of all, in an order that does not depend on when they were decoded."""
        order, ids = [*METHODS, AUTOENCODER], list(self.photographs)

        def place(key: Key) -> tuple:
            job, id, sample = key
            return order.index(job.method), job.evaluations, job.weight, ids.index(id), sample

        rows = [self.rows[key] for key in sorted(set(self.rows if keys is None else keys), key=place)]
        table = pd.DataFrame(rows).assign(encoder=self.name, tuned_on=self.tuned_on)
        return table.astype({"judge_top1": "Int64", "judge_top5": "Int64"})[list(BENCH)]

    def keep(self, keys: Iterable[Key]) -> None:
        """Drops the rows and the files of all other images."""
        self.rows = {key: self.rows[key] for key in keys}
        write_table(self.table(), self.out / TABLE)
        files = {self._png(key) for key in self.rows}
        for path in self.out.iterdir():
            if path.is_dir() and not any(file.parent == path for file in files):
                shutil.rmtree(path)
        for path in set(self.out.glob("*/*.png")) - files:
            path.unlink()

    def _png(self, key: Key) -> Path:
        job, id, sample = key
        return self.out / job.folder / f"{id}-{sample}.png"

    def _read(self) -> dict[Key, dict]:
        """What an earlier run left that this one would decode and measure alike."""
        if not (self.out / TABLE).is_file():
            return {}
        try:
            table, rows = read_table(self.out / TABLE, BENCH), {}
        except FeatspaceError as error:
            reason = str(error).partition(";")[0]
            raise FeatspaceError(f"{reason}; remove it, and its images are decoded again") from error
        for row in table.to_dict("records"):
            key = Job(row["method"], row["evaluations"], row["weight"]), row["id"], row["sample"]
            if row["identity"] == self.identities.get(row["method"]) and self._png(key).is_file():
                rows[key] = row
        if len(rows) < len(table):
            print(
                f"{self.out}: {len(table) - len(rows)} images are of other settings or code: dropped", file=sys.stderr
            )
        return rows


def _as_written(measured: dict[str, float | None]) -> dict[str, float | None]:
    """To the digits of the table: a run that goes on, which reads them, must choose the same weights."""
    return {name: float(f"{x:.6g}") if isinstance(x, float) else x for name, x in measured.items()}
