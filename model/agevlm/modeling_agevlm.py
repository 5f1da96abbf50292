"""AGE-VLM: a Llama that looks at an image through cross-attention (paper section 3.2).

The language model is transformers' Llama, layer for layer, with cross-attention between its layers. With the default
`init="zero"` an untrained AGE-VLM computes exactly what its text backbone computes. A row without an image always does:
the cross-attention layers add exactly zero to it.

Shapes: B rows, T text tokens, S image cells, D hidden size, V vocabulary, L cross-attention layers.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import can_return_tuple

from .adapter import Adapter
from .attention_map import MapQuery
from .configuration_agevlm import AgeVlmConfig
from .cross_attention import ImageContext, attach_image_cache
from .guidance import rows_that_count
from .inputs import (
    causal_mask,
    check_guidance_arguments,
    check_image_arguments,
    check_shape,
    place_of_masks,
    spread_images,
    text_positions,
    to_bool,
    to_device,
)
from .losses import guidance_sums, lm_loss
from .outputs import AgeVlmModelOutput, AgeVlmOutput
from .pretrained import AgeVlmPreTrainedModel
from .text_model import AgeVlmTextModel
from .vision import ConvNextTower

IMAGE_ARGUMENTS = ("pixel_values", "cell_mask", "has_image")
GENERATE_ARGUMENTS = ("tokenizer", "assistant_tokenizer", "assistant_model")


class AgeVlmModel(AgeVlmPreTrainedModel):
    """Vision encoder, adapter and language model, without the head."""

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__(config)
        self.vision_tower = ConvNextTower(config.vision_config)
        self.adapter = Adapter(config)
        self.language_model = AgeVlmTextModel(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    def encode_images(self, pixel_values_N3HW: torch.Tensor) -> torch.Tensor:
        """Visual tokens I' of eq. 2 from normalised pixels: (N, S, D)."""
        tower: nn.Module = self.vision_tower
        features_NSC = tower(pixel_values_N3HW.to(next(tower.parameters()).dtype))
        out_NSD: torch.Tensor = self.adapter(features_NSC)
        return out_NSD

    def _image_inputs(
        self,
        *,
        pixel_values: torch.Tensor | None,
        cell_mask: torch.Tensor | None,
        has_image: torch.Tensor | None,
        cache: Cache | None,
        rows: int,
        device: torch.device,
        place: torch.device,
    ) -> tuple[torch.Tensor | None, ImageContext | None]:
        """Visual tokens (B, S, D) and their context: of new images, or of the cache, whose tokens are None.

        The context is None where no row has an image; that of new images is in `place`.
        """
        text_layers = self.config.text_config.num_hidden_layers
        if pixel_values is not None:
            vision = self.config.vision_config
            check_image_arguments(pixel_values, cell_mask, has_image, rows, vision.image_size, vision.num_cells)
            visual_BSD = self.encode_images(pixel_values)
            has_image_B = to_bool(has_image, place)
            if len(visual_BSD) != rows:
                visual_BSD = spread_images(visual_BSD, has_image_B, rows)
            if cache is not None:
                attach_image_cache(cache, text_layers, self.config.num_cross_attention_layers)
            return visual_BSD, ImageContext.from_masks(to_bool(cell_mask, place), has_image_B, self.config.mask_padding)
        if cache is None and self.training and torch.is_grad_enabled():
            # Every parameter must be in the graph of every rank (DDP, FSDP): one cell of a grey dummy, times zero.
            stride = self.config.vision_config.stride
            dummy_BSD = self.encode_images(torch.zeros(1, 3, stride, stride, device=device)).expand(rows, -1, -1)
            return dummy_BSD, ImageContext(None, torch.zeros(rows, dtype=torch.bool, device=device))
        return None, ImageContext.from_cache(cache, text_layers)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        cell_mask: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        guidance_mask: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        guided: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> AgeVlmModelOutput:
        """Hidden states of the text, with the image in them. Arguments as of `AgeVlmForConditionalGeneration`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids and inputs_embeds: give exactly one of them")
        if output_attentions:
            raise ValueError(
                "output_attentions is True, but attention weights are never kept; AgeVlm.attention_maps gives the "
                "query-averaged maps of cross-attention"
            )
        hidden_BTD = self.language_model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, tokens, _ = hidden_BTD.shape
        device = hidden_BTD.device
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        check_guidance_arguments(
            guidance_mask, query_mask, guided, batch, tokens, self.config.vision_config.num_cells,
            cached=continues and pixel_values is None,
        )  # fmt: skip

        use_cache = bool(use_cache) and not (self.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        if position_ids is None:
            position_ids = to_device(text_positions(attention_mask, past_key_values, tokens, device), device)
        causal = causal_mask(self.config.text_config, hidden_BTD, attention_mask, past_key_values, position_ids)
        place = place_of_masks((cell_mask, has_image, guidance_mask, query_mask, guided), device)
        visual_BSD, image = self._image_inputs(
            pixel_values=pixel_values, cell_mask=cell_mask, has_image=has_image, cache=past_key_values, rows=batch,
            device=device, place=place,
        )  # fmt: skip
        target_BS = None
        if guidance_mask is not None and query_mask is not None and image is not None and pixel_values is not None:
            target_BS, query_mask_BT = rows_that_count(
                to_bool(guidance_mask, place),
                to_bool(query_mask, place),
                to_bool(guided, place),
                image.has_image_B,
                image.key_mask_BS,
            )
            image.map_query = MapQuery.from_masks(query_mask_BT, image.key_mask_BS, guidance_mask.shape[1])
            target_BS = to_device(target_BS, device)
        if image is not None:
            image = image.to(device)

        stack = self.language_model(
            hidden_BTD,
            visual_BSD,
            image,
            attention_mask=causal,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            keep_hidden_states=bool(
                self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
            ),
        )
        return AgeVlmModelOutput(
            last_hidden_state=stack.last_BTD,
            past_key_values=past_key_values,
            hidden_states=stack.between or None,
            visual_tokens=None if pixel_values is None else visual_BSD,
            attention_maps=stack.maps_LBS,
            guidance_targets=target_BS,
        )


class AgeVlmForConditionalGeneration(AgeVlmPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """AGE-VLM with its language model head: text and image in, text out."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    # Trainer: our loss is a mean over the batch it sees; let it average over accumulation steps itself.
    accepts_loss_kwargs = False

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__(config)
        self.model = AgeVlmModel(config)
        self.vocab_size = config.text_config.vocab_size
        self.lm_head = nn.Linear(config.text_config.hidden_size, self.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        cell_mask: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        guidance_mask: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        guided: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_logits: bool = True,
    ) -> AgeVlmOutput:
        """Next-token logits, and the training losses where labels and masks are given.

        There is no `**kwargs`: a misspelt `guidance_mask` would train without guidance.

        Args:
            input_ids: (B, T). attention_mask: (B, T), or (B, past + T) with a cache; padding left or right.
            pixel_values: (B, 3, H, W), or one per row with an image; None for text only, or when the cache has it.
            cell_mask: (B, S) bool, cells with at least one image pixel.
            has_image: (B,) bool; None means every row if there are pixel_values.
            labels: (B, T), -100 where a token is no target; shifted inside, as everywhere in transformers.
            guidance_mask: (B, S) bool, M' of eq. 3. query_mask: (B, T) bool, the text tokens of the query, the same
                that the mask was made from. guided: (B,) bool, rows that count; None for all with a usable mask.
            Masks, flags and labels may be on the CPU beside a model on a GPU. The results are the same, and the host
                then never waits for the GPU: it reads their counts on the CPU.
            return_logits: False computes the head for target tokens only, which at a vocabulary of 128256 saves most
                of the memory of a training step.

        Raises: ValueError for shapes that do not belong together, TypeError for an unknown argument.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            cell_mask=cell_mask,
            has_image=has_image,
            guidance_mask=guidance_mask,
            query_mask=query_mask,
            guided=guided,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        hidden_BTD = cast(torch.Tensor, outputs.last_hidden_state)
        logits: torch.Tensor | None = None
        if return_logits:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_BTD[:, keep, :])
        loss: torch.Tensor | None = None
        sums: dict[str, torch.Tensor] = {}
        if labels is not None:
            check_shape("labels", labels, *hidden_BTD.shape[:2])
            lm = lm_loss(self.lm_head, hidden_BTD, logits, labels)
            loss = lm.total / lm.tokens.clamp_min(1)
            sums |= {"lm_loss_sum": lm.total, "lm_tokens": lm.tokens}
        if guidance_mask is not None:
            guidance = guidance_sums(
                outputs.attention_maps, outputs.guidance_targets, cell_mask, self.config, hidden_BTD.device
            )
            sums |= {"guidance_loss_sum": guidance.loss_L, "guided_rows": guidance.rows}
            sums |= {"attention_mass_sum": guidance.mass_L, "padding_mass_sum": guidance.padding_L}
            if loss is not None:
                weighted = self.config.guidance_weight * self.reduce_guidance(guidance.loss_L, guidance.rows)
                loss = loss + weighted.to(loss.device)
        # At once and in this order: transformers takes the first fields for loss and logits.
        return AgeVlmOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            visual_tokens=outputs.visual_tokens,
            attention_maps=outputs.attention_maps,
            **sums,
        )

    def reduce_guidance(self, guidance_loss_sum_L: torch.Tensor, guided_rows: torch.Tensor) -> torch.Tensor:
        """L_g from sums over any set of rows: mean over the rows (0 if none), then mean or sum over the layers."""
        per_layer_L = guidance_loss_sum_L / guided_rows.clamp_min(1)
        return per_layer_L.mean() if self.config.guidance_reduction == "mean" else per_layer_L.sum()

    @functools.wraps(GenerationMixin.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # `generate` passes some of its own arguments on, and other models' forward takes any argument.
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {name: value for name, value in inputs.items() if name not in GENERATE_ARGUMENTS}

    def _get_candidate_generator(self, model_kwargs: dict[str, Any], assistant_model: Any = None, **kwargs: Any) -> Any:
        """transformers' own; a drafting model that reads text only, such as one of `to_llama`, gets no image."""
        if assistant_model is not None:
            known = inspect.signature(assistant_model.forward).parameters
            model_kwargs = {k: v for k, v in model_kwargs.items() if k in known or k not in IMAGE_ARGUMENTS}
        return super()._get_candidate_generator(model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs)


# A saved folder carries this code, for people who do not have this project.
AgeVlmForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["AgeVlmForConditionalGeneration", "AgeVlmModel"]
