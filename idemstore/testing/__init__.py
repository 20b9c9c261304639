"""Public test tools: the store contract, its model, fault injection, and real servers to run them on."""
