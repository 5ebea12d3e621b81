"""What the operators share: the registry of backends, checks of arguments, memory layout, descriptions of tensors."""
