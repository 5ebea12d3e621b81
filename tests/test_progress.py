"""The protocol for progress: silent by itself, and every stage begun is ended."""

import pytest

from tests.recorder import Recorder
from vsad.progress import SILENT, Prefixed


def test_silence_passes_everything_on():
    assert list(SILENT.track([1, 2], "count")) == [1, 2]
    with SILENT.stage("train", 2) as stage:
        stage.advance("loss 0.5")


def test_every_item_is_a_step_and_an_item_counts_once_it_is_worked_on():
    progress = Recorder()
    items = progress.track("abc", "letters")
    next(items)
    next(items)
    assert progress.texts == [""]
    assert list(items) == ["c"]
    assert progress.stages == [("letters", 3, 3)]


def test_items_without_a_length_need_a_total():
    progress = Recorder()
    assert list(progress.track(iter("ab"), "letters", total=5)) == ["a", "b"]
    assert progress.stages == [("letters", 5, 2)]
    with pytest.raises(TypeError, match="total must be given for items without a length"):
        next(progress.track(iter("ab"), "letters"))


def test_a_prefix_says_what_a_stage_belongs_to():
    progress = Recorder()
    assert list(Prefixed(progress, "plain").track("ab", "letters")) == ["a", "b"]
    assert progress.stages == [("plain, letters", 2, 2)]
