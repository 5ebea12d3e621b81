"""What is said of normal samples: those that stand apart and lift the threshold, and what of them nobody judges."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.small_station import randn
from tests.stations import command, copy_to_inspect, make_station, write_sample
from tests.test_threshold import TAILS
from vsad.detection import Detector, DetectorConfig, Placement, fit_threshold
from vsad.detection.oddity import FALSE_ALARMS, find_odd, name_odd
from vsad.geometry import Rig

GOOD = [2.41, 1.52, 1.9, 2.05, 1.71, 2.2, 1.66, 1.85, 2.3, 1.95, 1.78, 2.12, 1.6, 1.88, 2.01, 1.74, 2.26, 1.93, 1.82]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("samples", [4, 8, 20, 100])
def test_scores_that_are_alike_are_rarely_called_odd(tail, samples):
    drawn = TAILS[tail](np.random.default_rng(samples), (2000, samples))
    assert np.mean([bool(find_odd(scores)) for scores in drawn]) <= 1.5 * FALSE_ALARMS


@pytest.mark.parametrize(
    ("odd", "found"),
    [
        ([11.8], [19]),
        ([11.8, 11.2], [19, 20]),
        ([11.2, 30.0], [20, 19]),
        ([11.2, 11.8, 12.0], [21, 20, 19]),
        ([2.9], []),
        ([], []),
        ([np.inf], []),
    ],
)
def test_one_to_three_that_stand_apart_are_found(odd, found):
    assert find_odd([*GOOD, *odd]) == found


def test_so_few_scores_tell_nothing():
    assert find_odd([1.0, 1.1, 90.0]) == []
    assert find_odd([1.0, 1.1, 1.05, 90.0]) == [3]
    assert find_odd([0.0, -0.1, 0.2, 0.1, 90.0]) == [4]
    assert find_odd([2.0] * 8) == []


def test_what_lifts_the_threshold_is_named_with_its_score_and_the_threshold_without_it():
    scores, names = [*GOOD, 11.8], [f"good/{i:03}" for i in range(20)]
    fitted, without = fit_threshold(scores, 0.05), fit_threshold(GOOD, 0.05)
    assert name_odd(fitted, scores, names).odd == (
        "threshold: good/019 (score 11.8) stands apart from the other 19 good samples (2.41 at most) and lifts the "
        f"threshold from {without.value:.3g} to {fitted.value:.3g}; look at its pictures, and leave it out unless it "
        "is as good as the others"
    )
    assert without.value < 3 < fitted.value
    assert name_odd(without, GOOD, names).odd is None
    two = name_odd(fit_threshold([*scores, 11.2], 0.05), [*scores, 11.2], [*names, "good/020"]).odd
    assert two.startswith("threshold: good/019 (score 11.8), good/020 (score 11.2) stand apart from the other 19 good")
    assert "look at their pictures, and leave them out unless they are as good" in two


def test_one_of_very_many_that_hardly_lifts_the_threshold_is_not_named():
    scores = [*np.random.default_rng(0).gumbel(10, 1, size=200), 90.0]
    assert find_odd(scores) == [200]
    assert name_odd(fit_threshold(scores, 0.05), scores, [str(i) for i in range(201)]).odd is None


def test_a_detector_names_an_odd_sample_by_scores_that_do_not_know_it(station, rig):
    model, *_ = station
    config = DetectorConfig(weights=(1.0, 0.0))
    latents = torch.stack([randn(3, 18, 16, 16) + 0.1 * randn(3, 18, 16, 16, seed=i) for i in range(1, 9)])
    clean = Detector.fit(model, rig, latents, config)
    assert clean.fitted.odd is None
    latents[5, 0, :, 5:9, 5:9] *= -2
    odd = Detector.fit(model, rig, latents, config, names=[*"abcdefgh"])
    assert odd.fitted.odd.startswith("threshold: f (score ")
    lifted = odd.fitted.odd.partition("lifts the threshold from ")[2].partition(" to ")
    assert float(lifted[0]) == pytest.approx(clean.threshold, rel=0.5)
    assert float(lifted[2].partition(";")[0]) == pytest.approx(odd.threshold, rel=0.01)
    others = torch.cat([latents[:5], latents[6:]])
    reach = Detector.fit(model, rig, others, config).reach
    assert (odd.reach.amax() / reach.amax()) > 2  # what the threshold without it is not measured by


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


def test_fit_and_threshold_name_the_odd_sample_and_say_what_to_do(folder, tmp_path):
    for name in ("data", "rig.json", "model"):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, tmp_path / name)
    write_sample(tmp_path / "data/train/good/003", 3, blot=True)
    ended = command("fit", "data", "--registration", "off", cwd=tmp_path)
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.err.splitlines() if "stands apart" in line)
    assert line.startswith("warning: threshold: good/003 (score ")
    assert "from the other 5 good samples" in line
    assert "look at its pictures, and leave it out unless it is as good as the others" in line
    assert "odd" not in (tmp_path / "detector/detector.json").read_text()
    shutil.rmtree(tmp_path / "data/train/good/003")
    ended = command("fit", "data", "--registration", "off", "--fresh", cwd=tmp_path)
    assert "stand" not in ended.err


def test_threshold_names_a_sample_that_is_labeled_good_and_is_not(folder, tmp_path):
    copy_to_inspect(folder, tmp_path)
    for i in range(2, 8):
        write_sample(tmp_path / f"data/test/good/{i:03}", 100 + i, blot=i == 5)
    assert command("detect", "data", cwd=tmp_path).code == 0
    ended = command("threshold", "--false-alarms", 0.1, cwd=tmp_path)
    (line,) = (line for line in ended.err.splitlines() if "stands apart" in line)
    assert line.startswith("warning: threshold: good/005 (score ")


def test_what_no_view_judges_is_told_at_fit_and_not_at_every_inspection(station, rig, tmp_path):
    model, latents, *_ = station
    shown = torch.ones(3, 16, 16, dtype=torch.bool)
    shown[0, :, :5] = False
    placements = [Placement(None, shown, ~shown, shown.to(torch.uint8))] * len(latents)
    rig = Rig(rig.views, rig.size, [])  # no view sees what another one does
    with pytest.warns(UserWarning, match=r"no view judges 3\d% of a in the normal samples: it lies at the rim"):
        detector = Detector.fit(model, rig, latents, placements=placements)
    assert detector.unjudged == pytest.approx([5 / 16, 0, 0], abs=0.1)
    detector.save_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path).unjudged == detector.unjudged
    file = tmp_path / "detector.json"
    content = json.loads(file.read_text())
    for wrong in ([0.3], [0.3, 0, 1.5], 0.3, ["a", "b", "c"]):
        file.write_text(json.dumps({**content, "unjudged": wrong}))
        with pytest.raises(
            ValueError, match=r"detector.json: unjudged must be a share from 0 to 1 for each of 3 views"
        ):
            Detector.from_pretrained(tmp_path)
    del content["unjudged"]  # as it was written before
    file.write_text(json.dumps(content))
    assert Detector.from_pretrained(tmp_path).unjudged is None
