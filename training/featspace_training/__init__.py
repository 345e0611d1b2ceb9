"""How the small models are made: one file a trainer, one loop for all."""
