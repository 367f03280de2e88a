"""Auto-tuning: TVM's MetaSchedule searches the spaces of our schedules; see ``session.tune``."""
