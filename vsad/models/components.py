"""The parts of a VALDM: new ones, those of a pretrained pipeline, and their files, all by diffusers' own means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging

from vsad.files import atomic_folder, read_json
from vsad.models import derivative_vae, hub
from vsad.models.adapter import MultiViewAdapter
from vsad.models.config import Prediction, VALDMConfig
from vsad.models.derivative_config import CONFIG
from vsad.models.folder import ADAPTER, LORA, PIPELINE, REMEDY, SCHEDULER, UNET, VAE
from vsad.models.limits import check_counts, check_finite, check_size
from vsad.models.presets import sd
from vsad.models.text import encode_prompts

if TYPE_CHECKING:
    from vsad.models.valdm import VALDM

Model = TypeVar("Model", bound="VALDM")
OTHER_BASE = "name another base, or fetch it anew"
# The projections of attention that LoRA adapts, as diffusers' own training scripts do.
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
# Inputs that other pipelines' UNets need and that nobody gives here, by the fields of their configuration.
_FOREIGN = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "num_class_embeds")


def autoencoder(config: VALDMConfig) -> AutoencoderKL:
    """The base's, or a new one; Gaussian derivatives where the configuration is theirs."""
    if config.base is not None:
        return _of_base(AutoencoderKL, config, VAE)
    if config.vae == CONFIG:
        return derivative_vae.derivative_vae()
    return _new(AutoencoderKL, config.vae, "vae")


def denoiser(config: VALDMConfig) -> UNet2DConditionModel:
    """The base's, or a new one."""
    if config.base is not None:
        return _of_base(UNet2DConditionModel, config, UNET)
    return _new(UNet2DConditionModel, config.unet, "unet")


def _new(kind: Any, arguments: dict[str, Any], field: str) -> Any:
    """A new part of a configuration's arguments, of which diffusers and torch say what is wrong."""
    try:
        return kind(**arguments)
    except Exception as error:  # whatever they make of a value of a wrong kind
        raise ValueError(
            f"model: {field} must hold arguments that fit {kind.__name__}, got {_line(error)}; mend them"
        ) from error


def check_denoiser(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same UNet.

    Raises:
        ValueError: it needs inputs that a VALDM has not.
    """
    foreign = [name for name in _FOREIGN if unet.config.get(name) is not None]
    if foreign:
        raise ValueError(
            f"model: the UNet must be one of Stable Diffusion 1.5's or 2.1's kind, got {', '.join(foreign)} in its "
            "configuration; name another base"
        )
    return unet


def schedule(config: VALDMConfig) -> DDIMScheduler:
    """The base's noise levels, or the usual ones."""
    if config.base is not None:
        return _schedule(config.base, hub.fetch_options(config.base, config.revision), OTHER_BASE)
    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", clip_sample=False, prediction_type=config.prediction
    )


def check_schedule(scheduler: DDIMScheduler, config: VALDMConfig) -> DDIMScheduler:
    """The same schedule.

    Raises:
        ValueError: its noise is not what DDIM inverts, or it ends before a time step at which features are read.
    """
    known = scheduler.config
    if known["prediction_type"] not in get_args(Prediction):
        raise ValueError(
            f"model: the schedule's prediction_type must be one of {list(get_args(Prediction))}, got "
            f"{known['prediction_type']!r}; {OTHER_BASE}"
        )
    levels = known["num_train_timesteps"]
    if config.timesteps[-1] >= levels:
        raise ValueError(
            f"model: timesteps must be less than {levels}, as the noise schedule has, got {config.timesteps}"
        )
    if known["prediction_type"] == "epsilon" and float(scheduler.alphas_cumprod.min()) == 0:
        raise ValueError(
            "model: the schedule must leave a signal where the noise is predicted, got rescale_betas_zero_snr with "
            f"prediction_type 'epsilon'; {OTHER_BASE}"
        )
    return scheduler


