"""The noise of a model: its base's schedule, what is predicted, and what follows from a prediction."""

import json
from dataclasses import replace

import pytest
import torch

from tests.pretrained import model_on, save_pipeline
from vsad.models import VALDM, new_model, tiny


@pytest.mark.parametrize(
    ("changes", "timesteps", "message"),
    [
        ({"prediction_type": "flow_prediction"}, (0,), "the schedule's prediction_type must be one of"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            (0,),
            "the schedule must be one of .*, got FlowMatchEuler",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5},
            (0,),
            "the schedule must be one of DDIMScheduler, .*, got EDMEulerScheduler; name another base",
        ),
        ({"sigma_data": 0.5}, (0,), "the schedule must be one of DDIM's noise, got sigma_data; name another base"),
        ({"use_flow_sigmas": True}, (0,), "the schedule must be one of DDIM's noise, got use_flow_sigmas"),
        ({"beta_schedule": "nonsense"}, (0,), "must hold arguments that fit DDIMScheduler, got nonsense"),
        ({"rescale_betas_zero_snr": True}, (0,), "must leave a signal where the noise is predicted"),
        (
            {"num_train_timesteps": 50},
            (0, 100),
            r"timesteps must be less than 50, as the noise schedule has, got \(0, 100",
        ),
    ],
)
def test_schedules_that_ddim_does_not_invert_are_refused(tmp_path, changes, timesteps, message):
    base = save_pipeline(tmp_path)
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        model_on(base, timesteps=timesteps)


@pytest.mark.parametrize(("layout", "other"), [("1.5", "v_prediction"), ("2.1", "epsilon")])
def test_a_prediction_that_is_not_the_bases_is_refused_before_weights_are_read(tmp_path, layout, other):
    base = save_pipeline(tmp_path, layout)
    own = "epsilon" if layout == "1.5" else "v_prediction"
    for prediction in (None, own):
        assert model_on(base, prediction=prediction).scheduler.config["prediction_type"] == own
    (base / "vae" / "config.json").unlink()
    with pytest.raises(
        ValueError, match=f"model: prediction must be the schedule's, '{own}', or left out, got '{other}'"
    ):
        model_on(base, prediction=other)


def test_a_saved_model_whose_file_names_another_prediction_is_read_as_its_base_says(tmp_path):
    model = model_on(save_pipeline(tmp_path / "base", "2.1"))
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "adapter" / "config.json"
    content = json.loads(file.read_text())
    content["valdm"]["prediction"] = "epsilon"  # as files were written that no base was asked about
    file.write_text(json.dumps(content))
    again = VALDM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert again.scheduler.config["prediction_type"] == "v_prediction"
    again.save_pretrained(tmp_path / "copy")
    assert VALDM.from_pretrained(tmp_path / "copy").config == model.config


def test_the_schedule_is_not_asked_on_the_device_for_a_number():
    """A host round trip at every time step would make a GPU wait."""
    model = new_model(tiny(), 0)
    x = torch.empty(1, 3, 18, 4, 4, device="meta")
    assert all(isinstance(number, float) for number in model._amplitudes(x, 100))
    signal, spread = model._amplitudes(torch.zeros(2, 3, 18, 4, 4), torch.tensor([100, 100]))
    assert model._amplitudes(x, 100) == (float(signal[0]), float(spread[0]))


def test_a_velocity_is_read_from_noise_without_signal(tmp_path, rig):
    base = save_pipeline(tmp_path, "2.1")
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rescale_betas_zero_snr": True}))
    model = model_on(base, timesteps=(0, 999)).eval()
    latents = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert all(level.isfinite().all() for level in model.features(latents, rig))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_clean_latents_follow_from_a_right_prediction(prediction):
    model = VALDM(replace(tiny(), prediction=prediction))
    clean, noise = (torch.randn(2, 3, 18, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    times = torch.tensor([0, 500])
    noisy = model.add_noise(clean, noise, times)
    torch.testing.assert_close(noisy.flatten(1), model.scheduler.add_noise(clean.flatten(1), noise.flatten(1), times))
    found = model.clean_and_noise(noisy, model.target(clean, noise, times), times)
    torch.testing.assert_close(found[0], clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], noise, atol=1e-4, rtol=1e-4)
    inverted = model.invert(noisy[1:], model.target(clean, noise, times)[1:], 500, 800)
    torch.testing.assert_close(inverted, model.add_noise(clean[1:], noise[1:], 800), atol=1e-4, rtol=1e-4)
