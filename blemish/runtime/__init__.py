"""Running networks: what this machine has, and the engines that run a graph on it."""
