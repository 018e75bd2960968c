"""coopfs: two sites back each other up; nothing but ciphertext at the partner."""

__version__ = "0.1.0"
