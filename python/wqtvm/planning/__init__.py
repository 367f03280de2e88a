"""Plans that keep an accuracy budget: candidates, their measured errors, and the choice."""

from .automatic import plan_network
from .samples import calls

__all__ = ["calls", "plan_network"]
