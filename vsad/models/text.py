"""Prompts as a pretrained text encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor


@torch.no_grad()
def encode_prompts(prompts: Sequence[str], base: str, **files: Any) -> Tensor:
    """Encode prompts by the CLIP text encoder and tokenizer of a pipeline, as the pipeline itself does.

    The text encoder is not trained, so that its outputs are constants: they are made once, and it is not kept.

    Args:
        prompts: K texts; what is longer than the tokenizer's limit is cut off.
        base: folder or hub id of a pipeline in the layout of Stable Diffusion.
        files: ``variant``, ``revision`` and ``local_files_only``, as transformers takes them.

    Returns:
        The last hidden states ``(K, tokens, D)``.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the base has no text encoder or tokenizer, or one that is not complete.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ImportError(
            "model: a pretrained base needs transformers for its text encoder; pip install 'vsad[pretrained]'"
        ) from error
    classes: tuple[Any, Any] = (CLIPTokenizer, CLIPTextModel)
    try:
        tokenizer = classes[0].from_pretrained(
            base, subfolder="tokenizer", revision=files.get("revision") or "main",
            local_files_only=files.get("local_files_only", False),
        )  # fmt: skip
        encoder, found = classes[1].from_pretrained(
            base, subfolder="text_encoder", use_safetensors=True, output_loading_info=True, **files
        )
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"model: the base {base} must have a text encoder and a tokenizer, {said}; mend it") from None
    # What is not there transformers draws at random or makes up.
    lost = sorted([*found["missing_keys"], *found["mismatched_keys"]])
    if lost:
        raise ValueError(f"model: {base}/text_encoder must have all its weights, {lost[0]} is missing; mend the base")
    if len(tokenizer) <= 2 or tokenizer.model_max_length > 10_000:
        raise ValueError(
            f"model: {base}/tokenizer must have all its files, {len(tokenizer)} words found; mend the base"
        )
    encoder.float().eval()  # a variant in half precision is computed in full
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
    hidden: Tensor = encoder(tokens.input_ids, attention_mask=mask)[0]
    return hidden.float()
