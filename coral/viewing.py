"""What a config trains on: ``coral data``."""

from __future__ import annotations

from coral.hub import require_within_reach
from coral.ports import DataContext
from coral.reporting import Facts
from coral.spec import LoadedConfig
from coral.storage import cache_location
from coral.tasks import Registry, task_calls


def view_data(config: LoadedConfig, registry: Registry) -> Facts:
    """Load a config's tasks and its tokenizer, and return what will be trained on.

    Raises:
        TaskError: data can't be read.
        ModelError: the tokenizer can't be loaded, or lacks what a task needs of it.
    """
    from coral.training.base import load_tokenizer
    from coral.training.looking import look_at

    spec = config.spec
    require_within_reach(spec)
    context = DataContext(cache_dir=cache_location(spec.cache).tasks)
    loaded = {
        task.name: task_calls(
            registry, task.registered, task.arguments, spec.execution.task_timeout_seconds
        ).load(context)
        for task in spec.tasks
    }
    tokenizer = load_tokenizer(spec.base_model, trust_remote_code=spec.execution.trust_remote_code)
    length = spec.training.encoding.sequence_len
    return {
        "base_model": spec.base_model,
        "sequence_len": length,
        "tasks": {name: look_at(name, data, tokenizer, length) for name, data in loaded.items()},
    }
