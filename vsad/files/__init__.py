"""Reading and writing files: the one place, whose errors name the file and the remedy.

Every reader takes a ``remedy``, the words that end its errors: what the user does to get a good file. Every writer
makes missing folders, writes beside the file and replaces it when all of it is on the disk: whoever looks sees the old
file or the new one, whole.
"""

from vsad.files.atomic import atomic, atomic_folder, check_writable, partial_folder, publish, sweep, write_bytes
from vsad.files.run_folder import RunFolder, check_command
from vsad.files.run_record import RunRecord, fingerprint_files, read_run
from vsad.files.tensors import read_array, read_weights, write_array, write_weights
from vsad.files.text import append_line, read_bytes, read_json, read_text, write_json, write_text
from vsad.files.words import differences, first_line, first_of, first_samples, in_words

__all__ = [
    "RunFolder",
    "RunRecord",
    "append_line",
    "atomic",
    "atomic_folder",
    "check_command",
    "check_writable",
    "differences",
    "fingerprint_files",
    "first_line",
    "first_of",
    "first_samples",
    "in_words",
    "partial_folder",
    "publish",
    "read_array",
    "read_bytes",
    "read_json",
    "read_run",
    "read_text",
    "read_weights",
    "sweep",
    "write_array",
    "write_bytes",
    "write_json",
    "write_text",
    "write_weights",
]
