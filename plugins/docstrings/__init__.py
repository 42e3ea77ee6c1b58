"""Two tasks on the docstrings of the installed libraries: no download, real texts.

``docstring_library`` asks which library wrote a docstring, its name masked. ``docstring_kind`` asks
whether it documents a module, class, method or function. Both share one corpus and its splits.
"""

from functools import partial

from .task import DocstringTask

TASKS = {
    "docstring_library": partial(DocstringTask, "library"),
    "docstring_kind": partial(DocstringTask, "kind"),
}
