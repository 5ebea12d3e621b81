"""Prompts as a pretrained text encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vsad.files import first_line
from vsad.models.reading import OTHER_BASE, read_part


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
        FileNotFoundError: the base has no text encoder.
        ValueError: it has none that is complete, or no tokenizer, or two prompts are the same to it.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ImportError(
            "model: a pretrained base needs transformers for its text encoder; pip install 'vsad[pretrained]'"
        ) from error
    encoder = read_part(CLIPTextModel, base, "text_encoder", files, OTHER_BASE, spare=True).eval()
    tokenizer_class: Any = CLIPTokenizer
    try:
        tokenizer = tokenizer_class.from_pretrained(
            base, subfolder="tokenizer", revision=files.get("revision") or "main",
            local_files_only=files.get("local_files_only", False),
        )  # fmt: skip
    except Exception as error:  # whatever transformers makes of files that are not a tokenizer's
        said = f"model: the base {base} must have a tokenizer, got {first_line(error)}; {OTHER_BASE}"
        raise ValueError(said) from None
    if len(tokenizer) <= 2 or tokenizer.model_max_length > 10_000:
        raise ValueError(f"model: {base}/tokenizer must have all its files, {len(tokenizer)} words found; {OTHER_BASE}")
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    _check_different(prompts, tokens.input_ids.tolist())
    mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
    hidden: Tensor = encoder(tokens.input_ids, attention_mask=mask)[0]
    return hidden


def _check_different(prompts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
    """Refuse prompts of which the encoder sees the same tokens: nothing would tell their categories apart."""
    first: dict[tuple[int, ...], str] = {}
    for prompt, ids in zip(prompts, tokens):
        known = first.setdefault(tuple(ids), prompt)
        if known != prompt:
            raise ValueError(
                f"model: prompts must differ in the first {len(ids)} tokens, which are all that the text encoder "
                f"sees, got the same for {known[-40:]!r} and {prompt[-40:]!r}; shorten the prompt, or rename a category"
            )
