"""Fake news from a text and its image, for Gemma 3n and other models that read both."""

from .task import FakeNews

TASKS = {"fakenews-gemma3n": FakeNews}
