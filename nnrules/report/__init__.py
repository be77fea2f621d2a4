"""What people read: plans, explanations, diffs and packs as text for a terminal."""
