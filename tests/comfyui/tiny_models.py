"""Models of many families: ComfyUI's own classes with few, narrow layers, random weights, and widths as different as real ones.

For scripts that run in a process of ComfyUI's, with its command line parsed.
"""

from __future__ import annotations

import re
from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch

UNET: dict[str, Any] = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
UNET |= {"use_temporal_attention": False, "num_heads": -1}
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 96,
    "mlp_ratio": 4.0,
    "depth": 1,
}
FLUX |= {
    "txt_ids_dims": [],
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "patch_size": 2,
}
LUMINA: dict[str, Any] = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "cap_feat_dim": 96, "n_layers": 2}
LUMINA |= {"qk_norm": True, "axes_dims": [16, 24, 24], "axes_lens": [300, 512, 512]}
COSMOS: dict[str, Any] = {"max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16}
COSMOS |= {"patch_spatial": 2, "patch_temporal": 1, "model_channels": 256, "concat_padding_mask": True, "num_blocks": 1}
COSMOS |= {"crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "num_heads": 2, "use_adaln_lora": True, "adaln_lora_dim": 32}
SD3_TEXT = {"target": "torch.nn.Linear", "params": {"in_features": 96, "out_features": 128}}
CONFIGS: dict[str, dict[str, Any]] = {
    "SD15": UNET
    | {"model_channels": 32, "adm_in_channels": None, "num_res_blocks": [1, 1], "transformer_depth": [1, 1]}
    | {"channel_mult": [1, 2], "transformer_depth_middle": 1, "use_linear_in_transformer": False, "context_dim": 768}
    | {"transformer_depth_output": [1, 1, 1, 1], "num_heads": 4},
    "SDXL": UNET
    | {"model_channels": 64, "adm_in_channels": 2816, "num_classes": "sequential", "num_res_blocks": [1, 1]}
    | {"transformer_depth": [0, 1], "channel_mult": [1, 2], "transformer_depth_middle": 1, "use_linear_in_transformer": True}
    | {"context_dim": 2048, "transformer_depth_output": [0, 0, 1, 1], "num_head_channels": 32},
    "SD3": {"in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "pos_embed_max_size": 32}
    | {"pos_embed_scaling_factor": None, "adm_in_channels": 64, "qkv_bias": True, "context_embedder_config": SD3_TEXT},
    "Flux": FLUX | {"image_model": "flux", "hidden_size": 256, "num_heads": 2, "guidance_embed": True},
    "Flux2": FLUX
    | {"image_model": "flux2", "hidden_size": 512, "num_heads": 4, "axes_dim": [32, 32, 32, 32], "mlp_ratio": 3.0, "theta": 2000}
    | {"global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False, "vec_in_dim": None}
    | {"patch_size": 1, "in_channels": 128, "out_channels": 128, "txt_ids_dims": [3], "guidance_embed": True},
    "Chroma": FLUX
    | {"image_model": "chroma", "hidden_size": 256, "num_heads": 2, "in_channels": 64, "out_channels": 64, "in_dim": 64}
    | {"out_dim": 256, "hidden_dim": 128, "n_layers": 2},
    "Lumina2": LUMINA | {"dim": 192, "n_heads": 3, "n_kv_heads": 1, "rope_theta": 10000.0, "ffn_dim_multiplier": 4.0},
    "ZImage": LUMINA
    | {"dim": 320, "n_heads": 5, "n_kv_heads": 5, "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True},
    "QwenImage": {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "num_attention_heads": 2}
    | {"joint_attention_dim": 96},
    "Anima": COSMOS | {"image_model": "anima", "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0},
    "Krea2": {"image_model": "krea2", "features": 512, "channels": 16, "patch": 2, "layers": 1, "heads": 4, "kvheads": 1}
    | {"txtlayers": 2, "txtdim": 160, "txtheads": 5, "txtkvheads": 5},
    "Omnigen2": {"image_model": "omnigen2", "hidden_size": 240, "num_layers": 1, "num_refiner_layers": 1, "text_feat_dim": 96}
    | {"num_attention_heads": 2, "num_kv_heads": 1, "axes_dim_rope": (40, 40, 40), "axes_lens": (1024, 1664, 1664)},
    "HunyuanImage21": {"image_model": "hunyuan_video", "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "byt5": True}
    | {"context_in_dim": 96, "hidden_size": 384, "num_heads": 3, "mlp_ratio": 4.0, "depth": 1, "depth_single_blocks": 1}
    | {"axes_dim": [64, 64], "theta": 256, "patch_size": [1, 1], "qkv_bias": True, "guidance_embed": False, "meanflow": False}
    | {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
    "WAN21_T2V": {"image_model": "wan2.1", "model_type": "t2v", "dim": 256, "out_dim": 16, "num_heads": 2, "ffn_dim": 512}
    | {"num_layers": 1, "patch_size": (1, 2, 2), "in_dim": 16, "text_dim": 96},
}


def build(family: str) -> Any:
    """A MODEL of a family, random; None if this ComfyUI does not know the family."""
    kind = getattr(comfy.supported_models, family, None)
    if kind is None:
        return None
    model = made(kind, dict(CONFIGS[family]))
    generator = torch.Generator().manual_seed(len(family))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def made(kind: Any, settings: dict[str, Any]) -> Any:
    """ComfyUI's model for settings, of which older versions do not know all."""
    while True:
        config = kind(dict(settings))
        config.set_inference_dtype(torch.float32, None)
        try:
            return config.get_model({}, "", device=torch.device("cpu"))
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown is None:
                raise
            del settings[unknown[1]]
