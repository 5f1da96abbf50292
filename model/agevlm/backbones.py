"""Join an AGE-VLM from two pretrained backbones: any Llama checkpoint and any timm ConvNeXt (paper section 3.2.1).

Only training needs this module; a saved AGE-VLM opens without it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from .configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from .loading import cast_parameters, load_whole
from .modeling_agevlm import AgeVlmForConditionalGeneration

# Other names of the fields in a vision folder's config.json: the short ones of timm's pretrained_cfg.
_VISION_ALIASES = {"kwargs": "model_args", "mean": "image_mean", "std": "image_std", "model": "architecture"}
# Fields of a Llama's configuration that say how it was stored and where, not what it computes.
_NOT_OF_THE_ARCHITECTURE = (
    "architectures", "dtype", "quantization_config", "model_type", "transformers_version",
)  # fmt: skip
_VISION_FIELDS = ("architecture", "model_args", "image_size", "image_mean", "image_std")


def read_vision_folder(folder: Path) -> tuple[dict[str, Any], Path]:
    """Open `config.json` (architecture, model_args, image_size, mean, std) and name `model.safetensors` beside it.

    Raises: ValueError if either is missing or the configuration names no architecture.
    """
    config_file, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights):
        if not file.is_file():
            raise ValueError(f"vision backbone {folder}: {file.name} is missing; give a folder that holds both files")
    raw = json.loads(config_file.read_text(encoding="utf-8"))
    fields = {_VISION_ALIASES.get(name, name): value for name, value in raw.items()}
    if "architecture" not in fields:
        raise ValueError(f"vision backbone {config_file}: no 'architecture'; name the timm model that it holds")
    return {name: fields[name] for name in _VISION_FIELDS if name in fields}, weights


def vision_config(fields: dict[str, Any]) -> AgeVlmVisionConfig:
    """Complete a vision configuration with the stride and width that timm reports for it."""
    with torch.device("meta"):
        try:
            trunk = timm.create_model(
                fields["architecture"], pretrained=False, num_classes=0, **(fields.get("model_args") or {})
            )
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"vision backbone {fields['architecture']!r} cannot be built by timm {timm.__version__} ({error}); "
                "name a timm ConvNeXt and its own arguments"
            ) from error
    if "image_mean" not in fields and trunk.pretrained_cfg.get("mean") is not None:
        fields = {
            **fields,
            "image_mean": list(trunk.pretrained_cfg["mean"]),
            "image_std": list(trunk.pretrained_cfg["std"]),
        }
    last = trunk.feature_info[-1]
    return AgeVlmVisionConfig(**{**fields, "stride": last["reduction"], "hidden_size": last["num_chs"]})


def load_trunk(trunk: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load a timm ConvNeXt state dict into `trunk`; timm's head is left out by name.

    Raises: ValueError naming missing, unexpected or misshapen weights.
    """
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    own = trunk.state_dict()
    missing, unexpected = sorted(own.keys() - body.keys()), sorted(body.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & body.keys() if own[name].shape != body[name].shape)
    if missing or unexpected or shapes:
        raise ValueError(
            f"vision weights {source}: missing {missing[:3]}, unexpected {unexpected[:3]}, other shape {shapes[:3]} "
            f"({len(missing)}, {len(unexpected)}, {len(shapes)}); give the weights of this architecture"
        )
    trunk.load_state_dict(body)


def fields_of(config: type[AgeVlmConfig]) -> set[str]:
    """The fields that a configuration class of ours adds to Hugging Face's own."""
    return {name for name in config.__annotations__ if not name.startswith("_")}


