"""Which checkpoint a node's model comes from, as prompts of all kinds say."""

from __future__ import annotations

from typing import Any

import pytest

from carlos_core.comfy.workflow import checkpoints_of, guidances_of

Prompt = dict[str, Any]
PONY = "sdxl/ponyDiffusionV6XL.safetensors"
LOADER: Prompt = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": PONY}}


def node(**inputs: Any) -> Prompt:
    return {"class_type": "Some node", "inputs": inputs}


def behind(model: Any, **nodes: Any) -> tuple[str, ...]:
    return checkpoints_of({"me": node(model=model, query="snow", clip=["clip", 0]), **nodes}, "me")


@pytest.mark.parametrize(
    ("loader", "names"),
    [
        (LOADER, (PONY,)),
        (node(unet_name="z_image_turbo_bf16.safetensors", weight_dtype="default"), ("z_image_turbo_bf16.safetensors",)),
        (node(unet_name="flux1-dev-Q4_K_S.gguf"), ("flux1-dev-Q4_K_S.gguf",)),
        (node(ckpt_name="a.ckpt", vae_name="b.safetensors", lora_name="c.safetensors", lora_stack=["x", 0]), ("a.ckpt",)),
        (node(model_path="a.safetensors", vae=["x", 0]), ("a.safetensors",)),
        (node(ckpt_name=["name", 0]), ("named.safetensors",)),
        (node(ckpt_name=["x", 0]), ()),
        (node(model_path="a folder"), ()),
        (node(clip_name="a.safetensors"), ()),
        (node(ckpt_name=5), ()),
        ({"inputs": []}, ()),
        (None, ()),
    ],
)
def test_a_loader_names_its_file(loader: Any, names: tuple[str, ...]) -> None:
    assert behind(["0", 0], **{"0": loader, "name": node(value="named.safetensors", index=3), "x": node(a=1)}) == names


def test_the_model_is_followed_through_nodes_that_change_it_and_not_through_others() -> None:
    lora = node(model=["0", 0], clip=["other", 1], lora_name="illustrious style.safetensors")
    motion = node(model=["lora", 0], model_name="mm_sd_v15.ckpt", vae=["other", 2])
    other = node(ckpt_name="noob.safetensors")
    assert behind(["motion", 0], motion=motion, lora=lora, other=other, **{"0": LOADER}) == (PONY,)


def test_switches_and_pipes_are_followed_to_all_that_they_get() -> None:
    pipe = node(pipe=["to pipe", 0])
    nodes = {"pipe": pipe, "to pipe": node(any_1=["0", 0], any_2=["vae", 0]), "vae": node(vae_name="x.safetensors")}
    assert behind(["pipe", 0], **nodes, **{"0": LOADER}) == (PONY,)


def test_models_that_were_merged_have_all_their_names_once() -> None:
    other = node(ckpt_name="noob.safetensors")
    merge = node(model1=["0", 0], model2=["again", 0], ratio=0.5)
    again = node(model1=["0", 0], model2=["other", 0])
    assert behind(["merge", 0], merge=merge, again=again, other=other, **{"0": LOADER}) == (PONY, "noob.safetensors")


def test_what_is_no_prompt_names_nothing() -> None:
    circle, odd = {"me": {"inputs": {"model": ["me", 0]}}}, {"me": node(model=[["x"], 0])}
    prompts: tuple[Any, ...] = (None, [], {}, {"me": None}, circle, odd)
    for prompt in prompts:
        assert checkpoints_of(prompt, "me") == ()
    assert checkpoints_of({"0": LOADER}, None) == ()


def test_a_chain_of_a_hundred_thousand_nodes_is_followed_once() -> None:
    chain = {str(k): node(model=[str(k - 1), 0], model2=[str(k - 1), 0]) for k in range(1, 100_001)}
    assert behind(["100000", 0], **chain, **{"0": LOADER}) == (PONY,)


def sampled(**nodes: Prompt) -> tuple[float, ...]:
    """Guidances of the MODEL that a loader gives to the node "me"."""
    return guidances_of(
        {"me": {**node(model=["0", 0], clip=["0", 1], cfg=5.0), "class_type": "CarlosLoraIndexer"}, "0": LOADER, **nodes}, "me"
    )


SAMPLER = node(model=["0", 0], cfg=1.0, steps=8, positive=["text", 0], latent_image=["latent", 0])
TEXT = node(clip=["0", 1], text="a house")


def test_a_sampler_that_the_model_feeds_says_its_guidance() -> None:
    assert sampled(s=SAMPLER, text=TEXT) == (1.0,)
    assert sampled(s=node(model=["0", 0], cfg=7)) == (7.0,)
    assert sampled(s=SAMPLER, t=node(model=["0", 0], cfg=4.5)) == (1.0, 4.5)


def test_guiders_and_numbers_of_other_nodes_are_read() -> None:
    assert sampled(g={**node(model=["0", 0], conditioning=["text", 0]), "class_type": "BasicGuider"}) == (1.0,)
    assert sampled(g=node(model=["0", 0], cfg_conds=1.2, cfg_cond2_negative=3.0)) == (1.2,)
    assert sampled(s=node(model=["0", 0], cfg=["n", 0]), n=node(value=1.5)) == (1.5,)
    assert sampled(s=node(model=["0", 0], cfg=["n", 0]), n=node(a=1.5, b=2.0)) == ()
    assert sampled(s=node(model=["0", 0], cfg=True)) == ()


