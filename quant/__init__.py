"""Post-training quantization of bundles with NNCF. Not there yet; see the README's list."""
