"""Contract tests: what the package promises through its public face alone, whatever its modules are called."""
