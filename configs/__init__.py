"""Recipes in YAML; `pe_spatial.training.find_config` finds them by name."""
