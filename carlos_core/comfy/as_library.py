"""ComfyUI's code in a process of ours, with its options, folders and memory as its own main.py sets them up."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def read_options() -> None:
    """Read ComfyUI's options, before any other module of it is imported. sys.path holds its folder, sys.argv its arguments.

    Ends the process for an option that it does not know.
    """
    import_module("comfy.options").enable_args_parsing()
    import_module("comfy.cli_args")


def prepare_device() -> None:
    """Take the devices and the allocator that the options name, as main.py does before all else. After `read_options`.

    No torch is needed, and none of ComfyUI's other modules may be here yet: those that page weights in and out keep what they
    find of the library that does it when they are imported.
    """
    cli_args = import_module("comfy.cli_args")
    arguments = cli_args.args
    named = getattr(arguments, "cuda_device", None)
    first = getattr(arguments, "default_device", None)
    if first is not None and named != "all":
        _see_only(",".join(map(str, [first, *(device for device in range(32) if device != first)])))
    if named not in (None, "all"):
        _see_only(str(named))
    selector = getattr(arguments, "oneapi_device_selector", None)
    if selector is not None:
        os.environ["ONEAPI_DEVICE_SELECTOR"] = selector
    if getattr(arguments, "deterministic", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "torch" not in sys.modules:
        import_module("cuda_malloc")
    if _wants_dynamic_vram(cli_args):
        reserved = getattr(arguments, "reserve_vram", None)
        headroom = {"simple_vram_headroom": None if reserved is None else int(reserved * 1024**3)}
        pressure = {"nvml_pressure": not getattr(arguments, "disable_nvml_pressure", False)}
        # Options of comfy_aimdo came with its versions.
        _first_that_fits(import_module("comfy_aimdo.control").init, ({**headroom, **pressure}, headroom, {}))


def prepare_folders(folder: Path) -> None:
    """Take the folders that ComfyUI's options and extra_model_paths.yaml name. After `read_options`. No torch is needed."""
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
    """Make `comfy` ready to load models: with dynamic VRAM where this ComfyUI would use it. After `prepare_device`."""
    cli_args = import_module("comfy.cli_args")
    if not _wants_dynamic_vram(cli_args):
        return
    control = import_module("comfy_aimdo.control")
    management: Any = import_module("comfy.model_management")
    patcher: Any = import_module("comfy.model_patcher")
    memory: Any = import_module("comfy.memory_management")
    if not management.is_nvidia():
        return
    devices = [device.index for device in management.get_all_torch_devices()]
    headroom = int((getattr(cli_args.args, "vram_headroom", 0) or 0) * 1024**3)
    try:
        is_ready = control.init_devices((index, headroom) for index in devices)
    except TypeError:
        is_ready = control.init_devices(iter(devices))
    if is_ready:
        patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
        memory.aimdo_enabled = True


def _wants_dynamic_vram(cli_args: Any) -> bool:
    wants_it = getattr(cli_args, "enables_dynamic_vram", None)
    return wants_it is not None and wants_it() and importlib.util.find_spec("comfy_aimdo") is not None


def _see_only(devices: str) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
        os.environ[variable] = devices


def _first_that_fits(call: Any, ways: tuple[dict[str, Any], ...]) -> None:
    """Call a function whose options changed between versions. Raises the last TypeError."""
    for place, options in enumerate(ways):
        try:
            call(**options)
            return
        except TypeError:
            if place == len(ways) - 1:
                raise
