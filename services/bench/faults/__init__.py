"""What players notice when services die, hang, or cannot reach each other: `make faults`."""
