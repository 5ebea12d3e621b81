"""What the folder of a model holds."""

from __future__ import annotations

from pathlib import Path

ADAPTER, VAE, UNET, SCHEDULER, LORA = "adapter", "vae", "unet", "scheduler", "unet_lora"
# What a folder of a pipeline holds that a VALDM's does not.
PIPELINE = "model_index.json"
REMEDY = "name a folder that `vsad train` or `vsad fit` wrote, or write it anew with them"


def check_model_folder(folder: Path) -> None:
    """Refuse what holds neither a model of ours nor a pipeline, without reading either.

    Raises:
        FileNotFoundError: it holds neither; the message names the file that is missing.
    """
    ours = folder / ADAPTER / "config.json"
    if not ours.is_file() and not (folder / PIPELINE).is_file():
        raise FileNotFoundError(f"{ours} is missing: {REMEDY}")
