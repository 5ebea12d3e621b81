"""The command as a user runs it, in this process, and a small station on disk whose detector is fitted in seconds."""

import contextlib
import io
import os
import shutil
import sys
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

from tests.small_station import SHIFT, SIZE, randn
from vsad import cli, terminal
from vsad.geometry import Rig

VIEWS = ("a", "b", "c")


class Ended(NamedTuple):
    """How a command ended: its status, and what it printed."""

    code: int
    out: str
    err: str


def command(*arguments, cwd, width=200):
    """Run the command in this process, in another folder."""
    out, errors = io.StringIO(), io.StringIO()
    code = 0
    with _chdir(cwd), contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vsad", *map(str, arguments)])
        patch.setattr(terminal.console, "_file", errors)
        patch.setattr(terminal.console, "_width", width)
        patch.setattr(terminal.console, "is_quiet", False)
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, out.getvalue(), errors.getvalue())


def vsad(*arguments, cwd, fails=False):
    """The same; returns the words of stdout, or of stderr where it is to fail."""
    ended = command(*arguments, cwd=cwd)
    assert (ended.code != 0) == fails, ended.err[-2000:]
    return " ".join((ended.err if fails else ended.out).split())


@contextlib.contextmanager
def _chdir(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def small_rig(views=VIEWS):
    """Three views, each 8 pixels to the right of the one before."""
    first, second, third = views
    return Rig.from_pairs(list(views), SIZE, {(first, second): SHIFT.inverse(), (second, third): SHIFT.inverse()})


def shoot(seed, blot=False):
    """The images ``(3, 64, 64, 3)`` of a product, as files hold them; a blot is 8 pixels wide, from 36 - 8 v on."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 24, generator=generator), (64, 80), mode="bicubic")[0]
    if blot:
        scene = scene.clone()
        scene[:, 28:36, 36:44] = torch.tensor([0.9, 0.1, 0.9])[:, None, None]
    views = torch.stack([scene[..., 8 * v : 8 * v + 64] for v in range(3)])
    noisy = (views + 0.02 * randn(*views.shape, seed=seed)).clamp(0, 1)
    return (255 * noisy).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def write_sample(folder, seed, blot=False, views=VIEWS):
    """Write a sample's images as ``<view>.png``; the first name is of the leftmost camera."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(views, shoot(seed, blot)):
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(image[..., ::-1]))


def write_mask(folder, views=VIEWS):
    """Write the masks of the blot."""
    folder.mkdir(parents=True, exist_ok=True)
    for v, view in enumerate(views):
        mask = np.zeros(SIZE, np.uint8)
        mask[28:36, 36 - 8 * v : 44 - 8 * v] = 255
        cv2.imwrite(str(folder / f"{view}.png"), mask)


def write_data(root, train=6, good=2, bad=2, views=VIEWS):
    """Write a data set in vsad's layout."""
    for i in range(train):
        write_sample(root / f"train/good/{i:03}", i, views=views)
    for i in range(good):
        write_sample(root / f"test/good/{i:03}", 100 + i, views=views)
    for i in range(bad):
        write_sample(root / f"test/blot/{i:03}", 200 + i, blot=True, views=views)
        write_mask(root / f"ground_truth/blot/{i:03}", views)
    return root


def copy_to_inspect(station, folder):
    """Copy the ``data`` and ``detector`` that ``make_station`` wrote, to spoil; returns the folder."""
    for name in ("data", "detector"):
        shutil.copytree(station / name, folder / name)
    return folder


def make_station(folder):
    """Write ``data``, ``rig.json``, ``model`` and ``detector`` into a folder by the commands."""
    write_data(folder / "data")
    small_rig().save(folder / "rig.json")
    for arguments in (
        ["train", "data", "--steps", 1, "--registration", "off"],
        ["fit", "data", "--registration", "off"],
    ):
        ended = command(*arguments, cwd=folder)
        assert ended.code == 0, ended.err
    return folder
