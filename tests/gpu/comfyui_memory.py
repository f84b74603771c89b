"""ComfyUI's code in a process of ours, with its memory managed as its own main.py would do it."""

from __future__ import annotations

import importlib.util

import comfy.options


def prepare(*, is_dynamic: bool) -> None:
    """Make `comfy` ready to load models. is_dynamic: with dynamic VRAM, where this ComfyUI and its packages have it.

    Call it before any other module of ComfyUI is imported; sys.path holds its folder, sys.argv its arguments.
    """
    has_dynamic = is_dynamic and importlib.util.find_spec("comfy_aimdo") is not None
    if has_dynamic:
        import comfy_aimdo.control

        # Before torch touches the GPU, as in main.py.
        comfy_aimdo.control.init(simple_vram_headroom=None, nvml_pressure=True)
    comfy.options.enable_args_parsing()
    if has_dynamic:
        from comfy import memory_management, model_management, model_patcher

        devices = model_management.get_all_torch_devices()
        if comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
            model_patcher.CoreModelPatcher = model_patcher.ModelPatcherDynamic
            memory_management.aimdo_enabled = True


def is_dynamic() -> bool:
    """Whether models that are loaded from now on get dynamic VRAM."""
    from comfy import model_patcher

    dynamic = getattr(model_patcher, "ModelPatcherDynamic", None)
    return dynamic is not None and model_patcher.CoreModelPatcher is dynamic
