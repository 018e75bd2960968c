"""Named byte objects at the partner; untrusted, without any key."""
