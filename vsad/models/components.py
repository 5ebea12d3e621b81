"""The parts of a VALDM: new ones, those of a pretrained pipeline, and their files, all by diffusers' own means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from vsad.files import atomic_folder, first_line
from vsad.models import derivative_vae, hub
from vsad.models.adapter import MultiViewAdapter
from vsad.models.config import Prediction, VALDMConfig
from vsad.models.derivative_config import CONFIG
from vsad.models.folder import ADAPTER, LORA, PIPELINE, REMEDY, SCHEDULER, UNET, VAE
from vsad.models.homography_weights import load_homography_weights
from vsad.models.limits import check_counts
from vsad.models.presets import sd
from vsad.models.reading import OTHER_BASE, mark_of, read_part
from vsad.models.text import encode_prompts

if TYPE_CHECKING:
    from vsad.models.valdm import VALDM

Model = TypeVar("Model", bound="VALDM")
# The projections of attention that LoRA adapts, as diffusers' own training scripts do.
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
# Fields of schedules whose noise is another than DDIM's: of EDM's kind and of flows.
_OTHER_NOISE = ("sigma_data", "use_flow_sigmas")
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
            f"model: {field} must hold arguments that fit {kind.__name__}, got {first_line(error)}; mend them"
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
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=config.prediction or "epsilon",
    )


def check_schedule(scheduler: DDIMScheduler, config: VALDMConfig) -> DDIMScheduler:
    """The same schedule.

    Raises:
        ValueError: its noise is not what DDIM inverts, it predicts something else than the configuration says, or it
            ends before a time step at which features are read.
    """
    known = scheduler.config
    if known["prediction_type"] not in get_args(Prediction):
        raise ValueError(
            f"model: the schedule's prediction_type must be one of {list(get_args(Prediction))}, got "
            f"{known['prediction_type']!r}; {OTHER_BASE}"
        )
    if config.prediction not in (None, known["prediction_type"]):
        raise ValueError(
            f"model: prediction must be the schedule's, {known['prediction_type']!r}, or left out, got "
            f"{config.prediction!r}; leave it out, or name another base"
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
    """A new adapter to these parts; it encodes the prompts where the UNet attends to text.

    A HomographyNet for Gaussian derivatives starts with the weights that come with vsad.
    """
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
        base_marks=None if config.base is None else {VAE: mark_of(vae), UNET: mark_of(unet)},
    )
    if context is not None:
        made.get_buffer("context").copy_(context)
    if made.homography_net is not None and config.vae == CONFIG:
        load_homography_weights(made.homography_net)
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
    added = read_part(MultiViewAdapter, source, ADAPTER, files)
    config, scheduler = added.valdm, _schedule(source, files, REMEDY)
    parts: dict[str, Any] = {"adapter": added, "scheduler": scheduler}
    if config.base is not None and config.prediction != scheduler.config["prediction_type"]:
        config = replace(config, prediction=None)  # older files name one that the base's schedule overruled
    there = {part: _exists(source, part, "config.json", revision) for part in (VAE, UNET)}
    if not all(there.values()):  # the base may have moved since, and no option names it here
        here = Path(source) / ADAPTER / "config.json"
        hub.check_base(config, f"set base of valdm in {here} to the folder that holds it, or put the base back")
    for part, read, of_base in ((VAE, AutoencoderKL, autoencoder), (UNET, UNet2DConditionModel, denoiser)):
        if there[part]:
            parts[part] = read_part(read, source, part, files)
        elif config.base is not None:
            parts[part] = _same(of_base(config), part, source, added)
        elif part == UNET:
            raise FileNotFoundError(f"{Path(source) / part / 'config.json'} is missing: {REMEDY}")
    if config.tune == "lora" and config.base is not None:
        parts["unet"].load_lora_adapter(
            source, subfolder=LORA, prefix=None, adapter_name="default", use_safetensors=True, **files
        )
    try:
        return kind(config, **parts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _same(model: Any, part: str, source: str, added: MultiViewAdapter) -> Any:
    """The same part of a base.

    Raises:
        ValueError: its weights are others than those that the model was made on.
    """
    known = added.config["base_marks"]
    if known is not None and known.get(part) != mark_of(model):
        raise ValueError(
            f"{Path(str(added.valdm.base)) / part}: its weights must be those that {source} was made on, got others; "
            "put them back, or make and train the model anew"
        )
    return model


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
        raise FileNotFoundError(f"{file} is missing or broken, {first_line(error)}: {remedy}") from None
    except Exception as error:  # whatever diffusers makes of a value of a wrong kind
        said = f"{file}: must hold arguments that fit DDIMScheduler, got {first_line(error)}; {remedy}"
        raise ValueError(said) from None
    # Any configuration is read as DDIM's, and what DDIM has not is left out: those of EDM and flows are other noise.
    name = content.get("_class_name", DDIMScheduler.__name__)
    known = sorted({DDIMScheduler.__name__, *(kind.__name__ for kind in read.compatibles)} - {"EDMEulerScheduler"})
    if name not in known:
        raise ValueError(f"{file}: the schedule must be one of {', '.join(known)}, got {name}; {remedy}")
    other = [field for field in _OTHER_NOISE if content.get(field)]
    if other:
        raise ValueError(f"{file}: the schedule must be one of DDIM's noise, got {', '.join(other)}; {remedy}")
    return read


def _of_base(kind: Any, config: VALDMConfig, part: str) -> Any:
    base = str(config.base)
    files = {"variant": config.variant, **hub.fetch_options(base, config.revision)}
    try:
        return read_part(kind, base, part, files, OTHER_BASE)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model: the base {config.base} cannot be read, {error}") from None


def _exists(source: str, part: str, name: str, revision: str | None) -> bool:
    """Whether a file is in a folder or, where no such folder is, in a repository of the hub."""
    try:
        return hub.find(source, f"{part}/{name}" if part else name, revision) is not None
    except hub.UnreachableError:
        return False