def adapter(config: VALDMConfig, vae: AutoencoderKL, unet: UNet2DConditionModel) -> MultiViewAdapter:
    """A new adapter to these parts; it encodes the prompts where the UNet attends to text."""
    stages = {f"down{i}": block.resnets[-1].out_channels for i, block in enumerate(unet.down_blocks)}
    stages["mid"] = unet.mid_block.resnets[-1].out_channels
    stages |= {f"up{i}": block.resnets[-1].out_channels for i, block in enumerate(unet.up_blocks)}
    context = None
    if any(getattr(block, "has_cross_attention", False) for block in [*unet.down_blocks, unet.mid_block]):
        if config.base is None:
            raise ValueError(
                "model: unet must have no cross-attention where there is no base whose text it attends to; choose "
                "blocks without it, such as AttnDownBlock2D"
            )
        by_text = config.conditioning == "text"
        prompts = [config.prompt.format(category=name) for name in config.categories] if by_text else [""]
        context = encode_prompts(
            prompts, config.base, variant=config.variant, **hub.fetch_options(config.base, config.revision)
        )
    made = MultiViewAdapter(
        asdict(config),
        vae.config["latent_channels"],
        stages,
        unet.time_embedding.linear_2.out_features,
        None if context is None else tuple(context.shape),
        scale=vae.config["scaling_factor"],
        shift=vae.config.get("shift_factor") or 0.0,
    )
    if context is not None:
        made.get_buffer("context").copy_(context)
    return made


def choose_trained(config: VALDMConfig, unet: UNet2DConditionModel) -> None:
    """Let gradients reach all of the UNet, its LoRA adapters, which are added where they are missing, or nothing."""
    unet.requires_grad_(config.tune == "all")
    if config.tune != "lora":
        return
    if getattr(unet, "peft_config", None):
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("model: tune by 'lora' needs peft; pip install 'vsad[pretrained]'") from error
    unet.add_adapter(
        LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=LORA_TARGETS, init_lora_weights=True)
    )


def save(model: VALDM, folder: Path) -> None:
    """Write every part that is not the base's as it was into a folder of its own.

    Of a model that was there before nothing is left that would be read as this one's.
    """
    config = model.config
    ours = (folder / ADAPTER / "config.json").is_file() and not (folder / PIPELINE).is_file()
    with atomic_folder(folder, last=ADAPTER, stale=(VAE, UNET, LORA) if ours else ()) as partial:
        model.adapter.save_pretrained(partial / ADAPTER)
        model.scheduler.save_pretrained(partial / SCHEDULER)
        if config.base is None or model.vae_is_tuned:
            model.vae.save_pretrained(partial / VAE)
        if config.base is None or config.tune == "all":
            model.unet.save_pretrained(partial / UNET)
        elif config.tune == "lora":
            model.unet.save_lora_adapter(partial / LORA)


