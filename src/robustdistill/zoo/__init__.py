"""The files of registered teachers: where they lie on this disk, and how they get there."""
