"""The gate: does a rewrite still say what the user asked for."""

from collect.intent.gate import IntentGate, IntentReport

__all__ = ["IntentGate", "IntentReport"]