def refuse_unknown(what: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError for a misspelt field, which Hugging Face's configurations would take and ignore."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{what} has no field {unknown[0]!r}; its fields are {', '.join(sorted(known))}")


def from_backbones(
    text: str | Path | LlamaForCausalLM,
    vision: str | Path | dict[str, Any],
    *,
    vision_weights: str | Path | None = None,
    vision_pretrained: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **config_overrides: Any,
) -> AgeVlmForConditionalGeneration:
    """Join a text and a vision backbone; adapter and cross-attention are drawn freshly from `seed`.

    Args:
        text: folder (or hub name) of a Llama-architecture checkpoint, or the model itself.
        vision: a folder with config.json and model.safetensors; or a timm name; or a dict of `AgeVlmVisionConfig`
            fields (architecture, model_args, image_size, image_mean, image_std).
        vision_weights: safetensors of the timm model, when `vision` is a name or a dict.
        vision_pretrained: let timm fetch its own weights instead. Without either, the encoder is random.
        dtype: of all parameters.
        config_overrides: fields of `AgeVlmConfig`.

    Raises: ValueError if a backbone is no Llama, no ConvNeXt, or its weights do not fit; or for an unknown field.
    """
    refuse_unknown("config_overrides", config_overrides, fields_of(AgeVlmConfig))
    llama = text if isinstance(text, LlamaForCausalLM) else _load_llama(text, dtype)
    if isinstance(vision, dict):
        refuse_unknown("vision", vision, _VISION_FIELDS)
        fields, folder_weights = dict(vision), None
    elif Path(vision).is_dir():
        fields, folder_weights = read_vision_folder(Path(vision))
    else:
        fields, folder_weights = {"architecture": str(vision)}, None
    weights = Path(vision_weights) if vision_weights is not None else folder_weights

    text_fields = {
        name: value for name, value in llama.config.to_dict().items() if name not in _NOT_OF_THE_ARCHITECTURE
    }
    config = AgeVlmConfig(
        text_config=LlamaConfig(**text_fields), vision_config=vision_config(fields), **config_overrides
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AgeVlmForConditionalGeneration(config)
    load_llama_state_dict(model, llama.state_dict())
    trunk = model.model.vision_tower.trunk
    if weights is not None:
        if not weights.is_file():
            raise ValueError(f"vision_weights {weights} does not exist; give a safetensors file of the timm model")
        try:
            state = load_file(weights)
        except SafetensorError as error:
            raise ValueError(f"vision_weights {weights} are damaged ({error}); give the whole file") from error
        load_trunk(trunk, state, str(weights))
    elif vision_pretrained:
        arguments = fields.get("model_args") or {}
        pretrained = timm.create_model(fields["architecture"], pretrained=True, num_classes=0, **arguments)
        load_trunk(trunk, pretrained.state_dict(), f"timm {fields['architecture']}")
    if llama.generation_config is not None:
        model.generation_config = copy.deepcopy(llama.generation_config)
    cast_parameters(model, dtype)
    model.eval()
    return model


def _llama_names(model: AgeVlmForConditionalGeneration) -> dict[str, str]:
    """Name of each weight of LlamaForCausalLM -> its name in an AGE-VLM."""
    names = {"model.embed_tokens.weight": "model.language_model.embed_tokens.weight"}
    names["model.norm.weight"] = "model.language_model.norm.weight"
    names["lm_head.weight"] = "lm_head.weight"
    for j, position in enumerate(model.config.self_attention_positions()):
        layer = model.model.language_model.layers[position]
        for name, _ in layer.named_parameters():
            if not name.startswith("cross_att"):
                names[f"model.layers.{j}.{name}"] = f"model.language_model.layers.{position}.{name}"
    return names


def load_llama_state_dict(model: AgeVlmForConditionalGeneration, state: dict[str, torch.Tensor]) -> None:
    """Copy a LlamaForCausalLM's weights into the language model. Raises: ValueError if names or shapes differ."""
    names, own = _llama_names(model), model.state_dict()
    if "lm_head.weight" not in state:
        state = {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
    wrong = sorted(names.keys() ^ state.keys()) + sorted(
        n for n in names.keys() & state.keys() if own[names[n]].shape != state[n].shape
    )
    if wrong:
        raise ValueError(f"text weights do not fit the text_config at {wrong[:5]} ({len(wrong)} in all)")
    with torch.no_grad():
        for name, value in state.items():
            own[names[name]].copy_(value)


def to_llama(model: AgeVlmForConditionalGeneration) -> LlamaForCausalLM:
    """A plain LlamaForCausalLM that holds (a copy of) this model's current language weights."""
    own = model.state_dict()
    text_fields = model.config.to_dict()["text_config"]
    llama = LlamaForCausalLM(LlamaConfig(**text_fields))
    cast_parameters(llama, model.dtype)
    llama.load_state_dict({name: own[mine] for name, mine in _llama_names(model).items()})
    llama.generation_config = copy.deepcopy(model.generation_config)
    return llama.to(model.device).eval()


def _load_llama(source: str | Path, dtype: torch.dtype) -> LlamaForCausalLM:
    try:
        raw = LlamaConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"text backbone {source}: cannot be opened ({error}); give a Llama checkpoint") from error
    if raw.architectures and "LlamaForCausalLM" not in raw.architectures:
        raise ValueError(f"text backbone {source} is {raw.architectures}; give a LlamaForCausalLM checkpoint")
    model: LlamaForCausalLM = load_whole(LlamaForCausalLM, source, dtype=dtype)
    return model


__all__ = ["from_backbones", "load_llama_state_dict", "load_trunk", "read_vision_folder", "to_llama", "vision_config"]
