"""A payment gateway to test against: Stripe's wire shape, its own memory, and faults on demand."""
