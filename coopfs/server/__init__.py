"""The partner's side of a store: what others may keep here, and nothing more."""
