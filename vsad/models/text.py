"""Prompts as a pretrained text encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def encode_prompts(prompts: Sequence[str], base: str, **files: Any) -> Tensor:
    """Encode prompts by the CLIP text encoder and tokenizer of a pipeline, as the pipeline itself does.

    The text encoder is not trained, so that its outputs are constants: they are made once, and it is not kept.

    Args:
        prompts: K texts; what is longer than the tokenizer's limit is cut off.
        base: folder or hub id of a pipeline in the layout of Stable Diffusion.
        files: ``variant`` and ``revision``, as transformers takes them.

    Returns:
        The last hidden states ``(K, tokens, D)``.

    Raises:
        ImportError: transformers is not installed.
        OSError: the base has no text encoder or tokenizer.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ImportError(
            "model: a pretrained base needs transformers for its text encoder; pip install 'vsad[pretrained]'"
        ) from error
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer", revision=files.get("revision") or "main")
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder", use_safetensors=True, **files).eval()
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
    hidden: Tensor = encoder(tokens.input_ids, attention_mask=mask)[0]
    return hidden.float()