def load(
    kind: Callable[..., Model], source: str, config: VALDMConfig | None, variant: str | None, revision: str | None
) -> Model:
    """Read a model of ours, or make a new one on a pipeline."""
    if not _exists(source, ADAPTER, "config.json", revision):
        if not _exists(source, "", PIPELINE, revision):
            missing = Path(source) / ADAPTER / "config.json"
            no_hub = "" if Path(source).is_dir() else ", and the hub has no such repository or cannot be reached"
            raise FileNotFoundError(f"{missing} is missing{no_hub}: {REMEDY}")
        return kind(replace(config or sd(), base=source, variant=variant, revision=revision))
    if config is not None:
        raise ValueError(f"{source}: config must be left out for a model of ours, which has its own")
    files = hub.options(hub.find(source, f"{ADAPTER}/config.json", revision), revision)
    added = _read(MultiViewAdapter, source, ADAPTER, files)
    config = added.valdm
    parts: dict[str, Any] = {"adapter": added, "scheduler": _schedule(source, files, REMEDY)}
    if _exists(source, VAE, "config.json", revision):
        parts["vae"] = _read(AutoencoderKL, source, VAE, files)
    if _exists(source, UNET, "config.json", revision):
        parts["unet"] = _read(UNet2DConditionModel, source, UNET, files)
    elif config.tune == "lora":
        parts["unet"] = denoiser(config)
        parts["unet"].load_lora_adapter(
            source, subfolder=LORA, prefix=None, adapter_name="default", use_safetensors=True, **files
        )
    elif config.base is None:
        raise FileNotFoundError(f"{Path(source) / UNET / 'config.json'} is missing: {REMEDY}")
    try:
        return kind(config, **parts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _schedule(source: str, files: dict[str, Any], remedy: str) -> DDIMScheduler:
    file = Path(source) / SCHEDULER / "scheduler_config.json"
    try:
        content = DDIMScheduler.load_config(source, subfolder=SCHEDULER, **files)
        check_counts(content)
        read = DDIMScheduler.from_config(content)
        signal = read.alphas_cumprod
        if signal.shape != (read.config["num_train_timesteps"],) or not signal.isfinite().all():
            raise ValueError(
                f"a signal of shape {list(signal.shape)} at its {read.config['num_train_timesteps']} steps"
            )
    except OSError as error:
        raise FileNotFoundError(f"{file} is missing or broken, {_line(error)}: {remedy}") from None
    except Exception as error:  # whatever diffusers makes of a value of a wrong kind
        raise ValueError(f"{file}: must hold arguments that fit DDIMScheduler, got {_line(error)}; {remedy}") from None
    # Any configuration is read as DDIM's, and what DDIM has not is left out: those of flows would be other noise.
    name = content.get("_class_name", DDIMScheduler.__name__)
    known = sorted({DDIMScheduler.__name__, *(kind.__name__ for kind in read.compatibles)})
    if name not in known:
        raise ValueError(f"{file}: the schedule must be one of {', '.join(known)}, got {name}; {remedy}")
    return read


def _of_base(kind: Any, config: VALDMConfig, part: str) -> Any:
    base = str(config.base)
    files = {"variant": config.variant, **hub.fetch_options(base, config.revision)}
    try:
        return _read(kind, base, part, files, OTHER_BASE)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model: the base {config.base} cannot be read, {error}") from None


def _read(kind: Any, source: str, part: str, files: dict[str, Any], remedy: str = REMEDY) -> Any:
    """One part by diffusers' own loading, safetensors only, in float32, every weight where it belongs."""
    here = Path(source) / part
    content = read_json(here / "config.json", remedy) if Path(source).is_dir() else None
    try:
        if content is not None:
            check_size(kind, here, content)
        with _quiet():
            model, found = kind.from_pretrained(
                source,
                subfolder=part,
                torch_dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                low_cpu_mem_usage=False,
                **files,
            )
        check_finite(model)
    except OSError as error:
        broken = "no file named" not in str(error)
        state = "missing" if not broken else "broken" if content is not None else "not to be had of the hub"
        said = f"{here}: its weights are {state}, {_line(error)}; {_instead(source, part) or remedy}"
        raise (ValueError if broken else FileNotFoundError)(said) from None
    except Exception as error:  # whatever diffusers makes of a value of a wrong kind
        raise ValueError(f"{here}: config and weights must belong together, got {_line(error)}; {remedy}") from None
    wrong = [str(name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in found[kind]]
    if wrong:
        raise ValueError(
            f"{here}: config and weights must belong together, got {len(wrong)} weights that do not "
            f"fit, {wrong[0]} first; {remedy}"
        )
    # Loaded tensors lie in the file's pages, where they are not aligned: slower, and other last digits than when saved.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers from listing the weights that do not fit: that is said in one line."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _instead(source: str, part: str) -> str:
    """What to do about weights that are not found, by the other weights that lie in a folder; "" for none."""
    names = sorted(path.name for path in (Path(source) / part).glob("*") if path.is_file())
    for name in names:
        variant = name.split(".")[-2] if name.endswith(".safetensors") and name.count(".") > 1 else ""
        if variant:
            return f"give variant={variant!r}, as {name} has it"
    if any(name.endswith((".bin", ".ckpt", ".pt")) for name in names):
        return "its weights are pickled, which is not read; write them anew with safe_serialization=True"
    return ""


def _exists(source: str, part: str, name: str, revision: str | None) -> bool:
    """Whether a file is in a folder or, where no such folder is, in a repository of the hub."""
    try:
        return hub.find(source, f"{part}/{name}" if part else name, revision) is not None
    except hub.UnreachableError:
        return False


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
