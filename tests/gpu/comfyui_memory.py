"""ComfyUI's code in a process of ours, with its memory managed as its own main.py would do it."""

from __future__ import annotations

from carlos_core.comfy import as_library


def prepare(*, is_dynamic: bool) -> None:
    """Make `comfy` ready to load models. is_dynamic: with dynamic VRAM, where this ComfyUI and its packages have it.

    Call it before any other module of ComfyUI is imported; sys.path holds its folder, sys.argv its arguments.
    """
    as_library.read_options()
    if not is_dynamic:
        from comfy.cli_args import args

        args.disable_dynamic_vram = True
    as_library.prepare_device()
    as_library.prepare_memory()


def is_dynamic() -> bool:
    """Whether models that are loaded from now on get dynamic VRAM."""
    from comfy import model_patcher

    dynamic = getattr(model_patcher, "ModelPatcherDynamic", None)
    return dynamic is not None and model_patcher.CoreModelPatcher is dynamic
