"""What each part of the method is worth: the hard stations, measured with everything and without one part at a time."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import vsad
from vsad.data.synth import hard_station, synthesize
from vsad.files import differences, first_of, read_json, write_json, write_text
from vsad.models import new_model
from vsad.models.checks import check_picture_size
from vsad.pipeline.ablation_changes import CHANGES, ROWS, check_ablation
from vsad.pipeline.ablation_rows import Rows
from vsad.pipeline.ablation_table import LEVELS, markdown
from vsad.pipeline.config import RunConfig
from vsad.pipeline.names import MAIN
from vsad.progress import SILENT, Progress
from vsad.training import check_alone

RESULTS, TABLES = "ablation.json", "ablation.md"


def ablate(
    stations: Sequence[str],
    seeds: Sequence[int],
    purpose: str,
    out: str | Path,
    config: RunConfig,
    progress: Progress = SILENT,
    *,
    rows: Sequence[str] = ROWS,
    commit: str | None = None,
    machine: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every station with every seed, with all parts and without one part at a time.

    Everything random, the station, the weights and the training, has the seed of the station. What an earlier call
    left in ``out`` is kept, and not measured again.

    Args:
        stations: names in ``HARD_STATIONS``.
        seeds: of the purpose's.
        purpose: "development" or "report", as of ``hard_station``.
        out: folder for ``ablation.json`` and ``ablation.md``, written after every row.
        config: of the run with all parts; ``seed`` and ``ablations`` are not looked at.
        progress: told of every row.
        rows: names in ``ROWS``; the row with all parts, to which they are compared, is always measured.
        commit, machine: of whoever measures; they are stored beside the results.

    Returns:
        What ``ablation.json`` holds: the ``options``, and ``results``, one for every station and seed.

    Raises:
        ValueError: an argument is not what it must be, pictures are too small for a row's model, ``out`` holds results
            of other options, or there are several processes.
    """
    check_alone("ablate")
    out = Path(out)
    check_ablation(stations, seeds, purpose, out, rows)
    _check_sizes(rows, config)
    options = _options(purpose, config)
    content = _content(out / RESULTS, options)
    results = {(result["station"], result["seed"]): result for result in content["results"]}
    here = machine or {"architecture": platform.machine(), "threads": torch.get_num_threads()}

    def save() -> None:
        # Replaced in one go: a power cut while hours of work are written must not lose them.
        write_json(out / f"{RESULTS}.part", content).replace(out / RESULTS)
        write_text(out / TABLES, markdown(content))

    for station in dict.fromkeys(stations):
        for seed in dict.fromkeys(seeds):
            result = results.get((station, seed), {"station": station, "seed": seed, "rows": {}})
            missing = [name for name in ROWS if name in (MAIN, *rows) and name not in result["rows"]]
            if not missing:
                continue
            source = {"vsad": vsad.__version__, "commit": commit, "date": time.strftime("%Y-%m-%d"), "machine": here}
            for facts, name, row in _measure(station, seed, purpose, config, missing, progress):
                if (station, seed) not in results:
                    results[station, seed] = result
                    content["results"].append(result)
                result |= {**facts, **source}
                result["rows"] = {
                    each: {**result["rows"], name: row}[each] for each in ROWS if each in {*result["rows"], name}
                }
                save()
    return content


def _check_sizes(rows: Sequence[str], config: RunConfig) -> None:
    """Refuse pictures that are too small for the network of a row that finds homographies, before a station is made."""
    changes = [CHANGES[name].model for name in (MAIN, *rows) if name in CHANGES]
    if config.size is not None:
        for change in changes:
            if not change or "homographies" in change:
                check_picture_size(new_model(replace(config.valdm, **change), config.seed), config.sides)


def _options(purpose: str, config: RunConfig) -> dict[str, Any]:
    """What results must share to stand in one table, as JSON gives it back; seeds are the stations' own."""
    run = asdict(config)
    del run["ablations"], run["seed"], run["train"]["seed"], run["detector"]["seed"]
    options: dict[str, Any] = json.loads(json.dumps({"purpose": purpose, **run}))
    return options


def _content(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call wrote, or no results yet."""
    if not path.exists():
        return {"options": options, "results": []}
    content = read_json(path, "name another folder, or delete it to measure anew")
    found = content.get("options")
    if found != options:
        got = first_of(differences({"options": found}, {"options": options}), separator="; ")
        raise ValueError(f"ablate: options must be those of {path}, got {got}; repeat them or name another out")
    return content


def _measure(
    station: str, seed: int, purpose: str, config: RunConfig, names: Sequence[str], progress: Progress
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield what is known of a station, which is made in a temporary folder, and each named row as it is measured."""
    synth = hard_station(station, seed, purpose=purpose)
    config = replace(
        config, seed=seed, train=replace(config.train, seed=seed), detector=replace(config.detector, seed=seed)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        progress.stage(f"{station}, seed {seed}", len(names)) as stage,
    ):
        began = time.perf_counter()
        root = synthesize(Path(folder) / "station", synth)
        station_rows = Rows.of(root, config)
        shared_s = round(time.perf_counter() - began, 1)
        facts = {"photograph": synth.categories[0], "registration": station_rows.why, "shared_s": shared_s}
        for name, row in station_rows.measure(names):
            yield facts, name, row
            stage.advance(f"{name}: {' / '.join(f'{row[level]:.3f}' for level in LEVELS)}")
