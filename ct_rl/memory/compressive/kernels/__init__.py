"""Fast paths with gradients of their own; each names the plain code that is its twin, and a test compares them."""
