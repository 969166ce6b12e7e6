"""`images.lock`: its model (`model`), how it is computed (`resolve`, `discover`) and what it answers (`why`)."""
