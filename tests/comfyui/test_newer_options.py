"""Options of node schemas that newer versions of ComfyUI know are used there, and older versions still take all nodes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.comfyui.test_installation import NODES
from tests.support import workflows
from tests.support.comfyui_host import Host

OF_SAMPLING = ["steps", "cfg", "sampler_name", "scheduler"]
OF_CUSTOM = ["seeds", "first_seed", "max_prompts", *OF_SAMPLING]
"""What the other presets have their own of."""

INDEXING = ["prompts", *OF_CUSTOM, "batch_size", "lora_weight", "triggers"]

FOLDED = {
    "CarlosMetricsDBLoader": ["encoder"],
    "CarlosAutoLora": ["weight", "max_nsfw_level", "max_strength", "min_consistency", "prompts", "ranking"],
    "CarlosLoraRetriever": ["max_strength", "min_consistency", "prompts", "min_alignment", "max_nsfw_level", "min_downloads"],
    "CarlosSimilarLoras": ["max_strength", "min_consistency", "max_nsfw_level", "min_downloads"],
    "CarlosLorasLikeImage": ["max_strength", "min_consistency", "max_nsfw_level", "min_downloads"],
    "CarlosCombineSearches": ["max_strength", "min_consistency", "max_nsfw_level", "min_downloads"],
    "CarlosLoraIndexer": [*INDEXING, "civitai_file"],
    "CarlosIndexLibrary": INDEXING,
    "CarlosRaceLoras": ["prompts", "index_prompts", "width", "height", *OF_SAMPLING, "max_strength", "min_consistency"],
}
"""What may be folded away; whatever else a node has stays in sight."""

TYPED = {
    "auto lora": "CarlosAutoLora",
    "which lora": "CarlosAutoLora",
    "find lora": "CarlosLoraRetriever",
    "lora from picture": "CarlosLorasLikeImage",
    "find similar lora": "CarlosSimilarLoras",
    "lora list": "CarlosLorasByName",
    "but not": "CarlosCombineSearches",
    "same lora": "CarlosDuplicateLoras",
    "what does this lora": "CarlosDescribeLoras",
    "lora loader": "CarlosApplyLoras",
    "add trigger words": "CarlosPromptWithTriggers",
    "measure lora": "CarlosLoraIndexer",
    "index all": "CarlosIndexLibrary",
    "civitai": "CarlosRefreshMetadata",
    "lora database": "CarlosMetricsDBLoader",
    "clear cache": "CarlosCaches",
    "before after": "CarlosLoraCard",
    "lora info": "CarlosLoraCard",
    "lora clusters": "CarlosLoraMap",
    "try loras": "CarlosRaceLoras",
}
"""What somebody might type who does not know what the nodes are called."""


@pytest.fixture
def info(host: Host) -> dict[str, Any]:
    return host.object_info()


@pytest.fixture
def ours(info: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI says of our nodes. None is refused: one that names an option unknown to ComfyUI would take all with it."""
    assert set(info) >= NODES
    return {name: info[name] for name in NODES}


@pytest.fixture
def is_new(info: dict[str, Any]) -> bool:
    """Whether ComfyUI knows the options, as its own nodes show. They came by and by; the versions tested know all or none."""
    return "search_aliases" in info["KSampler"]


def settings_of(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of all inputs by name."""
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: value[1] if len(value) > 1 else {} for name, value in inputs.items()}


def test_nodes_are_found_by_what_people_type(ours: dict[str, Any], is_new: bool) -> None:
    aliases = {name: node.get("search_aliases", []) for name, node in ours.items()}
    assert {name for name, words in aliases.items() if words} == (NODES if is_new else set())
    for typed, name in TYPED.items():
        assert not is_new or any(typed in words.lower() for words in [ours[name]["display_name"], *aliases[name]]), typed


def test_only_what_few_people_change_is_folded_away(ours: dict[str, Any], is_new: bool) -> None:
    folded = {name: [key for key, of in settings_of(node).items() if of.get("advanced")] for name, node in ours.items()}
    assert {name: keys for name, keys in folded.items() if keys} == (FOLDED if is_new else {})


def test_what_only_custom_looks_at_says_so(ours: dict[str, Any]) -> None:
    for node in ("CarlosLoraIndexer", "CarlosIndexLibrary"):
        for name in OF_CUSTOM:
            tooltip = settings_of(ours[node])[name]["tooltip"]
            assert tooltip.startswith("Only for custom"), name
            assert "other presets have their own" in tooltip, name


def test_a_report_is_shown_by_output_nodes_and_kept_by_the_others(ours: dict[str, Any], is_new: bool) -> None:
    for name, node in ours.items():
        # The loader says on itself what can be done with an unknown library.
        is_kept = not node["output_node"] and ("report" in node["output_name"] or name == "CarlosMetricsDBLoader")
        assert node.get("has_intermediate_output", False) == (is_new and is_kept), name


def test_a_run_in_which_nothing_is_done_again_still_has_the_report(host: Host) -> None:
    workflow = {
        "db": workflows.loader("bundled"),
        "find": workflows.node("CarlosLorasByName", database=["db", 0], name="snow", top_k=3),
        "score": workflows.node("PreviewAny", source=["find", 2]),
    }
    first, again = host.run(workflow), host.run(workflow)
    assert '"query": "snow"' in first["find"]["text"][0]
    # Older versions of ComfyUI give it without being asked.
    assert again == first
