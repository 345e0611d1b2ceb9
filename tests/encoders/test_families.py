"""Small networks of timm's families against what timm says of them: sizes, channels, grids, tokens.

Without memory or weights, as shapes alone are compared.
"""

from __future__ import annotations

import math

import pytest
import timm
import torch

from featspace.encoders.adapters.timm import _network, maps
from featspace.encoders.encoder import Encoder
from featspace.utils.errors import FeatspaceError

FAMILIES = {
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet mobileone_s1",
    "coat": "coat_tiny coat_lite_tiny",
    "convit": "convit_tiny",
    "convnext": "test_convnext test_convnext3",
    "cpubone": "cpubone_nano cpubone_t0",
    "crossvit": "crossvit_tiny_240 crossvit_9_240",
    "cspnet": "cs3darknet_focus_s cs3darknet_s",
    "cspnext": "cspnext_tiny cspnext_s",
    "deit": "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla46x_c dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small edgenext_x_small",
    "efficientformer_v2": "efficientformerv2_s0 efficientformerv2_s1",
    "efficientnet": "test_efficientnet test_efficientnet_gn",
    "efficientvim": "efficientvim_m1 efficientvim_m1_dist",
    "efficientvit_mit": "efficientvit_b0 efficientvit_b1",
    "efficientvit_msra": "efficientvit_m0 efficientvit_m1",
    "eva": "eva02_tiny_patch14_224 eva02_tiny_patch14_336",
    "fasternet": "fasternet_t0 fasternet_t1",
    "fastvit": "fastvit_t8 fastvit_t12",
    "ghostnet": "ghostnet_050 ghostnetv3_050",
    "hardcorenas": "hardcorenas_b hardcorenas_a",
    "hgnet": "hgnetv2_b0 hgnetv2_b1",
    "iformer": "iformer_t iformer_s",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small lcnetv2_base",
    "levit": "levit_128s levit_conv_128s",
    "mambaout": "test_mambaout mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050 lcnet_035",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "nfnet": "test_nfnet nf_regnet_b0",
    "pit": "pit_ti_224 pit_ti_distilled_224",
    "pvt_v2": "pvt_v2_b0",
    "regnet": "regnetx_002 regnety_002",
    "repghost": "repghostnet_050 repghostnet_058",
    "repvit": "repvit_m1 repvit_m0_9",
    "resnet": "test_resnet resnet10t",
    "rexnet": "rexnet_100 rexnetr_100",
    "shvit": "shvit_s1",
    "starnet": "starnet_s050 starnet_s100",
    "swiftformer": "swiftformer_xs swiftformer_s",
    "vision_transformer": "test_vit test_vit2",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224 vit_tiny_r_s16_p8_384",
    "vision_transformer_relpos": "test_vit_relpos",
    "vovnet": "ese_vovnet19b_slim_dw ese_vovnet19b_slim",
    "xcit": "xcit_nano_12_p8_224 xcit_nano_12_p8_384",
}
"""The two smallest of each, as far as they have at most 10 million parameters; families of larger ones are not here."""
REFUSED = {
    "coat_tiny": ("parallel_blocks", "unpooled"),
    "coat_lite_tiny": ("unpooled",),
    "crossvit_tiny_240": ("blocks.2", "unpooled"),
    "crossvit_9_240": ("blocks.2", "unpooled"),
    "efficientvim_m1": ("unpooled",),
    "efficientvim_m1_dist": ("unpooled",),
    "pit_ti_224": ("unpooled",),
    "pit_ti_distilled_224": ("unpooled",),
}
"""Layers that have several outputs, or tokens of another grid than the last map's."""


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_sizes_are_timms_own(family: str) -> None:
    for name in FAMILIES[family].split():
        with torch.device("meta"):
            model = timm.create_model(name)
            encoder = Encoder(name, _network(model))
            inputs = torch.zeros(2, 3, *encoder.input_size)
        assert sum(parameter.numel() for parameter in model.parameters()) < 10.1e6
        assert encoder.shape == (model.head_hidden_size,), name
        last, refused = model.feature_info[-1], []
        grid = tuple(-(-side // last["reduction"]) for side in encoder.input_size)
        for layer, channels in ((last["module"], last["num_chs"]), ("unpooled", model.num_features)):
            try:
                found = maps(model, layer, inputs)
            except FeatspaceError as error:
                assert str(error).count("\n") == 0 and repr(layer) in str(error)
                refused.append(layer)
            else:
                assert found(model, inputs).shape[1:] == (channels, *grid), (name, layer)
        assert tuple(refused) == REFUSED.get(name, ()), name
        output = model.forward_features(inputs)
        if not refused and output.ndim == 3:
            assert output.shape[1] == getattr(model, "num_prefix_tokens", 0) + math.prod(grid), name
