"""YAML to ``RunSpec`` and back: aliases, validation, and faults that name line, key and remedy."""

from coral.spec.base_model import locate
from coral.spec.dump import dump_spec
from coral.spec.load import LoadedConfig, byte_count, load_config, load_resolved
from coral.spec.survey import check_survey, targets_of

__all__ = [
    "LoadedConfig",
    "byte_count",
    "check_survey",
    "dump_spec",
    "load_config",
    "load_resolved",
    "locate",
    "targets_of",
]
