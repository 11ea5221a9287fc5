"""How a text becomes a vector: exported backbones, tokens, the runtime, adapters. Usable without HTTP."""
