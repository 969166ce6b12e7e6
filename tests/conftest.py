"""What every test relies on, whoever starts them."""

import signal

# A shell lets its background jobs ignore SIGINT, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
