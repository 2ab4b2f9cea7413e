"""What is checked by the name that it has in a registry."""

from dataclasses import dataclass, field

from robustdistill.registry import Registry, default_registry


@dataclass(frozen=True)
class Registered:
    """A unit by its name."""

    name: str
    registry: Registry = field(default_factory=default_registry)

    @property
    def what(self) -> str:
        """Its name in sentences."""
        return self.name
