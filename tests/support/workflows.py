"""Workflows in ComfyUI's API form, for the mini-world."""

from __future__ import annotations

from typing import Any

CHECKPOINT = "miniworld.safetensors"
Workflow = dict[str, Any]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def loader(database: str = "empty", create_as: str = "", encoder: str = "mini_clip") -> dict[str, Any]:
    return node("CarlosMetricsDBLoader", database=database, create_as=create_as, encoder=encoder)


def index(lora_name: str, create_as: str = "mini", **settings: Any) -> Workflow:
    """Index one LoRA with the mini-world's protocol; `settings` change inputs of the indexer."""
    inputs = {
        "lora_name": lora_name,
        "civitai_model_id": "",
        "civitai_version_id": "",
        "preset": "custom",
        "prompts": "miniworld-short",
        "seeds": 1,
        "first_seed": 0,
        "max_prompts": 0,
        "steps": 12,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "width": 128,
        "height": 128,
        "batch_size": 0,
        "lora_weight": 1.0,
        "overwrite": False,
        **settings,
    }
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "db": loader(create_as=create_as),
        "index": node(
            "CarlosLoraIndexer",
            model=["checkpoint", 0],
            clip=["checkpoint", 1],
            vae=["checkpoint", 2],
            database=["db", 0],
            **inputs,
        ),
    }


def index_library(name_filter: str = "", create_as: str = "mini", **settings: Any) -> Workflow:
    """Index all LoRAs whose names fit; `settings` change inputs of the node."""
    workflow = index("", create_as, **{"preset": "quick", **settings})
    inputs = workflow["index"]["inputs"]
    for name in ("lora_name", "civitai_model_id", "civitai_version_id"):
        del inputs[name]
    workflow["index"] = node("CarlosIndexLibrary", name_filter=name_filter, **inputs)
    return workflow


def race(query: str, create_as: str = "raced", **settings: Any) -> Workflow:
    """Race the mini-world's LoRAs; `settings` change inputs of the node."""
    inputs = {
        "prompt": "",
        "prompts": "miniworld-signature",
        "name_filter": "",
        "top_k": 1,
        "confidence": 0.9,
        "max_model_evaluations": 20_000,
        "index_prompts": "miniworld-index",
        "width": 128,
        "height": 128,
        **settings,
    }
    model, clip, vae = (["checkpoint", slot] for slot in range(3))
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "db": loader(create_as=create_as),
        "race": node("CarlosRaceLoras", model=model, clip=clip, vae=vae, database=["db", 0], query=query, **inputs),
    }


def retrieve(query: str, create_as: str = "mini", **settings: Any) -> Workflow:
    """Ask a database; the report is shown by ComfyUI's own Preview Any, so that something runs."""
    inputs = {
        "top_k": 5,
        "max_strength": 9.8,
        "min_consistency": 0.041,
        "base_model": "any",
        "installed_only": False,
        "prompts": "miniworld-signature",
        **settings,
    }
    return {
        "db": loader(create_as=create_as) if create_as else loader("bundled"),
        "find": node("CarlosLoraRetriever", database=["db", 0], query=query, **inputs),
        "report": node("PreviewAny", source=["find", 3]),
        "score": node("PreviewAny", source=["find", 2]),
    }


def auto_lora(query: str, database: str, **settings: Any) -> Workflow:
    """Auto LoRA behind the checkpoint, and its report; `settings` change inputs of the node."""
    inputs = {
        "negative_query": "",
        "mode": "composed",
        "max_loras": 2,
        "strength_budget": 2.0,
        "weight": "suggested",
        "base_model": "auto",
        "min_confidence": "likely",
        "max_nsfw_level": 32,
        "allow_download": False,
        "choice": "",
        "max_strength": 9.8,
        "min_consistency": 0.041,
        "prompts": "miniworld-signature",
        **settings,
    }
    model, clip = ["checkpoint", 0], ["checkpoint", 1]
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "db": loader(database),
        "auto": node("CarlosAutoLora", **{"model": model, "clip": clip, "database": ["db", 0], "query": query, **inputs}),
        "report": node("PreviewAny", source=["auto", 4]),
    }


def load_found_lora() -> dict[str, Any]:
    """ComfyUI's own Load LoRA, with the retriever's `lora_name` wired into it."""
    return node(
        "LoraLoader",
        model=["checkpoint", 0],
        clip=["checkpoint", 1],
        lora_name=["find", 1],
        strength_model=1.0,
        strength_clip=1.0,
    )


def render(prompt: Any, seed: int, model: list[Any], clip: list[Any], prefix: str) -> Workflow:
    """Text encoding, sampling and saving of one picture, from a model and a CLIP of other nodes."""
    return {
        f"{prefix}-positive": node("CLIPTextEncode", text=prompt, clip=clip),
        f"{prefix}-negative": node("CLIPTextEncode", text="", clip=clip),
        f"{prefix}-latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        f"{prefix}-sample": node(
            "KSampler",
            model=model,
            positive=[f"{prefix}-positive", 0],
            negative=[f"{prefix}-negative", 0],
            latent_image=[f"{prefix}-latent", 0],
            seed=seed,
            steps=12,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        f"{prefix}-decode": node("VAEDecode", samples=[f"{prefix}-sample", 0], vae=["checkpoint", 2]),
        f"{prefix}-save": node("SaveImage", images=[f"{prefix}-decode", 0], filename_prefix=prefix),
    }
