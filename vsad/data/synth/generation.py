"""Photographing products at the synthetic station, and writing them as a data set."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vsad.data.synth.config import SynthConfig
from vsad.data.synth.defects import KINDS
from vsad.data.synth.nuisances import disturb
from vsad.data.synth.product import load_product
from vsad.data.synth.station import Station
from vsad.data.synth.writers import WRITERS
from vsad.files import write_json
from vsad.progress import SILENT, Progress

# The true configuration and homographies, beside the data; a folder that has this file was synthesized.
TRUTH = "synth.json"


def synthesize(out: Path | str, config: SynthConfig | None = None, *, progress: Progress = SILENT) -> Path:
    """Photograph products at a synthetic station and write them as a data set.

    Beside the data lies ``synth.json`` with the configuration, the true homographies and what the nuisances drew for
    each sample, for checks; nothing that calibrates or detects reads it.

    Args:
        out: a new or empty folder.
        config: what to make; default ``SynthConfig()``.
        progress: told of every sample that is photographed.

    Returns:
        The folder.

    Raises:
        FileExistsError: ``out`` has files in it.
        ValueError: a category is no photograph that is found, or defects do not fit on it.

    Example:
        >>> root = synthesize("station", SynthConfig(train=4, test_good=2, test_defect=5))
    """
    config = config or SynthConfig()
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"synthesize: out must be a new or empty folder, got {out}; remove it or name another")
    products = [load_product(category, config.size) for category in config.categories]
    names = [product.name for product in products]
    if len(set(names)) < len(names):
        raise ValueError(f"synthesize: categories must differ in name, got {', '.join(names)}; rename a photograph")
    station = Station(config.size, config.seed)
    writer = WRITERS[config.format](out, single=len(products) == 1)
    records = []
    samples = [(product, *planned) for product in products for planned in _plan(config)]
    for product, split, kind, number in progress.track(samples, "photograph"):
        # Every sample draws from its own stream: changing a count changes no other sample.
        stream = f"{product.name}/{split}/{'good' if kind is None else 'defect'}"
        rng = np.random.default_rng([config.seed, zlib.crc32(stream.encode()), number])
        scene = station.set_scene(product, rng)
        scene, drawn = disturb(scene, config.nuisances, config.seed, stream, number)
        shot = station.shoot(scene, rng, kind)
        name = writer.write(product.name, split, kind, shot)
        records.append({
            "category": product.name, "split": split, "kind": kind or "good", "sample": name,
            "H_plane_from_object": scene.H_plane_from_object.tolist(), "defective_views": sorted(shot.masks),
            "nuisances": drawn,
        })  # fmt: skip
    writer.finish()
    write_json(out / TRUTH, {
        "config": asdict(config),
        "units": "plane and object: the object's long side is 1, its middle 0; view: pixels, centers at integers",
        "H_view_from_plane": {camera.name: camera.H_view_from_plane.tolist() for camera in station.cameras},
        "samples": records,
    })  # fmt: skip
    return out


def _plan(config: SynthConfig) -> list[tuple[str, str | None, int]]:
    """List the samples of one product: split, kind of defect or None, and its number among them."""
    plan: list[tuple[str, str | None, int]] = [("train", None, i) for i in range(config.train)]
    plan += [("test", None, i) for i in range(config.test_good)]
    plan += [("test", KINDS[i % len(KINDS)], i) for i in range(config.test_defect)]
    return plan
