"""Plans that keep an accuracy budget: candidates, their measured errors, and the choice."""

from .automatic import plan_network

__all__ = ["plan_network"]
