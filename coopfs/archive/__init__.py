"""An archive on this host: format and store, joined by the local index and state."""
