"""The partner's side: what holds another's objects, and lets in only whom it knows."""
