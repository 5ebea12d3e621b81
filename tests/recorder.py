"""Progress that remembers what it was told."""

from contextlib import contextmanager

from vsad.progress import Progress, Stage


class Recorder(Progress):
    """``stages`` are (label, steps expected, steps reported) in the order in which they ended, ``texts`` all texts."""

    def __init__(self):
        self.stages, self.texts = [], []

    @contextmanager
    def stage(self, label, total):
        counter = _Counter(self.texts)
        yield counter
        self.stages.append((label, total, counter.done))


class _Counter(Stage):
    def __init__(self, texts):
        self.done, self.texts = 0, texts

    def advance(self, text=""):
        self.done += 1
        self.texts.append(text)
