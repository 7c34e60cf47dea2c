"""The proof that a change of translation is safe: machine, programs, prove, explain."""
