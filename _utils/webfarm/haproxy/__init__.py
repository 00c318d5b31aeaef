"""HAProxy's runtime API: weights, server states and maps, changed under a lock and read back."""
