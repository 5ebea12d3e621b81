"""Mutates the files of a reader, guided by what of the code each one reaches.

python -m tests.fuzz READER [options of libFuzzer]   READER is one of tests.test_fuzz.READERS; needs atheris
"""

import sys
import tempfile
from pathlib import Path

import atheris

_OURS = ["vsad.files", "vsad.config", "vsad.geometry", "vsad.training.shards", "ruamel.yaml", "json"]
with atheris.instrument_imports(include=_OURS, enable_loader_override=False):
    from tests.test_fuzz import VALID, is_read_or_refused


def main() -> None:
    """Run until the options say that it is enough, or a reader fails."""
    reader, *options = sys.argv[1:]

    def one(data: bytes) -> None:
        assert is_read_or_refused(reader, data)

    with tempfile.TemporaryDirectory() as corpus:
        Path(corpus, "valid").write_bytes(VALID[reader])
        atheris.Setup([sys.argv[0], corpus, *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
