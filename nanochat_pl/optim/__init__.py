"""Floor 2, optimization in pure torch: Muon with AdamW, and schedules as functions of the step."""
