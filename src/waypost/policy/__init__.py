"""Pure decisions: state, clock and dice are arguments, nothing is asked or sent."""
