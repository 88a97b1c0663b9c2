"""The systems, each in a module of its own with `system`: an instance of its subclass of System."""
