"""The built-in plugins: everything named in the catalogue comes from here or from another distribution."""
