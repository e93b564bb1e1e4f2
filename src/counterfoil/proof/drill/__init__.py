"""The hostile gateway: payments through faults and kills, and what must hold afterwards."""
