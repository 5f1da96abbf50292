"""AGE-VLM: a Llama that looks at an image through cross-attention (paper section 3.2).

The language model is transformers' Llama, layer for layer, with cross-attention between its layers. With the default
`init="zero"` an untrained AGE-VLM computes exactly what its text backbone computes. A row without an image always does:
the cross-attention layers add exactly zero to it.

Shapes: B rows, T text tokens, S image cells, D hidden size, V vocabulary, L cross-attention layers, G guided rows.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.utils import can_return_tuple

from .adapter import Adapter
from .configuration_agevlm import AgeVlmConfig
from .cross_attention import (
    CrossAttentionBlock,
    CrossAttentionLayer,
    ImageContext,
    attach_image_cache,
)
from .guidance import GuidancePlan
from .inputs import check_shape, checked_guidance_plan, spread_images, text_positions
from .losses import guidance_sums, lm_loss
from .outputs import AgeVlmModelOutput, AgeVlmOutput
from .pretrained import AgeVlmPreTrainedModel
from .text_model import AgeVlmTextModel
from .vision import ConvNextTower


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

    def encode_images(self, pixel_values_B3HW: torch.Tensor) -> torch.Tensor:
        """Visual tokens I' of eq. 2 from normalised pixels: (B, S, D)."""
        tower: nn.Module = self.vision_tower
        features_BSC = tower(pixel_values_B3HW.to(next(tower.parameters()).dtype))
        out_BSD: torch.Tensor = self.adapter(features_BSC)
        return out_BSD

    def _look_at(
        self,
        batch: int,
        device: torch.device,
        pixel_values: torch.Tensor | None,
        cell_mask: torch.Tensor | None,
        has_image: torch.Tensor | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor | None, ImageContext | None]:
        """The inputs of cross-attention in this pass: visual tokens (None: they are in the cache) and their context.

        The context is None where no row has an image and nothing is trained.
        """
        num_text = self.config.text_config.num_hidden_layers
        if pixel_values is None:
            cached = ImageContext.from_cache(cache, num_text)
            if cached is not None or cache is not None or not (self.training and torch.is_grad_enabled()):
                return None, cached
            # Every parameter must be in the graph of every rank (DDP, FSDP): one cell of a grey dummy, times zero.
            stride = self.config.vision_config.stride
            dummy = torch.zeros(1, 3, stride, stride, device=device)
            visual_BSD = self.encode_images(dummy).expand(batch, -1, -1)
            return visual_BSD, ImageContext(None, torch.zeros(batch, dtype=torch.bool, device=device))
        side = self.config.vision_config.image_size
        if tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; it must be (images, 3, {side}, {side}): RGB, "
                f"{side} x {side} pixels, as AgeVlmProcessor makes it"
            )
        check_shape("has_image", has_image, batch)
        visual_BSD = self.encode_images(pixel_values)
        cells = visual_BSD.shape[1]
        if len(visual_BSD) != batch:
            visual_BSD = spread_images(visual_BSD, has_image, batch)
        if has_image is not None:
            has_image = has_image.to(device=device, dtype=torch.bool)
        key_mask = None
        if cell_mask is not None:
            if cell_mask.shape != (batch, cells):
                raise ValueError(
                    f"cell_mask has shape {tuple(cell_mask.shape)}, the image has {cells} cells in {batch} rows; "
                    "take pixel_values and cell_mask from the same AgeVlmProcessor call"
                )
            seen = cell_mask.to(device=device, dtype=torch.bool)
            # A row without any cell has no image. Rows without an image look at all cells, and their result is
            # dropped: a softmax over nothing would be NaN.
            has_image = seen.any(-1) if has_image is None else has_image & seen.any(-1)
            key_mask = seen | ~has_image[:, None] if self.config.mask_padding else None
        if cache is not None:
            attach_image_cache(cache, num_text, self.config.num_cross_attention_layers)
        return visual_BSD, ImageContext(key_mask, has_image)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
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
        **kwargs: Any,
    ) -> AgeVlmModelOutput:
        """Hidden states of the text, having looked at the image. Arguments as of `AgeVlmForConditionalGeneration`."""
        output, _ = self.look(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, pixel_values, cell_mask, has_image,
            guidance_mask, query_mask, guided, use_cache, output_hidden_states,
        )  # fmt: skip
        return output

    def look(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        past_key_values: Cache | None,
        inputs_embeds: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        cell_mask: torch.Tensor | None,
        has_image: torch.Tensor | None,
        guidance_mask: torch.Tensor | None,
        query_mask: torch.Tensor | None,
        guided: torch.Tensor | None,
        use_cache: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[AgeVlmModelOutput, GuidancePlan | None]:
        """`forward`, with the guidance plan beside its output."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids and inputs_embeds: give exactly one of them")
        text = self.language_model
        hidden_BTD = text.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, tokens, _ = hidden_BTD.shape
        device = hidden_BTD.device

        checkpointing = self.gradient_checkpointing and self.training
        use_cache = bool(use_cache) and not checkpointing
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        if position_ids is None:
            position_ids = text_positions(attention_mask, past_key_values, tokens, device)
        causal_mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=hidden_BTD,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        visual_BSD, image = self._look_at(batch, device, pixel_values, cell_mask, has_image, past_key_values)
        if image is not None and guidance_mask is not None:
            image.plan = checked_guidance_plan(image, visual_BSD, guidance_mask, query_mask, guided, batch, tokens)

        text_kwargs = {
            "attention_mask": causal_mask,
            "position_embeddings": text.rotary_emb(hidden_BTD, position_ids=position_ids),
            "position_ids": position_ids,
            "use_cache": use_cache,
        }
        maps: list[torch.Tensor] = []
        trace = [hidden_BTD] if output_hidden_states else None
        for layer in text.layers:
            map_GS = None
            if isinstance(layer, CrossAttentionLayer):
                if image is not None:
                    hidden_BTD, map_GS = layer(hidden_BTD, visual_BSD, image, past_key_values=past_key_values)
            elif isinstance(layer, CrossAttentionBlock):
                hidden_BTD, map_GS = layer(
                    hidden_BTD, visual_BSD, image, past_key_values=past_key_values, **text_kwargs
                )
            else:
                hidden_BTD = layer(hidden_BTD, past_key_values=past_key_values, **text_kwargs)
            if map_GS is not None:
                maps.append(map_GS.to(maps[0].device if maps else map_GS.device))
            if trace is not None:
                trace.append(hidden_BTD)
        output = AgeVlmModelOutput(
            last_hidden_state=text.norm(hidden_BTD),
            past_key_values=past_key_values,
            hidden_states=None if trace is None else tuple(trace),
            visual_tokens=None if pixel_values is None else visual_BSD,
            attention_maps=torch.stack(maps) if maps else None,
        )
        return output, None if image is None else image.plan


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
        position_ids: torch.LongTensor | None = None,
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
        logits_to_keep: int | torch.Tensor = 0,
        return_logits: bool = True,
        **kwargs: Any,
    ) -> AgeVlmOutput:
        """Next-token logits, and the training losses where labels and masks are given.

        Args:
            input_ids: (B, T). attention_mask: (B, T), or (B, past + T) with a cache; padding left or right.
            pixel_values: (B, 3, H, W), or one per row with an image; None for text only, or when the cache has it.
            cell_mask: (B, S) bool, cells with at least one image pixel.
            has_image: (B,) bool; None means every row if there are pixel_values.
            labels: (B, T), -100 where a token is no target; shifted inside, as everywhere in transformers.
            guidance_mask: (B, S) bool, M' of eq. 3. query_mask: (B, T) bool, the text tokens of the query, the same
                that the mask was made from. guided: (B,) bool, rows that count; None for all with a usable mask.
            return_logits: False computes the head for target tokens only, which at a vocabulary of 128256 saves most
                of the memory of a training step.

        Raises: ValueError for shapes that do not belong together.
        """
        if kwargs.get("output_attentions"):
            raise ValueError(
                "output_attentions is True, but attention weights are never kept; AgeVlm.attention_maps gives the "
                "query-averaged maps of cross-attention"
            )
        outputs, plan = self.model.look(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, pixel_values, cell_mask, has_image,
            guidance_mask, query_mask, guided, use_cache, output_hidden_states,
        )  # fmt: skip
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
                outputs.attention_maps, plan, cell_mask, self.config.guidance_normalisation,
                self.config.num_cross_attention_layers, hidden_BTD.device,
            )  # fmt: skip
            sums |= {"guidance_loss_sum": guidance.loss_L, "guided_rows": guidance.rows}
            sums |= {"attention_mass_sum": guidance.mass_L, "padding_mass_sum": guidance.padding_L}
            if loss is not None:
                loss = loss + self.reduce_guidance(guidance.loss_L, guidance.rows).to(loss.device)
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


# A saved folder carries this code, for people who do not have this project.
AgeVlmForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["AgeVlmForConditionalGeneration", "AgeVlmModel"]
