"""One module per head: tensors of its graph in, a typed result out."""
