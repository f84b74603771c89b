"""The pack as users get it: what the registry's archive holds, and how it loads."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import comfyui_host as hosts

NODES = {
    "CarlosApplyLoras",
    "CarlosAutoLora",
    "CarlosCaches",
    "CarlosCombineSearches",
    "CarlosDescribeLoras",
    "CarlosDuplicateLoras",
    "CarlosIndexLibrary",
    "CarlosLoraCard",
    "CarlosLoraIndexer",
    "CarlosLoraMap",
    "CarlosLoraRetriever",
    "CarlosLorasByName",
    "CarlosLorasLikeImage",
    "CarlosMetricsDBLoader",
    "CarlosPromptWithTriggers",
    "CarlosRaceLoras",
    "CarlosRefreshMetadata",
    "CarlosSimilarLoras",
}

_LOAD_AS_COMFYUI_DOES = """
import asyncio, importlib.util, json, logging, socket, sys
pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy.samplers, comfy_api.latest
network = []
sys.addaudithook(lambda event, arguments: network.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
before = set(sys.modules)
spec = importlib.util.spec_from_file_location(pack, pack + "/__init__.py", submodule_search_locations=[pack])
module = importlib.util.module_from_spec(spec)
sys.modules[pack] = module
spec.loader.exec_module(module)
found = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
schemas = [node.GET_SCHEMA() for node in found]
import nodes as core
print(json.dumps({
    "nodes": [schema.node_id for schema in schemas],
    "categories": sorted({schema.category for schema in schemas}),
    "new": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "network": network,
    "core_nodes_are_still": "KSampler" in core.NODE_CLASS_MAPPINGS,
}))
"""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's archive, made by comfy-cli from a clone."""
    clone = tmp_path_factory.mktemp("pack") / "clone"
    subprocess.run(["git", "clone", "-q", hosts.ROOT, clone], check=True, timeout=120)
    comfy = Path(sys.executable).with_name("comfy")
    subprocess.run([comfy, "--skip-prompt", "--no-enable-telemetry", "node", "pack"], cwd=clone, check=True, timeout=300)
    return clone / "node.zip"


def test_the_pack_loads_without_heavy_imports_and_without_a_network(comfyui: Path, tmp_path: Path) -> None:
    pack = tmp_path / "a-pack with-hyphens"
    pack.symlink_to(hosts.ROOT)
    base = hosts.make_base_folder(tmp_path / "base", with_pack=False)
    command = [hosts.comfyui_python(comfyui), "-c", _LOAD_AS_COMFYUI_DOES, pack, base]
    done = subprocess.run(list(map(str, command)), check=True, timeout=300, capture_output=True, text=True, cwd=comfyui)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert set(loaded["nodes"]) == NODES
    assert loaded["categories"] == ["CARLoS"]
    # Others, such as requests, are loaded by ComfyUI itself.
    assert not {"open_clip", "pyarrow", "pandas", "scipy"} & set(loaded["new"])
    assert loaded["network"] == []
    assert loaded["core_nodes_are_still"]
    assert len(done.stdout.splitlines()) == 1


def test_comfy_cli_finds_nothing_to_object_to() -> None:
    comfy = Path(sys.executable).with_name("comfy")
    command = [comfy, "--skip-prompt", "--no-enable-telemetry", "node", "validate"]
    done = subprocess.run(list(map(str, command)), check=False, cwd=hosts.ROOT, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_archive_holds_the_pack_and_not_its_workshop(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        size = sum(entry.compress_size for entry in content.infolist())
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE"} <= set(names)
    assert "carlos_core/database/data/published.parquet" in names
    assert {f"locales/{language}/nodeDefs.json" for language in ("en", "ja", "zh", "zh-TW")} <= set(names)
    assert {"subgraphs/LoRAs for a sentence (CARLoS).json", "web/docs/pictures/card.png"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", ".ci/", ".venv"))]
    assert size < 8_000_000


def test_the_archive_works_in_a_fresh_comfyui_and_leaves_torch_alone(comfyui: Path, archive: Path, tmp_path: Path) -> None:
    base = hosts.make_base_folder(tmp_path / "fresh", with_pack=False)
    pack = base / "custom_nodes" / "carlos-loras"
    with zipfile.ZipFile(archive) as content:
        content.extractall(pack)
    python = hosts.comfyui_python(comfyui)
    version = [str(python), "-c", "import importlib.metadata as m; print(m.version('torch'), m.version('torchvision'))"]
    before = subprocess.run(version, check=True, capture_output=True, text=True).stdout
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(pack / "requirements.txt")], check=True, timeout=1200)
    assert subprocess.run(version, check=True, capture_output=True, text=True).stdout == before
    with hosts.running(comfyui, base) as host:
        info = host.object_info()
        assert set(info) >= NODES
        assert all(info[name]["category"] == "CARLoS" for name in NODES)
        assert all(info[name]["display_name"].endswith("(CARLoS)") for name in NODES)
        log = host.log.read_text(errors="replace")
    assert not [line for line in log.splitlines() if "Cannot import" in line and "custom_nodes" in line]
    # Whatever the pack prints while loading carries its name; ComfyUI's own line of import times does too.
    assert len([line for line in log.splitlines() if "carlos" in line.lower() and "seconds:" not in line]) <= 1


def test_extra_model_paths_are_kept_beside_the_own_folder(comfyui: Path, tmp_path: Path) -> None:
    base = hosts.make_base_folder(tmp_path / "base")
    extra = tmp_path / "extra drive"
    extra.mkdir()
    (extra / "from_extra.parquet").write_bytes(
        (hosts.ROOT / "carlos_core" / "database" / "data" / "published.parquet").read_bytes()
    )
    (extra / "notes.json").write_text("{}")
    config = tmp_path / "extra.yaml"
    config.write_text(f"mine:\n    carlos: '{extra}'\n")
    with hosts.running(comfyui, base, "--extra-model-paths-config", str(config)) as host:
        options = host.object_info()["CarlosMetricsDBLoader"]["input"]["required"]["database"][1]["options"]
    assert options == ["bundled", "empty", "from_extra.parquet"]
