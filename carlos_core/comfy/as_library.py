"""ComfyUI's code in a process of ours, with its options, folders and memory as its own main.py sets them up."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from pathlib import Path
from typing import Any


def prepare_folders(folder: Path) -> None:
    """Read ComfyUI's options and the folders that they and extra_model_paths.yaml name. No torch is needed.

    Call it before any other module of ComfyUI is imported; sys.path holds its folder, sys.argv its arguments.
    """
    import_module("comfy.options").enable_args_parsing()
    arguments = import_module("comfy.cli_args").args
    folder_paths = import_module("folder_paths")
    extra_config = import_module("utils.extra_config")
    named = [path for paths in getattr(arguments, "extra_model_paths_config", None) or () for path in paths]
    for path in (str(folder / "extra_model_paths.yaml"), *named):
        if Path(path).is_file():
            extra_config.load_extra_path_config(path)
    if getattr(arguments, "output_directory", None):
        folder_paths.set_output_directory(str(Path(arguments.output_directory).absolute()))
    for name in ("checkpoints", "loras"):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.get_output_directory()) / name))
    if getattr(arguments, "user_directory", None):
        folder_paths.set_user_directory(str(Path(arguments.user_directory).absolute()))


def prepare_memory() -> None:
    """Make `comfy` ready to load models: with dynamic VRAM where this ComfyUI would use it. After `prepare_folders`."""
    arguments = import_module("comfy.cli_args")
    wants_it = getattr(arguments, "enables_dynamic_vram", None)
    if wants_it is None or not wants_it() or importlib.util.find_spec("comfy_aimdo") is None:
        return
    control = import_module("comfy_aimdo.control")
    # Before torch touches the GPU.
    _first_that_fits(control.init, ({"simple_vram_headroom": None, "nvml_pressure": True}, {"simple_vram_headroom": None}, {}))
    management: Any = import_module("comfy.model_management")
    patcher: Any = import_module("comfy.model_patcher")
    memory: Any = import_module("comfy.memory_management")
    if not management.is_nvidia():
        return
    devices = [device.index for device in management.get_all_torch_devices()]
    try:
        is_ready = control.init_devices((index, 0) for index in devices)
    except TypeError:
        is_ready = control.init_devices(iter(devices))
    if is_ready:
        patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
        memory.aimdo_enabled = True


def _first_that_fits(call: Any, ways: tuple[dict[str, Any], ...]) -> None:
    """Call a function whose options changed between versions. Raises the last TypeError."""
    for place, options in enumerate(ways):
        try:
            call(**options)
            return
        except TypeError:
            if place == len(ways) - 1:
                raise
