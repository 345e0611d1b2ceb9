"""How near reconstructions come to originals: maps, pooled features, classes, and the distance of distributions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from featspace.encoders.encoder import Encoder
from featspace.metrics.bootstrap import bootstrap_interval
from featspace.metrics.frechet import frechet_distance
from featspace.metrics.similarity import cosine_similarity, map_cosine


@torch.no_grad()
def compare_images(
    maps: Encoder, judge: Encoder, originals: Tensor, decoded: Tensor
) -> tuple[pd.DataFrame, tuple[Tensor, Tensor]]:
    """A row an image of originals and reconstructions, both (N, 3, H, W) in [0, 1] on the levels of an 8-bit file.

    map_cosine, pooled_cosine (the encoder's own feature), judge_cosine; shuffled_map_cosine, shuffled_pooled_cosine:
    with the original that is half the list away, which is what any natural image would reach; top1_agrees,
    top5_agrees: whether the encoder's classifier puts the reconstruction first, or among the first five, into the
    class it puts the original into (empty without a classifier). And the judge's features of both, each (N, D).
    """
    seen = {"originals": _seen_by(maps, judge, originals), "decoded": _seen_by(maps, judge, decoded)}
    (map_a, pooled_a, judged_a, logits_a), (map_b, pooled_b, judged_b, logits_b) = seen.values()
    apart = len(originals) // 2  # 0 for a single one
    table = pd.DataFrame(
        {
            "map_cosine": map_cosine(map_a, map_b).numpy(),
            "pooled_cosine": cosine_similarity(pooled_a, pooled_b).numpy(),
            "judge_cosine": cosine_similarity(judged_a, judged_b).numpy(),
            "shuffled_map_cosine": map_cosine(map_a.roll(apart, 0), map_b).numpy(),
            "shuffled_pooled_cosine": cosine_similarity(pooled_a.roll(apart, 0), pooled_b).numpy(),
        }
    )
    if not apart:
        table[["shuffled_map_cosine", "shuffled_pooled_cosine"]] = np.nan
    for count in (1, 5):
        table[f"top{count}_agrees"] = np.nan
        if logits_a is not None and logits_b is not None:
            first = logits_b.topk(min(count, logits_b.shape[1]), dim=1).indices
            table[f"top{count}_agrees"] = (first == logits_a.argmax(1, keepdim=True)).any(1).float().numpy()
    return table, (judged_a, judged_b)


def frechet(originals: Tensor, decoded: Tensor) -> float | None:
    """The Fréchet distance of features (N, D), None for fewer than D of them: it would be of their number."""
    return None if len(originals) < originals.shape[1] else frechet_distance(originals, decoded)


def summarize(table: pd.DataFrame, seed: int, resamples: int = 2000) -> dict[str, float | int]:
    """Means of the table of `compare_images` over images, each with its 95 % bootstrap interval."""
    summary: dict[str, float | int] = {"images": len(table)}
    for column in table.select_dtypes("number").dropna(axis="columns"):
        values = table[column].to_numpy(float)
        low, high = bootstrap_interval(
            {str(i): [value] for i, value in enumerate(values)}, np.mean, 0.95, resamples, seed
        )
        summary |= {column: float(values.mean()), f"{column}_low": low, f"{column}_high": high}
    return summary


def _seen_by(
    maps: Encoder, judge: Encoder, images: Tensor, batch: int = 16
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    device = next(maps.parameters()).device
    shown, pooled, judged, logits = [], [], [], []
    for part in tqdm(images.split(batch), desc="measure", unit="batch", disable=len(images) <= 4 * batch):
        part = part.to(device)
        if maps.has_classifier:
            logits.append(maps.classify(part))
        shown.append(maps.spatial(part))
        pooled.append(maps.pooled(part))
        judged.append(judge(part))
    return _joined(shown), _joined(pooled), _joined(judged), _joined(logits) if logits else None


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).float().cpu()
