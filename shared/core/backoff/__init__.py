"""Token buckets and retry schedules as functions of (state, now)."""
