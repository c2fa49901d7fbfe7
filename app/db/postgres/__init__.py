"""The parts of the embedded server: who runs it, from which programs, on which files, after whom."""
