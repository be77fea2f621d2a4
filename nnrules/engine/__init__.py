"""The rule engine: load, check, compile, evaluate, replay, explain, diff."""
