"""Train, fit and detect on a device, and compare with the CPU: the model as a whole, not its kernels one by one.

python -m vsad.bench.gpu.whole --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from vsad.data import open_dataset
from vsad.data.synth import SynthConfig, synthesize
from vsad.detection import Detector
from vsad.pipeline import DETECTOR, RunConfig, run
from vsad.training import TrainConfig

# Of the highest value of a map: half-precision-free arithmetic in another order differs by less.
AGREES = 0.02


def main() -> None:
    """Run everything on the device, then detect with the same files on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = synthesize(Path(folder) / "board", SynthConfig(train=8, test_good=2, test_defect=5, size=options.size))
        config = RunConfig(device=options.device, train=TrainConfig(steps=20))
        began = time.perf_counter()
        (outcome,) = run(root, Path(folder) / "out", config).values()
        print(f"run of 15 samples: {time.perf_counter() - began:.1f} s, {outcome.rows[0][1]}")
        samples = [images for _, images in open_dataset(root, "train").iter_images()]
        there = Detector.from_pretrained(Path(folder) / "out" / DETECTOR).to(options.device)
        here = Detector.from_pretrained(Path(folder) / "out" / DETECTOR)
        for images in samples[:3]:
            ours, expected = there(images).cpu(), here(images)
            error = float((ours.maps - expected.maps).abs().max() / expected.maps.abs().max())
            print(f"largest difference of a map from the CPU's, of its highest value: {error:.2g}")
            if not error < AGREES:
                raise SystemExit(f"{options.device} and the CPU disagree by {error:.3g}, more than {AGREES}")
        there.registration = None  # its features are found on the CPU
        batch = samples[0].to(options.device)
        views = len(there.rig.views)
        everything = replace(there.config, weights=(1.0,))
        for chosen in there.config, everything, replace(everything, mixed_precision="bf16"):
            there.config = chosen
            seconds = []
            for _ in range(options.repeats):
                began = time.perf_counter()
                there(batch).cpu()
                seconds.append(time.perf_counter() - began)
            median = 1e3 * statistics.median(seconds) / views
            print(f"detect without registration: {median:.2f} ms a view of {views}; {chosen}")


if __name__ == "__main__":
    main()
