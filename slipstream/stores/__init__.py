"""L2: one package per backend; nothing is shared between them."""
