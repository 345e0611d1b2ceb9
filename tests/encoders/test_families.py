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
    "beit": "beit_base_patch16_224 beitv2_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet mobileone_s1",
    "cait": "cait_xxs24_224 cait_xxs24_384",
    "coat": "coat_tiny coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext test_convnext3",
    "cpubone": "cpubone_nano cpubone_t0",
    "crossvit": "crossvit_tiny_240 crossvit_9_240",
    "cspnet": "cs3darknet_focus_s cs3darknet_s",
    "cspnext": "cspnext_tiny cspnext_s",
    "davit": "davit_tiny davit_small",
    "deit": "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla46x_c dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small edgenext_x_small",
    "efficientformer": "efficientformer_l1 efficientformer_l3",
    "efficientformer_v2": "efficientformerv2_s0 efficientformerv2_s1",
    "efficientnet": "test_efficientnet test_efficientnet_gn",
    "efficientvim": "efficientvim_m1 efficientvim_m1_dist",
    "efficientvit_mit": "efficientvit_b0 efficientvit_b1",
    "efficientvit_msra": "efficientvit_m0 efficientvit_m1",
    "eva": "eva02_tiny_patch14_224 eva02_tiny_patch14_336",
    "fasternet": "fasternet_t0 fasternet_t1",
    "fastvit": "fastvit_t8 fastvit_t12",
    "focalnet": "focalnet_tiny_srf focalnet_tiny_lrf",
    "gcvit": "gcvit_xxtiny gcvit_xtiny",
    "ghostnet": "ghostnet_050 ghostnetv3_050",
    "hardcorenas": "hardcorenas_b hardcorenas_a",
    "hgnet": "hgnetv2_b0 hgnetv2_b1",
    "hiera": "hiera_tiny_224 hiera_small_224",
    "hieradet_sam2": "sam2_hiera_tiny sam2_hiera_small",
    "hrnet": "hrnet_w18_small hrnet_w18_small_v2",
    "iformer": "iformer_t iformer_s",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small lcnetv2_base",
    "levit": "levit_128s levit_conv_128s",
    "mambaout": "test_mambaout mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256",
    "metaformer": "poolformer_s12 caformer_s18",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050 lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_tiny mvitv2_small",
    "naflexvit": "naflexvit_base_patch16_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny nest_tiny_jx",
    "nextvit": "nextvit_small nextvit_base",
    "nfnet": "test_nfnet nf_regnet_b0",
    "pit": "pit_ti_224 pit_ti_distilled_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny rdnet_small",
    "regnet": "regnetx_002 regnety_002",
    "repghost": "repghostnet_050 repghostnet_058",
    "repvit": "repvit_m1 repvit_m0_9",
    "resnet": "test_resnet resnet10t",
    "resnetv2": "resnetv2_18 resnetv2_34",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42 selecsls42b",
    "senet": "legacy_seresnet18 legacy_seresnet34",
    "shvit": "shvit_s1",
    "starnet": "starnet_s050 starnet_s100",
    "swiftformer": "swiftformer_xs swiftformer_s",
    "swin_transformer": "swin_tiny_patch4_window7_224 swin_s3_tiny_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256 swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224",
    "tiny_vit": "tiny_vit_5m_224 tiny_vit_11m_224",
    "tnt": "tnt_s_legacy_patch16_224 tnt_s_patch16_224",
    "tresnet": "tresnet_m tresnet_l",
    "twins": "twins_svt_small twins_pcpvt_small",
    "vgg": "vgg11 vgg11_bn",
    "visformer": "visformer_tiny visformer_small",
    "vision_transformer": "test_vit test_vit2",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224 vit_tiny_r_s16_p8_384",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16",
    "volo": "volo_d1_224 volo_d1_384",
    "vovnet": "ese_vovnet19b_slim_dw ese_vovnet19b_slim",
    "xception_aligned": "xception41 xception65",
    "xcit": "xcit_nano_12_p8_224 xcit_nano_12_p8_384",
}
"""Small ones of each family, by its module; of sequencer, which takes ten seconds without memory too, there is none."""
REFUSED = {
    "coat_tiny": ("parallel_blocks", "unpooled"),
    "coat_lite_tiny": ("unpooled",),
    "crossvit_tiny_240": ("blocks.2", "unpooled"),
    "crossvit_9_240": ("blocks.2", "unpooled"),
    "efficientvim_m1": ("unpooled",),
    "efficientvim_m1_dist": ("unpooled",),
    "pit_ti_224": ("unpooled",),
    "pit_ti_distilled_224": ("unpooled",),
    "volo_d1_224": ("unpooled",),
    "volo_d1_384": ("unpooled",),
}
"""Layers that have several outputs, or tokens of another grid than the last map's."""
GRIDS = {name: (8, 8) for name in ("inception_v3", "inception_v4", "inception_resnet_v2")}
"""Of networks without padding, whose maps are smaller than their reduction says."""
FUSED = {"mobilenetv5_base": (16, 16)}
"""Of networks that pool a map of several scales."""


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_sizes_are_timms_own(family: str) -> None:
    for name in FAMILIES[family].split():
        with torch.device("meta"):
            model = timm.create_model(name)
            encoder = Encoder(name, _network(model))
            inputs = torch.zeros(2, 3, *encoder.input_size)
        assert encoder.shape == (model.head_hidden_size,), name
        last, refused = model.feature_info[-1], []
        grid = GRIDS.get(name) or tuple(-(-side // last["reduction"]) for side in encoder.input_size)
        for layer, channels in ((last["module"], last["num_chs"]), ("unpooled", model.num_features)):
            try:
                found = maps(model, layer, inputs)
            except FeatspaceError as error:
                assert str(error).count("\n") == 0 and repr(layer) in str(error)
                refused.append(layer)
            else:
                own = FUSED.get(name, grid) if layer == "unpooled" else grid
                assert found(model, inputs).shape[1:] == (channels, *own), (name, layer)
        assert tuple(refused) == REFUSED.get(name, ()), name
        output = model.forward_features(inputs)
        if not refused and output.ndim == 3:
            assert output.shape[1] == getattr(model, "num_prefix_tokens", 0) + math.prod(grid), name
