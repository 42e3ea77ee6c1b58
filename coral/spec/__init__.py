"""YAML to ``RunSpec`` and back: aliases, validation, and faults that name line, key and remedy."""

from coral.spec.base_model import locate
from coral.spec.dump import dump_spec
from coral.spec.load import LoadedConfig, check_survey, load_config

__all__ = ["LoadedConfig", "check_survey", "dump_spec", "load_config", "locate"]
