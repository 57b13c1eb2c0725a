"""How settings are declared, read, written and compared; the sections themselves are in the files of this room.

`config.py` composes them.
"""

from fastdreamer.settings.reader import presets, read_settings, validate
from fastdreamer.settings.resolved import RESOLVED, config_hash, config_text, differences, dump_config, to_dict

__all__ = [
    "RESOLVED", "config_hash", "config_text", "differences", "dump_config", "presets", "read_settings", "to_dict",
    "validate",
]  # fmt: skip
