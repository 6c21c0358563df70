"""OOD-CV in all its packagings."""
