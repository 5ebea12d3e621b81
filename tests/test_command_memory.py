"""Inspecting and measuring take no memory per sample."""

import os
import shutil
from pathlib import Path

import pytest

from tests.stations import make_station
from vsad.data import open_dataset
from vsad.detection import Detector
from vsad.pipeline import Detections, Header, inspect, measure
from vsad.progress import Progress, Stage

SAMPLES, WARM = 300, 60
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to tell what memory is held")


def held_mib():
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter(Progress):
    """Notes the memory that is held at every step of the work."""

    def __init__(self):
        self.held = []

    def stage(self, label, total):
        meter = self

        class Metered(Stage):
            def advance(self, text=""):
                meter.held.append(held_mib())

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

        return Metered()

    @property
    def growth(self):
        return max(self.held[WARM:]) - max(self.held[:WARM])


def test_detections_and_their_measurement_hold_no_samples(tmp_path):
    """All images are 42 MiB, and all maps 14: exact metrics keep every pixel's score once, in 4 bytes."""
    station = make_station(tmp_path)
    for kind in ("test/good", "test/blot", "ground_truth/blot"):
        for i in range(2, SAMPLES // 2):
            shutil.copytree(station / f"data/{kind}/{i % 2:03}", station / f"data/{kind}/{i:03}", copy_function=os.link)
    detector, dataset = Detector.from_pretrained(station / "detector"), open_dataset(station / "data", "test")
    assert len(dataset) == SAMPLES
    header = Header("data", detector.cameras, detector.threshold, "", maps=True, overlays=True)
    inspected, measured = Meter(), Meter()
    with Detections.open(tmp_path / "out", header, {}, detector.rig) as out:
        inspect(detector, dataset, out, inspected)
    assert len(inspected.held) == SAMPLES
    found = Detections.load(tmp_path / "out")
    tally = measure(found, dataset, measured)
    assert len(measured.held) == len(tally.verdicts.found) == SAMPLES
    assert inspected.growth < 8
    assert measured.growth < 26
