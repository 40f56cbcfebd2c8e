"""feeder's server: runs the user's generator or Sequence in worker processes and sends the batches to whoever asks.

It is used from the command line, ``feeder-server``; importing this imports nothing else, so that a worker stays light.
"""