def test_the_model_is_followed_to_samplers_through_loras_patches_and_switches() -> None:
    lora = node(model=["0", 0], clip=["0", 1], lora_name="style.safetensors", strength_model=1.0)
    shift = node(model=["lora", 0], shift=3.0)
    assert sampled(lora=lora, shift=shift, s=node(model=["shift", 0], cfg=1.0)) == (1.0,)
    assert sampled(switch=node(any_1=["0", 0], any_2=["x", 0]), s=node(model=["switch", 0], cfg=1.0)) == (1.0,)


def test_where_the_model_comes_through_a_node_that_only_passes_it_on_its_source_counts() -> None:
    prompt = {"me": node(model=["reroute", 0]), "reroute": node(anything=["0", 0]), "0": LOADER, "s": SAMPLER}
    assert guidances_of(prompt, "me") == (1.0,)


FEW_STEP_LORAS = (
    *("SDXL-Lightning-8step.safetensors", "Hyper-SD15-8steps-lora.safetensors", "lcm-lora-sdv1-5.safetensors"),
    *("x/dmd2_4step.safetensors", "pcm_sdxl_smallcfg.safetensors", "Wan21_lightx2v_cfg_step_distill.safetensors"),
    *("4 steps.safetensors", "TCD-SDXL.safetensors"),
)
STYLE_LORAS = (
    *("anna-2000steps.safetensors", "anna_000002500_steps.safetensors", "hyperrealism_xl.safetensors", "matchdmdx.safetensors"),
    *("flash_photography.safetensors", "stepsister.safetensors", "steps/a.safetensors"),
)


@pytest.mark.parametrize("name", FEW_STEP_LORAS)
def test_a_sampler_behind_a_lora_for_few_steps_says_nothing_of_the_model_without_it(name: str) -> None:
    lora = node(model=["0", 0], lora_name=name, strength_model=1.0)
    assert sampled(lora=lora, s=node(model=["lora", 0], cfg=1.0)) == ()
    # With that LoRA on the model that is asked about, it does.
    prompt = {"me": node(model=["lora", 0]), "0": LOADER, "lora": lora, "s": node(model=["lora", 0], cfg=1.0)}
    assert guidances_of(prompt, "me") == (1.0,)


@pytest.mark.parametrize("name", STYLE_LORAS)
def test_a_lora_with_another_name_hides_no_sampler(name: str) -> None:
    lora = node(model=["0", 0], lora_name=name, strength_model=1.0)
    assert sampled(lora=lora, s=node(model=["lora", 0], cfg=1.0)) == (1.0,)


FEW = "Lightning.safetensors"


@pytest.mark.parametrize(
    ("inputs", "counts"),
    [
        ({"lora_1": {"on": True, "lora": FEW, "strength": 1.0}}, False),
        ({"lora_1": {"on": False, "lora": FEW, "strength": 1.0}}, True),
        ({"lora_stack": ["stack", 0]}, False),
        ({"text": f"a storm <lora:{FEW.removesuffix('.safetensors')}:1.0>"}, False),
        ({"text": "a storm with lightning"}, True),
        ({"lora_name": ["name", 0]}, False),
    ],
)
def test_loaders_of_several_loras_are_understood(inputs: dict[str, Any], counts: bool) -> None:
    nodes = {"stack": node(lora_stack=["more", 0], lora_name_1="a.safetensors"), "more": node(lora_name_1=FEW)}
    nodes["name"] = node(value=FEW)
    loader = node(model=["0", 0], **inputs)
    assert sampled(lora=loader, s=node(model=["lora", 0], cfg=1.0), **nodes) == ((1.0,) if counts else ())


def test_our_own_nodes_pass_the_model_on() -> None:
    auto = {**node(model=["0", 0], clip=["0", 1], query="snow"), "class_type": "CarlosAutoLora"}
    assert sampled(auto=auto, s=node(model=["auto", 0], cfg=1.0)) == (1.0,)


def test_samplers_of_other_models_and_our_own_nodes_say_nothing() -> None:
    other = node(model=["other", 0], cfg=1.0, latent_image=["s", 0])
    own = {**node(model=["0", 0], cfg=1.0), "class_type": "CarlosIndexLibrary"}
    text_only = node(model=["other", 0], cfg=1.0, positive=["text", 0])
    assert sampled(other=other, own=own, text_only=text_only, text=TEXT, s=node(clip=["0", 1], cfg=1.0)) == ()


def test_odd_prompts_have_no_guidance() -> None:
    prompts: tuple[Any, ...] = (
        None,
        [],
        {},
        {"me": None},
        {"me": {"inputs": {"model": ["me", 0]}}},
        {"me": node(model=["x", "0"])},
    )
    for prompt in prompts:
        assert guidances_of(prompt, "me") == ()
    assert guidances_of({"0": LOADER}, None) == ()


def test_a_hundred_thousand_nodes_are_looked_at_once_for_guidance() -> None:
    chain = {str(k): node(model=[str(k - 1), 0], model2=[str(k - 1), 0]) for k in range(1, 100_001)}
    assert sampled(**chain, s=node(model=["100000", 0], cfg=1.0)) == (1.0,)
