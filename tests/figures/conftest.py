from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from drawing import CAPTIONS, PHOTOS
from PIL import Image

from featspace.utils.images import square


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three photographs and two captions, two decoded samples each, every cosine similarity another one."""
    tmp_path = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    (tmp_path / "targets").mkdir()
    (tmp_path / "decoded").mkdir()
    targets, similarity, references = ["id,kind,text,source"], [], []
    for id in (*PHOTOS, *CAPTIONS):
        kind = "photo" if id in PHOTOS else "caption"
        targets.append(f'{id},{kind},"{CAPTIONS.get(id, "")}",')
        if kind == "photo":
            photo = square(Image.fromarray(getattr(skimage.data, id)()), 64)
            photo.save(tmp_path / "targets" / f"{id}.png")
        for sample in (1, 0):
            pixels = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "decoded" / f"{id}-{sample}.png")
            number = 0.9 + len(similarity) / 1000
            similarity.append(f"clip,{id},{sample},{kind},best,1,{number:.6g},0.5,,")
            similarity.append(f"clip,{id},{sample},{kind},last,1,0.123,0.5,,")
        references.append(f"clip,{id},nearest_photo,9,0.{len(references) + 4}")
    head = "encoder,id,sample,kind,image,distance,cosine,judge_cosine,top1_agrees,judge_top1_agrees"
    (tmp_path / "targets" / "targets.csv").write_text("\n".join(targets))
    (tmp_path / "similarity.csv").write_text("\n".join([head, *similarity]))
    (tmp_path / "references.csv").write_text("\n".join(["encoder,id,reference,distance,cosine", *references]))
    return tmp_path
